"""What an agent knows: its instances, attempts, functions, payloads, builds, and its link to the scheduler.

Mutable records without behaviour, changed only by the modules of this package, plus ``check_invariants``, which the
tests call after every event. Nothing iterates a set; dicts keep the order in which things came.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from keepwarm_wire import messages as wire
from keepwarm_worker.core.devices import Devices
from keepwarm_worker.core.effects import Effect, SendMessage
from keepwarm_worker.core.timers import Timers
from keepwarm_worker.core.transitions import AttemptState, InstanceState

__all__ = [
    "AgentState",
    "Attempt",
    "Build",
    "CoreConfig",
    "Function",
    "Instance",
    "Lease",
    "Link",
    "Lock",
    "PayloadFile",
    "check_invariants",
]


class CoreConfig(NamedTuple):
    """Everything that the core is told once. Durations in nanoseconds unless their name says otherwise."""

    hello: wire.AgentHello
    builds_max: int = 2
    function_bytes_max: int = 256 * 1024 * 1024
    output_bytes_max: int = 1024 * 1024
    output_piece_bytes: int = 16 * 1024
    stderr_tail_bytes: int = 2048
    cancel_grace_ns: int = 2_000_000_000
    exit_grace_ns: int = 2_000_000_000
    terminate_grace_ns: int = 2_000_000_000
    shutdown_step_ns: int = 1_000_000_000
    hello_interval_ns: int = 1_000_000_000
    orphan_grace_ns: int = 60_000_000_000
    orphan_ttl_ns: int = 600_000_000_000
    silence_beats: int = 3
    alone_ns: int | None = None
    """An agent without scheduler and instances leaves after this; None for never: its scheduler may come back."""
    gpus: tuple[str, ...] = ()
    """The GPUs that the node offers, by the names that CUDA_VISIBLE_DEVICES takes."""


class Lease(NamedTuple):
    """What one function holds on an instance: its term, counted from its last end there."""

    keep_alive_us: int
    ended_ns: int


@dataclass(slots=True)
class Instance:
    """One process in an environment, from the command that wants it until it is reaped."""

    command: wire.StartInstance
    accepted_ns: int
    state: InstanceState = InstanceState.BUILDING
    was_built: bool = True
    spawned_ns: int = 0
    process_id: int = 0
    sequence: int = 0
    idle_since_ns: int = 0
    memory_bytes: int = 0
    attempt: int = 0
    """Token of the attempt it serves, 0 for none."""
    ahead: deque[int] = field(default_factory=deque)
    """Tokens of those that its runner was given to be run after that one, in this order."""
    leases: dict[str, Lease] = field(default_factory=dict)
    loaded: dict[str, bytes] = field(default_factory=dict)
    """Versions of the functions that the runner was given, by name."""
    stderr_tail: bytes = b""
    end_cause: str = ""
    """Why it is to end, once that is decided; empty while nobody wants it to."""
    end_failure: wire.Failure | None = None
    end_retryable: bool = False
    killed: bool = False
    """We have sent SIGKILL: what the process died of is then no riddle."""

    @property
    def instance_id(self) -> int:
        return self.command.instance_id


@dataclass(slots=True)
class Attempt:
    """One dispatch of a call to an instance."""

    command: wire.Dispatch
    accepted_ns: int
    state: AttemptState = AttemptState.FETCHING
    function_name: str = ""
    began: bool = False
    """The runner has said that it took the attempt: a crash is then the attempt's."""
    was_ready: bool = False
    output_bytes: int = 0
    dropped_bytes: int = 0
    verdict: tuple[int, wire.Failure] | None = None
    """The status and failure it gets unless it succeeds after all, once it was asked to stop."""
    outcome: wire.AttemptDone | None = None
    """What is repeated until it is final; while STORING, what will be said once the result is handed over."""
    said_ns: int = 0
    """When it was said last."""
    has_file: bool = False
    """The daemon keeps its result in a file."""
    uploading: bool = False
    """Its outcome is held back until the scheduler has its result (again, after a restart of the scheduler)."""
    dropped_stream: int = 1

    @property
    def token(self) -> int:
        return self.command.attempt


@dataclass(slots=True)
class Function:
    """A function version whose bytes this node has, or is fetching."""

    message: wire.FunctionBody
    available: bool

    @property
    def size(self) -> int:
        body = self.message.body
        return len(body) if isinstance(body, bytes) else body.size


@dataclass(slots=True)
class PayloadFile:
    """A payload on this node's disk, or on its way there, and who needs it."""

    reference: wire.Reference
    available: bool = False
    attempts: dict[int, None] = field(default_factory=dict)
    versions: dict[bytes, None] = field(default_factory=dict)


@dataclass(slots=True)
class Build:
    """An environment that instances wait for. ``running`` is false while it waits for its turn."""

    environment_id: str
    lock: bytes
    python: str
    waiting: dict[int, None] = field(default_factory=dict)
    running: bool = False
    cancelled: bool = False


