"""Every message of the protocol, as frozen NamedTuples, and the one table of their tags.

On the wire a message is the array ``[tag, field, field, ...]``; a frame is an array of messages (see ``codec``).
Rules for changing this file: fields and tags are only ever appended, never renumbered or retyped; a receiver
ignores trailing fields that it does not know and refuses tags that it does not know. Who may send what is said
in the section headings; how messages are used, in ``docs/reference/protocol.md``.
"""

from typing import Annotated, Any, NamedTuple

from keepwarm_wire.fields import (
    Amount,
    Chunk,
    Count,
    Digest,
    Document,
    Duration,
    Id,
    Inline,
    Long,
    Many,
    Name,
    Priority,
    Sentence,
    Small,
)

# ---------------------------------------------------------------- records that messages are made of


class Reference(NamedTuple):
    """A payload too large to travel inside a message: its bytes move in credited chunks."""

    payload_id: Id
    size: Count
    sha256: Digest
    locations: Annotated[tuple[Name, ...], Many] = ()


Payload = Inline | Reference
"""Opaque bytes: inline up to 64 KiB, else a reference. Scheduler and agent never look inside."""


class Failure(NamedTuple):
    """Why something did not work. ``kind`` is a key of the SDK's table of failure kinds."""

    kind: Name
    message: Sentence
    detail: Long = ""
    exception: Chunk = b""


class Quantity(NamedTuple):
    """A named resource amount: thousandths of cpu, gpu and custom resources, bytes of memory."""

    name: Name
    amount: Amount


class Pair(NamedTuple):
    """A name and a text value: an environment variable or a label."""

    name: Name
    value: Long


class RetryLimits(NamedTuple):
    """How often a call may be run again after each class of failure."""

    lost_node: Small = 3
    exceptions: Small = 0
    crash: Small = 0
    out_of_memory: Small = 0


class CallReport(NamedTuple):
    """How a call was served, for people: where it ran, how warm that was, and how long each phase took.

    ``temperature`` is that of the environment on the chosen node when the call came: cold, cached, built, warm
    or ready. ``phases`` names durations in order: waiting, lock, build, start, setup, run.
    """

    node: Name
    environment_id: Name
    instance_id: Count
    process_id: Small
    temperature: Name
    attempt: Count
    phases: Annotated[tuple["Phase", ...], Many] = ()


class Phase(NamedTuple):
    """One phase of a call's way and its length."""

    name: Name
    duration_us: Duration


class FunctionLease(NamedTuple):
    """The lease that one function holds on an idle instance: its keep_alive and the time since its last end."""

    function: Name
    keep_alive_us: Duration
    idle_us: Duration


class InstanceState(NamedTuple):
    """One instance in an agent's heartbeat. ``state`` is a state of the agent's instance table."""

    instance_id: Count
    pool: Digest
    environment_id: Name
    state: Name
    sequence: Count
    process_id: Small
    memory_bytes: Amount
    idle_us: Duration
    leases: Annotated[tuple[FunctionLease, ...], Many]
    attempts: Annotated[tuple["RunningAttempt", ...], Many]


class RunningAttempt(NamedTuple):
    """An attempt that an agent holds: running on it, or finished and not yet known to be final."""

    attempt: Count
    session_id: Id
    call_number: Count
    elapsed_us: Duration


class EnvironmentState(NamedTuple):
    """An environment built on a node's disk."""

    environment_id: Name
    size_bytes: Amount


class NodeLoad(NamedTuple):
    """What a node measured of itself at its heartbeat."""

    cpu_permille: Small
    memory_free_bytes: Amount
    disk_free_bytes: Amount


class FunctionOptions(NamedTuple):
    """How a function's calls are to be treated. Durations use ``FOREVER_US`` for *no limit*."""

    keep_alive_us: Duration
    queue_timeout_us: Duration
    startup_timeout_us: Duration
    run_timeout_us: Duration
    overall_timeout_us: Duration
    retries: RetryLimits
    cpu: Amount
    memory_bytes: Amount
    gpu: Amount
    custom: Annotated[tuple[Quantity, ...], Many] = ()
    labels: Annotated[tuple[Pair, ...], Many] = ()
    env_vars: Annotated[tuple[Pair, ...], Many] = ()


