"""The records that messages are made of: frozen NamedTuples, nested in the fields of ``messages``.

Rules for changing this file are those of ``messages``: fields are only ever appended, never renamed in meaning or
retyped.
"""

from typing import Annotated, NamedTuple

from keepwarm_wire.fields import (
    Amount,
    Chunk,
    Count,
    Digest,
    Duration,
    Id,
    Inline,
    Long,
    Many,
    Name,
    Sentence,
    Small,
)

__all__ = [
    "CallReport",
    "EnvironmentState",
    "Failure",
    "FunctionLease",
    "FunctionOptions",
    "InstanceState",
    "NodeLoad",
    "Pair",
    "Payload",
    "Phase",
    "Quantity",
    "Reference",
    "RetryLimits",
    "RunningAttempt",
    "Status",
]


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
    """The lease that one function holds on an idle instance: its keep_alive and the time since its last end.

    Without a name: the term that the instance was or is being started for.
    """

    function: Name
    keep_alive_us: Duration
    idle_us: Duration


class InstanceState(NamedTuple):
    """One instance in an agent's heartbeat. ``state`` is a state of the agent's instance table.

    ``gpu`` is what it holds of the node's GPUs, in thousandths.
    """

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
    gpu: Amount = 0


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
    at_most_once: bool = False


class Status:
    """The outcomes of a call; the numbers travel as ``Outcome.status`` and ``AttemptDone.status``."""

    SUCCEEDED = 0
    FAILED = 1
    CANCELLED = 2
    TIMED_OUT = 3
    LOST = 4
    POISONED = 5

    NAMES = ("succeeded", "failed", "cancelled", "timed out", "lost", "poisoned")
