"""The whole cluster with everything at once: a bad network, partitions, crashes, restarts, failing builds."""

import pytest

from support.simulation.seeds import assert_holds, seeds

pytestmark = pytest.mark.timeout(3600)  # the long tier runs a hundred times as many seeds


def test_the_promises_hold_when_everything_goes_wrong() -> None:
    """Twice as many seeds as of the others: here the faults meet."""
    assert_holds("everything", range(2 * len(seeds())))
