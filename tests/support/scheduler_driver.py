"""A driver for the scheduler's core in tests: clients and agents around it, virtual time, invariants after every turn.

Everything that travels goes through the wire's codec, both ways. By default the network is perfect: ``settle`` delivers
until nothing is under way. ``lose(Kind)`` makes it swallow the next message of a kind, ``twice`` doubles every message.
"""

from typing import Any, TypeVar

from keepwarm_scheduler.config import CoreConfig
from keepwarm_scheduler.core import invariants
from keepwarm_scheduler.core.effects import Effect, Send
from keepwarm_scheduler.core.events import LOCAL, Event, PeerLost, PeerMessage, Principal, Restored, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.core.state import Instance, Node, Pool
from keepwarm_wire import messages as wire
from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.spec import canonical_spec
from support.model_agent import ModelAgent

SECOND_NS = 1_000_000_000
START_NS = 1_000 * SECOND_NS
BEAT_NS = 2 * SECOND_NS
TURNS_AT_ONE_INSTANT_MAX = 100

T = TypeVar("T")


def options(**changes: Any) -> wire.FunctionOptions:
    """Options of a function: one cpu, 256 MiB, 10 s of keep_alive, no timeouts; durations are given in seconds."""
    values: dict[str, Any] = {
        "keep_alive": 10.0,
        "queue_timeout": None,
        "startup_timeout": None,
        "run_timeout": None,
        "overall_timeout": None,
        "retries": wire.RetryLimits(),
        "cpu": 1000,
        "memory_bytes": 256 << 20,
        "gpu": 0,
        "custom": (),
        "labels": (),
        "env_vars": (),
    } | changes
    for name in ("keep_alive", "queue_timeout", "startup_timeout", "run_timeout", "overall_timeout"):
        seconds = values.pop(name)
        values[f"{name}_us"] = FOREVER_US if seconds is None else int(seconds * 1_000_000)
    return wire.FunctionOptions(**values)


class Client:
    """One session. It acknowledges outcomes only when told to, by ``acknowledge``."""

    def __init__(self, driver: "Driver", session_id: bytes) -> None:
        self.driver, self.session_id = driver, session_id
        self.peer = driver.new_peer()
        self.heard: list[Any] = []
        self.declared: dict[int, wire.DeclareFunction] = {}
        self.submitted: dict[int, wire.Submit] = {}
        self.last = self.beats = 0
        driver.clients[self.peer] = self

    def hello(self) -> "Client":
        self.say(wire.ClientHello(1, 1, "test", self.session_id, "test", self.driver.epoch))
        return self

    def say(self, message: wire.Message) -> None:
        self.driver.transmit(self.peer, message)
        self.driver.settle()

    def declare(self, name: str = "module:function", requirements: tuple[str, ...] = (), **changes: Any) -> int:
        """Declare a function; its number. ``python`` and ``version`` may be given besides the options."""
        number = len(self.declared) + 1
        python = changes.pop("python", "3.11")
        version = changes.pop("version", name.encode().ljust(32, b"v")[:32])
        declaration = wire.DeclareFunction(
            number,
            name,
            version,
            "cloudpickle:cp311",
            canonical_spec(requirements, python),
            False,
            options(**changes),
            b"body",
        )
        self.declared[number] = declaration
        self.say(declaration)
        return number

    def submit(
        self, function: int = 1, *, number: int = 0, resent: bool = False, priority: int = 0, lost_nodes: int = 0
    ) -> int:
        """Submit a call; its number."""
        number = number or self.last + 1
        self.last = max(self.last, number)
        self.submitted[number] = wire.Submit(number, function, priority, resent, b"arguments", lost_nodes)
        self.say(self.submitted[number])
        return number

    def borrow(self, function: int = 1, *, number: int = 0, priority: int = 0) -> int:
        """Ask for a loan; its number."""
        number = number or self.last + 1
        self.last = max(self.last, number)
        self.say(wire.Borrow(number, function, priority, b"key and address"))
        return number

    def wanted(self) -> list[int]:
        """The loans that were called back, each as often as it was."""
        return [message.call_number for message in self.of(wire.LoanWanted) if not message.when_idle]

    def wanted_when_idle(self) -> list[int]:
        """The loans that are to come back once they are idle, each as often as that was said."""
        return [message.call_number for message in self.of(wire.LoanWanted) if message.when_idle]

    def beat(self) -> None:
        self.beats += 1
        self.say(wire.ClientBeat(self.beats, self.last))

    def cancel(self, number: int) -> None:
        self.say(wire.Cancel(number))

    def acknowledge(self, *numbers: int) -> None:
        self.say(wire.Received(numbers))

    def of(self, kind: type[T]) -> list[T]:
        """Everything of a kind that was heard."""
        return [message for message in self.heard if isinstance(message, kind)]

    def outcomes(self, number: int) -> list[wire.Outcome]:
        return [outcome for outcome in self.of(wire.Outcome) if outcome.call_number == number]

    def outcome(self, number: int) -> wire.Outcome:
        """The outcome of a call, which has to be there; copies have to be equal."""
        outcomes = self.outcomes(number)
        assert outcomes, f"call {number} has no outcome"
        assert all(one == outcomes[0] for one in outcomes), f"call {number} was answered twice"
        return outcomes[0]

    def status(self, number: int) -> str:
        return wire.Status.NAMES[self.outcome(number).status]


