"""Alive, suspect, lost: when a node becomes which, and what that means for what runs there and what is to come."""

from keepwarm_scheduler.core.transitions import NodeState
from keepwarm_wire import messages as wire
from support.scheduler_driver import Driver, warm


def test_a_node_silent_for_three_beats_is_suspect_and_is_given_nothing_new() -> None:
    driver = Driver()
    client, first = warm(driver, keep_alive=60)
    second = driver.agent("b")
    driver.advance(5.9, beats=False)
    assert driver.node("a").state is NodeState.ALIVE
    second.beats()
    driver.advance(0.2, beats=False)
    assert driver.node("a").state is NodeState.SUSPECT
    assert driver.node("b").state is NodeState.ALIVE
    client.submit()
    assert not first.attempts
    assert second.attempts


def test_the_calls_of_a_suspect_node_stay_there() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    call = client.submit()
    driver.advance(25, beats=False)
    assert driver.node().state is NodeState.SUSPECT
    agent.complete()
    assert client.status(call) == "succeeded"
    assert len(driver.of(wire.Dispatch)) == 2


def test_a_suspect_node_that_is_heard_again_is_alive_at_once_and_serves_what_waits() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    driver.advance(7, beats=False)
    call = client.submit()
    assert not agent.attempts
    agent.beats()
    assert driver.node().state is NodeState.ALIVE
    agent.complete()
    assert client.status(call) == "succeeded"
    assert len(agent.instances) == 1


def test_any_word_of_a_suspect_node_makes_it_alive() -> None:
    driver = Driver()
    agent = driver.agent()
    driver.advance(7, beats=False)
    driver.transmit(agent.peer, wire.NeedFunction(b"v" * 32))
    assert driver.node().state is NodeState.ALIVE


def test_a_broken_connection_makes_a_node_suspect_at_once() -> None:
    driver = Driver()
    client, first = warm(driver, keep_alive=60)
    first.disconnect()
    assert driver.node("a").state is NodeState.SUSPECT
    second = driver.agent("b")
    call = client.submit()
    second.complete()
    assert client.status(call) == "succeeded"


def test_a_node_is_lost_after_thirty_seconds_of_silence_and_not_before() -> None:
    driver = Driver()
    _client, _agent = warm(driver, keep_alive=60)
    driver.advance(29.9, beats=False)
    assert driver.node().state is NodeState.SUSPECT
    driver.advance(0.2, beats=False)
    assert driver.node().state is NodeState.LOST


def test_a_scheduler_that_was_paused_hears_its_nodes_before_it_gives_them_up() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=600)
    call = client.submit()
    driver.now_ns += 300_000_000_000
    client.beat()
    driver.tick()
    assert driver.node().state is NodeState.SUSPECT
    driver.advance(0.9, beats=False)
    assert driver.node().state is NodeState.SUSPECT
    agent.beats()
    driver.advance(5)
    agent.complete()
    assert client.status(call) == "succeeded"
    assert len(driver.of(wire.Dispatch)) == 2


def test_calls_that_only_a_suspect_node_could_run_wait_for_it() -> None:
    driver = Driver(node_lost_ns=120_000_000_000)
    client, big = warm(driver, keep_alive=60)
    driver.agent("small", cpu=100)
    driver.advance(1)
    del driver.agents[big.peer]
    driver.advance(10)
    assert driver.node("a").state is NodeState.SUSPECT
    call = client.submit()
    driver.advance(60)
    assert not client.outcomes(call)
    driver.agents[big.peer] = big
    driver.advance(3)
    big.complete()
    assert client.status(call) == "succeeded"
