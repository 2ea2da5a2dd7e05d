"""What may happen to the scheduler: the inputs of ``SchedulerCore.handle``. Frozen."""

from typing import NamedTuple

from keepwarm_wire.messages import Message

__all__ = ["Event", "PeerLost", "PeerMessage", "Principal", "Restored", "SavedLock", "Tick"]


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


class Restored(NamedTuple):
    """What an earlier run left on disk: locks, and the names of the nodes that may still hold its attempts."""

    locks: tuple[SavedLock, ...]
    nodes: tuple[str, ...]


Event = PeerMessage | PeerLost | Tick | Restored
