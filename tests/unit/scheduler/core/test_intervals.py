"""IntervalSet against a plain set."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.intervals import IntervalSet

NUMBERS = st.lists(st.integers(1, 40), max_size=60)


@given(NUMBERS)
def test_it_holds_what_a_set_holds(numbers: list[int]) -> None:
    intervals, model = IntervalSet(), set[int]()
    for number in numbers:
        assert intervals.add(number) == (number not in model)
        model.add(number)
        assert all((n in intervals) == (n in model) for n in range(43))
    runs = sum(n - 1 not in model for n in model)
    assert intervals.gaps == runs


@given(NUMBERS, st.integers(0, 50), st.integers(0, 50))
def test_it_names_what_a_set_misses(numbers: list[int], up_to: int, limit: int) -> None:
    intervals = IntervalSet()
    for number in numbers:
        intervals.add(number)
    expected = [number for number in range(1, up_to + 1) if number not in numbers]
    assert list(intervals.missing(up_to, limit)) == expected[:limit]


def test_numbers_in_order_cost_one_interval() -> None:
    intervals = IntervalSet()
    for number in range(1, 10_001):
        intervals.add(number)
    assert intervals.gaps == 1


def test_what_is_missing_up_to_a_huge_number_is_named_at_once() -> None:
    assert list(IntervalSet().missing(1 << 62, 3)) == [1, 2, 3]
