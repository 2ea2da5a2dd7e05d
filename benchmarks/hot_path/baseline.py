"""The ratios to a process pool that the hot path is held to, and how they are judged.

Rules: a ratio of processor time per call, never a time, so that a fast and a slow machine agree. It is of the same
interpreter: each minor version of Python has an entry of its own. A verdict is that of the median of ``PAIRS`` pairs,
each measured in turn; it is given as soon as more than half of the pairs lie on one side, for then no further pair
could change it. So more pairs are taken where it is close, and never because the verdict was not liked. What is held to
is both ways of a call: given to a lent process, as is the default, and submitted, as with ``KEEPWARM_LENDING=0``.
Machines agree within about a tenth: the file holds the larger of the medians where they were found to differ.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.hot_path.choosing import OURS, POOL, SUBMITTED
from benchmarks.hot_path.running import run_once, say
from benchmarks.hot_path.tiers import TIERS

__all__ = ["ALLOWED", "CASES", "FILE", "PAIRS", "check", "limits", "read", "verdict", "write"]

FILE = Path(__file__).resolve().parents[1] / "baseline.json"
ALLOWED = {
    "round_trip": 1.4,
    "in_flight": 1.15,
    "kilobyte": 1.15,
    "round_trip submitted": 1.4,
    "in_flight submitted": 1.15,
    "kilobyte submitted": 1.15,
}
"""So many times the baseline passes. A round trip is mostly the waking of processors, in which machines differ."""

PAIRS = 9
CASES = tuple(ALLOWED)
WORKLOAD, TIER, TIER_LENT = "cheapest", "baseline", "baseline, lent"
TIER_SIZES = TIERS[TIER]
GROWTH_MIB_MAX = 8.0
"""What all processes together may gain over the tier's calls, after a warm-up with as many."""


def interpreter() -> str:
    """What the entry of this interpreter is called."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def read(file: Path = FILE) -> dict[str, float] | None:
    """The baseline of this interpreter, or None where it has none."""
    entries: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))
    return entries.get(interpreter())


def write(medians: Mapping[str, float], file: Path = FILE) -> None:
    """Renew the entry of this interpreter and leave the others alone."""
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    entries[interpreter()] = {case: round(medians[case], 3) for case in CASES}
    file.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def limits(baseline: Mapping[str, float]) -> dict[str, float]:
    """The largest ratios that pass."""
    return {case: ALLOWED[case] * baseline[case] for case in CASES}


def verdict(ratios: Sequence[float], limit: float, pairs: int = PAIRS) -> bool | None:
    """Whether the median of so many ratios is within the limit; None while those to come could still change that.

    >>> verdict([1.0, 1.1, 1.3], limit=1.2, pairs=3)
    True
    >>> verdict([1.0, 1.3], limit=1.2, pairs=3) is None
    True
    """
    needed = pairs // 2 + 1
    within = sum(ratio <= limit for ratio in ratios)
    if within >= needed:
        return True
    return False if len(ratios) - within >= needed else None


def pairs() -> Iterator[dict[str, float]]:
    """Ratios of processor time per call, pair after pair, by case."""
    for number in range(PAIRS):
        order = (OURS, POOL, SUBMITTED)[:: 1 if number % 2 == 0 else -1]
        cpu_us = {
            name: {
                one.case: one.figures["cpu_us_per_call"]
                for one in run_once(WORKLOAD, name, TIER_LENT if name == OURS else TIER)
            }
            for name in order
        }
        ratios = {case: cpu_us[OURS][case] / pool_us for case, pool_us in cpu_us[POOL].items()}
        ratios |= {f"{case} submitted": cpu_us[SUBMITTED][case] / pool_us for case, pool_us in cpu_us[POOL].items()}
        say(f"pair {number + 1}: " + ", ".join(f"{case} {ratio:.2f}" for case, ratio in ratios.items()))
        yield ratios


def measure() -> dict[str, float]:
    """The medians of all pairs."""
    taken = list(pairs())
    return {case: statistics.median(pair[case] for pair in taken) for case in CASES}


def growth() -> dict[str, float]:
    """What calls have left behind in memory, in all and by part."""
    (measured,) = run_once("growth", OURS, TIER)
    return measured.figures


def check(allowed: Mapping[str, float]) -> dict[str, tuple[bool, list[float]]]:
    """Take pairs until there is a verdict on each case; verdict and ratios by case."""
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    for pair in pairs():
        for case in CASES:
            taken[case].append(pair[case])
        if all(verdict(taken[case], allowed[case]) is not None for case in CASES):
            break
    return {case: (verdict(taken[case], allowed[case]) is True, taken[case]) for case in CASES}
