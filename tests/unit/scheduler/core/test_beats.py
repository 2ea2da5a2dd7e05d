"""Heartbeats: what they repair, and what they must not."""

from keepwarm_wire import messages as wire
from support.scheduler_driver import Driver, warm


def test_what_was_commanded_after_the_beat_is_not_missing() -> None:
    driver = Driver()
    client, agent = warm(driver)
    agent.beat()
    (early,) = [message for message in agent.outbox if isinstance(message, wire.AgentBeat)]
    agent.outbox.clear()
    client.submit()
    driver.transmit(agent.peer, early)
    agent.complete()
    assert client.status(2) == "succeeded"
    assert len(agent.executed) == 2


def test_an_older_beat_is_ignored() -> None:
    driver = Driver()
    _client, agent = warm(driver)
    agent.beats()
    answers = len(driver.of(wire.AgentBeatReply))
    beat = wire.AgentBeat(1, 1 << 40, (), (), (), (), wire.NodeLoad(0, 0, 0))
    driver.transmit(agent.peer, beat)
    assert len(driver.instances) == 1
    assert len(driver.of(wire.AgentBeatReply)) == answers


def test_an_overtaken_beat_for_the_scheduler_of_before_judges_nothing() -> None:
    """Its commands were others: what has been sent since would seem to be missing, and be started and run once more."""
    driver = Driver(epoch=2)
    client, agent = warm(driver)
    client.submit()
    late = wire.AgentBeat(1 << 40, 1 << 40, (), (), (), (), wire.NodeLoad(0, 0, 0), 1)
    driver.transmit(agent.peer, late)
    driver.settle()
    agent.complete()
    assert client.status(2) == "succeeded"
    assert len(driver.instances) == 1
    assert len(agent.executed) == 2


def test_a_beat_is_answered_with_the_highest_command() -> None:
    driver = Driver()
    _client, agent = warm(driver)
    agent.beats()
    assert driver.of(wire.AgentBeatReply)[-1].last_command == driver.node().last_command == 2


def test_the_numbers_of_a_node_that_was_forgotten_go_on() -> None:
    """Copies of the commands that it was given before must not count again."""
    driver = Driver()
    agent = driver.agent()
    agent.disconnect()
    agent.last_command = 7
    agent.connect()
    assert driver.node().last_command == 7
    client = driver.client()
    client.submit(client.declare())
    assert agent.of(wire.StartInstance)[-1].command == 8


def test_a_command_overtaken_by_the_answer_to_a_beat_is_never_obeyed_and_is_repaired() -> None:
    driver = Driver()
    client, agent = warm(driver)
    driver.lose(wire.Dispatch)
    client.submit()
    agent.beats()
    assert agent.last_command == driver.node().last_command
    agent.beats()
    assert len(agent.attempts) == 1


def test_what_a_node_has_built_is_known_from_its_beats() -> None:
    driver = Driver()
    _client, agent = warm(driver)
    agent.beats()
    (environment_id,) = driver.node().environments
    assert environment_id == driver.pool().environment_id
    agent.environments.clear()
    agent.beats()
    assert not driver.node().environments


def test_a_lost_body_of_a_function_is_asked_for() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    driver.lose(wire.FunctionBody, wire.NeedFunction)
    client.declare()
    call = client.submit()
    assert not agent.runnable()
    driver.advance(3)
    agent.complete()
    assert client.status(call) == "succeeded"


def test_an_instance_that_the_scheduler_does_not_know_is_adopted() -> None:
    driver = Driver()
    _client, agent = warm(driver)
    known = len(driver.instances)
    (instance,) = agent.instances.values()
    ghost = instance.command._replace(instance_id=99)
    agent._on_start(ghost)
    agent.instances[99].state = "idle"
    agent.instances[99].leases[""] = (1_000_000, driver.now_ns)
    agent.beats()
    assert len(driver.instances) == known + 1
    driver.advance(1.2)
    assert agent.endings[-1].instance_id == 99
    assert agent.endings[-1].cause == "expired"


def test_a_beat_from_before_the_last_call_does_not_tell_the_lease_that_this_call_began() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=10)
    driver.advance(5)
    client.submit()
    (token,) = agent.attempts
    agent.now_ns = driver.now_ns
    agent.beat()
    stale = agent.outbox.pop()
    agent.outbox.clear()
    driver.cluster.attempts[token].keep_alive_us = None  # as for an attempt of an earlier scheduler
    agent.complete()
    (instance,) = stale.instances
    idle = instance._replace(state="idle", attempts=(), sequence=1)
    driver.transmit(agent.peer, stale._replace(beat_number=stale.beat_number, instances=(idle,)))
    assert driver.instances[0].is_lease_unknown
    driver.advance(20)
    (ending,) = agent.endings
    assert ending.at_ns >= ending.lease_end_ns
