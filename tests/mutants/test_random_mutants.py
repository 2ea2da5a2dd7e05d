"""A hundred random changes of the cores: each is noticed, or ``survivors.md`` says why it need not be."""

import pytest

from mutants.hunting import hunt, table_of
from mutants.operators import MODULES, changes_of, hunt_random, random_changes, reasons
from mutants.patching import source_of

SEED = 1
COUNT = 100


def test_the_operators_change_every_module() -> None:
    """And what they write is Python, and different from what was there."""
    for module in MODULES:
        changes = list(changes_of(module, source_of(module), range(20)))
        assert len(changes) >= 10, module
        assert len({change.source for change in changes}) > len(changes) * 0.9, module
        for change in changes:
            compile(change.source, module, "exec")


def test_a_change_leaves_no_trace_in_the_next() -> None:
    """Each is made to the module as it is."""
    source = "def f(a, b):\n    if a < b and a:\n        print(1)\n    return 2\n"
    changes = [change.source for change in changes_of("m", source)]
    assert len(changes) == len(set(changes)) == 6
    assert all(abs(len(each) - len(source)) < 12 for each in changes)


def test_a_seed_chooses_the_same_changes_again() -> None:
    """So that a survivor can be looked at."""
    assert random_changes(3, 5) == random_changes(3, 5) != random_changes(4, 5)


def test_a_change_that_breaks_nothing_survives() -> None:
    """The hunt tells tests that failed from tests that passed."""
    module = "keepwarm_scheduler.core.leases"
    verdict = hunt("(same)", {module: source_of(module)}, ["unit/scheduler/core/test_leases.py"])
    assert verdict.outcome == "survived", verdict


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_random_mutants_are_noticed() -> None:
    """A survivor that is not on the list fails this test: write a test that kills it, or the reason why none can."""
    known = reasons()
    survivors = [each for each in hunt_random(SEED, COUNT) if not each.is_killed and each.name not in known]
    assert not survivors, table_of(survivors)
