"""The scheduler's records: environments, pools, instances, nodes, sessions, calls, attempts; and their indexes.

Every mutable thing in the core is one of these. The rules that tie them together are in ``invariants``, in
executable form; the other modules of the core are functions on a ``Cluster``.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from keepwarm_scheduler.core.decisions import Decision
from keepwarm_scheduler.core.estimates import RunTimes
from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.core.intervals import IntervalSet
from keepwarm_scheduler.core.leases import Lease
from keepwarm_scheduler.core.queues import FairQueue
from keepwarm_scheduler.core.transitions import CallState, InstanceState, NodeState
from keepwarm_scheduler.core.worth import PoolWorth
from keepwarm_wire.messages import DeclareFunction, FunctionOptions, Outcome, Pair, Payload, Quantity

__all__ = [
    "Attempt",
    "Call",
    "Cordon",
    "Culprit",
    "Environment",
    "Function",
    "Instance",
    "Node",
    "Pool",
    "Session",
    "Shape",
]


@dataclass(slots=True, frozen=True)
class Shape:
    """What a pool's instances and calls need of a node. cpu and custom amounts are in thousandths."""

    cpu: int
    memory_bytes: int
    gpu: int
    custom: tuple[Quantity, ...]
    labels: tuple[Pair, ...]


NO_SHAPE = Shape(0, 0, 0, (), ())


@dataclass(slots=True, eq=False)
class Environment:
    """A spec within a namespace, and the lock it is an alias for once it has been resolved."""

    namespace: str
    spec_key: bytes
    spec: bytes
    python: str
    is_empty: bool
    platform: str = ""
    lock: bytes | None = None
    locks: dict[str, bytes] = field(default_factory=dict)
    """By platform; ``lock`` is that of ``platform``."""
    environment_id: str = ""
    lock_us: int = 0
    locked_ns: int = 0
    locking_node: "Node | None" = None
    locking_command: int = 0
    waiting: dict["Call", None] = field(default_factory=dict)
    """The calls that wait for the lock."""
    blocked_at: int = -1
    """The capacity version at which no node could make the lock."""
    family: tuple[str, ...] = ()
    """What is required, whatever the Python: the environments that might have been warm instead."""
    users: int = 0
    """How many functions of sessions are declared with it; those of detached calls apart."""


@dataclass(slots=True, eq=False)
class Function:
    """A function as one session declared it."""

    declaration: DeclareFunction
    environment: Environment
    pool: "Pool | None" = None
    run_times: RunTimes = field(default_factory=RunTimes)
    """Shared by all sessions whose function is of the same version in the same pool, from when it has one."""
    kept_as: int = 0
    """The number under which detached calls of it are kept; 0 before there were any."""

    @property
    def name(self) -> str:
        """``module:qualname``."""
        return self.declaration.name

    @property
    def options(self) -> FunctionOptions:
        """Timeouts, retries, resources."""
        return self.declaration.options


