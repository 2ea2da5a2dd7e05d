"""What the scheduler wants done: the outputs of ``SchedulerCore.handle``. Frozen; performed by the daemon."""

from typing import NamedTuple

from keepwarm_wire.messages import Message

__all__ = ["DropPayload", "Effect", "ForgetNode", "SaveLock", "SaveNode", "Send", "StopProcess"]


class Send(NamedTuple):
    """Send a message. With ``after_sync`` it is held until everything saved this turn is on disk."""

    peer: bytes
    message: Message
    after_sync: bool = False


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


class DropPayload(NamedTuple):
    """No call needs these bytes any more."""

    payload_id: bytes


class StopProcess(NamedTuple):
    """The scheduler's work is over: leave the loop and exit."""

    reason: str


Effect = Send | SaveLock | SaveNode | ForgetNode | DropPayload | StopProcess
