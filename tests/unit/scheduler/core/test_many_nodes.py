"""Two thousand real agents' cores around one scheduler's core: how many beats a second arrive, and nobody is lost."""

from heapq import heappop, heappush
from typing import Any

from keepwarm_scheduler.core.config import CoreConfig
from keepwarm_scheduler.core.effects import Send
from keepwarm_scheduler.core.events import LOCAL, PeerMessage, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.core.transitions import NodeState
from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from keepwarm_worker.core import state as agent_state
from keepwarm_worker.core.machine import AgentCore

NODES = 2_000
SECOND = 1_000_000_000
LASTS_S = 60


class Cluster:
    """Messages take no time and none is lost; each core is woken at its deadlines."""

    def __init__(self) -> None:
        self.scheduler = SchedulerCore(CoreConfig(), 1, b"c" * 16, 0)
        self.agents: list[AgentCore] = []
        self.beats: dict[int, int] = {}
        """How many arrived in each second."""
        self.due: list[tuple[int, int]] = []
        for number in range(NODES):
            hello = wire.AgentHello(1, 1, "test", f"n{number}", number.to_bytes(16, "big"), "p", ("3.11",), (), (), 0)
            self.agents.append(AgentCore(agent_state.CoreConfig(hello)))
            heappush(self.due, (0, number))

    def run(self, until_ns: int) -> None:
        while self.due and self.due[0][0] <= until_ns:
            now_ns, number = heappop(self.due)
            deadline = self.agents[number].next_deadline()
            if deadline is None or deadline > now_ns:
                continue
            self.perform(now_ns, number, self.agents[number].handle(now_ns, events.Tick()))
            due = self.scheduler.next_deadline()
            while due is not None and due <= now_ns:
                self.deliver(now_ns, self.scheduler.handle(now_ns, Tick()))
                due = self.scheduler.next_deadline()
        self.scheduler.handle(until_ns, Tick())

    def perform(self, now_ns: int, number: int, done: list[effects.Effect]) -> None:
        peer = number.to_bytes(5, "big")
        for effect in done:
            if isinstance(effect, effects.SendMessage):
                if isinstance(effect.message, wire.AgentBeat):
                    self.beats[now_ns // SECOND] = self.beats.get(now_ns // SECOND, 0) + 1
                self.deliver(now_ns, self.scheduler.handle(now_ns, PeerMessage(peer, LOCAL, effect.message)))
        deadline = self.agents[number].next_deadline()
        if deadline is not None:
            heappush(self.due, (deadline, number))

    def deliver(self, now_ns: int, done: list[Any]) -> None:
        for effect in done:
            if isinstance(effect, Send):
                number = int.from_bytes(effect.peer, "big")
                self.perform(now_ns, number, self.agents[number].handle(now_ns, events.Received(effect.message)))


def test_two_thousand_nodes_that_all_come_at_once_beat_two_hundred_times_a_second() -> None:
    cluster = Cluster()
    cluster.run(LASTS_S * SECOND)
    assert cluster.beats.pop(0) == NODES, "each beats once when it is welcomed"
    assert max(cluster.beats.values()) <= 201, cluster.beats
    steady = [cluster.beats[second] for second in range(15, LASTS_S)]
    assert min(steady) >= 199, "nobody is asked to beat less often than that takes"
    assert all(node.state is NodeState.ALIVE for node in cluster.scheduler.cluster.nodes.values())