@dataclass(slots=True, eq=False)
class Pool:
    """All instances that may serve each other's calls, and the calls that wait for one of them.

    ``idle`` is a stack: the instance used last is on top and serves next, so that surplus ages out. ``attempts`` are
    those that run on its instances, the oldest first.
    """

    key: bytes
    environment_id: str
    platform: str
    namespace: str = ""
    python: str = ""
    lock: bytes = b""
    shape: Shape = NO_SHAPE
    env_vars: tuple[Pair, ...] = ()
    is_private: bool = False
    family: tuple[str, ...] = ()
    """That of its environment."""
    queue: FairQueue["Call"] = field(default_factory=FairQueue)
    waiting: dict[RunTimes, int] = field(default_factory=dict)
    """How many calls of each function version are in the queue."""
    loans: OrderedDict["Call", None] = field(default_factory=OrderedDict)
    """Those in the queue that are loans."""
    wanted_at: tuple[int, int, bool] | None = None
    """When loans were last looked at for a call in the queue, and which there were."""
    idle: list["Instance"] = field(default_factory=list)
    roomy: OrderedDict[int, "Instance"] = field(default_factory=OrderedDict)
    """Busy ones that may take calls ahead; whether they can is looked at when one is wanted."""
    instances: dict[int, "Instance"] = field(default_factory=dict)
    per_node: dict[str, int] = field(default_factory=dict)
    starting: int = 0
    busy: int = 0
    served_ns: int = 0
    """When a call of its was last sent to an instance."""
    saved_on: "Node | None" = None
    """The node that saves for it, if that still does."""
    start_failures: int = 0
    considered_ns: int = -1
    considered: Decision | None = None
    """When it was last decided not to start an instance, and why."""
    blocked_at: int = -1
    is_impossible: bool = False
    nodes_seen: int = 0
    """How many nodes there were when it was found to be impossible."""
    room_cursor: int = 0
    """How many nodes have been looked at in vain for instances that could make room."""
    attempts: OrderedDict[int, "Attempt"] = field(default_factory=OrderedDict)
    run_times: dict[bytes, RunTimes] = field(default_factory=dict)
    """By function version."""
    worth: PoolWorth = field(default_factory=PoolWorth)
    """What its last idle instance is worth keeping when memory is short."""
    peak_bytes: int = 0
    last_caller: bytes = b""
    """The session of the last call."""
    shared_ns: int = 0
    """When two sessions called in turn last; 0 for never."""
    measures_memory: bool = False
    """No memory was asked for: ``shape`` books the most that an instance was seen to use."""
    users: int = 0
    """How many declared functions, over all sessions, have their calls wait here."""
    callers: dict[str, dict[bytes, int]] = field(default_factory=dict)
    """The same by function name and session: who holds the leases of that name."""

    @property
    def queued(self) -> int:
        """How many calls wait."""
        return len(self.queue)

    def join(self, session: "Session", function: str) -> None:
        """A function of a session has its calls wait here from now on."""
        self.users += 1
        sessions = self.callers.setdefault(function, {})
        sessions[session.session_id] = sessions.get(session.session_id, 0) + 1

    def leave(self, session: "Session", function: str) -> None:
        """Not any more: the session is over."""
        self.users -= 1
        sessions = self.callers[function]
        sessions[session.session_id] -= 1
        if not sessions[session.session_id]:
            del sessions[session.session_id]
        if not sessions:
            del self.callers[function]

    def push(self, call: "Call", *, first: bool = False) -> None:
        """Add a call to the queue, at the end of its owner's or at its head."""
        session, times = call.session, call.function.run_times
        self.queue.push(session.session_id, call.rank, call, first=first)
        if call.is_loan:
            self.loans[call] = None
        self.waiting[times] = self.waiting.get(times, 0) + 1

    def take(self) -> "Call":
        """Take the call at the head of the queue, which has one."""
        call = self.queue.pop()
        self._uncount(call)
        return call

    def remove(self, call: "Call") -> None:
        """Take a call out of the queue, wherever it waits there."""
        if self.queue.remove(call.session.session_id, call.rank, call):
            self._uncount(call)

    def _uncount(self, call: "Call") -> None:
        times = call.function.run_times
        if call.is_loan:
            del self.loans[call]
        if self.waiting[times] == 1:
            del self.waiting[times]
        else:
            self.waiting[times] -= 1


class Culprit(NamedTuple):
    """Why an instance may end before its leases do, and which function's call is the reason.

    ``attempt`` is that call's, 0 for one that is still to come, and ``at_ns`` the instant.
    """

    why: str
    function: str
    namespace: str
    attempt: int
    at_ns: int


@dataclass(slots=True, eq=False)
class Instance:
    """One worker process on a node. ``sequence`` counts the attempts it has finished.

    ``keep_alive_us`` is the term it was started for, None when an earlier scheduler started it. ``is_lease_unknown``
    means that only its agent knows its lease: it has no deadline until a beat tells.
    """

    instance_id: int
    pool: Pool
    node: "Node"
    memory_bytes: int
    keep_alive_us: int | None
    command: int
    wanted_ns: int
    state: InstanceState = InstanceState.STARTING
    is_parked: bool = False
    sequence: int = 0
    process_id: int = 0
    ready_ns: int = 0
    was_built: bool = False
    build_us: int = 0
    start_us: int = 0
    phase: str = ""
    attempt: "Attempt | None" = None
    ahead: deque["Attempt"] = field(default_factory=deque)
    """Attempts that it runs after that one, in this order."""
    is_recall_timed: bool = False
    busy_ns: int = 0
    """Since when it has been busy without a pause."""
    lease: Lease = field(default_factory=Lease)
    is_lease_unknown: bool = False
    gpu: int = 0
    stop_command: int = 0
    stop_cause: str = ""
    uses: int = 0
    used_ns: int = 0
    clock: int = 0
    """The cluster's Greedy-Dual clock at its last use."""
    score: int | None = None
    """What it was worth as a victim since then; None before anyone asked."""
    start: Decision | None = None
    """Why it was started, and there; None for one that an earlier scheduler started."""
    started_for: str = ""
    """The function whose lease it holds before it has served anything, if that is known."""
    culprit: Culprit | None = None
    """Its last call that failed in a way that processes may not survive."""
    evicted_for: Culprit | None = None


