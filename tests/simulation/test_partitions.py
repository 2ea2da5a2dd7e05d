"""The whole cluster with nodes and clients cut off, both ways and one way, briefly and for longer than is waited."""

import pytest

from support.simulation.seeds import assert_holds

pytestmark = pytest.mark.timeout(3600)  # the long tier runs a hundred times as many seeds


@pytest.mark.parametrize("scenario", ["partition", "one-way"])
def test_the_promises_hold_through_partitions(scenario: str) -> None:
    """A node that comes back late finds its calls placed elsewhere, and its outcomes do not count."""
    assert_holds(scenario)
