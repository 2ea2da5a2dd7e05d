"""Answers are left to gather only where they come in a stream, and never for long."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm.gathering import PART, PAUSE_NS_MAX, PAUSE_NS_MIN, STREAM_NS, Gathering

MILLISECOND_NS = 1_000_000
SECOND_NS = 1000 * MILLISECOND_NS


def stream(apart_ns: int, *, at_once: int = 1, turns: int = 100, gathering: Gathering | None = None) -> Gathering:
    """After a stream of messages, each so long after the last."""
    gathering = gathering or Gathering()
    for turn in range(1, turns + 1):
        gathering.arrived(SECOND_NS + turn * apart_ns * at_once, at_once)
    return gathering


def test_nothing_gathers_before_anything_came() -> None:
    """The first answer is read when it comes."""
    assert Gathering().pause_ns(10_000) == 0


def test_calls_one_after_the_other_are_never_delayed() -> None:
    """However quick they are: one call is under way at a time."""
    assert stream(50_000).pause_ns(1) == 0


def test_slow_answers_are_read_as_they_come() -> None:
    """However many calls wait."""
    assert stream(STREAM_NS).pause_ns(10_000) == 0


def test_many_quick_calls_gather() -> None:
    """Ten thousand calls at 20 us each take 200 ms: a pause of 10 ms reads five hundred at once."""
    for at_once in (1, 500):
        assert stream(20_000, at_once=at_once).pause_ns(10_000) == 10 * MILLISECOND_NS


def test_the_pause_shrinks_with_what_is_left() -> None:
    """So the end of a burst is not delayed."""
    gathering = stream(20_000)
    pauses = [gathering.pause_ns(calls) for calls in (10_000, 4000, 1500, 1000, 999, 10)]
    assert pauses == [10 * MILLISECOND_NS, 4 * MILLISECOND_NS, 1_500_000, MILLISECOND_NS, 0, 0]


def test_the_first_answer_after_silence_ends_the_stream() -> None:
    """What was quick a minute ago says nothing of now."""
    gathering = stream(20_000)
    gathering.arrived(60 * SECOND_NS, 1)
    assert gathering.pause_ns(10_000) == 0


@given(st.lists(st.tuples(st.integers(0, SECOND_NS), st.integers(1, 100_000)), max_size=20), st.integers(0, 1_000_000))
def test_a_pause_is_bounded(arrivals: list[tuple[int, int]], calls: int) -> None:
    """By its own limits, and by a part of what the calls take when messages come no faster than a stream's slowest."""
    gathering, now_ns = Gathering(), 0
    for after_ns, messages in arrivals:
        now_ns += after_ns
        gathering.arrived(now_ns, messages)
    pause_ns = gathering.pause_ns(calls)
    assert pause_ns == 0 or PAUSE_NS_MIN <= pause_ns <= min(PAUSE_NS_MAX, calls * STREAM_NS // PART)
