"""The whole cluster over networks that lose, duplicate, delay and reorder frames, and over connections that break."""

import pytest

from support.simulation.seeds import assert_holds

pytestmark = pytest.mark.timeout(3600)  # the long tier runs a hundred times as many seeds


@pytest.mark.parametrize("scenario", ["smooth", "crowded", "trouble"])
def test_the_promises_hold_over_a_calm_network(scenario: str) -> None:
    """One node; more work than room; builds, locks and starts that fail."""
    assert_holds(scenario)


@pytest.mark.parametrize("scenario", ["losing", "duplicating", "reordering", "breaking"])
def test_the_promises_hold_over_a_bad_network(scenario: str) -> None:
    """Every exchange of the protocol has a repair, and no copy or latecomer changes anything."""
    assert_holds(scenario)
