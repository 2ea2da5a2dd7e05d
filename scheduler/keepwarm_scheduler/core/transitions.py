"""The state tables of calls, instances and nodes: every allowed change, and nothing else.

``change`` is the only way a state changes. A change that is not in the table is a defect of ours and raises
``AssertionError`` at once, in production too: a wrong state kept is worse than a restart that loses nothing.
"""

from enum import Enum
from typing import Protocol, TypeVar

__all__ = ["CALL", "INSTANCE", "NODE", "CallState", "InstanceState", "NodeState", "change"]


class CallState(Enum):
    """Where a call stands. Queued calls also carry a reason."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    DONE = "done"

    __hash__ = object.__hash__  # Enum's own is written in Python, and every change of a state looks two of them up


class InstanceState(Enum):
    """Where an instance stands, as far as the scheduler knows."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"
    SUSPENDED = "suspended"
    ENDED = "ended"

    __hash__ = object.__hash__


class NodeState(Enum):
    """Whether a node is within reach."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"
    GONE = "gone"

    __hash__ = object.__hash__


_C, _I, _N = CallState, InstanceState, NodeState

CALL: dict[tuple[CallState, CallState], str] = {
    (_C.QUEUED, _C.DISPATCHED): "sent to a ready instance: an attempt begins",
    (_C.QUEUED, _C.RUNNING): "found running on a node after a restart of the scheduler",
    (_C.QUEUED, _C.DONE): "cancelled, timed out, impossible, or finished while the scheduler was away",
    (_C.DISPATCHED, _C.RUNNING): "the runner said that it runs the call",
    (_C.DISPATCHED, _C.DONE): "the outcome arrived",
    (_C.DISPATCHED, _C.QUEUED): "the attempt was refused or lost: placed again",
    (_C.RUNNING, _C.DONE): "the outcome arrived",
    (_C.RUNNING, _C.QUEUED): "the attempt failed in a way that the call's retries cover",
}

INSTANCE: dict[tuple[InstanceState, InstanceState], str] = {
    (_I.STARTING, _I.IDLE): "ready",
    (_I.STARTING, _I.STOPPING): "no longer wanted",
    (_I.STARTING, _I.SUSPENDED): "its node is out of reach",
    (_I.STARTING, _I.ENDED): "the build or the start failed, or the node is gone",
    (_I.IDLE, _I.BUSY): "a call was sent to it",
    (_I.IDLE, _I.STOPPING): "its lease ended: expired, evicted or released",
    (_I.IDLE, _I.SUSPENDED): "its node is out of reach",
    (_I.IDLE, _I.ENDED): "died, or its node is gone",
    (_I.BUSY, _I.IDLE): "the call ended",
    (_I.BUSY, _I.SUSPENDED): "its node is out of reach",
    (_I.BUSY, _I.ENDED): "died or was killed with its call, or its node is gone",
    (_I.STOPPING, _I.IDLE): "the node refused the stop",
    (_I.STOPPING, _I.BUSY): "the node refused the stop: it serves a call of an earlier scheduler",
    (_I.STOPPING, _I.SUSPENDED): "its node is out of reach",
    (_I.STOPPING, _I.ENDED): "the process is gone",
    (_I.SUSPENDED, _I.STARTING): "its node is back",
    (_I.SUSPENDED, _I.IDLE): "its node is back",
    (_I.SUSPENDED, _I.BUSY): "its node is back",
    (_I.SUSPENDED, _I.STOPPING): "its node is back",
    (_I.SUSPENDED, _I.ENDED): "its node is back without it, or was replaced",
}

NODE: dict[tuple[NodeState, NodeState], str] = {
    (_N.ALIVE, _N.SUSPECT): "its connection broke, or three beats are missing: nothing new comes to it",
    (_N.ALIVE, _N.GONE): "its agent left, or another took its place",
    (_N.SUSPECT, _N.ALIVE): "heard again",
    (_N.SUSPECT, _N.LOST): "not heard for too long: its calls are placed elsewhere",
    (_N.SUSPECT, _N.GONE): "its agent left, or another took its place",
    (_N.LOST, _N.ALIVE): "its agent said hello again",
    (_N.LOST, _N.GONE): "not heard for longer still, or another took its place: its instances are given up",
}

S = TypeVar("S", bound=Enum)


class _Stateful(Protocol[S]):
    state: S


def change(record: _Stateful[S], table: dict[tuple[S, S], str], to: S) -> None:
    """Move a record to another state, if its table has that row."""
    if (record.state, to) not in table:
        raise AssertionError(f"no transition from {record.state} to {to} for {record!r}")
    record.state = to