# ---------------------------------------------------------------- handshake: any peer and the scheduler


class ClientHello(NamedTuple):
    """First message of a client. The session outlives connections; ``last_epoch`` is 0 on a first meeting."""

    protocol_min: Small
    protocol_max: Small
    software: Name
    session_id: Id
    label: Name
    last_epoch: Count


class AgentHello(NamedTuple):
    """First message of an agent. ``incarnation`` is new at every start of the agent's process."""

    protocol_min: Small
    protocol_max: Small
    software: Name
    node: Name
    incarnation: Id
    platform: Name
    pythons: Annotated[tuple[Name, ...], Many]
    resources: Annotated[tuple[Quantity, ...], Many]
    labels: Annotated[tuple[Pair, ...], Many]
    last_epoch: Count


class AdminHello(NamedTuple):
    """First message of a command-line tool that asks for status or stops the cluster."""

    protocol_min: Small
    protocol_max: Small
    software: Name


class Welcome(NamedTuple):
    """The scheduler takes the peer in. ``known`` is false when it has no memory of the session or incarnation."""

    protocol: Small
    cluster_id: Id
    epoch: Count
    known: bool
    credit_calls: Count
    credit_bytes: Count
    beat_interval_us: Duration


class Refused(NamedTuple):
    """The scheduler will not talk to this peer, or could not read it. The connection is of no further use."""

    code: Name
    reason: Sentence


class Goodbye(NamedTuple):
    """The sender leaves on purpose. From the scheduler: the cluster is stopping."""

    reason: Name


# ---------------------------------------------------------------- client to scheduler


class DeclareFunction(NamedTuple):
    """Makes a function known to the session under a small number. Repeating it is harmless."""

    function_number: Small
    name: Name
    version: Digest
    codec: Name
    spec: Inline
    has_setup: bool
    options: FunctionOptions
    body: Payload


class Submit(NamedTuple):
    """One call. ``resent`` is true when an earlier scheduler may already have dispatched it."""

    call_number: Count
    function_number: Small
    priority: Priority
    resent: bool
    arguments: Payload


class Cancel(NamedTuple):
    """Stop a call, queued or running. Answered by its outcome, which may still be a success."""

    call_number: Count


class Received(NamedTuple):
    """The client has these outcomes: the scheduler may forget the calls."""

    call_numbers: Annotated[tuple[Count, ...], Many]


class ClientBeat(NamedTuple):
    """The client lives, and has sent calls up to this number."""

    beat_number: Count
    submitted_up_to: Count


# ---------------------------------------------------------------- scheduler to client


class ClientBeatReply(NamedTuple):
    """Answer to a beat: ``missing`` are the numbers at or below ``submitted_up_to`` that never arrived."""

    beat_number: Count
    missing: Annotated[tuple[Count, ...], Many]


class Outcome(NamedTuple):
    """The one recorded outcome of a call. ``status`` is a number of the ``Status`` table below."""

    call_number: Count
    status: Small
    result: Payload
    failure: None | Failure
    report: CallReport | None


class Progress(NamedTuple):
    """What the cluster is doing for a function's waiting calls: a phase of building or starting."""

    function_number: Small
    node: Name
    phase: Name
    detail: Sentence
    elapsed_us: Duration


class Output(NamedTuple):
    """What a call printed. ``stream`` is 1 or 2; ``dropped_bytes`` counts what was cut before this piece."""

    call_number: Count
    node: Name
    stream: Small
    data: Chunk
    dropped_bytes: Count


# ---------------------------------------------------------------- payload transfer, both ways


class PayloadOffer(NamedTuple):
    """The sender holds these bytes and would like to hand them over: it waits for credit."""

    payload_id: Id
    size: Count
    sha256: Digest


class PayloadCredit(NamedTuple):
    """The receiver has everything below ``received`` and takes bytes up to ``limit``. Also asks for a payload."""

    payload_id: Id
    received: Count
    limit: Count


class PayloadChunk(NamedTuple):
    """A piece of a payload. A piece at an unexpected offset is dropped; the next credit repairs it."""

    payload_id: Id
    offset: Count
    data: Chunk


class PayloadStored(NamedTuple):
    """The whole payload has arrived and its digest is right."""

    payload_id: Id


