"""How instances and attempts may change state: two tables, and nothing else.

``change`` is the only way a state changes. A change that is not in the table is a defect of ours and raises
``AssertionError`` at once, in production too. The docs' diagrams are drawn from these tables.
"""

from enum import StrEnum
from typing import Protocol, TypeVar

__all__ = ["ATTEMPT", "INSTANCE", "AttemptState", "InstanceState", "change"]


class InstanceState(StrEnum):
    """Where an instance is. The values travel in heartbeats."""

    BUILDING = "building"
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"
    ENDED = "ended"


class AttemptState(StrEnum):
    """Where an attempt is. In FETCHING nothing of it has reached the runner; from DONE on it is held until final."""

    FETCHING = "fetching"
    LOADING = "loading"
    RUNNING = "running"
    CANCELLING = "cancelling"
    STORING = "storing"
    DONE = "done"
    REFUSED = "refused"
    DROPPED = "dropped"


_I, _A = InstanceState, AttemptState

INSTANCE: dict[tuple[InstanceState, InstanceState], str] = {
    (_I.BUILDING, _I.STARTING): "its environment is on disk",
    (_I.BUILDING, _I.ENDED): "the build failed or took too long, or it is no longer wanted",
    (_I.STARTING, _I.BUILDING): "its environment was not on disk after all",
    (_I.STARTING, _I.IDLE): "the runner said hello",
    (_I.STARTING, _I.STOPPING): "no longer wanted, or the start took too long",
    (_I.STARTING, _I.ENDED): "the process could not be started, or ended before its hello",
    (_I.IDLE, _I.BUSY): "a call came",
    (_I.IDLE, _I.STOPPING): "its lease ended, or the agent ends",
    (_I.IDLE, _I.ENDED): "the process died",
    (_I.BUSY, _I.IDLE): "the call ended",
    (_I.BUSY, _I.STOPPING): "the call did not end when asked to: the process is killed",
    (_I.BUSY, _I.ENDED): "the process died with its call",
    (_I.STOPPING, _I.ENDED): "the process is gone",
}

ATTEMPT: dict[tuple[AttemptState, AttemptState], str] = {
    (_A.FETCHING, _A.LOADING): "function and arguments are here: given to the runner",
    (_A.FETCHING, _A.DONE): "cancelled, or its function or its arguments cannot be used",
    (_A.FETCHING, _A.REFUSED): "its instance ended before anything reached the runner",
    (_A.LOADING, _A.REFUSED): "its instance ended before the runner took it",
    (_A.LOADING, _A.RUNNING): "the runner said that it runs the call, its function set up",
    (_A.LOADING, _A.CANCELLING): "cancelled, or loading and setup took too long",
    (_A.LOADING, _A.STORING): "ended with a large result",
    (_A.LOADING, _A.DONE): "loading or setup failed",
    (_A.RUNNING, _A.CANCELLING): "cancelled, or ran too long",
    (_A.RUNNING, _A.STORING): "ended with a large result",
    (_A.RUNNING, _A.DONE): "ended",
    (_A.CANCELLING, _A.STORING): "ended with a large result before it could be stopped",
    (_A.CANCELLING, _A.DONE): "ended",
    (_A.LOADING, _A.DROPPED): "the agent leaves in the middle of it",
    (_A.RUNNING, _A.DROPPED): "the agent leaves in the middle of it",
    (_A.STORING, _A.DONE): "the scheduler has the result, or will not take it",
}

S = TypeVar("S", bound=StrEnum)


class _Stateful(Protocol[S]):
    state: S


def change(record: _Stateful[S], table: dict[tuple[S, S], str], to: S) -> None:
    """Move a record to another state, if its table has that row; else raise ``AssertionError``."""
    if (record.state, to) not in table:
        raise AssertionError(f"no transition from {record.state} to {to} for {record!r}")
    record.state = to
