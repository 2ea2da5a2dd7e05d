"""What is expected of run times and starts, from what was measured."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.estimates import (
    BUILD_DEFAULT_NS,
    MIN_SAMPLES,
    START_DEFAULT_NS,
    RunTimes,
    StartCosts,
)


def measured(*durations_ns: int) -> RunTimes:
    times = RunTimes()
    for duration_ns in durations_ns:
        times.add(duration_ns)
    return times


def test_few_runs_say_nothing() -> None:
    assert not measured(*[1] * (MIN_SAMPLES - 1)).is_measured
    assert measured(*[1] * MIN_SAMPLES).is_measured


def test_the_mean_follows_slowly() -> None:
    assert measured(800).mean_ns == 800
    assert measured(800, 0).mean_ns == 700


def test_what_is_left_is_the_mean_of_those_that_ran_longer() -> None:
    times = measured(10, 20, 30, 40)
    assert times.residual_ns(0) == 25
    assert times.residual_ns(20) == 15
    assert times.residual_ns(39) == 1


def test_what_has_run_longer_than_all_others_is_expected_to_take_as_long_again() -> None:
    assert measured(10, 20).residual_ns(20) == 20
    assert measured(10, 20).residual_ns(500) == 500
    assert RunTimes().residual_ns(7) == 7


def test_old_run_times_are_forgotten() -> None:
    times = measured(*[1_000_000] * 50, *[10] * 16)
    assert times.residual_ns(0) == 10


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=40), st.integers(0, 10**12))
def test_the_expectation_is_the_definition(durations_ns: list[int], age_ns: int) -> None:
    longer = [duration_ns for duration_ns in durations_ns[-16:] if duration_ns > age_ns]
    expected = sum(longer) // len(longer) - age_ns if longer else age_ns
    assert measured(*durations_ns).residual_ns(age_ns) == expected


def test_a_start_costs_less_where_the_environment_is_on_disk() -> None:
    costs = StartCosts()
    assert costs.expected_ns(is_built=True) == START_DEFAULT_NS
    assert costs.expected_ns(is_built=False) == START_DEFAULT_NS + BUILD_DEFAULT_NS


def test_costs_follow_fast_and_building_is_told_from_starting() -> None:
    costs = StartCosts()
    costs.add(BUILD_DEFAULT_NS + 100, BUILD_DEFAULT_NS)
    assert costs.build_ns == BUILD_DEFAULT_NS
    assert costs.start_ns == START_DEFAULT_NS - (START_DEFAULT_NS - 100 + 1) // 2
    for _ in range(40):
        costs.add(100, 0)
    assert costs.start_ns == 100
    assert (costs.starts, costs.builds) == (41, 1)


def test_an_environment_that_was_never_started_is_expected_to_cost_what_others_did() -> None:
    typical = StartCosts()
    for _ in range(40):
        typical.add(3_000, 1_000)
    assert StartCosts(typical).expected_ns(is_built=False) == typical.expected_ns(is_built=False)


def test_a_build_longer_than_the_whole_start_counts_as_the_whole() -> None:
    costs = StartCosts()
    costs.add(10, 1_000_000)
    assert costs.start_ns >= 0
