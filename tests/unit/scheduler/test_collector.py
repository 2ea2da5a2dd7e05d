"""The scheduler's garbage collector looks at what is new, seldom, and never at what was loaded at the start."""

import gc
from collections.abc import Iterator

import pytest

from keepwarm_scheduler.collector import THRESHOLDS, quieten


@pytest.fixture
def collector_as_before() -> Iterator[None]:
    """The collector is the whole process's."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector_as_before")
def test_what_is_there_is_frozen_and_what_comes_is_looked_at_seldom() -> None:
    """Frozen objects are in no generation."""
    kept = [[number] for number in range(1_000)]
    quieten()
    assert gc.get_threshold() == THRESHOLDS
    assert gc.get_freeze_count() > len(kept)
    assert not any(each is kept for each in gc.get_objects())


@pytest.mark.usefixtures("collector_as_before")
def test_the_collector_stays_on_for_cycles_made_later() -> None:
    """A guard, not the way things are freed."""
    quieten()
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.isenabled()
    assert gc.collect() >= 1