class Agent(ModelAgent):
    """A model agent on a connection. With ``starts`` it makes locks and starts processes at once.

    With ``can_lend=True`` among the resources it says that it is on the scheduler's machine.
    """

    def __init__(
        self, driver: "Driver", name: str, incarnation: bytes, starts: bool, platform: str, **resources: Any
    ) -> None:
        self.can_lend: bool = resources.pop("can_lend", False)
        super().__init__(name, incarnation, **resources)
        self.platform = platform or self.platform
        self.driver, self.starts = driver, starts
        self.heard: list[Any] = []
        self.connect()

    def hello(self) -> None:
        super().hello()
        message = self.outbox[-1]
        assert isinstance(message, wire.AgentHello)
        self.outbox[-1] = message._replace(can_lend=self.can_lend)

    def connect(self) -> None:
        """A new connection."""
        self.peer = self.driver.new_peer()
        self.driver.agents[self.peer] = self
        self.now_ns = self.driver.now_ns
        self.hello()
        self.driver.settle()

    def disconnect(self, *, noticed: bool = True) -> None:
        """The connection breaks; unless noticed, the scheduler only hears nothing more."""
        del self.driver.agents[self.peer]
        self.welcomed = False
        if noticed:
            self.driver.feed(PeerLost(self.peer))
            self.driver.settle()

    def work(self) -> None:
        if self.starts and self.welcomed:
            for key in list(self.locks):
                self.finish_lock(key)
            for instance_id, instance in list(self.instances.items()):
                if instance.state == "starting":
                    self.finish_start(instance_id)

    def started(self, instance_id: int = 0) -> None:
        """Let one process, or all, become ready."""
        self.now_ns = self.driver.now_ns
        for each in [instance_id] if instance_id else list(self.instances):
            if self.instances[each].state == "starting":
                self.finish_start(each)
        self.driver.settle()

    def token_of(self, client: Client, number: int) -> int:
        """The attempt of a call that is here; 0 if it is not."""
        key = (client.session_id, number)
        return next((token for token, one in self.attempts.items() if (one.session_id, one.call_number) == key), 0)

    def has(self, client: Client, number: int) -> bool:
        """Whether a call is here."""
        return bool(self.token_of(client, number))

    def end(self, client: Client, number: int, **how: Any) -> None:
        """Let a call, which has to be here, end; or a client gives its loan back."""
        assert self.has(client, number), f"call {number} is not here"
        self.complete(self.token_of(client, number), **how)

    def complete(self, token: int = 0, **how: Any) -> None:
        """Let one call, or all, end."""
        self.now_ns = self.driver.now_ns
        for each in [token] if token else self.runnable():
            self.finish(each, **how)
        self.driver.settle()

    def beats(self) -> None:
        self.now_ns = self.driver.now_ns
        self.beat()
        self.driver.settle()

    def of(self, kind: type[T]) -> list[T]:
        return [message for message in self.heard if isinstance(message, kind)]


