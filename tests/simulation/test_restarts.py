"""The whole cluster with processes that are killed and started again."""

import pytest

from support.simulation.seeds import assert_holds

pytestmark = pytest.mark.timeout(3600)  # the long tier runs a hundred times as many seeds


def test_the_promises_hold_when_agents_crash() -> None:
    """A new incarnation takes the place of the old one; an agent that is stopped in order loses nothing either."""
    assert_holds("agent-crash")


def test_the_promises_hold_when_the_scheduler_restarts() -> None:
    """Running calls go on, finished ones are not run again, leases are not shortened."""
    assert_holds("scheduler-restart")


def test_nothing_runs_twice_when_a_client_is_briefly_away_during_a_restart() -> None:
    """What was finished while the client was away is kept by its node until the client has it."""
    assert_holds("brief-absence")


def test_the_promises_hold_when_a_client_misses_a_restart() -> None:
    """Attempts and outcomes wait for clients that are cut off while the scheduler restarts, but not for ever."""
    assert_holds("absent-client")


def test_the_promises_hold_when_clients_die() -> None:
    """With a goodbye or without one: nothing is kept for them."""
    assert_holds("client-death")