class PayloadRefused(NamedTuple):
    """The payload cannot be taken or is not here: too large, wrong digest, disk full, unknown."""

    payload_id: Id
    failure: Failure


# ---------------------------------------------------------------- scheduler to agent: numbered commands


class MakeLock(NamedTuple):
    """Resolve a spec for this node's platform. Answered by LockMade or LockFailed."""

    command: Count
    spec_key: Digest
    spec: Inline


class StartInstance(NamedTuple):
    """Build the environment if it is not on disk, then start a process in it."""

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


class StopInstance(NamedTuple):
    """End an idle instance, if its sequence is still this one: else InstanceBusy comes back."""

    command: Count
    instance_id: Count
    sequence: Count
    cause: Name


class Dispatch(NamedTuple):
    """Run one call on one instance: this, and only this, makes an attempt."""

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
    """Answer to a heartbeat: everything up to ``last_command`` has been sent before this."""

    beat_number: Count
    last_command: Count


# ---------------------------------------------------------------- agent to scheduler


class AgentBeat(NamedTuple):
    """The agent's full state as of command ``as_of``: repairs whatever message was lost."""

    beat_number: Count
    as_of: Count
    instances: Annotated[tuple[InstanceState, ...], Many]
    held: Annotated[tuple[RunningAttempt, ...], Many]
    locks_under_way: Annotated[tuple[Digest, ...], Many]
    environments: Annotated[tuple[EnvironmentState, ...], Many]
    load: NodeLoad


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
    """The process is gone, exactly once per instance: expired, evicted, released, killed, died, build or start."""

    instance_id: Count
    cause: Name
    failure: None | Failure
    retryable: bool


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


class AttemptRefused(NamedTuple):
    """The attempt was not started and will not be: the instance is gone or busy. The call is placed again."""

    attempt: Count
    instance_id: Count
    reason: Name


class NeedFunction(NamedTuple):
    """The agent was told to run a function that it has no bytes of."""

    version: Digest


# ---------------------------------------------------------------- administration


class StatusRequest(NamedTuple):
    """Ask for a description of the cluster, as a JSON document."""

    request_number: Count


class StatusReply(NamedTuple):
    """The description: UTF-8 JSON, meant for people and tools, not for the protocol."""

    request_number: Count
    document: Document


class StopCluster(NamedTuple):
    """Stop the scheduler and its agents. Without ``force`` running calls are refused a stop."""

    force: bool


class StopRefused(NamedTuple):
    """The cluster is busy: ``calls`` are unfinished."""

    calls: Count


class Status:
    """The outcomes of a call; the numbers travel as ``Outcome.status`` and ``AttemptDone.status``."""

    SUCCEEDED = 0
    FAILED = 1
    CANCELLED = 2
    TIMED_OUT = 3
    LOST = 4
    POISONED = 5

    NAMES = ("succeeded", "failed", "cancelled", "timed out", "lost", "poisoned")


Message = Any
"""Any of the NamedTuples in ``TAGS``: a closed set, checked by the codec, too wide for a useful union type."""

TAGS: dict[int, type[Any]] = {
    1: ClientHello,
    2: AgentHello,
    3: AdminHello,
    4: Welcome,
    5: Refused,
    6: Goodbye,
    10: DeclareFunction,
    11: Submit,
    12: Cancel,
    13: Received,
    14: ClientBeat,
    20: ClientBeatReply,
    21: Outcome,
    22: Progress,
    23: Output,
    30: PayloadOffer,
    31: PayloadCredit,
    32: PayloadChunk,
    33: PayloadStored,
    34: PayloadRefused,
    40: MakeLock,
    41: StartInstance,
    42: StopInstance,
    43: Dispatch,
    44: CancelAttempt,
    45: FunctionBody,
    46: Final,
    47: AgentBeatReply,
    60: AgentBeat,
    61: LockMade,
    62: LockFailed,
    63: LockProgress,
    64: InstanceProgress,
    65: InstanceReady,
    66: InstanceBusy,
    67: InstanceEnded,
    68: AttemptStarted,
    69: AttemptOutput,
    70: AttemptDone,
    71: AttemptRefused,
    72: NeedFunction,
    80: StatusRequest,
    81: StatusReply,
    82: StopCluster,
    83: StopRefused,
}