class Driver:
    """One scheduler at a virtual time, and everyone who is connected to it."""

    def __init__(
        self, *, epoch: int = 1, restored: Restored | None = None, now_ns: int = START_NS, **config: Any
    ) -> None:
        self.now_ns, self.epoch = now_ns, epoch
        self.config = CoreConfig(**config)
        self.clients: dict[bytes, Client] = {}
        self.agents: dict[bytes, Agent] = {}
        self.other: list[tuple[bytes, Any]] = []
        self.effects: list[Effect] = []
        self.to_lose: list[type[Any]] = []
        self.twice = False
        self.log: list[Any] = []
        self._peers = 0
        self.joining = LOCAL
        """Whose the next connections are."""
        self.principals: dict[bytes, Principal] = {}
        self.core = SchedulerCore(self.config, epoch, b"c" * 16, now_ns)
        if restored is not None:
            self.feed(restored)

    @property
    def cluster(self) -> Any:
        return self.core.cluster

    def restart(self, *, nodes: tuple[str, ...] | None = None, after_s: float = 0.0) -> None:
        """The scheduler crashes and a new one takes its place. Nobody has said hello to it yet."""
        names = tuple(self.cluster.nodes) if nodes is None else nodes
        self.now_ns += int(after_s * SECOND_NS)
        self.epoch += 1
        self.core = SchedulerCore(self.config, self.epoch, b"c" * 16, self.now_ns)
        self.feed(Restored((), names))

    # ------------------------------------------------------------ who takes part

    def new_peer(self) -> bytes:
        self._peers += 1
        peer = self._peers.to_bytes(5, "big")
        self.principals[peer] = self.joining
        return peer

    def client(self, name: str = "s") -> Client:
        return Client(self, name.encode().ljust(16, b"-")).hello()

    def agent(
        self, name: str = "a", incarnation: str = "", *, starts: bool = True, platform: str = "", **resources: Any
    ) -> Agent:
        return Agent(self, name, (incarnation or f"{name}1").encode().ljust(16, b"-"), starts, platform, **resources)

    # ------------------------------------------------------------ the network

    def lose(self, *kinds: type[Any]) -> None:
        """Swallow the next message of each of these kinds."""
        self.to_lose += kinds

    def transmit(self, peer: bytes, message: wire.Message) -> None:
        """A message to the scheduler."""
        for _ in range(2 if self.twice else 1):
            if self._is_lost(message):
                continue
            (decoded,) = decode_frame(encode_frame([message]))
            self.feed(PeerMessage(peer, self.principals.get(peer, LOCAL), decoded))

    def feed(self, event: Event) -> list[Effect]:
        """One turn of the core."""
        effects = self.core.handle(self.now_ns, event)
        invariants.check(self.cluster)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Send):
                (decoded,) = decode_frame(encode_frame([effect.message]))
                self._deliver(effect.peer, decoded)
        return effects

    def _deliver(self, peer: bytes, message: wire.Message) -> None:
        for _ in range(2 if self.twice and type(message) is not wire.Welcome else 1):
            if self._is_lost(message):
                continue
            self.log.append(message)
            if peer in self.agents:
                self.agents[peer].heard.append(message)
                self.agents[peer].receive(self.now_ns, message)
            elif peer in self.clients:
                self.clients[peer].heard.append(message)
            else:
                self.other.append((peer, message))

    def _is_lost(self, message: wire.Message) -> bool:
        if type(message) in self.to_lose:
            self.to_lose.remove(type(message))
            return True
        return False

    def settle(self) -> None:
        """Deliver what the agents say until they have no more to say."""
        is_quiet = False
        while not is_quiet:
            is_quiet = True
            for peer, agent in list(self.agents.items()):
                agent.now_ns = self.now_ns
                agent.work()
                outbox, agent.outbox = agent.outbox, []
                for message in outbox:
                    is_quiet = False
                    self.transmit(peer, message)

    # ------------------------------------------------------------ time

    def advance(self, seconds: float, *, beats: bool = True) -> None:
        """Let time pass, waking the core at each of its deadlines and, with ``beats``, everyone every 2 s."""
        until_ns = self.now_ns + round(seconds * SECOND_NS)
        last_ns = turns = 0
        while self.now_ns < until_ns:
            next_beat_ns = (self.now_ns // BEAT_NS + 1) * BEAT_NS if beats else until_ns
            due_ns = self.core.next_deadline()
            wake_ns = min(until_ns, next_beat_ns, until_ns if due_ns is None else max(due_ns, self.now_ns))
            self.now_ns = wake_ns
            if beats and wake_ns == next_beat_ns:
                for client in list(self.clients.values()):
                    client.beat()
                for agent in list(self.agents.values()):
                    agent.beats()
            self.tick()
            turns = 0 if wake_ns != last_ns else turns + 1
            last_ns = wake_ns
            assert turns < TURNS_AT_ONE_INSTANT_MAX, "the core asks to be woken for what it has done"

    def tick(self) -> None:
        self.feed(Tick())
        self.settle()

    # ------------------------------------------------------------ looking inside

    @property
    def instances(self) -> list[Instance]:
        return list(self.cluster.instances.values())

    def pool(self) -> Pool:
        """The only pool."""
        (pool,) = self.cluster.pools.values()
        assert isinstance(pool, Pool)
        return pool

    def node(self, name: str = "a") -> Node:
        node = self.cluster.nodes[name]
        assert isinstance(node, Node)
        return node

    def of(self, kind: type[T]) -> list[T]:
        """Everything of a kind that the scheduler sent and that arrived."""
        return [message for message in self.log if isinstance(message, kind)]

    def done(self, kind: type[T]) -> list[T]:
        """Every effect of a kind."""
        return [effect for effect in self.effects if isinstance(effect, kind)]


def warm(driver: Driver, **changes: Any) -> tuple[Client, Agent]:
    """A client with function 1, an agent, and one idle instance that has served call 1, acknowledged."""
    agent = driver.agent()
    client = driver.client()
    number = client.declare(**changes)
    call = client.submit(number)
    agent.complete()
    assert client.status(call) == "succeeded"
    client.acknowledge(call)
    return client, agent


def lenders(cpus: int = 1, sessions: str = "A", **changes: Any) -> tuple[Driver, Agent, list[Client]]:
    """A machine that lends, and sessions whose function 1 has as many warm processes as there are cores."""
    driver = Driver()
    agent = driver.agent(cpu=cpus * 1000, memory=64 << 30, can_lend=True)
    clients = [driver.client(name) for name in sessions]
    for client in clients:
        client.declare(keep_alive=1000, **changes)
    calls = [clients[0].submit() for _ in range(cpus)]
    agent.complete()
    assert len(driver.instances) == cpus
    clients[0].acknowledge(*calls)
    return driver, agent, clients


def shorten(client: Client, agent: Agent, ahead_max: int = 5) -> None:
    """Function 1 becomes known to be short, and so many calls of it are taken ahead."""
    for _ in range(5):
        agent.end(client, client.submit())
    agent.ahead_max = client.driver.node(agent.name).ahead_max = ahead_max
