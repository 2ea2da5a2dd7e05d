"""What can happen to an agent: the inputs of its core.

Rules: an event is a fact, in words that the core can judge without asking anyone. Bytes of payloads larger than a
message never appear here, only their names; process ids, file descriptors and threads belong to the daemon.
"""

from typing import NamedTuple

from keepwarm_wire.messages import EnvironmentState, Failure, Message, NodeLoad, Reference

__all__ = [
    "BuildFinished",
    "BuildPhase",
    "BuildProblem",
    "Connected",
    "EnvironmentMissing",
    "EnvironmentsOnDisk",
    "Event",
    "LockFinished",
    "LockPhase",
    "LockProblem",
    "Measured",
    "PayloadFetched",
    "PayloadMissing",
    "ProcessExited",
    "Received",
    "ResultRefused",
    "ResultStored",
    "RunnerHello",
    "RunnerLost",
    "RunnerOutput",
    "RunnerRecalled",
    "RunnerResult",
    "RunnerSetupDone",
    "RunnerStarted",
    "SpawnProblem",
    "SpooledResult",
    "StopRequested",
    "Tick",
]


class Received(NamedTuple):
    """The scheduler sent a message. The pieces of payloads go to the daemon's transfers instead."""

    message: Message


class Connected(NamedTuple):
    """The connection to the scheduler stands, for the first time or again: what was sent before may be lost."""


class Tick(NamedTuple):
    """Time has passed: whatever is due at ``now_ns`` is done."""


class StopRequested(NamedTuple):
    """The agent itself is to end (a signal)."""

    reason: str


class Measured(NamedTuple):
    """What the daemon measured since the last beat. ``instances`` are pairs of instance id and bytes."""

    load: NodeLoad
    instances: tuple[tuple[int, int], ...]


class EnvironmentsOnDisk(NamedTuple):
    """All environments in the node's store, at start and whenever the store has removed some."""

    environments: tuple[EnvironmentState, ...]


class LockFinished(NamedTuple):
    """A spec was resolved."""

    spec_key: bytes
    platform: str
    lock: bytes


class LockProblem(NamedTuple):
    """A spec could not be resolved."""

    spec_key: bytes
    failure: Failure
    retryable: bool


class LockPhase(NamedTuple):
    """The making of a lock has reached a phase."""

    spec_key: bytes
    phase: str
    detail: str


class BuildFinished(NamedTuple):
    """An environment is on disk. ``was_built`` is true when it had been there all along."""

    environment_id: str
    size_bytes: int
    was_built: bool


class BuildProblem(NamedTuple):
    """An environment could not be built."""

    environment_id: str
    failure: Failure
    retryable: bool


class BuildPhase(NamedTuple):
    """A build has reached a phase."""

    environment_id: str
    phase: str
    detail: str


class EnvironmentMissing(NamedTuple):
    """An instance was to start in an environment that turned out not to be on disk: it must be built."""

    instance_id: int


class SpawnProblem(NamedTuple):
    """The process of an instance could not be started."""

    instance_id: int
    failure: Failure
    retryable: bool


class RunnerHello(NamedTuple):
    """The process of an instance runs and waits for calls."""

    instance_id: int
    process_id: int


class RunnerStarted(NamedTuple):
    """From here on a crash is this attempt's. With ``setup``, the function is loaded and set up before it runs."""

    instance_id: int
    attempt: int
    setup: bool


class RunnerSetupDone(NamedTuple):
    """The function of an attempt is loaded and set up: its run begins."""

    instance_id: int
    attempt: int


class SpooledResult(NamedTuple):
    """A result too large for a message: the daemon has it in a file."""

    size: int


class RunnerResult(NamedTuple):
    """The runner has ended an attempt. ``failure`` is None when the function returned."""

    instance_id: int
    attempt: int
    result: bytes | SpooledResult
    failure: Failure | None
    setup_us: int
    run_us: int


class RunnerRecalled(NamedTuple):
    """The runner will not run an attempt that it had not begun."""

    instance_id: int
    attempt: int


class RunnerOutput(NamedTuple):
    """The process of an instance wrote to file descriptor 1 or 2, as this attempt; 0 for the one it serves."""

    instance_id: int
    stream: int
    data: bytes
    attempt: int = 0


class RunnerLost(NamedTuple):
    """The runner broke its side of the conversation (closed its socket, sent nonsense): it cannot be used again."""

    instance_id: int
    reason: str


class ProcessExited(NamedTuple):
    """The process of an instance is gone and reaped. One of ``exit_code`` and ``signal_name`` is set.

    ``out_of_memory`` is what proves that the kernel killed it for its memory, in words; empty without proof.
    """

    instance_id: int
    exit_code: int | None
    signal_name: str
    out_of_memory: str


class PayloadFetched(NamedTuple):
    """A payload is on the node's disk, its digest checked."""

    payload_id: bytes


class PayloadMissing(NamedTuple):
    """A payload cannot be had."""

    payload_id: bytes
    failure: Failure


class ResultStored(NamedTuple):
    """The scheduler has the whole of an attempt's result."""

    attempt: int
    reference: Reference


class ResultRefused(NamedTuple):
    """The scheduler will not take an attempt's result."""

    attempt: int
    failure: Failure


Event = (
    Received
    | Connected
    | Tick
    | StopRequested
    | Measured
    | EnvironmentsOnDisk
    | LockFinished
    | LockProblem
    | LockPhase
    | BuildFinished
    | BuildProblem
    | BuildPhase
    | EnvironmentMissing
    | SpawnProblem
    | RunnerHello
    | RunnerStarted
    | RunnerSetupDone
    | RunnerResult
    | RunnerRecalled
    | RunnerOutput
    | RunnerLost
    | ProcessExited
    | PayloadFetched
    | PayloadMissing
    | ResultStored
    | ResultRefused
)
