"""The state tables."""

from dataclasses import dataclass

import pytest

from keepwarm_scheduler.core.transitions import CALL, INSTANCE, CallState, InstanceState, change


@dataclass
class Record:
    state: CallState


@pytest.mark.parametrize("states", [CallState, InstanceState])
def test_every_state_can_be_reached(states: type[CallState] | type[InstanceState]) -> None:
    table = CALL if states is CallState else INSTANCE
    first = next(iter(states))
    reached, frontier = {first}, [first]
    while frontier:
        here = frontier.pop()
        for origin, target in table:
            if origin is here and target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(states)


def test_the_last_states_are_final() -> None:
    assert not [row for row in CALL if row[0] is CallState.DONE]
    assert not [row for row in INSTANCE if row[0] is InstanceState.ENDED]


def test_every_instance_that_lives_can_end() -> None:
    assert {origin for origin, target in INSTANCE if target is InstanceState.ENDED} == set(InstanceState) - {
        InstanceState.ENDED
    }


def test_a_change_is_made_if_it_is_in_the_table_and_refused_otherwise() -> None:
    record = Record(CallState.QUEUED)
    change(record, CALL, CallState.DISPATCHED)
    assert record.state is CallState.DISPATCHED
    change(record, CALL, CallState.DONE)
    with pytest.raises(AssertionError, match="no transition"):
        change(record, CALL, CallState.QUEUED)
    assert record.state.value == "done"