@dataclass(slots=True, eq=False)
class Node:
    """A machine with an agent. ``peer`` is empty while it is not connected.

    ``has_reported`` is false from each hello to the next beat: what the node holds is not known then.
    ``is_leaving`` is true once its agent has refused a start because it stops: nothing is started there any more.
    """

    name: str
    peer: bytes
    incarnation: bytes
    platform: str
    pythons: tuple[str, ...]
    labels: dict[str, str]
    capacity: dict[str, int]
    free: dict[str, int]
    heard_ns: int
    ahead_max: int = 0
    """How many calls its agent takes for a busy instance."""
    can_lend: bool = False
    """It is on the scheduler's own machine, and its instances can be lent."""
    state: NodeState = NodeState.ALIVE
    is_closed: bool = False
    """No call is sent there and nothing is started: suspect, or cordoned. Its idle instances are parked."""
    has_reported: bool = False
    is_leaving: bool = False
    last_command: int = 0
    pardons: int = 0
    """So often it may speak of what is over: a few times for each attempt that was sent there."""
    as_of: int = -1
    last_beat: int = 0
    beat_ns: int = 0
    """When that one came."""
    instances: dict[int, Instance] = field(default_factory=dict)
    attempts: dict[int, "Attempt"] = field(default_factory=dict)
    environments: dict[str, int] = field(default_factory=dict)
    functions_sent: dict[bytes, None] = field(default_factory=dict)
    parked: dict[bytes, list[Instance]] = field(default_factory=dict)
    saved_for: Pool | None = None
    """The pool for whose head call the node keeps what comes free (``saving``), and since when it does."""
    saved_since_ns: int = 0
    saves_from_ns: int = 0
    """It has saved in vain, and does so again from then on."""
    ended: dict[int, None] = field(default_factory=dict)
    load: tuple[int, int, int] = (0, 0, 0)
    unfiled: dict[str, "Node"] = field(default_factory=dict)
    """The cluster's list of nodes to be filed anew by load: any change of what is booked enters the node here."""
    level: int = -1
    """Where it is filed; -1 before it is."""

    @property
    def is_lost(self) -> bool:
        """Out of reach for so long that its calls were placed elsewhere."""
        return self.state is NodeState.LOST


class Cordon(NamedTuple):
    """An operator's order about a node, by name: it outlives the node's record, its agent and the scheduler.

    With ``is_drain`` idle instances are ended, those whose leases have a deadline once ``until_ns`` is reached; with
    ``stop`` the agent is told to leave when nothing is left there.
    """

    is_drain: bool
    max_wait_us: int
    stop: bool
    until_ns: int


@dataclass(slots=True, eq=False)
class Session:
    """A client, across its connections."""

    session_id: bytes
    peer: bytes
    principal: Principal
    label: str
    heard_ns: int
    functions: dict[int, Function] = field(default_factory=dict)
    calls: dict[int, "Call"] = field(default_factory=dict)
    seen: IntervalSet = field(default_factory=IntervalSet)
    is_doubted: bool = False
    """It has been silent for too long, and has one more moment to be heard."""
    answers: int = 0
    answers_since_ns: int = 0
    """How many of its beats have been answered since then: no more than a few in the time of one."""
    turn: int = 0
    """The token of its last attempt: who was served the longest ago goes first."""
    is_keeper: bool = False
    """No client's: it keeps the detached calls of a namespace."""


@dataclass(slots=True, eq=False)
class Call:
    """One invocation. Kept until its client has received the outcome."""

    session: Session
    number: int
    function: Function
    priority: int
    arguments: Payload
    submitted_ns: int
    state: CallState = CallState.QUEUED
    reason: str = ""
    queue_end_ns: int = 0
    """When its queue timeout is over, if it has one."""
    attempt: "Attempt | None" = None
    outcome: Outcome | None = None
    outcome_ns: int = 0
    said_ns: int = 0
    """When its outcome was sent last."""
    settled_attempt: tuple["Node", int] | None = None
    is_loan: bool = False
    """What its attempt runs comes from its client directly (``lending``)."""
    cancel_reason: str = ""
    timed: bool = False
    lost_nodes: int = 0
    exceptions: int = 0
    crashes: int = 0
    out_of_memory: int = 0
    decisions: list[Decision] = field(default_factory=list)

    @property
    def key(self) -> tuple[bytes, int]:
        """Session id and number: the call's identity in the cluster."""
        return (self.session.session_id, self.number)

    @property
    def rank(self) -> int:
        """Its priority in the queue: loans come after the calls of the same priority."""
        return self.priority * 2 - self.is_loan


@dataclass(slots=True, eq=False)
class Attempt:
    """One dispatch of a call to an instance. ``call`` is empty once nobody waits for it any more.

    ``function`` and ``keep_alive_us`` are the term that its end restarts, whether or not anybody waits for it then;
    None when an earlier scheduler made the attempt and its client has not come back.
    """

    token: int
    call: Call | None
    key: tuple[bytes, int]
    instance: Instance
    command: int
    dispatched_ns: int
    function: str = ""
    keep_alive_us: int | None = None
    is_running: bool = False
    is_ahead: bool = False
    """It waits at its instance for the one that runs there; it has booked nothing."""
    is_overdue: bool = False
    """Its call has timed out here and is over: it is only being stopped."""
    cancel_command: int = 0
    cpu: int = 0
    custom: tuple[Quantity, ...] = ()
    run_times: RunTimes | None = None
    loan_wanted_ns: int = 0
    """When its client was last asked to end it, of a loan; 0 for never."""
    is_wanted_when_idle: bool = False
    """Whether its client was asked to end it as soon as it has nothing to do."""
