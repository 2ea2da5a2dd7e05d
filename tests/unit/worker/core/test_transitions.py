"""The agent's state tables: what they allow, and that nothing else passes."""

from dataclasses import dataclass
from typing import TypeVar

import pytest

from keepwarm_worker.core.transitions import ATTEMPT, INSTANCE, AttemptState, InstanceState, change

S = TypeVar("S")


@dataclass
class _Record:
    state: InstanceState


def test_a_change_in_the_table_is_made() -> None:
    record = _Record(InstanceState.IDLE)
    change(record, INSTANCE, InstanceState.BUSY)
    assert record.state is InstanceState.BUSY


def test_a_change_outside_the_table_is_a_defect() -> None:
    record = _Record(InstanceState.ENDED)
    with pytest.raises(AssertionError, match="ended to idle"):
        change(record, INSTANCE, InstanceState.IDLE)
    assert record.state is InstanceState.ENDED


def test_nothing_leaves_a_final_state() -> None:
    assert not [row for row in INSTANCE if row[0] is InstanceState.ENDED]
    final = (AttemptState.DONE, AttemptState.REFUSED, AttemptState.DROPPED)
    assert not [row for row in ATTEMPT if row[0] in final]


@pytest.mark.parametrize("state", list(InstanceState))
def test_every_instance_state_is_reached_and_can_end(state: InstanceState) -> None:
    assert state in _reachable(InstanceState.BUILDING, list(INSTANCE))
    assert InstanceState.ENDED in _reachable(state, list(INSTANCE))


@pytest.mark.parametrize("state", list(AttemptState))
def test_every_attempt_state_is_reached_from_fetching(state: AttemptState) -> None:
    assert state in _reachable(AttemptState.FETCHING, list(ATTEMPT))


def test_no_attempt_is_refused_once_the_runner_said_that_it_runs() -> None:
    assert [before for before, after in ATTEMPT if after is AttemptState.REFUSED] == ["fetching", "loading"]


def _reachable(start: S, rows: list[tuple[S, S]]) -> list[S]:
    found = [start]
    for state in found:
        found += [after for before, after in rows if before == state and after not in found]
    return found
