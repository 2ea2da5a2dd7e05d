"""Samples, and what is made of them: medians with their spread, and ratios of what was measured in turn. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Sample", "Spread", "cells", "disturbances", "ratios", "spread", "values"]

DISTURBED_PERCENT = 3.0
"""More processor time than this went to others: the measurement is named in the report."""

OTHERS = "others_percent"


class Sample(NamedTuple):
    """One repetition of one case of a workload with one system."""

    workload: str
    case: str
    system: str
    repetition: int
    figures: dict[str, float]
    parts: dict[str, float]


class Spread(NamedTuple):
    """The median of several runs, the smallest and the largest."""

    median: float
    low: float
    high: float


def spread(numbers: Sequence[float]) -> Spread:
    """Raises ``ValueError`` without numbers.

    >>> spread([3, 1, 2])
    Spread(median=2, low=1, high=3)
    """
    if not numbers:
        raise ValueError("a spread of nothing")
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def cells(samples: Iterable[Sample]) -> list[tuple[str, str, str]]:
    """Workload, case and figure of everything that was measured, in the order in which it came, each once."""
    found = ((sample.workload, sample.case, figure) for sample in samples for figure in sample.figures)
    return list(dict.fromkeys(found))


def values(samples: Iterable[Sample], cell: tuple[str, str, str], system: str) -> dict[int, float]:
    """One figure of one system, by repetition."""
    workload, case, figure = cell
    return {
        sample.repetition: sample.figures[figure]
        for sample in samples
        if (sample.workload, sample.case, sample.system) == (workload, case, system) and figure in sample.figures
    }


def ratios(samples: Iterable[Sample], cell: tuple[str, str, str], system: str, reference: str) -> list[float]:
    """What a system needed over what the reference needed, for each repetition that has both; none over zero."""
    kept = list(samples)
    ours, theirs = values(kept, cell, system), values(kept, cell, reference)
    return [ours[number] / theirs[number] for number in ours if theirs.get(number)]


def disturbances(samples: Iterable[Sample]) -> dict[tuple[str, str], float]:
    """What was measured while others used the processors, by workload and system: their share at worst."""
    worst: dict[tuple[str, str], float] = {}
    for sample in samples:
        key, percent = (sample.workload, sample.system), sample.figures.get(OTHERS, 0.0)
        if percent > max(DISTURBED_PERCENT, worst.get(key, 0.0)):
            worst[key] = percent
    return worst
