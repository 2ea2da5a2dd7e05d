"""Simulated hosts measure time like machines: each clock starts anywhere, drifts, and may find that it was frozen."""

from hypothesis import given
from hypothesis import strategies as st

from support.simulation.clock import Clock, HostClock, Pauses


@given(
    now_ns=st.integers(0, 10**12),
    offset_ns=st.integers(0, 10**15),
    drift_ppm=st.integers(-10_000, 10_000),
    delay_ns=st.integers(0, 10**11),
)
def test_an_alarm_rings_at_the_first_instant_that_its_clock_shows(
    now_ns: int, offset_ns: int, drift_ppm: int, delay_ns: int
) -> None:
    """Not a nanosecond sooner: a core that is woken early would have nothing to do, for ever."""
    clock = Clock()
    host = HostClock(clock, offset_ns, drift_ppm)
    clock.now_ns = now_ns
    wanted_ns = host.now() + delay_ns
    clock.now_ns = host.when(wanted_ns)
    assert host.now() >= wanted_ns
    clock.now_ns -= 1
    assert host.now() < wanted_ns


def test_a_fast_clock_gains_and_a_slow_one_loses() -> None:
    """By millionths of the time that has passed."""
    clock = Clock()
    clock.now_ns = 2_000_000
    assert [HostClock(clock, 10, ppm).now() for ppm in (0, 1_000, -1_000)] == [2_000_010, 2_002_010, 1_998_010]


def test_a_frozen_process_finds_everything_in_order_when_it_goes_on() -> None:
    """A second pause that ends sooner does not wake it."""
    clock, seen = Clock(), list[str]()
    pauses = Pauses(clock)
    pauses.begin(100)
    pauses.begin(50)
    for word in ("first", "second"):
        pauses.keep(lambda word=word: seen.append(word))  # type: ignore[misc]
    clock.run(99)
    assert (pauses.is_on, seen) == (True, [])
    clock.run(100)
    assert (pauses.is_on, seen) == (False, ["first", "second"])
