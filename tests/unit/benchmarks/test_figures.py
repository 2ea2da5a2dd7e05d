"""Medians, ratios and the alarm for noise, from samples made by hand."""

import pytest
from benchmarks.hot_path.figures import Sample, Spread, cells, disturbances, ratios, spread, values

CELL = ("in_flight", "", "cpu_us_per_call")


def sample(system: str, repetition: int, cpu_us: float, others_percent: float = 0.0) -> Sample:
    figures = {"cpu_us_per_call": cpu_us, "others_percent": others_percent}
    return Sample("in_flight", "", system, repetition, figures, {})


def test_a_spread_is_the_median_with_the_smallest_and_the_largest() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0]) == Spread(3.0, 1.0, 5.0)


def test_there_is_no_spread_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing"):
        spread([])


def test_figures_are_listed_once_in_the_order_of_the_measurements() -> None:
    assert cells([sample("pool", 0, 1), sample("keepwarm", 0, 1)]) == [CELL, ("in_flight", "", "others_percent")]


def test_ratios_are_of_the_same_repetition_however_the_samples_are_ordered() -> None:
    samples = [sample("keepwarm", 0, 10), sample("pool", 1, 4), sample("pool", 0, 5), sample("keepwarm", 1, 12)]
    assert ratios(samples, CELL, "keepwarm", "pool") == [2.0, 3.0]


def test_a_repetition_that_only_one_side_has_gives_no_ratio() -> None:
    samples = [sample("keepwarm", 0, 10), sample("keepwarm", 1, 12), sample("pool", 1, 4)]
    assert ratios(samples, CELL, "keepwarm", "pool") == [3.0]
    assert ratios([sample("keepwarm", 0, 10), sample("pool", 0, 0)], CELL, "keepwarm", "pool") == []


def test_values_are_those_of_one_system() -> None:
    assert values([sample("keepwarm", 0, 10), sample("pool", 0, 5)], CELL, "pool") == {0: 5.0}


def test_what_others_disturbed_is_named_with_the_worst_share() -> None:
    samples = [sample("keepwarm", 0, 1, 2.9), sample("pool", 0, 1, 9.0), sample("pool", 1, 1, 40.0)]
    assert disturbances(samples) == {("in_flight", "pool"): 40.0}
