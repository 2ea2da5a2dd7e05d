"""How a ratio is judged against the baseline, and how the baseline is kept. Nothing is measured here."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from benchmarks.hot_path import baseline

LENT = {"round_trip": 4.0, "in_flight": 3.0, "kilobyte": 2.00049}
MEDIANS = LENT | {f"{case} submitted": ratio for case, ratio in LENT.items()}


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([], None),
        ([1.0, 1.0], True),
        ([1.0, 9.0], None),
        ([9.0, 9.0], False),
        ([9.0, 1.0, 1.0], True),
        ([1.2, 1.2], True),
    ],
)
def test_the_verdict_of_three_pairs_falls_as_soon_as_two_agree(ratios: Sequence[float], expected: bool | None) -> None:
    assert baseline.verdict(ratios, limit=1.2, pairs=3) is expected


@pytest.mark.parametrize("ratios", list(product([1.0, 2.0], repeat=5)))
def test_an_early_verdict_is_that_of_the_median_of_all_pairs(ratios: Sequence[float]) -> None:
    """No further pair could turn it, so that stopping early is no second try."""
    judged = [baseline.verdict(ratios[:taken], limit=1.5, pairs=5) for taken in range(6)]
    first = next(one for one in judged if one is not None)
    assert first is (sorted(ratios)[2] <= 1.5)


def test_fifteen_percent_more_is_allowed_and_forty_for_a_round_trip() -> None:
    lent = {"round_trip": 5.6, "in_flight": 3.45, "kilobyte": 2.3005635}
    submitted = {f"{case} submitted": limit for case, limit in lent.items()}
    assert baseline.limits(MEDIANS) == pytest.approx(lent | submitted)


def test_writing_renews_this_interpreters_entry_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps({"2.7": {"round_trip": 1.0}, baseline.interpreter(): {"round_trip": 9.0}}))
    baseline.write(MEDIANS, file)
    assert baseline.read(file) == MEDIANS | {"kilobyte": 2.0, "kilobyte submitted": 2.0}
    assert json.loads(file.read_text())["2.7"] == {"round_trip": 1.0}


def test_an_interpreter_without_an_entry_has_no_baseline(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    file.write_text("{}")
    assert baseline.read(file) is None


def test_the_file_of_the_repository_has_all_cases() -> None:
    entries = json.loads(baseline.FILE.read_text(encoding="utf-8"))
    assert all(entry.keys() == set(baseline.CASES) for entry in entries.values())
