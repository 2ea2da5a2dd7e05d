"""Instances from start to end; each ends once."""

from keepwarm_scheduler.core.transitions import InstanceState
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import RetryLimits
from support.scheduler_driver import Driver, warm


def test_a_stop_that_the_node_refuses_gives_the_instance_back() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=10)
    (instance,) = agent.instances.values()
    driver.advance(9)
    instance.sequence += 1  # it has served a call that the scheduler does not know of
    instance.leases["module:function"] = (10_000_000, driver.now_ns)
    driver.advance(1.2)
    assert not agent.endings
    assert driver.instances[0].state.value == "idle"
    driver.advance(20)
    (ending,) = agent.endings
    assert ending.at_ns >= ending.lease_end_ns


def test_a_lost_stop_is_repeated() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=10)
    driver.lose(wire.StopInstance)
    driver.advance(10.2)
    assert not agent.endings
    driver.advance(4)
    assert [ending.cause for ending in agent.endings] == ["expired"]
    assert not driver.instances


def test_a_lost_refusal_of_a_stop_is_repaired() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=10)
    next(iter(agent.instances.values())).sequence += 1
    driver.lose(wire.InstanceBusy)
    driver.advance(15)
    client.submit()
    agent.complete()
    assert client.status(2) == "succeeded"


def test_a_lost_word_of_an_end_is_repaired_by_the_next_beat() -> None:
    driver = Driver()
    _client, _agent = warm(driver, keep_alive=10)
    driver.lose(wire.InstanceEnded)
    driver.advance(10.2)
    assert len(driver.instances) == 1
    driver.advance(4)
    assert not driver.instances
    assert not driver.cluster.leases.entry_count()
    assert driver.node().free == driver.node().capacity


def test_a_late_word_of_an_ended_instance_finds_nothing() -> None:
    driver = Driver()
    _client, agent = warm(driver)
    (instance_id,) = agent.instances
    agent.die(instance_id)
    driver.settle()
    for message in (
        wire.InstanceReady(instance_id, 7, True, 0, 0),
        wire.InstanceBusy(instance_id, 9),
        wire.InstanceEnded(instance_id, "died", None, False),
        wire.InstanceProgress(instance_id, "start", ""),
    ):
        driver.transmit(agent.peer, message)
    assert not driver.instances


def test_an_idle_instance_that_dies_is_replaced_when_needed() -> None:
    driver = Driver()
    client, agent = warm(driver)
    agent.die(next(iter(agent.instances)))
    driver.settle()
    client.submit()
    agent.complete()
    assert client.status(2) == "succeeded"


def test_a_process_that_dies_with_its_call_is_replaced_for_a_retry() -> None:
    driver = Driver()
    client, agent = warm(driver, retries=RetryLimits(crash=1))
    call = client.submit()
    agent.die(next(iter(agent.instances)))
    driver.settle()
    driver.advance(1)
    agent.complete()
    assert client.status(call) == "succeeded"


def test_what_a_start_does_costs_by_the_session_not_by_the_call() -> None:
    driver = Driver()
    agent, client, other = driver.agent(starts=False), driver.client(), driver.client("t")
    client.declare()
    other.declare()
    for _ in range(50):
        client.submit()
        other.submit()
    assert len(list(driver.pool().queue.heads())) == 2
    driver.transmit(agent.peer, wire.InstanceProgress(next(iter(agent.instances)), "build", ""))
    assert len(client.of(wire.Progress)) == len(other.of(wire.Progress)) == 1


def test_what_a_start_does_is_told_to_the_clients_that_wait_once_each() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare()
    for _ in range(3):
        client.submit()
    instance_id = next(iter(agent.instances))
    driver.transmit(agent.peer, wire.InstanceProgress(instance_id, "build", "downloading"))
    (progress,) = client.of(wire.Progress)
    assert (progress.function_number, progress.phase, progress.node) == (1, "build", "a")


def test_an_overtaken_refusal_of_an_earlier_stop_changes_nothing() -> None:
    """Its sequence is from before the call that has ended since: it says nothing of this stop."""
    driver = Driver()
    _client, agent = warm(driver, keep_alive=10)
    (instance,) = driver.instances
    driver.lose(wire.StopInstance)
    driver.advance(10.2)
    assert instance.state is InstanceState.STOPPING
    driver.transmit(agent.peer, wire.InstanceBusy(instance.instance_id, instance.sequence - 1))
    assert instance.state is InstanceState.STOPPING
