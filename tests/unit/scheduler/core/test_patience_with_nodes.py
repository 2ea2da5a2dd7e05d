"""How long a node whose connection broke may take to come back: that depends on what was heard before it broke."""

from typing import Any

import pytest

from keepwarm_scheduler.core.events import PeerLost
from keepwarm_scheduler.core.transitions import NodeState
from keepwarm_wire import messages as wire
from support.scheduler_driver import Driver, warm


def say_hello_unheard(driver: Driver, agent: Any) -> None:
    """The agent says hello again, and whatever it is sent from now on is lost."""
    del driver.agents[agent.peer]
    agent.hello()
    driver.transmit(agent.peer, agent.outbox.pop())


def test_a_connection_that_breaks_while_it_is_heard_tells_that_the_agent_ended() -> None:
    """Its calls are placed elsewhere after a moment."""
    driver = Driver()
    client, first = warm(driver, keep_alive=60)
    call = client.submit()
    second = driver.agent("b")
    driver.advance(1.5, beats=False)
    first.disconnect()
    driver.advance(1.1, beats=False)
    assert driver.node("a").state is NodeState.LOST
    second.complete()
    assert client.status(call) == "succeeded"


@pytest.mark.parametrize("silent_s", [4.0, 7.0, 20.0])
def test_a_connection_that_was_given_up_for_its_silence_tells_nothing_of_the_agent(silent_s: float) -> None:
    """The node has as long as one that is silent on its connection, counted from its last word."""
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    client.submit()
    driver.advance(silent_s, beats=False)
    agent.disconnect()
    assert driver.node().state is NodeState.SUSPECT
    driver.advance(29.5 - silent_s, beats=False)
    assert driver.node().state is NodeState.SUSPECT
    driver.advance(1.0, beats=False)
    assert driver.node().state is NodeState.LOST


def test_an_agent_that_does_not_hear_us_is_given_nothing_until_it_reports() -> None:
    """It says hello again although it was welcomed: what is sent to it is lost."""
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    say_hello_unheard(driver, agent)
    client.submit()
    assert len(driver.of(wire.Dispatch)) == 1
    driver.agents[agent.peer] = agent
    agent.beats()
    assert len(driver.of(wire.Dispatch)) == 2


def test_an_agent_that_does_not_hear_us_and_disconnects_may_still_live() -> None:
    """What it runs is not run again as long as it may come back."""
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    client.submit()
    say_hello_unheard(driver, agent)
    driver.feed(PeerLost(agent.peer))
    driver.advance(25, beats=False)
    assert driver.node().state is NodeState.SUSPECT
    driver.advance(6, beats=False)
    assert driver.node().state is NodeState.LOST
