"""A caller looks for its answer without sleeping only where that helps it and costs nobody."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm.spinning import PATIENCE, QUICK_NS, Spinning

TURNS = 30


def after(waited_ns: int, *, processors: int = 2) -> Spinning:
    """After some answers that each took so long."""
    spinning = Spinning(processors)
    for _ in range(TURNS):
        spinning.answered(waited_ns)
    return spinning


def test_nothing_is_looked_for_before_answers_were_quick() -> None:
    assert Spinning(2).limit_ns(1) == 0


def test_one_processor_has_other_work() -> None:
    assert after(100_000, processors=1).limit_ns(1) == 0


def test_only_one_call_at_a_time() -> None:
    spinning = after(100_000)
    assert spinning.limit_ns(1) > 0
    assert spinning.limit_ns(0) == spinning.limit_ns(2) == 0


def test_a_few_slow_answers_end_it_and_quick_ones_bring_it_back() -> None:
    spinning = after(100_000)
    for _ in range(3):
        spinning.answered(10 * QUICK_NS)
    assert spinning.limit_ns(1) == 0
    for _ in range(TURNS):
        spinning.answered(100_000)
    assert spinning.limit_ns(1) > 0


@given(st.integers(0, 1 << 40))
def test_it_is_never_long(waited_ns: int) -> None:
    limit_ns = after(waited_ns).limit_ns(1)
    assert limit_ns <= PATIENCE * QUICK_NS
    if waited_ns > QUICK_NS:
        assert limit_ns == 0
