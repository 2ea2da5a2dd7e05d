"""Calls that wait in the program: the more urgent first, else in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.held_calls import HeldCalls
from keepwarm.session_calls import Call
from support.driven_session import Driven


def a_call(priority: int) -> Call:
    return Call(Driven().function, b"", None, priority=priority)


@given(st.lists(st.none() | st.integers(-2, 2), max_size=30))
def test_it_is_a_stable_sort_by_priority(steps: list[int | None]) -> None:
    """None takes a call, a number adds one of that priority."""
    held, model = HeldCalls(), list[Call]()
    for step in steps:
        if step is not None:
            call = a_call(step)
            held.append(call)
            model.append(call)
            model.sort(key=lambda each: -each.priority)
        elif model:
            assert held.head() is model[0]
            assert held.popleft() is model.pop(0)
        assert list(held) == model
        assert bool(held) == bool(model)
    held.clear()
    assert not held
    assert not list(held)


@given(st.lists(st.integers(-2, 2), max_size=30), st.integers(0, 30))
def test_what_is_put_back_is_where_it_was(priorities: list[int], count: int) -> None:
    held = HeldCalls()
    for priority in priorities:
        held.append(a_call(priority))
    before = list(held)
    taken = [held.popleft() for _ in range(min(count, len(before)))]
    held.put_back(taken)
    assert list(held) == before


def test_an_empty_one_has_no_head() -> None:
    held = HeldCalls()
    held.append(a_call(1))
    held.popleft()
    for look in (held.head, held.popleft):
        with pytest.raises(IndexError):
            look()
