"""The scheduler's core against faithful agents and clients, over a network that loses, doubles and reorders.

Whatever happened, once the network is healed every call has exactly one outcome, of an execution that really happened;
no lease ended early; and nothing is left over.
"""

import random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keepwarm_scheduler.config import CoreConfig
from keepwarm_scheduler.core import invariants
from keepwarm_scheduler.core.effects import ForgetNode, SaveNode, Send
from keepwarm_scheduler.core.events import LOCAL, Event, PeerLost, PeerMessage, Restored, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.core.transitions import InstanceState
from keepwarm_wire import messages as wire
from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.identifiers import token
from keepwarm_wire.messages import RetryLimits, Status
from keepwarm_wire.spec import canonical_spec
from support.model_agent import ModelAgent
from support.model_client import ModelClient
from support.scheduler_driver import BEAT_NS, SECOND_NS, START_NS, options

ROUNDS_MAX = 100
HEALING_S = 110
"""Longer than every bound of the protocol in a row: a lost session, an unclaimed attempt, the longest lease."""


def _function(number: int, requirements: tuple[str, ...] = (), **changes: Any) -> wire.DeclareFunction:
    version = bytes([number]) * 32
    spec = canonical_spec(requirements, "3.11")
    return wire.DeclareFunction(number, f"module:f{number}", version, "cp311", spec, False, options(**changes), b"body")


FUNCTIONS = (
    _function(1, keep_alive=5.0),
    _function(2, keep_alive=1.0, requirements=("x",), retries=RetryLimits(exceptions=1, crash=1)),
    _function(3, keep_alive=0.0),
    _function(4, keep_alive=3.0, queue_timeout=4.0, overall_timeout=8.0),
    _function(5, keep_alive=2.0, cpu=2000, memory_bytes=3 << 30),
)

Participant = ModelClient | ModelAgent


class Link:
    """One connection: what is under way in each direction."""

    def __init__(self, peer: bytes, owner: Participant) -> None:
        self.peer, self.owner = peer, owner
        self.up: list[bytes] = []
        self.down: list[bytes] = []


