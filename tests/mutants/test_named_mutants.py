"""Each guarantee of the cores is broken on purpose, and a test notices: ``PYTHONPATH=tests python -m mutants``."""

import pytest

from mutants.hunting import UNMUTATED, Verdict, hunt_all, table_of
from mutants.table import MUTANTS

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    """All of them, two at a time."""
    return {each.name: each for each in hunt_all(MUTANTS)}


def test_the_tests_pass_when_nothing_is_broken(verdicts: dict[str, Verdict]) -> None:
    """Else a mutant would be killed by anything."""
    assert verdicts[UNMUTATED].outcome == "survived", table_of([verdicts[UNMUTATED]])


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_guarantee_is_noticed(name: str, verdicts: dict[str, Verdict]) -> None:
    """By the tests that the table names for it."""
    assert verdicts[name].is_killed, table_of([verdicts[name]])


def test_every_mutant_breaks_something_of_its_own() -> None:
    """No two have the same edits."""
    edits = [mutant.edits for mutant in MUTANTS.values()]
    assert len(set(edits)) == len(edits) >= 25
