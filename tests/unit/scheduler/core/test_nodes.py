"""Agents: joining, silence, loss, return, replacement, leaving."""

import pytest

from keepwarm_scheduler.core.effects import ForgetNode, SaveNode, Send
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import RetryLimits
from support.scheduler_driver import Agent, Client, Driver


def two_nodes(driver: Driver, **changes: object) -> tuple[Client, Agent, Agent]:
    """A client whose call 1 runs on the first of two nodes."""
    first, client = driver.agent("a"), driver.client()
    client.declare(**changes)  # type: ignore[arg-type]
    client.submit()
    return client, first, driver.agent("b")


def test_a_node_is_on_disk_before_it_is_welcome() -> None:
    driver = Driver()
    driver.agent()
    kinds = [type(effect) for effect in driver.effects]
    assert kinds.index(SaveNode) < kinds.index(Send)
    welcomes = [e for e in driver.effects if isinstance(e, Send) and isinstance(e.message, wire.Welcome)]
    assert [welcome.after_sync for welcome in welcomes] == [True]


def test_nothing_is_started_on_a_node_before_it_has_told_what_it_holds() -> None:
    driver = Driver()
    client = driver.client()
    client.declare()
    client.submit()
    driver.lose(wire.AgentBeat)
    agent = driver.agent()
    assert not driver.of(wire.StartInstance)
    agent.beats()
    assert len(agent.attempts) == 1


@pytest.mark.parametrize("noticed", [True, False])
def test_the_calls_of_a_lost_node_are_placed_elsewhere(noticed: bool) -> None:
    driver = Driver()
    client, first, second = two_nodes(driver)
    first.disconnect(noticed=noticed)
    driver.advance(0.9 if noticed else 29)
    assert not second.attempts
    driver.advance(2)
    second.complete()
    assert client.status(1) == "succeeded"
    assert driver.node("a").is_lost


def test_a_node_that_is_back_in_time_has_lost_nothing() -> None:
    driver = Driver()
    client, first, second = two_nodes(driver)
    first.disconnect()
    driver.advance(0.5)
    first.connect()
    driver.advance(5)
    first.complete()
    assert client.status(1) == "succeeded"
    assert not second.executed


def test_a_call_submitted_while_its_only_node_reconnects_is_served() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare()
    agent.disconnect()
    call = client.submit()
    driver.advance(0.5)
    agent.connect()
    agent.complete()
    assert client.status(call) == "succeeded"


def test_a_lost_node_that_returns_goes_on_with_its_attempt_if_nobody_else_has_it() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare(queue_timeout=600)
    call = client.submit()
    agent.disconnect()
    driver.advance(20)
    agent.connect()
    driver.advance(5)
    assert len(driver.of(wire.Dispatch)) == 1
    agent.complete()
    assert client.status(call) == "succeeded"
    assert driver.pool().queued == 0


def test_a_lost_node_that_returns_has_its_superseded_attempt_cancelled() -> None:
    driver = Driver()
    client, first, second = two_nodes(driver)
    first.disconnect()
    driver.advance(3)
    first.connect()
    assert first.cancelled
    first.complete()
    second.complete(result=b"second")
    assert client.outcome(1).result == b"second"
    assert driver.node("a").free["cpu"] == 4000


def test_a_lost_node_returns_with_its_warm_instances_and_their_leases() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare(keep_alive=60)
    client.submit()
    agent.complete()
    agent.disconnect()
    driver.advance(20)
    assert not driver.pool().idle
    agent.connect()
    client.submit()
    agent.complete()
    assert len(driver.of(wire.StartInstance)) == 1
    driver.advance(60.2)
    (ending,) = agent.endings
    assert ending.cause == "expired"
    assert 0 <= ending.at_ns - ending.lease_end_ns < 100_000_000


def test_a_call_that_lost_more_nodes_than_its_retries_allow_is_lost() -> None:
    driver = Driver()
    client, first, second = two_nodes(driver, retries=RetryLimits(lost_node=1))
    first.disconnect()
    driver.advance(3)
    second.disconnect()
    driver.advance(3)
    assert client.status(1) == "lost"


def test_nodes_that_a_call_lost_while_it_was_lent_count() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare(retries=RetryLimits(lost_node=1))
    call = client.submit(lost_nodes=1)
    agent.disconnect()
    driver.advance(3)
    failure = client.outcome(call).failure
    assert failure is not None
    assert failure.message == "Node a was lost while it ran the call, for the 2. time; retries allow 1."


def test_a_silent_node_that_speaks_again_has_to_say_hello_first() -> None:
    driver = Driver()
    _client, first, _ = two_nodes(driver)
    driver.agents.pop(first.peer)
    driver.advance(31)
    assert driver.node("a").is_lost
    driver.agents[first.peer] = first
    first.beats()
    assert not driver.node("a").is_lost
    driver.advance(1000)
    assert "a" in driver.cluster.nodes
    assert not driver.node("a").is_lost


def test_an_agent_that_restarts_has_none_of_the_old_instances() -> None:
    driver = Driver()
    agent, client = driver.agent("a", "a1"), driver.client()
    client.declare()
    call = client.submit()
    agent.disconnect(noticed=False)
    second = driver.agent("a", "a2")
    second.complete()
    assert client.status(call) == "succeeded"
    assert {instance.node.incarnation[:2] for instance in driver.instances} == {b"a2"}
    assert [d.command for d in driver.of(wire.Dispatch)] == [2, 2]


def test_an_agent_that_is_replaced_is_told_to_go() -> None:
    driver = Driver()
    first = driver.agent("a", "a1")
    driver.agent("a", "a2")
    assert first.said_goodbye
    assert driver.node().incarnation[:2] == b"a2"


def test_a_node_that_leaves_on_purpose_is_forgotten_and_its_calls_placed_elsewhere() -> None:
    driver = Driver()
    client, first, second = two_nodes(driver)
    first.outbox.append(wire.Goodbye("maintenance"))
    driver.settle()
    assert "a" not in driver.cluster.nodes
    assert driver.done(ForgetNode) == [ForgetNode("a")]
    second.complete()
    assert client.status(1) == "succeeded"


def test_a_node_lost_for_long_is_forgotten_with_everything_on_it() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare(keep_alive=None)
    client.submit()
    agent.complete()
    agent.disconnect()
    driver.advance(950)
    assert not driver.cluster.nodes
    assert not driver.instances
    assert driver.done(ForgetNode) == [ForgetNode("a")]


def test_a_repeated_hello_is_answered_and_changes_nothing() -> None:
    driver = Driver()
    client, first, _ = two_nodes(driver)
    first.hello()
    driver.settle()
    driver.advance(5)
    first.complete()
    assert client.status(1) == "succeeded"
    assert len(first.executed) == 1
