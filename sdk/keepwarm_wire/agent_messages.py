"""Messages between the scheduler and its agents. The rules are those of ``messages``."""

from typing import Annotated, NamedTuple

from keepwarm_wire.fields import (
    Amount,
    Chunk,
    Count,
    Digest,
    Document,
    Duration,
    Id,
    Inline,
    Many,
    Name,
    Sentence,
    Small,
)
from keepwarm_wire.records import (
    EnvironmentState,
    Failure,
    InstanceState,
    NodeLoad,
    Pair,
    Payload,
    RunningAttempt,
)

__all__ = [
    "MakeLock",
    "StartInstance",
    "StopInstance",
    "Dispatch",
    "RecallAttempts",
    "CancelAttempt",
    "FunctionBody",
    "Final",
    "AgentBeatReply",
    "AgentBeat",
    "LockMade",
    "LockFailed",
    "LockProgress",
    "InstanceProgress",
    "InstanceReady",
    "InstanceBusy",
    "InstanceEnded",
    "AttemptStarted",
    "AttemptOutput",
    "AttemptDone",
    "AttemptRefused",
    "NeedFunction",
    "RECALLED",
]

# ---------------------------------------------------------------- scheduler to agent: numbered commands


class MakeLock(NamedTuple):
    """Resolve a spec for this node's platform. Answered by LockMade or LockFailed."""

    command: Count
    spec_key: Digest
    spec: Inline


class StartInstance(NamedTuple):
    """Build the environment if it is not on disk, then start a process in it.

    ``gpu`` is what it may use of the node's GPUs, in thousandths; ``gpus`` is the whole ones of them.
    """

    command: Count
    instance_id: Count
    pool: Digest
    environment_id: Name
    python: Name
    lock: Document
    env_vars: Annotated[tuple[Pair, ...], Many]
    memory_bytes: Amount
    gpus: Small
    startup_timeout_us: Duration
    keep_alive_us: Duration
    gpu: Amount = 0


class StopInstance(NamedTuple):
    """End an idle instance, if its sequence is still this one: else InstanceBusy comes back."""

    command: Count
    instance_id: Count
    sequence: Count
    cause: Name


class Dispatch(NamedTuple):
    """Run one call on one instance: this, and only this, makes an attempt.

    With ``is_ahead`` the instance may be busy: the call is run after those that were sent there before. With
    ``is_loan`` it is a client's ``Borrow``.
    """

    command: Count
    instance_id: Count
    attempt: Count
    session_id: Id
    call_number: Count
    version: Digest
    keep_alive_us: Duration
    startup_timeout_us: Duration
    run_timeout_us: Duration
    arguments: Payload
    is_ahead: bool = False
    is_loan: bool = False


class RecallAttempts(NamedTuple):
    """Give back the attempts of these that have not begun: each is answered by AttemptRefused, or by its outcome."""

    command: Count
    attempts: Annotated[tuple[Count, ...], Many]


class CancelAttempt(NamedTuple):
    """Stop an attempt: ask, then kill its process after the grace."""

    command: Count
    attempt: Count
    grace_us: Duration


class FunctionBody(NamedTuple):
    """A function's bytes, sent once per node before the first dispatch that needs them, or when asked for."""

    version: Digest
    name: Name
    codec: Name
    has_setup: bool
    body: Payload


class Final(NamedTuple):
    """These attempts are settled: the agent may forget their outcomes."""

    attempts: Annotated[tuple[Count, ...], Many]


class AgentBeatReply(NamedTuple):
    """Answer to a heartbeat: everything up to ``last_command`` has been sent before this.

    ``next_beat_us`` is when the next heartbeat is due, counted from now; 0 leaves it as it was.
    """

    beat_number: Count
    last_command: Count
    next_beat_us: Duration = 0


# ---------------------------------------------------------------- agent to scheduler


class AgentBeat(NamedTuple):
    """The agent's full state as of command ``as_of`` of the scheduler of ``epoch``: repairs whatever message was lost.

    Commands are numbered anew in each epoch, so a beat for another one says nothing. An older agent leaves it at 0.
    """

    beat_number: Count
    as_of: Count
    instances: Annotated[tuple[InstanceState, ...], Many]
    held: Annotated[tuple[RunningAttempt, ...], Many]
    locks_under_way: Annotated[tuple[Digest, ...], Many]
    environments: Annotated[tuple[EnvironmentState, ...], Many]
    load: NodeLoad
    epoch: Count = 0


class LockMade(NamedTuple):
    """A spec resolved for the node's platform: hashed requirements, one text."""

    spec_key: Digest
    platform: Name
    lock: Document
    duration_us: Duration


class LockFailed(NamedTuple):
    """A spec that could not be resolved, and why."""

    spec_key: Digest
    failure: Failure
    retryable: bool


class LockProgress(NamedTuple):
    """Which phase the making of a lock has reached."""

    spec_key: Digest
    phase: Name
    detail: Sentence


class InstanceProgress(NamedTuple):
    """Which phase a starting instance has reached."""

    instance_id: Count
    phase: Name
    detail: Sentence


class InstanceReady(NamedTuple):
    """A process waits for calls. ``was_built`` tells whether its environment was on disk already."""

    instance_id: Count
    process_id: Small
    was_built: bool
    build_us: Duration
    start_us: Duration


class InstanceBusy(NamedTuple):
    """A stop was refused: the instance serves a call, or has served one since."""

    instance_id: Count
    sequence: Count


class InstanceEnded(NamedTuple):
    """The process is gone, exactly once per instance: expired, evicted, released, killed, died, build or start.

    ``attempt`` is the one with which it was killed or died; 0 when it ran none, or none that had begun.
    """

    instance_id: Count
    cause: Name
    failure: None | Failure
    retryable: bool
    attempt: Count = 0


class AttemptStarted(NamedTuple):
    """The runner has said that it runs this attempt: blame for what follows falls on it."""

    attempt: Count


class AttemptOutput(NamedTuple):
    """A piece of what an attempt printed."""

    attempt: Count
    stream: Small
    data: Chunk
    dropped_bytes: Count


class AttemptDone(NamedTuple):
    """The outcome of an attempt, repeated until it is final."""

    attempt: Count
    session_id: Id
    call_number: Count
    instance_id: Count
    sequence: Count
    status: Small
    result: Payload
    failure: None | Failure
    setup_us: Duration
    run_us: Duration
    was_ready: bool


RECALLED = "recalled"
"""Why an attempt that was to run after others is refused: it was asked back. Its instance is as good as before."""


class AttemptRefused(NamedTuple):
    """The attempt was not started and will not be: the instance is gone or busy. The call is placed again.

    ``reason`` is ``RECALLED`` or, for people, the state of the instance.
    """

    attempt: Count
    instance_id: Count
    reason: Name


class NeedFunction(NamedTuple):
    """The agent was told to run a function that it has no bytes of."""

    version: Digest
