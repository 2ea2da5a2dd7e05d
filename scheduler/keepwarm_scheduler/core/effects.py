"""What the scheduler wants done: the outputs of ``SchedulerCore.handle``. Frozen; performed by the daemon.

The effects of a turn are performed in this order: ``KeepPayload``, then ``ClaimPayload`` and ``DropPayload``; then
everything that is saved or forgotten, in one transaction, on disk; then the messages that have to wait for that, in
their order, and ``ReleasePayload``. Messages that need not wait leave at once, also while earlier turns' are held, but
for commands to a node, which stay in their order. What one turn waits for, every earlier turn has waited for.
"""

from typing import NamedTuple

from keepwarm_wire.messages import DeclareFunction, DetachedOutcome, Dispatch, Message, Payload

__all__ = [
    "RECORDS",
    "ClaimPayload",
    "DropPayload",
    "Effect",
    "ForgetCall",
    "ForgetCordon",
    "ForgetDispatch",
    "ForgetFunction",
    "ForgetKey",
    "ForgetNode",
    "ForgetTombstone",
    "KeepPayload",
    "ReleasePayload",
    "SaveAttempts",
    "SaveCall",
    "SaveCancel",
    "SaveCordon",
    "SaveDispatch",
    "SaveFunction",
    "SaveKey",
    "SaveLock",
    "SaveNode",
    "SaveOutcome",
    "Saved",
    "Send",
    "SendOutcome",
    "SendStored",
    "StopProcess",
]


class Send(NamedTuple):
    """Send a message. With ``after_sync`` it must not leave before everything saved this turn is on disk."""

    peer: bytes
    message: Message
    after_sync: bool = False


class SendStored(NamedTuple):
    """Send the dispatch of a detached call, after the sync, with its inline arguments as they are on disk."""

    peer: bytes
    message: Dispatch


class SendOutcome(NamedTuple):
    """Send the recorded outcome of a detached call, after the sync, as it is on disk."""

    peer: bytes
    number: int


class SaveLock(NamedTuple):
    """Keep a lock on disk, so that every node builds the same bytes for years."""

    namespace: str
    spec_key: bytes
    platform: str
    python: str
    lock: bytes


class SaveNode(NamedTuple):
    """Remember that this node may hold attempts of this epoch."""

    name: str


class ForgetNode(NamedTuple):
    """This node left on purpose and holds nothing."""

    name: str


class SaveCordon(NamedTuple):
    """An operator has taken this node out of use: that holds until it is undone."""

    node: str
    is_drain: bool
    max_wait_us: int
    stop: bool


class ForgetCordon(NamedTuple):
    """The node is in use again."""

    node: str


# ---------------------------------------------------------------- detached calls


class SaveFunction(NamedTuple):
    """Keep a function that detached calls of a namespace are made of."""

    function_id: int
    namespace: str
    declaration: DeclareFunction


class ForgetFunction(NamedTuple):
    """No unfinished detached call is of this function."""

    function_id: int


class SaveCall(NamedTuple):
    """Keep a detached call; it is accepted once this is on disk. What is left of its timeouts counts from now."""

    number: int
    call_id: bytes
    namespace: str
    function_id: int
    function: str
    priority: int
    key: str
    label: str
    result_ttl_us: int
    queue_left_us: int
    overall_left_us: int
    arguments: Payload


class SaveAttempts(NamedTuple):
    """Keep how often a detached call has been tried, and has failed in which way."""

    number: int
    attempts: int
    lost_nodes: int
    exceptions: int
    crashes: int
    out_of_memory: int


class SaveCancel(NamedTuple):
    """Keep the wish that a detached call be stopped: no new attempt may start, whatever happens."""

    number: int
    reason: str


class SaveOutcome(NamedTuple):
    """Keep the outcome of a detached call, and its arguments no longer. ``left_us`` from now it expires."""

    number: int
    left_us: int
    attempts: int
    kind: str
    node: str
    result_bytes: int
    outcome: DetachedOutcome


class ForgetCall(NamedTuple):
    """The outcome of a detached call has expired: remember for ``tombstone_left_us`` only that there was one."""

    number: int
    call_id: bytes
    namespace: str
    tombstone_left_us: int


class ForgetTombstone(NamedTuple):
    """A call that expired long ago is unknown from now on."""

    call_id: bytes


class SaveKey(NamedTuple):
    """Within the namespace this key stands for this call, until ``left_us`` from now and while it is unfinished."""

    namespace: str
    key: str
    call_id: bytes
    digest: bytes
    left_us: int


class ForgetKey(NamedTuple):
    """The key may be used for another call."""

    namespace: str
    key: str


class SaveDispatch(NamedTuple):
    """A call that must not run twice is about to be sent to a node: of a session's or a detached one."""

    session_id: bytes
    number: int
    left_us: int


class ForgetDispatch(NamedTuple):
    """Nobody will ask for this call again."""

    session_id: bytes
    number: int


class KeepPayload(NamedTuple):
    """These bytes have to survive the process: a detached call that is saved this turn refers to them."""

    payload_id: bytes
    size: int
    sha256: bytes


class ReleasePayload(NamedTuple):
    """No detached call refers to these bytes any more."""

    payload_id: bytes


class ClaimPayload(NamedTuple):
    """A session needs these bytes until they are dropped. What is never claimed was left by a peer that is gone."""

    payload_id: bytes


class DropPayload(NamedTuple):
    """No call of a session needs these bytes any more."""

    payload_id: bytes


class StopProcess(NamedTuple):
    """The scheduler's work is over: leave the loop and exit."""

    reason: str


Saved = (
    SaveLock
    | SaveNode
    | ForgetNode
    | SaveCordon
    | ForgetCordon
    | SaveFunction
    | ForgetFunction
    | SaveCall
    | SaveAttempts
    | SaveCancel
    | SaveOutcome
    | ForgetCall
    | ForgetTombstone
    | SaveKey
    | ForgetKey
    | SaveDispatch
    | ForgetDispatch
)
"""What is written to the journal."""

RECORDS: frozenset[type] = frozenset(
    {
        SaveLock,
        SaveNode,
        ForgetNode,
        SaveCordon,
        ForgetCordon,
        SaveFunction,
        ForgetFunction,
        SaveCall,
        SaveAttempts,
        SaveCancel,
        SaveOutcome,
        ForgetCall,
        ForgetTombstone,
        SaveKey,
        ForgetKey,
        SaveDispatch,
        ForgetDispatch,
    }
)
"""The members of ``Saved``, for a look-up."""

Effect = (
    Saved | Send | SendStored | SendOutcome | ClaimPayload | KeepPayload | ReleasePayload | DropPayload | StopProcess
)
