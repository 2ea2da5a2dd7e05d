"""The policy: pure functions."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.placement import (
    COLD_START_DEFAULT_NS,
    MIN_SAMPLES,
    Candidate,
    PoolStatistics,
    Temperature,
    VictimCandidate,
    choose,
    choose_victims,
    fits,
    starts_wanted,
)

MS = 1_000_000


def measured(run_ns: int, cold_ns: int = COLD_START_DEFAULT_NS) -> PoolStatistics:
    statistics = PoolStatistics()
    for _ in range(MIN_SAMPLES):
        statistics.add_run(run_ns)
    statistics.cold_start_ns = cold_ns
    return statistics


def test_an_unmeasured_pool_starts_one_instance_per_call() -> None:
    assert starts_wanted(PoolStatistics(), 7, 0, 2, is_private=False) == 5


def test_short_calls_wait_and_long_ones_do_not() -> None:
    assert starts_wanted(measured(1 * MS), 3, 1, 0, is_private=False) == 0
    assert starts_wanted(measured(1000 * MS), 3, 1, 0, is_private=False) == 3


def test_the_bound_of_waiting_is_four_fifths_of_a_cold_start() -> None:
    assert starts_wanted(measured(400 * MS, 500 * MS), 1, 1, 0, is_private=False) == 0
    assert starts_wanted(measured(401 * MS, 500 * MS), 1, 1, 0, is_private=False) == 1


def test_a_pool_without_any_instance_starts_one_however_short_its_calls() -> None:
    assert starts_wanted(measured(1), 1, 0, 0, is_private=False) == 1


def test_private_calls_each_need_an_instance() -> None:
    assert starts_wanted(measured(1), 4, 9, 1, is_private=True) == 3


@given(
    st.integers(0, 10**10),
    st.integers(1, 10**10),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.booleans(),
)
def test_never_more_starts_under_way_than_calls_waiting(
    run_ns: int, cold_ns: int, queued: int, busy: int, starting: int, is_private: bool
) -> None:
    wanted = starts_wanted(measured(run_ns, cold_ns), queued, busy, starting, is_private=is_private)
    assert 0 <= wanted <= max(0, queued - starting)


def test_the_hottest_node_is_chosen_then_the_least_loaded_then_the_emptiest() -> None:
    cold, built = Candidate("a", Temperature.COLD, 0, 0), Candidate("b", Temperature.BUILT, 900, 9)
    idler, emptier = Candidate("c", Temperature.BUILT, 100, 9), Candidate("d", Temperature.BUILT, 100, 8)
    assert choose(b"p", [cold, built]) == built
    assert choose(b"p", [cold, built, idler]) == idler
    assert choose(b"p", [cold, built, idler, emptier]) == emptier
    assert choose(b"p", []) is None


def test_equal_nodes_share_the_pools_whatever_their_order() -> None:
    nodes = [Candidate(f"node{n}", Temperature.COLD, 0, 0) for n in range(8)]
    chosen = [choose(bytes([key]), nodes) for key in range(200)]
    assert chosen == [choose(bytes([key]), nodes[::-1]) for key in range(200)]
    assert len({candidate.node for candidate in chosen if candidate is not None}) == 8


def test_surplus_copies_make_room_first_then_the_lease_that_ends_first() -> None:
    lone, early, late = VictimCandidate(1, 1, 0, 10), VictimCandidate(2, 2, 5, 10), VictimCandidate(3, 2, 9, 10)
    assert choose_victims([lone, late, early], 1) == [2]
    assert choose_victims([lone, late, early], 25) == [2, 3, 1]


def test_nobody_is_a_victim_in_vain() -> None:
    candidates = [VictimCandidate(1, 9, 0, 10), VictimCandidate(2, 1, 0, 10, gpu=1000)]
    assert choose_victims(candidates, 21) is None
    assert choose_victims(candidates, 0) == []
    assert choose_victims(candidates, 0, gpu_needed=1000) == [2]
    assert choose_victims(candidates, 0, gpu_needed=1001) is None


def test_run_times_follow_slowly_and_start_times_fast() -> None:
    statistics = PoolStatistics()
    statistics.add_run(800)
    statistics.add_run(0)
    assert (statistics.run_ns, statistics.samples) == (700, 2)
    statistics.add_start(0)
    assert statistics.cold_start_ns == COLD_START_DEFAULT_NS // 2


def test_what_a_node_does_not_have_does_not_fit_unless_nothing_of_it_is_needed() -> None:
    assert fits({"cpu": 1}, {"cpu": 1, "gpu": 0})
    assert not fits({"cpu": 1}, {"gpu": 1})
