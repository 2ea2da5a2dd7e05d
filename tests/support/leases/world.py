"""The lease world: both real cores and a channel that loses, doubles, delays, reorders and replays, in virtual time.

Smaller and easier to steer than ``support.simulation``: a test says what happens at which nanosecond, and without
weather every message arrives at the instant it is sent, so that a lease's end can be told to the nanosecond. All that
happens goes into one ``History``; what a clause demands is read from it by ``support.leases.clauses``.

Rules: messages come before deadlines of the same instant, the agents' before the scheduler's; one seed, one run.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, NamedTuple

from keepwarm_scheduler.config import CoreConfig
from keepwarm_scheduler.core import invariants
from keepwarm_scheduler.core.dispatching import next_call
from keepwarm_scheduler.core.effects import ForgetNode, SaveNode, Send
from keepwarm_scheduler.core.events import LOCAL, Event, PeerLost, PeerMessage, Restored, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_wire import messages as wire
from keepwarm_worker.core import events
from support.leases.node import MILLISECOND, SECOND, Node, Work
from support.model_client import ModelClient
from support.simulation.history import History

__all__ = ["BEAT_NS", "CALM", "CONFIG", "PATIENCE_NS", "TICK_NS", "Client", "Link", "Weather", "World"]

TICK_NS = 100 * MILLISECOND
BEAT_NS = SECOND
PATIENCE_NS = SECOND
CONFIG = CoreConfig(
    tick_ns=TICK_NS,
    beat_interval_ns=BEAT_NS,
    patience_ns=PATIENCE_NS,
    node_lost_ns=6 * SECOND,
    session_lost_ns=40 * SECOND,
    recovery_grace_ns=4 * SECOND,
)
_TURNS_AT_ONE_INSTANT_MAX = 500
_NEVER_REPLAYED = (wire.Welcome, wire.Goodbye, wire.ClientHello, wire.AgentHello, wire.Refused)
"""A connection begins once: these are never doubled."""


class Weather(NamedTuple):
    """How the channel misbehaves: probabilities per message, and the longest delay of a slow one."""

    loss: float = 0.0
    twice: float = 0.0
    replay: float = 0.0
    slow: float = 0.0
    slow_max_ns: int = 50 * MILLISECOND
    delay_ns: int = 0


CALM = Weather()
_REPLAY_MAX_NS = 5 * SECOND


class Client(ModelClient):
    """A client whose calls say what they do."""

    def __init__(self, session_id: bytes, functions: tuple[wire.DeclareFunction, ...]) -> None:
        super().__init__(session_id, functions)
        self.work: dict[int, Work] = {}

    def _send(self, number: int) -> None:
        if self.welcomed:
            first = self.sent_under.setdefault(number, self.epoch)
            function, arguments = self.unanswered[number], self.work[number].encode()
            self.say(wire.Submit(number, function, 0, first != self.epoch, arguments))


class Link:
    """One peer's connection. ``peer`` is its name at the scheduler; a new connection has a new one."""

    def __init__(self, owner: Client | Node, peer: bytes) -> None:
        self.owner, self.peer = owner, peer
        self.is_cut = False


