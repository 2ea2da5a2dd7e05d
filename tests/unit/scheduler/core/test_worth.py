"""What a process is worth: each term of the formula moves the score the way that the module says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.worth import (
    FAIRNESS_MILLI,
    HOPELESS_PERMILLE,
    USES_MAX,
    PoolWorth,
    victim_score,
)

MIB = 1 << 20
COST_NS = 1_000
"""So that one thousandth of a use, at one MiB, is as much score as this."""


def pool_of(calls: int = 0, starts: int = 1) -> PoolWorth:
    pool = PoolWorth()
    for _ in range(starts):
        pool.started(0, COST_NS, MIB)
    for _ in range(calls):
        pool.called(0, COST_NS, MIB)
    return pool


def returned(lacking_milli: int, calls: int = 1) -> PoolWorth:
    """A pool that was evicted at score 0 and came back when the clock stood so much higher."""
    pool = pool_of(calls)
    come_back(pool, lacking_milli)
    return pool


def come_back(pool: PoolWorth, lacking_milli: int) -> None:
    pool.evicted(0)
    pool.started(lacking_milli * COST_NS, COST_NS, MIB)
    pool.called(lacking_milli * COST_NS, COST_NS, MIB)


@given(st.integers(0, 10**18), st.integers(1, 14_000), st.integers(1, 10**12), st.integers(0, 2**50))
def test_cost_raises_a_score_and_size_lowers_it(clock: int, worth: int, cost_ns: int, size_bytes: int) -> None:
    """And no score is below the clock at which it was given, so that the clock never goes back."""
    score = victim_score(clock, worth, cost_ns, size_bytes)
    assert clock <= victim_score(clock, worth, cost_ns, 2 * size_bytes) <= score
    assert score <= victim_score(clock, worth, 2 * cost_ns, size_bytes)


def test_uses_count_up_to_their_cap() -> None:
    """Beyond it, only the falling share of cold calls is left to change."""
    pools = [pool_of(calls) for calls in (1, 3, USES_MAX, 50, 50_000)]
    worths = [pool.worth_milli - FAIRNESS_MILLI * pool.cold_share_milli // 1_000 for pool in pools]
    assert worths == [1_000, 3_000, *[1_000 * USES_MAX] * 3]


def test_a_pool_that_was_often_cold_is_worth_more_than_one_that_was_not() -> None:
    """With the same number of calls."""
    assert pool_of(calls=20, starts=15).worth_milli > pool_of(calls=20, starts=1).worth_milli
    assert pool_of(calls=2, starts=9).cold_share_milli == 1_000


def test_an_eviction_takes_the_uses_and_keeps_the_rest() -> None:
    """Calls and starts are what the cold share is made of."""
    pool = pool_of(calls=4)
    pool.evicted(3)
    assert (pool.uses, pool.calls, pool.starts, pool.shortfall_milli) == (0, 4, 1, None)


def test_what_would_have_been_lost_anyway_gives_way() -> None:
    """A pool that came back far too late for its worth is hopeless; one that was just missed is not."""
    just_missed, far_off = returned(100), returned(1_000_000)
    assert just_missed.shortfall_milli == 100
    assert far_off.worth_milli == just_missed.worth_milli * HOPELESS_PERMILLE // 1_000 > 0


@pytest.mark.parametrize(("cost_ns", "mebibytes", "lacking"), [(1, 1, 8_000), (1, 16, 256_000), (4, 1, 2_000)])
def test_the_shortfall_is_in_worth_not_in_score(cost_ns: int, mebibytes: int, lacking: int) -> None:
    """The same lack of score is a greater lack of worth for a large process, a smaller one for a costly start."""
    pool = pool_of(1)
    pool.evicted(2_000)
    pool.started(10_000, cost_ns, mebibytes * MIB)
    assert pool.shortfall_milli == lacking


def test_a_pool_that_is_just_missed_a_few_times_is_believed_again() -> None:
    """The average forgets."""
    pool = returned(20_000)
    hopeless = pool.worth_milli
    for _ in range(10):
        come_back(pool, 0)
    assert pool.worth_milli > 2 * hopeless


def test_surviving_a_long_gap_gives_hope_back_and_many_short_ones_do_not() -> None:
    """A burst of calls at one reading of the clock says nothing about the gap before the next burst."""
    pool = returned(20_000)
    for _ in range(100):
        pool.called(20_000 * COST_NS, COST_NS, MIB)
    assert pool.shortfall_milli == 20_000
    pool.called((20_000 + 1_000_000) * COST_NS, COST_NS, MIB)
    assert pool.shortfall_milli == 0


def test_a_start_that_no_eviction_made_necessary_teaches_nothing() -> None:
    """Expired, released, or one more copy; and an eviction teaches once."""
    pool = pool_of(3)
    pool.started(50 * COST_NS, COST_NS, MIB)
    assert pool.shortfall_milli is None
    pool.evicted(0)
    pool.started(4 * COST_NS, COST_NS, MIB)
    pool.started(1_000 * COST_NS, COST_NS, MIB)
    assert pool.shortfall_milli == 4


@given(
    st.lists(st.sampled_from(["start", "call", "evict"]), max_size=60), st.integers(0, 10**10), st.integers(0, 2**40)
)
def test_worth_stays_within_its_bounds(history: list[str], cost_ns: int, size_bytes: int) -> None:
    """Whatever happens to a pool; and its shortfall is never negative."""
    pool, clock = PoolWorth(), 0
    for event in history:
        if event == "start":
            pool.started(clock, cost_ns, size_bytes)
        elif event == "call":
            pool.called(clock, cost_ns, size_bytes)
        else:
            clock = max(clock, victim_score(clock, pool.worth_milli, cost_ns, size_bytes))
            pool.evicted(clock)
        assert 0 < pool.worth_milli <= 1_000 * USES_MAX + FAIRNESS_MILLI
        assert (pool.shortfall_milli or 0) >= 0
