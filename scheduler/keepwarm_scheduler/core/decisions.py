"""Why things went as they did: what the core notes as it decides, for ``explaining`` to tell when somebody asks.

A decision is a code, a place and a few integers; nothing is formatted here. Rules: a call keeps its last
``DECISIONS_KEPT`` decisions; of calls that are over, the last ``FINISHED_KEPT`` are remembered, without arguments,
results or function bodies; of pools, how their last instance ended, for the last ``ENDINGS_KEPT`` of them.
"""

from collections import OrderedDict
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from keepwarm_scheduler.core.placement import Candidate
from keepwarm_wire.messages import CallReport

__all__ = [
    "CAUSES",
    "DECISIONS_KEPT",
    "ENDINGS_KEPT",
    "FINISHED_KEPT",
    "NUMBERS",
    "Coldness",
    "Decision",
    "Ending",
    "Finished",
    "History",
    "Reason",
    "note",
]

DECISIONS_KEPT: Final = 8
FINISHED_KEPT: Final = 10_000
"""About 1 KiB each."""
ENDINGS_KEPT: Final = 10_000


class Reason(IntEnum):
    """What was decided about a call."""

    IDLE = 1
    """Sent to an idle instance."""
    LOCK = 2
    """Waits until its environment is resolved."""
    RECOVERING = 3
    """Waits for the nodes of the last epoch to report: one of them may be running it."""
    WAIT = 4
    """A busy instance is expected to be free sooner than a new one would be ready."""
    UNDER_WAY = 5
    """Enough instances are being started."""
    START = 6
    """An instance is started."""
    NO_ROOM = 7
    """An instance is wanted, and no node has room for it."""
    IMPOSSIBLE = 8
    """No node could ever run it."""
    MAKE_ROOM = 9
    """Idle instances of others are ended for it."""
    NO_CPU = 10
    """An idle instance is there, on a node without free cpu."""
    RETRY = 11
    """It failed in a way that its retries cover."""
    LOST = 12
    """Its attempt was lost; placed again."""
    REFUSED = 13
    """The instance was gone or busy; placed again."""
    FOUND = 14
    """Found running on a node after a restart of the scheduler."""
    AHEAD = 15
    """Sent to a busy instance, to be run there after others: they are known to be short."""
    RECALLED = 16
    """The call before it at its instance took longer than was expected; placed again."""


NUMBERS: Final[dict[Reason, tuple[str, ...]]] = {
    Reason.IDLE: ("idle_copies_left", "uses_before"),
    Reason.AHEAD: ("place", "uses_before"),
    Reason.WAIT: ("queued", "busy", "starting", "expected_wait_us", "cold_start_us"),
    Reason.UNDER_WAY: ("queued", "busy", "starting", "expected_wait_us", "cold_start_us"),
    Reason.START: ("queued", "busy", "starting", "expected_wait_us", "cold_start_us", "candidates"),
    Reason.NO_ROOM: ("queued", "busy", "starting"),
    Reason.IMPOSSIBLE: ("nodes",),
    Reason.MAKE_ROOM: ("victims", "last_copies"),
    Reason.RETRY: ("failures", "delay_us"),
    Reason.LOST: ("nodes_lost",),
}
"""What the integers of a decision are, by its code. Those without an entry have none."""


class Coldness(IntEnum):
    """Why no warm instance could take a call when one was started."""

    NEVER_BUILT = 1
    NEVER_STARTED = 2
    EXPIRED = 3
    EVICTED = 4
    NODE_LOST = 5
    DIED = 6
    STOPPED = 7
    RELEASED = 8
    OTHER_PYTHON = 9
    OTHER_OPTIONS = 10
    ALL_BUSY = 11
    NO_CPU = 12
    PRIVATE = 13
    DRAINED = 14
    CLOSED = 15


CAUSES: Final[dict[str, Coldness]] = {
    "expired": Coldness.EXPIRED,
    "orphan": Coldness.EXPIRED,
    "evicted": Coldness.EVICTED,
    "evicted: drain": Coldness.DRAINED,
    "node lost": Coldness.NODE_LOST,
    "released": Coldness.RELEASED,
    "stopped": Coldness.STOPPED,
}
"""How an instance ended, as a reason for the next start to be cold. Other ends: it died."""


class Decision(NamedTuple):
    """One decision. ``numbers`` are those that ``NUMBERS`` names for its code.

    A start also carries why it was cold, with how long ago and where the last warm instance ended, the node that was
    chosen and the next best ones.
    """

    reason: Reason
    at_ns: int
    node: str = ""
    instance_id: int = 0
    numbers: tuple[int, ...] = ()
    coldness: Coldness | None = None
    ended_us: int = 0
    ended_on: str = ""
    chosen: tuple[Candidate, ...] = ()


class Decided(Protocol):
    """What decisions are noted on."""

    decisions: list[Decision]


_REPEATED: Final = frozenset({Reason.WAIT, Reason.UNDER_WAY, Reason.NO_ROOM, Reason.IMPOSSIBLE, Reason.NO_CPU})
"""Decisions that are taken again and again while a call waits: only the last of a row is kept."""


def note(call: Decided, decision: Decision) -> None:
    """Keep a decision, and forget the oldest if there are too many."""
    decisions = call.decisions
    if decisions:
        if decisions[-1].reason is decision.reason and decision.reason in _REPEATED:
            decisions[-1] = decision
            return
        if len(decisions) >= DECISIONS_KEPT:
            del decisions[0]
    decisions.append(decision)


class Ending(NamedTuple):
    """How the last instance of a pool ended, when and where."""

    coldness: Coldness
    at_ns: int
    node: str


class Finished(NamedTuple):
    """What is remembered of a call that is over."""

    function: str
    status: int
    failure: str
    submitted_ns: int
    finished_ns: int
    report: CallReport | None
    decisions: list[Decision]


class History:
    """The calls and pools that are gone, the last so many of each."""

    __slots__ = ("_endings", "_finished")

    def __init__(self) -> None:
        # Ordered dicts: a plain dict's front is slow once it was eaten from.
        self._finished: OrderedDict[tuple[bytes, int], Finished] = OrderedDict()
        self._endings: OrderedDict[bytes, Ending] = OrderedDict()

    def finished(self, key: tuple[bytes, int], record: Finished) -> None:
        """A call is forgotten by everyone else."""
        self._finished[key] = record
        if len(self._finished) > FINISHED_KEPT:
            self._finished.popitem(last=False)

    def ended(self, pool: bytes, ending: Ending) -> None:
        """An instance of a pool has ended."""
        self._endings[pool] = ending
        self._endings.move_to_end(pool)
        if len(self._endings) > ENDINGS_KEPT:
            self._endings.popitem(last=False)

    def ending(self, pool: bytes) -> Ending | None:
        """How the last instance of a pool ended, if it is remembered."""
        return self._endings.get(pool)

    def find(self, session_hex: str, number: int) -> dict[tuple[bytes, int], Finished]:
        """The remembered calls of this number whose session begins with these hexadecimal digits."""
        return {
            key: record
            for key, record in self._finished.items()
            if key[1] == number and key[0].hex().startswith(session_hex)
        }

    def counts(self) -> tuple[int, int]:
        """How many calls and pools are remembered: a measure of memory."""
        return len(self._finished), len(self._endings)