class World:
    """A cluster that a test steers. Everyone is connected and welcomed once the constructor returns."""

    def __init__(
        self,
        functions: tuple[wire.DeclareFunction, ...],
        *,
        nodes: int = 1,
        clients: int = 1,
        resources: dict[str, int] | None = None,
        weather: Weather = CALM,
        seed: int = 0,
        offset_ns: int = 1_000 * SECOND,
        config: CoreConfig = CONFIG,
        checked: bool = False,
        deafness: float = 0.0,
        ahead_max: int = 0,
    ) -> None:
        self.now_ns = 0
        self.random, self.weather, self.config, self.offset_ns = Random(seed), CALM, config, offset_ns
        self.checked, self.deafness = checked, deafness
        self.ahead_max = ahead_max
        """How many calls agents take for busy processes. If any, all functions are known to be short."""
        self.resources = {"cpu": 8000, "memory": 8 << 30} if resources is None else resources
        self.history = History()
        self.functions = {declared.function_number: declared for declared in functions}
        self.after_turn: Callable[[World], None] = lambda _: None
        self._heap: list[tuple[int, int, Callable[[], object]]] = []
        self._number = self._peers = self._incarnations = 0
        self.epoch = 0
        self.saved: dict[str, None] = {}
        self.core: SchedulerCore | None = None
        self.resumes_ns = 0
        """Until then the scheduler's process is paused: messages wait, time passes."""
        self._inbox: list[tuple[Event, SchedulerCore]] = []
        self.links: list[Link] = []
        self.start_scheduler()
        self.clients = [Client(bytes([number + 1]) * 16, functions) for number in range(clients)]
        for number in range(nodes):
            self._connect(self._new_node(f"n{number}"))
        for client in self.clients:
            self._connect(client)
        self._beat_clients()
        self.run(0)
        self.weather = weather

    # ------------------------------------------------------------ time

    def at(self, at_ns: int, action: Callable[[], object]) -> None:
        """Do something at an instant."""
        self._number += 1
        heappush(self._heap, (max(at_ns, self.now_ns), self._number, action))

    def run(self, duration_ns: int) -> None:
        """Let time pass, with all that happens at its last instant."""
        until_ns = self.now_ns + duration_ns
        while True:
            next_ns = self._next_ns()
            if next_ns is None or next_ns > until_ns:
                break
            self.now_ns = max(self.now_ns, next_ns)
            self._instant()
        self.now_ns = until_ns

    def run_until(self, at_ns: int) -> None:
        """Let time pass to an instant."""
        self.run(max(0, at_ns - self.now_ns))

    def _scheduler_due_ns(self) -> int | None:
        due_ns = None if self.core is None else self.core.next_deadline()
        return None if due_ns is None else max(due_ns - self.offset_ns, self.resumes_ns)

    def _next_ns(self) -> int | None:
        instants = [self._heap[0][0]] if self._heap else []
        instants += [due for node in self.nodes if (due := node.due_ns()) is not None]
        due_ns = self._scheduler_due_ns()
        return min([*instants, *([] if due_ns is None else [due_ns])], default=None)

    def _instant(self) -> None:
        for _ in range(_TURNS_AT_ONE_INSTANT_MAX):
            while self._heap and self._heap[0][0] <= self.now_ns:
                heappop(self._heap)[2]()
                self._collect()
            awake = [node for node in self.nodes if (due := node.due_ns()) is not None and due <= self.now_ns]
            for node in awake:
                node.feed(events.Tick())
            self._collect()
            if awake or (self._heap and self._heap[0][0] <= self.now_ns):
                continue
            due_ns = self._scheduler_due_ns()
            if due_ns is None or due_ns > self.now_ns:
                return
            self.feed(Tick())
        raise AssertionError("somebody asks to be woken for what has been done")

    # ------------------------------------------------------------ the scheduler's process

    def start_scheduler(self) -> None:
        """A new process of the scheduler; everyone connects to it."""
        self.epoch += 1
        self.core = SchedulerCore(self.config, self.epoch, b"c" * 16, self.now_ns + self.offset_ns)
        self.history.add(self.now_ns, "scheduler started", self.epoch)
        for link in self.links:
            self._reconnect(link)
        self.feed(Restored((), tuple(self.saved)))

    def crash_scheduler(self, away_ns: int = 0) -> None:
        """It is killed, and back after a while."""
        if self.core is not None:
            self.core, self._inbox = None, []
            self.history.add(self.now_ns, "scheduler crashed", self.epoch)
            self.at(self.now_ns + away_ns, self.start_scheduler)

    def pause_scheduler(self, duration_ns: int) -> None:
        """Its process does not run for a while: what arrives waits for it."""
        self.resumes_ns = max(self.resumes_ns, self.now_ns + duration_ns)
        self.at(self.resumes_ns, self._resume)

    def _resume(self) -> None:
        inbox, self._inbox = self._inbox, []
        for event, core in inbox:
            if core is self.core:
                self.feed(event)

    def feed(self, event: Event) -> None:
        """One event for the core, and all that it wants done."""
        if self.core is None:
            return
        if self.now_ns < self.resumes_ns:
            self._inbox.append((event, self.core))
            return
        for effect in self.core.handle(self.now_ns + self.offset_ns, event):
            if isinstance(effect, SaveNode):
                self.saved[effect.name] = None
            elif isinstance(effect, ForgetNode):
                self.saved.pop(effect.name, None)
            elif isinstance(effect, Send):
                self._note(effect)
                link = next((link for link in self.links if link.peer == effect.peer), None)
                if link is not None and not link.is_cut:
                    self._transmit(link, effect.message, is_up=False)
        if self.ahead_max and isinstance(event, PeerMessage) and isinstance(event.message, wire.DeclareFunction):
            self._measure_all(self.core)
        if self.checked:
            invariants.check(self.core.cluster)
        self.after_turn(self)

    @staticmethod
    def _measure_all(core: SchedulerCore) -> None:
        for session in core.cluster.sessions.values():
            for function in session.functions.values():
                while not function.run_times.is_measured:
                    function.run_times.add(MILLISECOND)

    # ------------------------------------------------------------ the channel

    def _connect(self, owner: Client | Node) -> None:
        link = Link(owner, b"")
        self.links.append(link)
        self._reconnect(link)
        if isinstance(owner, Client):
            owner.hello()
        self._collect()

    def _reconnect(self, link: Link) -> None:
        self._peers += 1
        link.peer = self._peers.to_bytes(5, "big")

    def break_connection(self, link: Link, *, is_noticed: bool = True) -> None:
        """A connection is cut and made anew; the scheduler learns of it or does not."""
        old = link.peer
        self._reconnect(link)
        if is_noticed:
            self.feed(PeerLost(old))

    def cut(self, link: Link, duration_ns: int) -> None:
        """Nothing passes for a while."""
        link.is_cut = True
        self.at(self.now_ns + duration_ns, lambda: setattr(link, "is_cut", False))

    def _collect(self) -> None:
        for link in self.links:
            outbox, link.owner.outbox = link.owner.outbox, []
            if not link.is_cut:
                for message in outbox:
                    self._transmit(link, message, is_up=True)

    def _transmit(self, link: Link, message: wire.Message, *, is_up: bool) -> None:
        weather, random, peer, core = self.weather, self.random, link.peer, self.core

        def deliver() -> None:
            if link.peer != peer or core is not self.core or link.is_cut:
                return
            if is_up:
                self.feed(PeerMessage(peer, LOCAL, message))
            elif isinstance(link.owner, Node):
                link.owner.receive(message)
            else:
                self._hear(link.owner, message)

        if random.random() < weather.loss:
            return
        once = isinstance(message, _NEVER_REPLAYED)
        for _ in range(1 if once else 1 + (random.random() < weather.twice)):
            delay_ns = weather.delay_ns
            if random.random() < weather.slow:
                delay_ns += random.randrange(weather.slow_max_ns)
            self.at(self.now_ns + delay_ns, deliver)
        if not once and random.random() < weather.replay:
            self.at(self.now_ns + random.randrange(_REPLAY_MAX_NS), deliver)

    def _hear(self, client: Client, message: wire.Message) -> None:
        if isinstance(message, wire.Outcome) and message.call_number in client.unanswered:
            caller = client.work[message.call_number].caller
            kind = "" if message.failure is None else message.failure.kind
            attempt = int(message.result) if isinstance(message.result, bytes) and message.result else 0
            self.history.add(self.now_ns, "answered", caller, wire.Status.NAMES[message.status], kind, attempt)
        elif isinstance(message, wire.LeaseBroken):
            who = self.clients.index(client)
            self.history.add(self.now_ns, "broken", who, message.instance_id, message.cause, message.functions)
        client.receive(message)

    def _beat_clients(self) -> None:
        for client in self.clients:
            if client.welcomed:
                client.beat()
            else:
                client.hello()
        self.at(self.now_ns + BEAT_NS, self._beat_clients)

    # ------------------------------------------------------------ what people and nodes do

    @property
    def nodes(self) -> list[Node]:
        """The agents that are connected."""
        return [link.owner for link in self.links if isinstance(link.owner, Node)]

    def _new_node(self, name: str) -> Node:
        self._incarnations += 1
        offset_ns = self.random.randrange(1_000_000 * SECOND)
        return Node(self, name, self._incarnations, self.resources, offset_ns)

    def link_of(self, owner: Client | Node) -> Link:
        """The connection of a peer."""
        return next(link for link in self.links if link.owner is owner)

    def submit(self, function: int, behaviour: str = "ok", run_us: int = 10_000, client: int = 0) -> str:
        """A call, now; its name in the history."""
        caller = self.clients[client % len(self.clients)]
        declared = self.functions[function]
        number = caller.last + 1
        name = f"{client % len(self.clients)}.{number}"
        caller.work[number] = Work(behaviour, run_us, declared.options.keep_alive_us, name)
        self.history.add(self.now_ns, "submit", name, function, behaviour)
        caller.submit(function)
        self._collect()
        return name

    def cancel(self, call: str) -> None:
        """Its caller does not want a call any more."""
        client, number = map(int, call.split("."))
        if number in self.clients[client].unanswered:
            self.history.add(self.now_ns, "cancel", call)
            self.clients[client].cancel(number)
            self._collect()

    def crash_node(self, which: int) -> None:
        """An agent dies with all its processes; a new one takes its place."""
        nodes = self.nodes
        node = nodes[which % len(nodes)]
        node.crash()
        link = self.link_of(node)
        self.links.remove(link)
        self.history.add(self.now_ns, "node crashed", node.name)
        lost, link.peer = link.peer, b""
        self.feed(PeerLost(lost))
        self._connect(self._new_node(node.name))

    def _note(self, effect: Send) -> None:
        message = effect.message
        if isinstance(message, wire.StopInstance):
            self._note_order(message)
        elif isinstance(message, wire.Dispatch):
            caller = Work.decode(bytes(message.arguments)).caller if isinstance(message.arguments, bytes) else ""
            self.history.add(self.now_ns, "dispatch", message.instance_id, message.attempt, caller)
            if message.is_ahead:
                self.history.add(self.now_ns, "ahead", message.instance_id, message.attempt)

    def _note_order(self, order: wire.StopInstance) -> None:
        """An order to stop: has the node ever reported to this scheduler, is the instance idle, does anybody wait?

        A node that only said hello again owes a new report, but what was started or told since the restart is known.
        """
        assert self.core is not None
        cluster = self.core.cluster
        instance = cluster.instances.get(order.instance_id)
        reported = instance is None or instance.node.last_beat > 0
        attempt = 0 if instance is None or instance.attempt is None else instance.attempt.token
        waits = [
            (cluster.now_ns - call.submitted_ns, pool.shape.memory_bytes)
            for pool in cluster.pools.values()
            if (call := next_call(pool)) is not None
        ]
        room = max((node.free["memory"] for node in cluster.nodes.values() if node.peer), default=0)
        pressed = any(waited_ns >= PATIENCE_NS and memory > room for waited_ns, memory in waits)
        self.history.add(self.now_ns, "order", order.instance_id, order.cause, attempt, pressed, reported)

    def truth(self) -> dict[int, Any]:
        """What is owed to each living process, by instance."""
        return {key: account for node in self.nodes for key, account in node.accounts.items()}
