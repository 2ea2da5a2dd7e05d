"""Time, as far as a replay knows it: it jumps from one thing that happens to the next.

The core is the one that runs in production and is driven as its daemon drives it, without the codec: messages are
handed over as they are. At equal times what nodes say comes first, then new calls, then what is due; so a call that
comes at the very end of a lease is warm.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from keepwarm_scheduler.core.config import CoreConfig
from keepwarm_scheduler.core.effects import Effect, Send
from keepwarm_scheduler.core.events import LOCAL, PeerMessage, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.simulate.cluster_model import PYTHON, ClusterModel, ClusterSettings, Ledger, Said
from keepwarm_scheduler.simulate.traces import Trace
from keepwarm_scheduler.simulate.victims import VictimPolicy, choosing
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    ClientHello,
    DeclareFunction,
    FunctionOptions,
    Message,
    Outcome,
    Received,
    RetryLimits,
    Status,
    Submit,
)
from keepwarm_wire.spec import canonical_spec, spec_key
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE

__all__ = ["CALL_CPU_MILLI", "KeepAlive", "Replay", "replay"]

CALL_CPU_MILLI = 1_000
_CLIENT = b"client"
_SESSION = b"simulated client"
_ACKNOWLEDGED_TOGETHER = 64
_PROGRESS_EVERY = 2_000
_NEVER_NS = 1 << 60
_PATIENCE_NS = CoreConfig().patience_ns


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Terms in seconds, ``math.inf`` for no end: one for all functions, and others for some of them by name."""

    default_s: float
    of: dict[str, float] = field(default_factory=dict)

    def term_us(self, function: str) -> int:
        """The term of one function, as it travels."""
        term_s = self.of.get(function, self.default_s)
        return FOREVER_US if term_s == inf else min(round(term_s * 1_000_000), FOREVER_US)


def replay(
    trace: Trace,
    cluster: ClusterSettings,
    keep_alive: KeepAlive,
    *,
    patience_ns: int = _PATIENCE_NS,
    victims: VictimPolicy | None = None,
    progress: Callable[[int], None] | None = None,
) -> Ledger:
    """Replay a trace with one set of terms; what was counted.

    Args:
        trace: what is invoked, and when.
        cluster: what there is to run it on.
        keep_alive: the functions' terms.
        patience_ns: how long a call waits before an idle process of another function may end for it.
        victims: who is ended then, instead of whom the core would choose; for comparisons.
        progress: is told now and then how many calls have been submitted.
    """
    one = Replay(trace, cluster, keep_alive, patience_ns=patience_ns)
    if victims is None:
        one.run(progress)
    else:
        one.nodes.policy = victims
        with choosing(victims):
            one.run(progress)
    return one.ledger


