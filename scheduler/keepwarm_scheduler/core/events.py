"""What may happen to the scheduler: the inputs of ``SchedulerCore.handle``. Frozen."""

from typing import NamedTuple

from keepwarm_wire.messages import DeclareFunction, Message, Payload

__all__ = [
    "Event",
    "NO_DETACHED",
    "PeerLost",
    "PeerMessage",
    "Principal",
    "Restored",
    "SavedCall",
    "SavedCordon",
    "SavedDetached",
    "SavedEnd",
    "SavedFunction",
    "SavedKey",
    "SavedLock",
    "Tick",
]


class Principal(NamedTuple):
    """Who a connection belongs to. Stamped by the daemon from the connection, never taken from a message."""

    key: str
    role: str
    namespace: str


LOCAL = Principal("local", "any", "default")
"""The principal of a local socket: the directory's permissions are the authentication."""


class PeerMessage(NamedTuple):
    """A decoded message from a connection."""

    peer: bytes
    principal: Principal
    message: Message


class PeerLost(NamedTuple):
    """A connection is gone. Its session or node may come back on another."""

    peer: bytes


class Tick(NamedTuple):
    """Time has passed: whatever is due happens now."""


class SavedLock(NamedTuple):
    """A lock read back from disk."""

    namespace: str
    spec_key: bytes
    platform: str
    python: str
    lock: bytes


class SavedFunction(NamedTuple):
    """A function that unfinished detached calls are made of."""

    function_id: int
    namespace: str
    declaration: DeclareFunction


class SavedCall(NamedTuple):
    """An unfinished detached call. Its arguments stay on disk, unless they are a reference, which is here.

    What is left of its timeouts counts from now, and is never more than at first.
    """

    number: int
    call_id: bytes
    namespace: str
    function_id: int
    function: str
    priority: int
    key: str
    label: str
    result_ttl_us: int
    age_us: int
    queue_left_us: int
    overall_left_us: int
    cancel_reason: str
    attempts: int
    lost_nodes: int
    exceptions: int
    crashes: int
    out_of_memory: int
    arguments_bytes: int
    arguments: Payload


class SavedEnd(NamedTuple):
    """A finished detached call, whose outcome is on disk. ``result_id`` is empty when the result is inline."""

    number: int
    call_id: bytes
    namespace: str
    function: str
    key: str
    label: str
    age_us: int
    attempts: int
    status: int
    kind: str
    node: str
    ended_us: int
    left_us: int
    result_bytes: int
    result_id: bytes


class SavedKey(NamedTuple):
    """A key and the call that it stands for."""

    namespace: str
    key: str
    call_id: bytes
    digest: bytes
    left_us: int


class SavedDetached(NamedTuple):
    """All that is known of detached calls; calls and ends in the order of their numbers, tombstones by age."""

    functions: tuple[SavedFunction, ...] = ()
    calls: tuple[SavedCall, ...] = ()
    ends: tuple[SavedEnd, ...] = ()
    keys: tuple[SavedKey, ...] = ()
    tombstones: tuple[tuple[bytes, str, int], ...] = ()
    """Call id, namespace, and how long it is remembered from now."""
    dispatched: tuple[tuple[bytes, int, int], ...] = ()
    """Session, number and remembrance of calls that may have run and must not run twice."""


NO_DETACHED = SavedDetached()


class SavedCordon(NamedTuple):
    """An operator's order about a node: it is out of use. See ``state.Cordon``."""

    node: str
    is_drain: bool
    max_wait_us: int
    stop: bool


class Restored(NamedTuple):
    """What an earlier run left on disk: locks, nodes that may still hold its attempts, detached calls, cordons."""

    locks: tuple[SavedLock, ...]
    nodes: tuple[str, ...]
    detached: SavedDetached = NO_DETACHED
    cordons: tuple[SavedCordon, ...] = ()


Event = PeerMessage | PeerLost | Tick | Restored
