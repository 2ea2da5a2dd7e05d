"""An agent's process: the real core, its turns, its crashes. What it wants done on the node is done in ``machines``."""

from collections.abc import Sequence
from random import Random

from keepwarm_wire.messages import AgentHello, EnvironmentState, Message, NodeLoad, Pair, Quantity
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.machine import AgentCore
from keepwarm_worker.core.state import CoreConfig
from support.simulation.clock import SECOND, Alarm, HostClock, Pauses
from support.simulation.history import History
from support.simulation.invariants import check_agent
from support.simulation.machines import Machine
from support.simulation.network import Link, Network
from support.simulation.runners import announce
from support.simulation.tally import Tally

__all__ = ["PLATFORM", "AgentHost"]

PLATFORM = "linux-x86_64-glibc"
_MEASURE_NS = 3 * SECOND
_ELSEWHERE = 0.03
"""How often an agent says that it is on another machine: then nothing is lent while it is there."""

ORPHAN_GRACE_NS = 8 * SECOND


class AgentHost:
    """One process of an agent: a new incarnation each time."""

    def __init__(
        self,
        machine: Machine,
        clock: HostClock,
        network: Network,
        history: History,
        tally: Tally,
        random: Random,
        *,
        checked: bool,
    ) -> None:
        self.machine, self.host_clock, self.network, self.history = machine, clock, network, history
        self.clock, self.tally, self.random = clock.clock, tally, random
        self.checked = checked
        self.is_alive = True
        self.pauses = Pauses(self.clock)
        hello = AgentHello(
            1,
            1,
            "keepwarm simulated",
            machine.node,
            random.randbytes(16),
            PLATFORM,
            ("3.11",),
            tuple(Quantity(name, amount) for name, amount in machine.capacity.items()),
            (Pair("zone", "simulated"),),
            0,
            machine.ahead_max,
            machine.doors.is_open and random.random() >= _ELSEWHERE,
        )
        self.core = AgentCore(
            CoreConfig(
                hello,
                orphan_grace_ns=ORPHAN_GRACE_NS,
                orphan_ttl_ns=30 * SECOND,
                cancel_grace_ns=SECOND // 2,
                gpus=tuple(f"GPU-{number}" for number in range(machine.capacity["gpu"] // 1000)),
            )
        )
        self._outgoing: list[Message] = []
        self._alarm = Alarm(self.clock, self._wake)
        self.link = Link(machine.node, self._receive, lambda: self.feed(events.Connected()))
        history.add(self.clock.now_ns, "agent started", machine.node)
        machine.start(self)
        network.attach(self.link)
        on_disk = tuple(EnvironmentState(name, 1000) for name in machine.environments)
        self.feed(events.EnvironmentsOnDisk(on_disk))
        self._measure()

    def crash(self) -> None:
        """The process is killed, and all that it started."""
        if self.is_alive:
            self._end("agent crashed")

    def leave(self) -> None:
        """Somebody stops the agent."""
        if self.is_alive:
            self.feed(events.StopRequested("asked to"))

    def _end(self, kind: str) -> None:
        self.is_alive = False
        self._alarm.set(None)
        self.history.add(self.clock.now_ns, kind, self.machine.node)
        self.machine.stop()
        self.network.close(self.link)

    # ------------------------------------------------------------ turns

    def feed(self, event: events.Event) -> None:
        """One event for the core, and what it wants done."""
        if not self.is_alive:
            return
        if self.pauses.is_on:
            self.pauses.keep(lambda: self.feed(event))
            return
        self.tally.messages += 1
        self._handle(event)
        self._after_turn()

    def _receive(self, messages: Sequence[Message]) -> None:
        if not self.is_alive:
            return
        if self.pauses.is_on:
            self.pauses.keep(lambda: self._receive(messages))
            return
        for message in messages:
            self.tally.messages += 1
            self._handle(events.Received(message))
        self._after_turn()

    def _wake(self) -> None:
        if not self.is_alive:
            return
        if self.pauses.is_on:
            self.pauses.keep(self._wake)
            return
        self.tally.timers += 1
        for process in list(self.machine.processes.values()):
            announce(process)
        self._handle(_TICK)
        self._after_turn()

    def _handle(self, event: events.Event) -> None:
        exits = False
        for effect in self.core.handle(self.host_clock.now(), event):
            if isinstance(effect, effects.SendMessage):
                self._outgoing.append(effect.message)
            elif isinstance(effect, effects.Exit):
                exits = True
            else:
                self.machine.perform(effect)
        if self.checked:
            check_agent(self.core.state)
        if exits:
            self._after_turn()
            self._end("agent left")

    def _after_turn(self) -> None:
        if not self.is_alive:
            return
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            self.network.send_up(self.link, outgoing)
        due_ns = self.core.next_deadline()
        self._alarm.set(None if due_ns is None else self.host_clock.when(due_ns))

    def _measure(self) -> None:
        if self.is_alive:
            used = tuple((each, 50 << 20) for each in self.machine.processes)
            self.feed(events.Measured(NodeLoad(100, 1 << 30, 1 << 36), used))
            self.clock.after(_MEASURE_NS, self._measure)


_TICK = events.Tick()