class Replay:
    """One core, the nodes around it and one client that makes the trace's calls."""

    def __init__(
        self, trace: Trace, cluster: ClusterSettings, keep_alive: KeepAlive, *, patience_ns: int = _PATIENCE_NS
    ) -> None:
        self.trace = trace
        self.ledger = Ledger(len(trace), len(trace.functions))
        self.nodes = ClusterModel(cluster, self.ledger, trace.times_ns, trace.durations_us)
        self.now_ns = 0
        # Nothing is ever silent or lost here, so nobody has to say that he lives; and one client makes all calls.
        config = CoreConfig(
            node_lost_ns=_NEVER_NS,
            suspect_beats=_NEVER_NS // CoreConfig().beat_interval_ns,  # these nodes have nothing to tell
            session_lost_ns=_NEVER_NS,
            patience_ns=patience_ns,
            functions_per_session_max=len(trace.functions) + 1,
            credit_calls=len(trace) + 1,
        )
        self.core = SchedulerCore(config, 1, bytes(16), 0)
        self.unanswered = 0
        self._soon: deque[Said] = deque()
        self._later: list[Said] = []
        self._outcomes: list[int] = []
        self._join(keep_alive)

    # ------------------------------------------------------------ the beginning

    def _join(self, keep_alive: KeepAlive) -> None:
        for peer, messages in self.nodes.introductions():
            for message in messages:
                self._hand_over(peer, message)
        self._hand_over(_CLIENT, ClientHello(PROTOCOL_MIN, PROTOCOL_MAX, SOFTWARE, _SESSION, "simulate", 0))
        for number, function in enumerate(self.trace.functions):
            # An environment of its own for each function: that is what is kept warm.
            spec = canonical_spec([f"function-{number}"], PYTHON)
            self.nodes.expect(spec_key(spec), number)
            options = FunctionOptions(
                keep_alive.term_us(function.name),
                FOREVER_US,
                FOREVER_US,
                FOREVER_US,
                FOREVER_US,
                RetryLimits(),
                CALL_CPU_MILLI,
                function.memory_bytes,
                0,
            )
            version = hashlib.sha256(b"%d" % number).digest()
            name = f"trace:{number}"
            self._hand_over(_CLIENT, DeclareFunction(number, name, version, "none", spec, False, options, b""))

    # ------------------------------------------------------------ time

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Let everything happen, until every call is answered and the trace's time is over."""
        trace, delay_ns = self.trace, self.nodes.settings.delay_ns
        for index, (time_ns, function) in enumerate(zip(trace.times_ns, trace.functions_of, strict=True)):
            self._pass_time(time_ns + delay_ns)
            self.unanswered += 1
            self._hand_over(_CLIENT, Submit(index + 1, function, 0, False, b""))
            if progress is not None and not index % _PROGRESS_EVERY:
                progress(index)
        while self.unanswered:
            self._pass_time(self._next_ns() + 1)
        self._pass_time(trace.end_ns)
        self.nodes.end(max(trace.end_ns, self.now_ns))
        if progress is not None:
            progress(len(trace))

    def _next_ns(self) -> int:
        due_ns = self.core.next_deadline()
        later_ns = self._later[0].due_ns if self._later else _NEVER_NS
        return later_ns if due_ns is None else max(self.now_ns, min(later_ns, due_ns))

    def _pass_time(self, until_ns: int) -> None:
        """Everything that happens before this instant, and what nodes say at it."""
        later, core = self._later, self.core
        while True:
            due_ns = core.next_deadline()
            if later and later[0].due_ns <= until_ns and (due_ns is None or later[0].due_ns <= due_ns):
                said = heappop(later)
                self.now_ns = max(self.now_ns, said.due_ns)
                self._hand_over(said.peer, said.message)
            elif due_ns is not None and due_ns < until_ns:
                self.now_ns = max(self.now_ns, due_ns)
                self._perform(core.handle(self.now_ns, Tick()))
                self._settle()
            else:
                self.now_ns = max(self.now_ns, until_ns)
                return

    # ------------------------------------------------------------ messages

    def _hand_over(self, peer: bytes, message: Message) -> None:
        self._perform(self.core.handle(self.now_ns, PeerMessage(peer, LOCAL, message)))
        self._settle()

    def _settle(self) -> None:
        """What is heard at this very instant."""
        soon, handle = self._soon, self.core.handle
        while soon:
            said = soon.popleft()
            self._perform(handle(self.now_ns, PeerMessage(said.peer, LOCAL, said.message)))
        if len(self._outcomes) >= _ACKNOWLEDGED_TOGETHER:
            received, self._outcomes = tuple(self._outcomes), []
            self._perform(handle(self.now_ns, PeerMessage(_CLIENT, LOCAL, Received(received))))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if type(effect) is not Send:
                continue
            if effect.peer == _CLIENT:
                if type(effect.message) is Outcome:
                    self._answered(effect.message)
                continue
            said = self.nodes.obey(self.now_ns, effect.peer, effect.message)
            if said is None:
                continue
            if said.due_ns <= self.now_ns:
                self._soon.append(said)
            else:
                heappush(self._later, said)

    def _answered(self, outcome: Outcome) -> None:
        self.unanswered -= 1
        self.ledger.failed += outcome.status != Status.SUCCEEDED
        self._outcomes.append(outcome.call_number)