class Cluster(RuleBasedStateMachine):
    """Everyone, and the network between them."""

    AHEAD_MAX = 0
    """How many calls the agents take for busy instances."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = START_NS
        self.epoch = 1
        self.peers = self.incarnations = 0
        self.links: list[Link] = []
        self.saved_nodes: dict[str, None] = {}
        self.executed: dict[int, tuple[bytes, int]] = {}
        self.recorded: dict[tuple[int, bytes, int], tuple[object, wire.Outcome]] = {}
        self.core = SchedulerCore(CoreConfig(), 1, b"c" * 16, self.now_ns)
        self.has_failed = False

    @initialize(agents=st.integers(2, 3), clients=st.integers(1, 3))
    def begin(self, agents: int, clients: int) -> None:
        for n in range(agents):
            self.connect(self.new_agent(f"node{n}"))
        for n in range(clients):
            self.connect(ModelClient(bytes([n + 1]) * 16, FUNCTIONS))
        self.deliver_all()

    def new_agent(self, name: str) -> ModelAgent:
        self.incarnations += 1
        agent = ModelAgent(
            name, self.incarnations.to_bytes(16, "big"), cpu=2000, memory=4 << 30, ahead_max=self.AHEAD_MAX
        )
        agent.executed = self.executed
        return agent

    def connect(self, owner: Participant) -> None:
        self.peers += 1
        self.links.append(Link(self.peers.to_bytes(5, "big"), owner))
        if not owner.welcomed:
            owner.hello()
        self.collect()

    # ------------------------------------------------------------ the network

    def feed(self, event: Event) -> None:
        self.has_failed = True
        for effect in self.core.handle(self.now_ns, event):
            if isinstance(effect, SaveNode):
                self.saved_nodes[effect.name] = None
            elif isinstance(effect, ForgetNode):
                self.saved_nodes.pop(effect.name, None)
            elif isinstance(effect, Send):
                self.sent(effect)
        invariants.check(self.core.cluster)
        self.has_failed = False
        if self.AHEAD_MAX and isinstance(event, PeerMessage) and isinstance(event.message, wire.DeclareFunction):
            self.measure()

    def measure(self) -> None:
        """Every function is known to be short."""
        for session in self.core.cluster.sessions.values():
            for function in session.functions.values():
                while not function.run_times.is_measured:
                    function.run_times.add(1_000_000)

    def sent(self, effect: Send) -> None:
        message = effect.message
        for link in self.links:
            if link.peer == effect.peer:
                link.down.append(encode_frame([message]))
                if isinstance(message, wire.Outcome):
                    assert isinstance(link.owner, ModelClient)
                    self.check_outcome(link.owner, message)

    def check_outcome(self, client: ModelClient, outcome: wire.Outcome) -> None:
        session = self.core.cluster.sessions.get(client.session_id)
        key = (id(session), client.session_id, outcome.call_number)
        _, recorded = self.recorded.setdefault(key, (session, outcome))
        assert recorded == outcome, "a call has two outcomes"
        if outcome.status == Status.SUCCEEDED:
            assert isinstance(outcome.result, bytes)
            attempt = int(outcome.result)
            assert self.executed[attempt] == (client.session_id, outcome.call_number), "an outcome of another call"
            if outcome.report is not None:
                assert attempt in (token(epoch, outcome.report.attempt) for epoch in range(1, self.epoch + 1))

    def collect(self) -> None:
        """What participants have to say goes onto their links."""
        for link in self.links:
            link.up += [encode_frame([message]) for message in link.owner.outbox]
            link.owner.outbox.clear()

    def deliver_up(self, link: Link, index: int) -> None:
        (message,) = decode_frame(link.up.pop(index))
        self.feed(PeerMessage(link.peer, LOCAL, message))

    def deliver_down(self, link: Link, index: int) -> None:
        (message,) = decode_frame(link.down.pop(index))
        if isinstance(link.owner, ModelAgent):
            link.owner.receive(self.now_ns, message)
        else:
            link.owner.receive(message)
        self.collect()

    def deliver_all(self) -> None:
        rounds = 0
        while any(link.up or link.down for link in self.links):
            rounds += 1
            assert rounds < ROUNDS_MAX, "the same is said over and over"
            for link in list(self.links):
                while link.up:
                    self.deliver_up(link, 0)
                while link.down:
                    self.deliver_down(link, 0)

    def deliver_badly(self, weather: random.Random) -> None:
        """What is under way now arrives, but for one message in five; some of it twice, and not all in order."""
        for link in list(self.links):
            for queue, deliver in ((link.up, self.deliver_up), (link.down, self.deliver_down)):
                for _ in range(len(queue)):
                    fate = weather.random()
                    index = weather.randrange(len(queue)) if fate < 0.1 else 0
                    if fate > 0.8:
                        queue.pop(index)
                        continue
                    if fate > 0.7 and not isinstance(decode_frame(queue[index])[0], wire.Welcome):
                        queue.append(queue[index])
                    deliver(link, index)

    @property
    def agents(self) -> list[ModelAgent]:
        return [link.owner for link in self.links if isinstance(link.owner, ModelAgent)]

    @property
    def clients(self) -> list[ModelClient]:
        return [link.owner for link in self.links if isinstance(link.owner, ModelClient)]

    # ------------------------------------------------------------ what people and nodes do

    @rule(who=st.integers(0, 9), function=st.integers(1, len(FUNCTIONS)), count=st.integers(1, 3))
    def submit(self, who: int, function: int, count: int) -> None:
        clients = self.clients
        for _ in range(count):
            clients[who % len(clients)].submit(function)
        self.collect()

    @rule(who=st.integers(0, 9), which=st.integers(0, 99))
    def cancel(self, who: int, which: int) -> None:
        client = self.clients[who % len(self.clients)]
        if client.unanswered:
            client.cancel(list(client.unanswered)[which % len(client.unanswered)])
            self.collect()

    @rule(who=st.integers(0, 9), which=st.integers(0, 99), how=st.sampled_from(["well", "well", "badly", "died"]))
    def work(self, who: int, which: int, how: str) -> None:
        """A node finishes something that it is doing."""
        agent = self.agents[who % len(self.agents)]
        starting = [key for key, instance in agent.instances.items() if instance.state == "starting"]
        choices: list[tuple[str, Any]] = [("lock", key) for key in agent.locks]
        choices += [("start", key) for key in starting] + [("run", attempt) for attempt in agent.runnable()]
        if not choices:
            return
        agent.now_ns = self.now_ns
        kind, subject = choices[which % len(choices)]
        failure = None if how == "well" else wire.Failure("user_exception", "no")
        if kind == "lock":
            agent.finish_lock(subject, failure if how == "badly" else None)
        elif kind == "start":
            agent.finish_start(subject, failure if how == "badly" else None, which % 2 == 0)
        elif how == "died":
            agent.die(agent.attempts[subject].instance_id)
        else:
            agent.finish(subject, Status.SUCCEEDED if failure is None else Status.FAILED, failure)
        self.collect()

    @rule(seed=st.integers(0, 1 << 32), seconds=st.integers(1, 12))
    def bad_weather(self, seed: int, seconds: int) -> None:
        """A while of everything at once: calls come and end, the network is bad, and some things break."""
        weather = random.Random(seed)
        for _ in range(4 * seconds):
            chance = weather.random()
            who, which = weather.randrange(10), weather.randrange(100)
            if chance < 0.3:
                self.submit(who, weather.randint(1, len(FUNCTIONS)), 1)
            elif chance < 0.35:
                self.cancel(who, which)
            elif chance < 0.8:
                self.work(who, which, weather.choice(("well", "well", "badly", "died")))
            elif chance < 0.82:
                self.break_connection(who, which % 2 == 0)
            elif chance < 0.83:
                self.crash_agent(who, which % 2 == 0)
            self.deliver_badly(weather)
            self.let_pass(0.25, False)
            self.deliver_badly(weather)

    # ------------------------------------------------------------ what the network does

    @rule()
    def deliver_everything(self) -> None:
        self.deliver_all()

    @rule(
        which=st.integers(0, 9),
        up=st.booleans(),
        index=st.integers(0, 3),
        what=st.sampled_from(["once", "lose", "twice"]),
    )
    def deliver_one(self, which: int, up: bool, index: int, what: str) -> None:
        """One message of one connection, in order or not, once, twice, or not at all."""
        link = self.links[which % len(self.links)]
        queue = link.up if up else link.down
        if not queue:
            return
        index %= len(queue)
        (message,) = decode_frame(queue[index])
        if what == "lose":
            queue.pop(index)
            return
        if what == "twice" and not isinstance(message, wire.Welcome):
            queue.append(queue[index])
        if up:
            self.deliver_up(link, index)
        else:
            self.deliver_down(link, index)

    @rule(which=st.integers(0, 9), is_noticed=st.booleans())
    def break_connection(self, which: int, is_noticed: bool) -> None:
        link = self.links.pop(which % len(self.links))
        self.connect(link.owner)
        if is_noticed:
            self.feed(PeerLost(link.peer))

    @rule(which=st.integers(0, 9), is_noticed=st.booleans())
    def crash_agent(self, which: int, is_noticed: bool) -> None:
        agent = self.agents[which % len(self.agents)]
        (link,) = [link for link in self.links if link.owner is agent]
        self.links.remove(link)
        if is_noticed:
            self.feed(PeerLost(link.peer))
        self.connect(self.new_agent(agent.name))

    @precondition(lambda self: self.epoch < 4)
    @rule()
    def crash_scheduler(self) -> None:
        self.epoch += 1
        self.core = SchedulerCore(CoreConfig(), self.epoch, b"c" * 16, self.now_ns)
        owners = [link.owner for link in self.links]
        self.links = []
        for owner in owners:
            self.connect(owner)
        self.feed(Restored((), tuple(self.saved_nodes)))

    @rule(seconds=st.sampled_from([0.03, 0.4, 1.1, 2.5, 6.0, 12.0]), are_delivered=st.booleans())
    def advance(self, seconds: float, are_delivered: bool) -> None:
        self.let_pass(seconds, are_delivered)

    def let_pass(self, seconds: float, are_delivered: bool) -> None:
        until_ns = self.now_ns + round(seconds * SECOND_NS)
        while self.now_ns < until_ns:
            due_ns = self.core.next_deadline() or until_ns
            beat_ns = (self.now_ns // BEAT_NS + 1) * BEAT_NS
            self.now_ns = min(until_ns, beat_ns, max(due_ns, self.now_ns + 1_000_000))
            if self.now_ns == beat_ns:
                self.beat()
            if are_delivered:
                self.deliver_all()
            self.feed(Tick())
            self.check_punctual()

    def beat(self) -> None:
        for link in self.links:
            if isinstance(link.owner, ModelAgent):
                link.owner.now_ns = self.now_ns
            if link.owner.welcomed:
                link.owner.beat()
            else:
                link.owner.hello()
        self.collect()

    # ------------------------------------------------------------ what always holds

    def check_punctual(self) -> None:
        """No idle instance outlives its lease by more than a tick."""
        for instance in self.core.cluster.instances.values():
            if instance.state is InstanceState.IDLE:
                assert instance.lease.deadline_ns > self.now_ns - CoreConfig().tick_ns - 1_000_000

    @invariant()
    def no_lease_ended_early(self) -> None:
        for agent in self.agents:
            for ending in agent.endings:
                if ending.cause == "expired":
                    assert ending.at_ns >= ending.lease_end_ns, f"early: {ending}"
                if ending.cause == "released":
                    assert ending.sequence <= 1, f"shared: {ending}"

    def teardown(self) -> None:
        """The network heals and the nodes do their work: everything has to come to its end."""
        if self.has_failed or not self.links:
            return
        rounds = 0
        while rounds < HEALING_S:
            self.deliver_all()
            for agent in self.agents:
                agent.now_ns = self.now_ns
                for spec_key in list(agent.locks):
                    agent.finish_lock(spec_key)
                for instance_id, instance in list(agent.instances.items()):
                    if instance.state == "starting":
                        agent.finish_start(instance_id)
                for attempt in agent.runnable():
                    agent.finish(attempt)
            self.collect()
            self.deliver_all()
            self.let_pass(1.0, True)
            rounds += 1
        self.no_lease_ended_early()
        self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        cluster = self.core.cluster
        for client in self.clients:
            assert not client.unanswered, f"calls {list(client.unanswered)} were never answered"
            assert sorted(client.outcomes) == list(range(1, client.last + 1))
        for agent in self.agents:
            left = (agent.held, agent.attempts, agent.instances)
            assert left == ({}, {}, {}), f"{agent.name} still has {left}"
        assert not cluster.attempts
        assert not cluster.instances
        assert not cluster.held
        assert not cluster.unclaimed
        assert not cluster.recovering
        assert len(cluster.leases) == 0 == cluster.leases.entry_count()
        assert not any(session.calls for session in cluster.sessions.values())
        assert all(node.free == node.capacity for node in cluster.nodes.values())
        assert len(cluster.timers) <= len(cluster.sessions) + len(cluster.nodes) + len(cluster.pools)


class ClusterAhead(Cluster):
    """The same where calls are sent ahead to busy instances."""

    AHEAD_MAX = 5


TestCluster = Cluster.TestCase
TestCluster.settings = settings(stateful_step_count=40)
TestClusterAhead = ClusterAhead.TestCase
TestClusterAhead.settings = settings(stateful_step_count=40)
