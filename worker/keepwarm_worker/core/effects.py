"""What the core wants done: the outputs of an agent's core, performed by the daemon in order.

Rules: an effect names things by the ids of the protocol; how they map to processes, files and sockets is the daemon's
affair. Performing an effect for an instance or a payload that is gone must be harmless.
"""

from typing import NamedTuple

from keepwarm_wire.messages import Message, Pair, Reference

__all__ = [
    "AskToExit",
    "CancelBuild",
    "CancelCall",
    "DropPayload",
    "DropResult",
    "Effect",
    "Exit",
    "FetchPayload",
    "KillTree",
    "LoadFunction",
    "RecallCall",
    "RunBuild",
    "RunLock",
    "SendMessage",
    "SpawnInstance",
    "StartCall",
    "Terminate",
    "UploadResult",
]


class SendMessage(NamedTuple):
    """Say this to the scheduler, in the frame of this turn."""

    message: Message


class RunLock(NamedTuple):
    """Resolve a spec in a thread: LockPhase*, then LockFinished or LockProblem."""

    spec_key: bytes
    spec: bytes


class RunBuild(NamedTuple):
    """Build an environment in a thread: BuildPhase*, then BuildFinished or BuildProblem."""

    environment_id: str
    lock: bytes
    python: str


class CancelBuild(NamedTuple):
    """Nobody can use this build any more and it has taken too long: BuildProblem follows."""

    environment_id: str


class SpawnInstance(NamedTuple):
    """Start a process: RunnerHello, or SpawnProblem, EnvironmentMissing or ProcessExited.

    ``devices`` are the GPUs that it may see; None on a node that offers none, where that is nobody's business.
    """

    instance_id: int
    environment_id: str
    python: str
    env_vars: tuple[Pair, ...]
    memory_bytes: int
    gpus: int
    devices: tuple[str, ...] | None


class LoadFunction(NamedTuple):
    """Give a function to the runner. ``body`` is its bytes, or the id of a fetched payload."""

    instance_id: int
    version: bytes
    name: str
    codec: str
    has_setup: bool
    body: bytes | Reference


class StartCall(NamedTuple):
    """Have the runner run an attempt, after those it was given before: RunnerStarted, RunnerOutput*, RunnerResult.

    RunnerStarted is told at once only with ``is_timed``, or for a function that is not set up yet; else it may come as
    late as what follows it. ProcessExited ends it all.
    """

    instance_id: int
    attempt: int
    name: str
    version: bytes
    arguments: bytes | Reference
    is_timed: bool = False
    is_loan: bool = False


class RecallCall(NamedTuple):
    """Ask the runner not to run an attempt that it has not begun: RunnerRecalled, or whatever comes of it."""

    instance_id: int
    attempt: int


class CancelCall(NamedTuple):
    """Ask the runner to end an attempt by raising an exception in it. ``timed_out`` tells which one."""

    instance_id: int
    attempt: int
    timed_out: bool


class AskToExit(NamedTuple):
    """Ask the runner to end: teardown and atexit run."""

    instance_id: int


class Terminate(NamedTuple):
    """SIGTERM to the process of an instance."""

    instance_id: int


class KillTree(NamedTuple):
    """SIGKILL to the process of an instance and all that it started. ProcessExited follows."""

    instance_id: int


class FetchPayload(NamedTuple):
    """Get a payload onto this node's disk: PayloadFetched or PayloadMissing."""

    reference: Reference


class DropPayload(NamedTuple):
    """Nobody needs this payload any more: give up fetching it, delete its file."""

    payload_id: bytes


class UploadResult(NamedTuple):
    """Hand a result over to the scheduler: ResultStored or ResultRefused. Harmless when it has it already."""

    attempt: int


class DropResult(NamedTuple):
    """An attempt is settled: give up uploading its result, delete its file."""

    attempt: int


class Exit(NamedTuple):
    """Everything has ended: the agent may leave."""

    reason: str


Effect = (
    SendMessage
    | RunLock
    | RunBuild
    | CancelBuild
    | SpawnInstance
    | LoadFunction
    | StartCall
    | RecallCall
    | CancelCall
    | AskToExit
    | Terminate
    | KillTree
    | FetchPayload
    | DropPayload
    | UploadResult
    | DropResult
    | Exit
)
