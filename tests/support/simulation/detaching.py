"""A program that has calls accepted for good, awaits some of them, and awaits what others have had accepted.

What a call's program knows of it, its id, is written on a noticeboard once it is accepted, as a person would write it
down: programs that come later find it there, though the one that wrote it may be gone.
"""

from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from random import Random
from typing import NamedTuple

from keepwarm.session_calls import CallState
from keepwarm.session_detached import Told
from keepwarm.session_spawning import Spawn
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    CancelDetached,
    DetachedAccepted,
    DetachedOutcome,
    DetachedRefused,
    FunctionOptions,
    RetryLimits,
)
from support.simulation.client_host import ClientHost
from support.simulation.clock import MILLISECOND, SECOND, HostClock
from support.simulation.history import History
from support.simulation.network import Network
from support.simulation.tally import Tally
from support.simulation.workload import SPECS, Declared, Planned, Work, planned_calls

__all__ = ["DETACHED_FUNCTIONS", "DetachingClient", "Noticeboard", "planned_spawns"]

RETRIES = RetryLimits(lost_node=6, exceptions=1, crash=2, out_of_memory=1)
_KEYS = ("ok", "flaky", "large", "raise")
"""What the call of each key does."""

_TTLS_US = (0, 0, 8_000_000, 40_000_000)
"""For how long an outcome is kept; 0 for a day."""


def _function(name: str, *, keep_alive_us: int, at_most_once: bool = False, is_large: bool = False) -> Declared:
    options = FunctionOptions(
        keep_alive_us=keep_alive_us,
        queue_timeout_us=FOREVER_US,
        startup_timeout_us=30_000_000,
        run_timeout_us=4_000_000,
        overall_timeout_us=FOREVER_US,
        retries=RetryLimits(0) if at_most_once else RETRIES,
        cpu=500,
        memory_bytes=256 << 20,
        gpu=0,
        at_most_once=at_most_once,
    )
    return Declared(name, sha256(name.encode()).digest(), SPECS[0], False, is_large, options)


DETACHED_FUNCTIONS = [
    _function("app:kept", keep_alive_us=1_000_000),
    _function("app:kept large", keep_alive_us=300_000, is_large=True),
    _function("app:once", keep_alive_us=1_000_000, at_most_once=True),
]
"""The same for every program, so that a key of one means something to another."""


class PlannedSpawn(NamedTuple):
    """A call that is to be accepted. ``follows_ns`` after that its outcome is awaited; 0 for never."""

    at_ns: int
    function: int
    work: Work
    key: str
    result_ttl_us: int
    follows_ns: int
    cancel_after_ns: int


@dataclass
class Noticeboard:
    """What programs tell one another: ids of accepted calls, and what each is."""

    ids: list[bytes] = field(default_factory=list)
    uids: dict[bytes, str] = field(default_factory=dict)
    """What every call that was ever submitted is called in the history."""


def planned_spawns(random: Random, client: str, count: int, from_ns: int, until_ns: int) -> list[PlannedSpawn]:
    """A program's detached calls: some by key, some cancelled, most awaited at some time."""
    planned = []
    for call in planned_calls(random, f"{client}d", count, len(DETACHED_FUNCTIONS), from_ns, until_ns):
        work, function, key = call.work, call.function, ""
        if random.random() < 0.25:
            number = random.randrange(len(_KEYS))
            key, function = f"k{number}", 0
            work = Work(f"key.{number}", _KEYS[number], 20 * MILLISECOND)
        ttl_us = 0 if key else random.choice(_TTLS_US)
        follows_ns = random.choice((0, 1, 1, random.randrange(1, 8 * SECOND)))
        planned.append(PlannedSpawn(call.at_ns, function, work, key, ttl_us, follows_ns, call.cancel_after_ns))
    return planned


Common = tuple[str, HostClock, Network, History, Tally, Random]
"""What every client is made of."""


