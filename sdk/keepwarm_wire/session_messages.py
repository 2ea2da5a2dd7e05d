"""Messages of the handshake, of clients, of payloads and of administration. The rules are those of ``messages``."""

from typing import Annotated, NamedTuple

from keepwarm_wire.fields import (
    Bounds,
    Chunk,
    Count,
    Digest,
    Document,
    Duration,
    Id,
    Inline,
    Many,
    Name,
    Priority,
    Sentence,
    Small,
)
from keepwarm_wire.records import (
    CallReport,
    Failure,
    FunctionOptions,
    Pair,
    Payload,
    Quantity,
)

__all__ = [
    "ClientHello",
    "AgentHello",
    "AdminHello",
    "Welcome",
    "Refused",
    "Goodbye",
    "DeclareFunction",
    "Submit",
    "Borrow",
    "Cancel",
    "ForgetFunctions",
    "Received",
    "ClientBeat",
    "ClientBeatReply",
    "Outcome",
    "Progress",
    "Output",
    "LeaseBroken",
    "Lent",
    "LoanWanted",
    "PayloadOffer",
    "PayloadCredit",
    "PayloadChunk",
    "PayloadStored",
    "PayloadRefused",
    "StatusRequest",
    "StatusReply",
    "StopCluster",
    "StopRefused",
    "ExplainRequest",
    "ExplainReply",
    "FORGOTTEN_MAX",
    "RECEIVED_MAX",
]

FORGOTTEN_MAX = 1_000
"""How many functions one message forgets at most."""

RECEIVED_MAX = 1_000
"""How many outcomes one message acknowledges at most."""

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
    """First message of an agent. ``incarnation`` is new at every start of the agent's process.

    ``ahead_max`` is how many calls it takes for a busy instance, to be run after the one that runs; 0 for none.
    ``can_lend`` tells that its instances can be lent to clients of the same machine.
    """

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
    ahead_max: Small = 0
    can_lend: bool = False


class AdminHello(NamedTuple):
    """First message of a command-line tool that asks for status or stops the cluster."""

    protocol_min: Small
    protocol_max: Small
    software: Name


class Welcome(NamedTuple):
    """The scheduler takes the peer in. ``known`` is false when it has no memory of the session or incarnation.

    ``lends`` tells a client that it may ``Borrow``.
    """

    protocol: Small
    cluster_id: Id
    epoch: Count
    known: bool
    credit_calls: Count
    credit_bytes: Count
    beat_interval_us: Duration
    lends: bool = False


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
    """One call. ``resent`` is true when an earlier scheduler may already have dispatched it.

    ``lost_nodes`` is how many nodes were lost under loans while they ran it.
    """

    call_number: Count
    function_number: Small
    priority: Priority
    resent: bool
    arguments: Payload
    lost_nodes: Small = 0


class Borrow(NamedTuple):
    """A loan: a call like any other, under which an instance takes the client's calls from the client itself.

    It waits for its turn as a call does. ``arguments`` are for the instance's runner alone. Not repeated under another
    scheduler: what the client had in mind for it, it submits there.
    """

    call_number: Count
    function_number: Small
    priority: Priority
    arguments: Inline


class Cancel(NamedTuple):
    """Stop a call, queued or running. Answered by its outcome, which may still be a success."""

    call_number: Count


class ForgetFunctions(NamedTuple):
    """The client will make no more calls of these functions, and none of theirs is unanswered. Needs no answer.

    Lost, it costs the scheduler the memory of a function until the session ends. Numbers are not used again.
    """

    function_numbers: Annotated[tuple[Small, ...], Bounds(0, FORGOTTEN_MAX)]


class Received(NamedTuple):
    """The client has these outcomes: the scheduler may forget the calls."""

    call_numbers: Annotated[tuple[Count, ...], Bounds(0, RECEIVED_MAX)]


class ClientBeat(NamedTuple):
    """The client lives, and has sent calls up to this number."""

    beat_number: Count
    submitted_up_to: Count


# ---------------------------------------------------------------- scheduler to client


class ClientBeatReply(NamedTuple):
    """Answer to a beat: ``missing`` are the numbers at or below ``submitted_up_to`` that never arrived.

    ``next_beat_us`` is when the next beat is due, counted from now; 0 leaves it as it was.
    """

    beat_number: Count
    missing: Annotated[tuple[Count, ...], Many]
    next_beat_us: Duration = 0


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


class LeaseBroken(NamedTuple):
    """A process has ended while functions of the client held leases on it. A notice: not repeated when lost.

    ``cause`` begins with evicted, killed or died; ``left_us`` is what was left of the longest of their terms.
    ``more_functions`` are not named, and ``more_notices`` of the same turn are not sent.
    """

    instance_id: Count
    node: Name
    environment_id: Name
    functions: Annotated[tuple[Name, ...], Many]
    more_functions: Count
    cause: Sentence
    left_us: Duration
    more_notices: Count


class Lent(NamedTuple):
    """A loan has been sent to this instance. A notice for people's reports: not repeated when lost."""

    call_number: Count
    node: Name
    environment_id: Name
    instance_id: Count
    process_id: Small
    attempt: Count


class LoanWanted(NamedTuple):
    """Others wait for what is lent: give no more calls to it, and end the loan once those that it has are over.

    ``when_idle``: only once it has had nothing to do for a moment.
    """

    call_number: Count
    when_idle: bool = False


# ---------------------------------------------------------------- payload transfer, both ways


class PayloadOffer(NamedTuple):
    """The sender holds these bytes and would like to hand them over: it waits for credit."""

    payload_id: Id
    size: Count
    sha256: Digest


class PayloadCredit(NamedTuple):
    """The receiver has everything below ``received`` and takes bytes up to ``limit``. Also asks for a payload.

    With a ``limit`` of 0 the scheduler says that a message refers to bytes which it has not, or not any more.
    """

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


class ExplainRequest(NamedTuple):
    """Ask why a call ran where it ran. From an admin, ``call`` is like ``1f2e3d4c-17``; a client asks for its own."""

    request_number: Count
    call: Name


class ExplainReply(NamedTuple):
    """The explanation: UTF-8 JSON, meant for people and tools, not for the protocol. Not repeated when lost."""

    request_number: Count
    document: Document