@dataclass(slots=True)
class Lock:
    """A spec that is being resolved, or waits for its turn."""

    command: wire.MakeLock
    accepted_ns: int
    running: bool = False


@dataclass(slots=True)
class Link:
    """What is known of the scheduler."""

    welcomed: bool = False
    """It has answered our hello and was heard within the last few beats."""
    epoch: int = 0
    cluster_id: bytes = b""
    last_command: int = 0
    beat_number: int = 0
    beat_interval_ns: int = 1_000_000_000
    heard_ns: int = 0
    alone_since_ns: int | None = None
    """Since when nobody has welcomed us; None while somebody has."""


_NOTHING_MEASURED = wire.NodeLoad(0, 0, 0)


@dataclass(slots=True)
class AgentState:
    """All of it. ``effects`` and ``now_ns`` are those of the event being handled."""

    config: CoreConfig
    now_ns: int = 0
    effects: list[Effect] = field(default_factory=list)
    timers: Timers = field(default_factory=Timers)
    link: Link = field(default_factory=Link)
    instances: dict[int, Instance] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    functions: dict[bytes, Function] = field(default_factory=dict)
    function_bytes: int = 0
    wanted_functions: dict[bytes, dict[int, None]] = field(default_factory=dict)
    """Attempts that wait for a function's bytes, by version."""
    payloads: dict[bytes, PayloadFile] = field(default_factory=dict)
    environments: dict[str, int] = field(default_factory=dict)
    """Sizes in bytes of the environments on disk."""
    builds: dict[str, Build] = field(default_factory=dict)
    locks: dict[bytes, Lock] = field(default_factory=dict)
    work: deque[Build | Lock] = field(default_factory=deque)
    """Builds and locks that wait for their turn."""
    working: int = 0
    unreported: list[wire.Message] = field(default_factory=list)
    """Ends of instances and of locks that the scheduler could not be told of yet."""
    load: wire.NodeLoad = _NOTHING_MEASURED
    devices: Devices = field(init=False)
    stopping: str = ""
    """Why the agent ends, once it does."""
    dropped: list[wire.RunningAttempt] = field(default_factory=list)
    """Attempts that ended with their processes, because the agent ends."""
    exited: bool = False

    def __post_init__(self) -> None:
        self.devices = Devices(self.config.gpus)

    def say(self, message: wire.Message) -> None:
        """Send a message to the scheduler; without one, it is dropped: something else repairs its loss."""
        if self.link.welcomed:
            self.effects.append(SendMessage(message))

    def report(self, message: wire.Message) -> None:
        """Send a message now, or when the scheduler is back."""
        if self.link.welcomed:
            self.effects.append(SendMessage(message))
        else:
            self.unreported.append(message)


_SERVING = frozenset({AttemptState.FETCHING, AttemptState.LOADING, AttemptState.RUNNING, AttemptState.CANCELLING})


def check_invariants(state: AgentState) -> None:
    """Raise ``AssertionError`` if the records contradict one another. For tests: it looks at everything."""
    for instance_id, instance in state.instances.items():
        _check_instance(state, instance_id, instance)
    for token, attempt in state.attempts.items():
        assert token == attempt.token
        serving = attempt.state in _SERVING
        host = state.instances.get(attempt.command.instance_id)
        is_given = host is not None and (host.attempt == token or token in host.ahead)
        assert serving == is_given, attempt
        assert attempt.state is not AttemptState.DONE or attempt.outcome is not None, attempt
        assert attempt.output_bytes <= state.config.output_bytes_max, attempt
    for version, tokens in state.wanted_functions.items():
        assert tokens, version
        assert all(state.attempts[token].state is AttemptState.FETCHING for token in tokens)
    for payload in state.payloads.values():
        assert payload.attempts or payload.versions, payload
        assert all(state.attempts[token].state in _SERVING for token in payload.attempts), payload
        assert all(version in state.functions for version in payload.versions), payload
    assert all(instance_id in state.instances for instance_id in state.devices.holders), state.devices.holders
    for build in state.builds.values():
        assert all(state.instances[each].state is InstanceState.BUILDING for each in build.waiting), build
    assert state.function_bytes == sum(function.size for function in state.functions.values())
    running = sum(build.running for build in state.builds.values()) + sum(lock.running for lock in state.locks.values())
    assert running == state.working <= state.config.builds_max


def _check_instance(state: AgentState, instance_id: int, instance: Instance) -> None:
    assert instance_id == instance.instance_id
    assert instance.state is not InstanceState.ENDED, instance
    if instance.state is InstanceState.BUSY:
        assert instance.attempt in state.attempts, instance
    elif instance.state is not InstanceState.STOPPING:
        assert instance.attempt == 0, instance
    assert instance.attempt or not instance.ahead or instance.state is InstanceState.STOPPING, instance
    assert instance.attempt not in instance.ahead, instance
    if instance.state is InstanceState.BUILDING:
        assert instance_id in state.builds[instance.command.environment_id].waiting
    if instance.state is InstanceState.STOPPING:
        assert instance.end_cause, instance
