"""The policy: pure functions."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.placement import (
    Candidate,
    Claim,
    Demand,
    Temperature,
    VictimCandidate,
    best,
    choose,
    choose_victims,
    fits,
    starts_wanted,
)

MS = 1_000_000
COLD = 500 * MS


def wanted(queued: int, run_ns: int, busy: int, starting: int = 0, *, residual_ns: int = 0, cold_ns: int = COLD) -> int:
    """How many starts a pool of measured calls gets."""
    demand = Demand(queued, 0, queued * run_ns, busy, starting)
    return starts_wanted(demand, cold_ns, [residual_ns] if busy else []).starts


# ---------------------------------------------------------------- wait or start


def test_unmeasured_calls_are_started_for_at_once() -> None:
    assert starts_wanted(Demand(7, 7, 0, 0, 2), COLD, []).starts == 5


def test_unmeasured_calls_do_not_hide_behind_measured_ones() -> None:
    demand = Demand(10, unmeasured=3, work_ns=7 * MS, busy=1, starting=0)
    assert starts_wanted(demand, COLD, [1 * MS]).starts == 3


def test_short_calls_wait_and_long_ones_do_not() -> None:
    assert wanted(3, 1 * MS, busy=1) == 0
    assert wanted(3, 1000 * MS, busy=1) == 3


def test_the_bound_of_waiting_is_four_fifths_of_a_cold_start() -> None:
    assert wanted(1, 1000 * MS, busy=1, residual_ns=400 * MS) == 0
    assert wanted(1, 1000 * MS, busy=1, residual_ns=401 * MS) == 1


def test_those_ahead_in_the_queue_are_waited_for_too() -> None:
    assert wanted(2, 300 * MS, busy=1, residual_ns=100 * MS) == 0
    assert wanted(2, 300 * MS, busy=1, residual_ns=101 * MS) == 2
    assert wanted(2, 300 * MS, busy=2, residual_ns=250 * MS) == 0


def test_a_call_that_is_nearly_over_is_waited_for_however_long_calls_are() -> None:
    assert wanted(1, 3_600_000 * MS, busy=1, residual_ns=100 * MS) == 0


def test_the_instance_that_is_expected_first_is_the_one_that_counts() -> None:
    demand = Demand(1, 0, 1000 * MS, busy=3, starting=0)
    assert starts_wanted(demand, COLD, [900 * MS, 10 * MS, 900 * MS]).starts == 0


def test_residuals_are_not_looked_at_where_they_do_not_matter() -> None:
    def never() -> int:
        raise AssertionError("looked at")

    assert starts_wanted(Demand(50, 0, 50_000 * MS, 1, 0), COLD, (never() for _ in range(1))).starts == 50
    assert starts_wanted(Demand(3, 0, 3 * MS, 1, 1), COLD, (never() for _ in range(1))).starts == 0


def test_a_pool_without_any_instance_starts_one_however_short_its_calls() -> None:
    assert wanted(1, 1, busy=0) == 1
    assert wanted(1, 0, busy=0) == 1


def test_a_burst_of_short_calls_starts_no_more_than_would_be_kept_busy() -> None:
    assert wanted(1000, 1 * MS, busy=1) == 2
    assert wanted(1000, 1 * MS, busy=1, starting=2) == 0


def test_private_calls_each_need_an_instance() -> None:
    assert starts_wanted(Demand(4, 0, 4, 9, 1, is_private=True), COLD, [1]).starts == 3


@given(
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.integers(0, 10**10),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.booleans(),
    st.integers(0, 10**10),
    st.integers(0, 10**10),
)
def test_never_more_starts_under_way_than_calls_waiting(
    queued: int, unmeasured: int, run_ns: int, busy: int, starting: int, is_private: bool, cold_ns: int, left_ns: int
) -> None:
    unmeasured = min(unmeasured, queued)
    demand = Demand(queued, unmeasured, (queued - unmeasured) * run_ns, busy, starting, is_private)
    starts = starts_wanted(demand, cold_ns, [left_ns] if busy else []).starts
    assert 0 <= starts <= max(0, queued - starting)
    if queued and not busy and not starting:
        assert starts, "somebody has to begin"


# ---------------------------------------------------------------- which node


def test_the_hottest_node_is_chosen_then_the_least_loaded_then_the_emptiest() -> None:
    cold, built = Candidate("a", Temperature.COLD, 0, 0), Candidate("b", Temperature.BUILT, 900, 9)
    idler, emptier = Candidate("c", Temperature.BUILT, 100, 9), Candidate("d", Temperature.BUILT, 100, 8)
    assert choose(b"p", [cold, built]) == built
    assert choose(b"p", [cold, built, idler]) == idler
    assert choose(b"p", [cold, built, idler, emptier]) == emptier
    assert choose(b"p", []) is None
    assert best(b"p", [cold, built, idler, emptier], 3) == [emptier, idler, built]


def test_equal_nodes_share_the_pools_whatever_their_order() -> None:
    nodes = [Candidate(f"node{n}", Temperature.COLD, 0, 0) for n in range(8)]
    chosen = [choose(bytes([key]), nodes) for key in range(200)]
    assert chosen == [choose(bytes([key]), nodes[::-1]) for key in range(200)]
    assert len({candidate.node for candidate in chosen if candidate is not None}) == 8


# ---------------------------------------------------------------- whose turn


def test_who_deserves_it_most_is_told_by_priority_then_turns_then_arrival() -> None:
    late, early = Claim(0, 5, 5, 900, 1), Claim(0, 5, 5, 100, 9)
    other_owner, other_namespace, urgent = Claim(0, 5, 4, 999, 1), Claim(0, 4, 9, 999, 1), Claim(-1, 9, 9, 999, 1)
    assert sorted([late, early, other_owner, other_namespace, urgent]) == [
        urgent,
        other_namespace,
        other_owner,
        early,
        late,
    ]


# ---------------------------------------------------------------- victims


def test_surplus_copies_make_room_first_then_the_least_worth_keeping() -> None:
    lone, cheap, dear = VictimCandidate(1, 0, 1, 10), VictimCandidate(2, 1, 5, 10), VictimCandidate(3, 1, 9, 10)
    assert choose_victims([lone, dear, cheap], 1) == [2]
    assert choose_victims([lone, dear, cheap], 25) == [2, 3, 1]
    last, worthless = VictimCandidate(4, 0, 7, 10), VictimCandidate(5, 0, 6, 10)
    assert choose_victims([last, worthless], 10) == [5]


def test_nobody_is_a_victim_in_vain() -> None:
    candidates = [VictimCandidate(1, 9, 0, 10), VictimCandidate(2, 1, 0, 10, gpu=1000)]
    assert choose_victims(candidates, 21) is None
    assert choose_victims(candidates, 0) == []
    assert choose_victims(candidates, 0, gpu_needed=1000) == [2]
    assert choose_victims(candidates, 0, gpu_needed=1001) is None


def test_a_small_victim_is_spared_when_a_large_one_has_to_go_anyway() -> None:
    small, large = VictimCandidate(1, 0, 1, 10), VictimCandidate(2, 0, 2, 100)
    assert choose_victims([small, large], 50) == [2]


candidates = st.lists(
    st.builds(
        VictimCandidate,
        st.integers(1, 1000),
        st.integers(0, 3),
        st.integers(0, 100),
        st.integers(0, 50),
        st.sampled_from([0, 0, 1000]),
    ),
    max_size=12,
    unique_by=lambda candidate: candidate.instance_id,
)


@given(candidates, st.integers(-10, 200), st.sampled_from([-1000, 0, 1000, 2000]))
def test_victims_suffice_and_none_could_be_left_out(
    offered: list[VictimCandidate], memory_bytes: int, gpu: int
) -> None:
    chosen = choose_victims(offered, memory_bytes, gpu)
    by_id = {candidate.instance_id: candidate for candidate in offered}
    if chosen is None:
        assert sum(each.memory_bytes for each in offered) < memory_bytes or sum(each.gpu for each in offered) < gpu
        return
    victims = [by_id[instance_id] for instance_id in chosen]

    def suffice(some: list[VictimCandidate]) -> bool:
        return sum(each.memory_bytes for each in some) >= memory_bytes and sum(each.gpu for each in some) >= gpu

    assert suffice(victims)
    for victim in victims:
        assert not suffice([other for other in victims if other is not victim])


def test_what_a_node_does_not_have_does_not_fit_unless_nothing_of_it_is_needed() -> None:
    assert fits({"cpu": 1}, {"cpu": 1, "gpu": 0})
    assert not fits({"cpu": 1}, {"gpu": 1})
