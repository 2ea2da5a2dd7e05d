"""Detached calls over restarts: they go on, none is run twice, and nothing is promised that was not on disk."""

import pytest

from keepwarm_wire import messages as wire
from keepwarm_wire.identifiers import epoch_of
from keepwarm_wire.messages import RetryLimits, Status
from support.durable_driver import DetachedClient, DurableDriver, finished, session
from support.scheduler_driver import Agent


def test_a_queued_call_survives_kill_9(driver: DurableDriver) -> None:
    client = session(driver)
    client.declare()
    call_id = client.spawn(b"one")
    driver.reboot()
    agent = driver.agent()
    agent.complete()
    assert session(driver).show(call_id).state == "succeeded"


def test_a_running_call_goes_on_over_kill_9_and_is_not_run_again(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    call_id = client.spawn(b"one")
    driver.reboot()
    agent.connect()
    agent.complete()
    assert session(driver).show(call_id).state == "succeeded"
    assert len(agent.executed) == 1


def test_a_node_that_reports_early_is_not_given_what_another_may_be_running(driver: DurableDriver) -> None:
    agents = {name: driver.agent(name) for name in ("a", "b")}
    client = session(driver)
    client.declare()
    call_id = client.spawn(b"one")
    (busy,) = [name for name, agent in agents.items() if agent.attempts]
    (idle,) = set(agents) - {busy}
    driver.reboot()
    agents[idle].connect()
    assert session(driver).show(call_id).reason == "recovering"
    agents[busy].connect()
    agents[busy].complete()
    assert session(driver).show(call_id).state == "succeeded"
    assert not agents[idle].executed


def test_an_outcome_that_a_node_has_kept_is_the_calls(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    call_id = client.spawn(b"one")
    driver.lose(wire.AttemptDone)
    agent.complete()
    driver.reboot()
    agent.connect()
    assert session(driver).show(call_id).state == "succeeded"
    assert len(agent.executed) == 1
    assert not agent.held


def test_nothing_is_accepted_nor_settled_when_the_sync_never_came(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    driver.crashes_at_sync = True
    call_id = client.spawn(b"one")
    assert client.accepted(call_id) is None
    assert not agent.of(wire.Dispatch)
    driver.reboot()
    agent.connect()
    client = session(driver)
    client.declare()
    client.attach(call_id)
    assert client.refusals(call_id) == ["unknown"]
    client.spawn(b"one")
    assert client.accepted(call_id) is not None
    driver.crashes_at_sync = True
    agent.complete()
    assert agent.held, "the node was told that the outcome is final before it was on disk"
    assert not client.ends(call_id)
    driver.reboot()
    agent.connect()
    assert session(driver).show(call_id).state == "succeeded"
    assert not agent.held
    assert len(agent.executed) == 1


def test_nothing_is_told_that_is_not_on_disk(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    call_id = client.spawn(b"one")
    client.attach(call_id)
    driver.crashes_at_sync = True
    agent.complete()
    assert not client.ends(call_id)


def test_numbers_are_never_given_twice(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    first = finished(client, agent, ttl_s=1)
    driver.advance(2)
    driver.reboot()
    client = session(driver)
    client.declare()
    client.spawn(b"two")
    (number,) = driver.cluster.book.records
    assert epoch_of(number) == driver.epoch == 2
    client.attach(first)
    assert client.refusals(first) == ["expired"]


def test_failures_are_counted_over_restarts(driver: DurableDriver, agent: Agent) -> None:
    client = session(driver)
    client.declare(retries=RetryLimits(exceptions=1))
    call_id = client.spawn(b"one")
    failure = wire.Failure("user_exception", "ValueError: no")
    agent.complete(status=Status.FAILED, failure=failure)
    driver.reboot()
    agent.connect()
    driver.advance(2)
    agent.complete(status=Status.FAILED, failure=failure)
    assert session(driver).show(call_id).state == "failed"


def test_timeouts_go_on_over_a_restart(driver: DurableDriver) -> None:
    client = session(driver)
    client.declare(queue_timeout=100.0)
    call_id = client.spawn(b"one")
    driver.advance(50)
    driver.reboot(after_s=30)
    driver.advance(19)
    assert session(driver).show(call_id).state == "queued"
    driver.advance(2)
    assert session(driver).show(call_id).state == "timed out"


@pytest.mark.parametrize("jump_s", [-400_000, 400_000])
def test_a_clock_that_jumps_neither_lengthens_nor_forgets(driver: DurableDriver, jump_s: int) -> None:
    """What is left is between nothing and all of it; nothing ends while the nodes may still report."""
    client = session(driver)
    client.declare(overall_timeout=100.0)
    call_id = client.spawn(b"one")
    driver.wall_offset_us = jump_s * 1_000_000
    driver.reboot()
    driver.advance(101)
    entry = session(driver).show(call_id)
    assert (entry.state, entry.reason) == ("timed out", "overall_timeout")
