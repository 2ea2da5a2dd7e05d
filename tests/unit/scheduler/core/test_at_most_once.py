"""Calls that must not run twice: whatever happens, at most one execution, and *lost* when nobody can know."""

from collections.abc import Iterator

import pytest

from keepwarm_scheduler.core.effects import ForgetDispatch, SaveDispatch
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import RetryLimits, Status
from support.durable_driver import DetachedClient, DurableDriver, session
from support.scheduler_driver import Agent


@pytest.fixture
def driver() -> Iterator[DurableDriver]:
    driver = DurableDriver()
    yield driver
    driver.close()


@pytest.fixture
def agent(driver: DurableDriver) -> Agent:
    return driver.agent()


def client_of(driver: DurableDriver) -> DetachedClient:
    client = session(driver)
    client.declare(at_most_once=True, retries=RetryLimits(lost_node=3, exceptions=3, crash=3))
    return client


def lost(client: DetachedClient, number: int) -> bool:
    outcome = client.outcome(number)
    return outcome.status == Status.LOST and outcome.failure is not None and outcome.failure.kind == "in_doubt"


def test_the_disk_knows_of_a_dispatch_before_the_node(driver: DurableDriver, agent: Agent) -> None:
    client = client_of(driver)
    client.submit()
    agent.complete()
    driver.crashes_at_sync = True
    client.submit()
    assert len(agent.of(wire.Dispatch)) == 1


def test_an_attached_call_that_no_node_reports_is_lost(driver: DurableDriver, agent: Agent) -> None:
    """The node was killed with the scheduler: nobody will ever know whether the call has run."""
    client = client_of(driver)
    number = client.submit()
    driver.reboot()
    driver.agent("a", "a2")
    client = client_of(driver)
    client.submit(number=number, resent=True)
    assert lost(client, number)


def test_a_resent_call_that_was_never_dispatched_runs(driver: DurableDriver) -> None:
    client = client_of(driver)
    number = client.submit()
    driver.reboot()
    agent = driver.agent()
    client = client_of(driver)
    client.submit(number=number, resent=True)
    agent.complete()
    assert client.status(number) == "succeeded"


def test_an_attached_call_that_its_node_reports_goes_on(driver: DurableDriver, agent: Agent) -> None:
    client = client_of(driver)
    number = client.submit()
    driver.reboot()
    agent.connect()
    client = client_of(driver)
    client.submit(number=number, resent=True)
    agent.complete()
    assert client.status(number) == "succeeded"
    assert len(agent.executed) == 1


def test_a_client_that_does_not_say_resent_is_not_believed(driver: DurableDriver, agent: Agent) -> None:
    client = client_of(driver)
    number = client.submit()
    driver.reboot()
    driver.agent("a", "a2")
    client = client_of(driver)
    client.submit(number=number)
    assert lost(client, number)


def test_a_detached_call_in_doubt_is_lost(driver: DurableDriver, agent: Agent) -> None:
    client = client_of(driver)
    call_id = client.spawn(b"one")
    driver.reboot()
    driver.agent("a", "a2")
    entry = session(driver).show(call_id)
    assert (entry.state, entry.reason) == ("lost", "in_doubt")


def test_the_loss_of_a_node_ends_the_call_whatever_its_retries_say(driver: DurableDriver, agent: Agent) -> None:
    client = client_of(driver)
    number, call_id = client.submit(), client.spawn(b"one")
    driver.agent("a", "a2")
    assert lost(client, number)
    assert client.show(call_id).state == "lost"


def test_a_failure_is_not_retried_whatever_its_retries_say(driver: DurableDriver, agent: Agent) -> None:
    client = client_of(driver)
    number = client.submit()
    agent.complete(status=Status.FAILED, failure=wire.Failure("user_exception", "no"))
    assert client.status(number) == "failed"


def test_a_dispatch_that_never_came_is_no_doubt(driver: DurableDriver, agent: Agent) -> None:
    """The node says that it has obeyed all commands so far and knows nothing of it: it did not run."""
    client = client_of(driver)
    client.submit()
    agent.complete()
    driver.lose(wire.Dispatch)
    call_id = client.spawn(b"one")
    driver.advance(5)
    agent.complete()
    assert client.show(call_id).state == "succeeded"
    assert len(agent.executed) == 2


def test_what_an_earlier_scheduler_stopped_is_not_run_again(driver: DurableDriver, agent: Agent) -> None:
    """Its client fell silent, its call was stopped, and then client and scheduler came back."""
    client = client_of(driver)
    number = client.submit()
    del driver.clients[client.peer]
    driver.advance(40)
    assert agent.cancelled
    driver.lose(wire.AttemptDone)
    agent.complete()
    driver.reboot()
    client = client_of(driver)
    client.submit(number=number, resent=True)
    agent.connect()
    driver.advance(15)
    assert lost(client, number)
    assert len(agent.executed) == 1


def test_the_record_goes_with_the_outcome(driver: DurableDriver, agent: Agent) -> None:
    client = client_of(driver)
    number = client.submit()
    client.spawn(b"one")
    agent.complete()
    assert len(driver.done(SaveDispatch)) == 2
    assert len(driver.done(ForgetDispatch)) == 1
    client.acknowledge(number)
    assert len(driver.done(ForgetDispatch)) == 2
    assert not driver.cluster.book.doubts


def test_a_record_that_nobody_asks_for_goes_after_a_day(driver: DurableDriver, agent: Agent) -> None:
    client = client_of(driver)
    client.submit()
    driver.reboot()
    assert driver.cluster.book.doubts
    driver.advance(24 * 3600 + 1, beats=False)
    assert not driver.cluster.book.doubts