class DetachingClient(ClientHost):
    """One program with one session, attached calls, and detached ones."""

    def __init__(
        self,
        common: Common,
        *,
        functions: list[Declared],
        planned: list[Planned],
        spawns: list[PlannedSpawn],
        looks_ns: list[int],
        board: Noticeboard,
    ) -> None:
        super().__init__(*common, [*functions, *DETACHED_FUNCTIONS], planned)
        self._first = len(functions)
        self._board = board
        self._random = Random(self.name)
        self.unfinished += len(spawns)
        for plan in spawns:
            self.clock.at(plan.at_ns, lambda plan=plan: self._spawn(plan))  # type: ignore[misc]
        for at_ns in looks_ns:
            self.clock.at(at_ns, self._look)

    def _spawn(self, plan: PlannedSpawn) -> None:
        if not self._goes_on(lambda: self._spawn(plan)):
            return
        function, uid = self._functions[self._first + plan.function], plan.work.uid
        call_id = blake2b(f"call {len(self._board.uids)}".encode(), digest_size=16).digest()
        self._board.uids[call_id] = uid
        options = function.options
        once = options.at_most_once
        self.history.add(
            self.clock.now_ns, "detach", self.name, uid, options.cpu, call_id, plan.key, once, plan.result_ttl_us
        )
        spawn = Spawn(call_id, function, plan.work.encode(), plan, key=plan.key, result_ttl_us=plan.result_ttl_us)
        self.session.detached.spawning.spawn(spawn)
        if plan.cancel_after_ns:
            self.clock.after(plan.cancel_after_ns, lambda: self._withdraw(spawn))
        self._turn()

    def _withdraw(self, spawn: Spawn) -> None:
        """Cancel a call, accepted or not."""
        if not self._goes_on(lambda: self._withdraw(spawn)):
            return
        call_id = spawn.call_id
        self.history.add(self.clock.now_ns, "cancel", self.name, self._board.uids[call_id])
        if spawn.state is CallState.DONE:
            self.session.detached.ask(("cancel", call_id), CancelDetached(call_id), None)
        else:
            self.history.add(self.clock.now_ns, "withdrawn", self.name, call_id)
            self.session.detached.withdraw(self.now(), spawn)
            self.unfinished -= 1
        self._turn()

    def _look(self) -> None:
        """Await a call of the noticeboard."""
        if self._goes_on(self._look) and self._board.ids:
            self.follow(self._random.choice(self._board.ids))

    def follow(self, call_id: bytes) -> None:
        """Await a call, whoever has had it accepted."""
        if not self._goes_on(lambda: self.follow(call_id)):
            return
        self.unfinished += 1
        self.history.add(self.clock.now_ns, "attach", self.name, call_id)
        self.session.detached.follow(call_id, "follower")
        self._turn()

    def _told(self, delivery: object) -> None:
        if not isinstance(delivery, Told):
            return
        message, now_ns = delivery.message, self.clock.now_ns
        self.unfinished -= 1
        if isinstance(message, DetachedAccepted):
            plan = delivery.owner
            assert isinstance(plan, PlannedSpawn)
            self.history.add(now_ns, "accepted", self.name, message.call_id, message.accepted_id)
            self._board.ids.append(message.accepted_id)
            if plan.follows_ns:
                self.clock.after(plan.follows_ns, lambda: self.follow(message.accepted_id))
        elif isinstance(message, DetachedOutcome):
            result, failure = delivery.result, message.failure
            data = b"" if result is None else result
            self.history.add(
                now_ns, "told", self.name, message.call_id, self._board.uids[message.call_id], message.status,
                data[:100], "" if failure is None else failure.kind,
                "" if failure is None else failure.message[:300], sha256(data).digest(),
            )  # fmt: skip
        elif isinstance(message, DetachedRefused):
            self.history.add(now_ns, "not told", self.name, message.call_id, message.code)
        else:
            assert isinstance(delivery.owner, PlannedSpawn), message
            self.history.add(now_ns, "not accepted", self.name, delivery.owner.work.uid)
