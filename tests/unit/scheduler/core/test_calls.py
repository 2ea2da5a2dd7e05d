"""Attempts and their ends: outcomes, retries, cancels, timeouts; each once."""

import pytest

from keepwarm_wire import messages as wire
from keepwarm_wire.messages import RetryLimits, Status
from support.scheduler_driver import Agent, Client, Driver, warm

EXCEPTION = wire.Failure("user_exception", "ValueError: no")


def started(driver: Driver, **changes: object) -> tuple[Client, Agent, int]:
    """A call that runs."""
    agent, client = driver.agent(), driver.client()
    client.declare(**changes)  # type: ignore[arg-type]
    return client, agent, client.submit()


def test_a_result_reaches_its_client() -> None:
    client, agent, call = started(Driver())
    agent.complete(result=b"42")
    assert client.outcome(call) == client.outcome(call)._replace(status=0, result=b"42", failure=None)


def test_an_outcome_is_repeated_until_it_is_received_and_no_longer() -> None:
    driver = Driver()
    client, agent, call = started(driver)
    driver.lose(wire.Outcome)
    agent.complete()
    driver.advance(6)
    assert client.status(call) == "succeeded"
    client.acknowledge(call)
    count = len(client.heard)
    driver.advance(6)
    assert not [m for m in client.heard[count:] if isinstance(m, wire.Outcome)]
    assert not agent.held


def test_a_lost_received_is_repaired() -> None:
    driver = Driver()
    client, agent, call = started(driver)
    agent.complete()
    driver.lose(wire.Received)
    client.acknowledge(call)
    driver.advance(4)
    assert len(client.outcomes(call)) > 1
    client.acknowledge(call)
    assert not driver.cluster.sessions[client.session_id].calls
    assert not agent.held


@pytest.mark.parametrize("kind", [wire.AttemptDone, wire.Final, wire.AttemptStarted])
def test_a_lost_word_about_an_attempt_is_repaired(kind: type[object]) -> None:
    driver = Driver()
    driver.lose(kind)
    client, agent, call = started(driver)
    agent.complete()
    driver.advance(3)
    assert client.status(call) == "succeeded"
    client.acknowledge(call)
    driver.advance(5)
    assert not agent.held
    assert len(agent.executed) == 1


def test_the_agent_may_forget_an_outcome_only_once_its_client_has_it() -> None:
    driver = Driver()
    client, agent, call = started(driver)
    agent.complete()
    driver.advance(10)
    assert agent.held
    client.acknowledge(call)
    assert not agent.held


def test_a_cancelled_call_that_waits_ends_at_once_and_never_runs() -> None:
    driver = Driver()
    client = driver.client()
    client.declare()
    call = client.submit()
    client.cancel(call)
    assert client.status(call) == "cancelled"
    agent = driver.agent()
    assert not agent.attempts
    assert not agent.instances


def test_a_cancelled_call_that_runs_is_stopped_by_its_node() -> None:
    driver = Driver()
    client, agent, call = started(driver)
    client.cancel(call)
    assert not client.outcomes(call)
    agent.complete()
    assert client.status(call) == "cancelled"


def test_a_lost_cancel_is_repeated() -> None:
    driver = Driver()
    client, agent, call = started(driver)
    driver.lose(wire.CancelAttempt)
    client.cancel(call)
    assert not agent.cancelled
    driver.advance(5)
    assert agent.cancelled


def test_a_cancel_that_comes_too_late_changes_nothing() -> None:
    client, agent, call = started(Driver())
    agent.complete()
    client.cancel(call)
    assert client.status(call) == "succeeded"


def test_a_cancelled_call_whose_dispatch_was_lost_is_not_placed_again() -> None:
    driver = Driver()
    client, agent = warm(driver)
    driver.lose(wire.Dispatch, wire.CancelAttempt)
    call = client.submit()
    client.cancel(call)
    driver.advance(5)
    assert client.status(call) == "cancelled"
    assert len(agent.executed) == 1
    assert not agent.attempts
    assert driver.pool().queued == 0


def test_the_queue_timeout_ends_a_call_that_waits() -> None:
    driver = Driver()
    client = driver.client()
    driver.agent(cpu=1000)
    client.declare(queue_timeout=5)
    client.submit()
    waiting = client.submit()
    driver.advance(4.9)
    assert not client.outcomes(waiting)
    driver.advance(0.2)
    assert client.status(waiting) == "timed out"
    failure = client.outcome(waiting).failure
    assert failure is not None
    assert failure.kind == "queue_timeout"
    assert "5 s" in failure.message


def test_the_queue_timeout_goes_on_for_a_call_that_no_process_had() -> None:
    """It was sent to one, which died before the call came."""
    driver = Driver()
    client, agent = warm(driver, queue_timeout=5, memory_bytes=1 << 33, keep_alive=60)
    (instance_id,) = agent.instances
    driver.lose(wire.Dispatch)
    waiting = client.submit()
    agent.starts = False
    agent.die(instance_id)
    driver.settle()
    driver.advance(4.9)
    assert not client.outcomes(waiting)
    driver.advance(0.2)
    assert client.status(waiting) == "timed out"


def test_the_queue_timeout_ends_a_call_at_once_that_comes_back_after_it() -> None:
    driver = Driver()
    client, agent = warm(driver, queue_timeout=1, keep_alive=60)
    (instance_id,) = agent.instances
    driver.lose(wire.Dispatch)
    waiting = client.submit()
    driver.advance(1.5)
    assert not client.outcomes(waiting), "a process has it, for all that is known"
    agent.die(instance_id)
    driver.settle()
    driver.advance(4.1)
    assert client.status(waiting) == "timed out"
    assert not agent.attempts


def test_the_queue_timeout_leaves_a_running_call_alone() -> None:
    driver = Driver()
    client, agent, call = started(driver, queue_timeout=5)
    driver.advance(20)
    agent.complete()
    assert client.status(call) == "succeeded"


def test_the_overall_timeout_ends_a_call_that_runs_and_stops_it() -> None:
    driver = Driver()
    client, agent, call = started(driver, overall_timeout=5)
    driver.advance(5.1)
    assert client.status(call) == "timed out"
    assert agent.cancelled
    agent.complete()
    assert client.status(call) == "timed out"
    client.acknowledge(call)
    assert not agent.held
    assert driver.node().free["cpu"] == 4000


def test_an_exception_is_final_by_default() -> None:
    client, agent, call = started(Driver())
    agent.complete(status=Status.FAILED, failure=EXCEPTION)
    assert client.status(call) == "failed"
    assert client.outcome(call).failure == EXCEPTION


def test_exceptions_are_retried_as_often_as_asked_with_growing_delays() -> None:
    driver = Driver()
    client, agent, call = started(driver, retries=RetryLimits(exceptions=2), keep_alive=60)
    for delay_s in (0.5, 1.0):
        agent.complete(status=Status.FAILED, failure=EXCEPTION)
        driver.advance(delay_s - 0.05)
        assert not agent.attempts
        driver.advance(0.1)
        assert len(agent.attempts) == 1
    agent.complete(status=Status.FAILED, failure=EXCEPTION)
    assert client.status(call) == "failed"
    assert len(agent.executed) == 3
    assert not driver.cluster.attempts


def test_a_call_that_waits_for_its_retry_can_be_cancelled() -> None:
    driver = Driver()
    client, agent, call = started(driver, retries=RetryLimits(exceptions=9))
    agent.complete(status=Status.FAILED, failure=EXCEPTION)
    client.cancel(call)
    assert client.status(call) == "cancelled"
    driver.advance(5)
    assert len(agent.executed) == 1


def test_a_call_that_kills_its_process_fails_at_once() -> None:
    driver = Driver()
    client, agent, call = started(driver, retries=RetryLimits(exceptions=9, lost_node=9))
    agent.die(driver.instances[0].instance_id)
    driver.settle()
    assert client.status(call) == "failed"
    failure = client.outcome(call).failure
    assert failure is not None
    assert failure.kind == "process_died"
    assert not driver.instances


def test_three_crashes_make_a_call_poisoned_however_many_retries_it_has() -> None:
    driver = Driver()
    client, agent, call = started(driver, retries=RetryLimits(crash=50))
    for _ in range(3):
        (instance_id,) = agent.instances
        agent.die(instance_id)
        driver.settle()
        driver.advance(3)
    assert client.status(call) == "poisoned"
    assert len(agent.executed) == 3


def test_crashes_and_memory_are_counted_apart() -> None:
    driver = Driver()
    client, agent, call = started(driver, retries=RetryLimits(crash=1, out_of_memory=1))
    for kind in ("process_died", "out_of_memory"):
        (instance_id,) = agent.instances
        agent.die(instance_id, kind)
        driver.settle()
        assert not client.outcomes(call)
        driver.advance(3)
    agent.complete()
    assert client.status(call) == "succeeded"


def test_the_word_of_a_death_before_the_outcome_changes_nothing() -> None:
    driver = Driver()
    client, agent, call = started(driver)
    driver.lose(wire.AttemptDone)
    agent.die(driver.instances[0].instance_id)
    driver.settle()
    assert not client.outcomes(call)
    assert not driver.instances
    driver.advance(3)
    assert client.status(call) == "failed"


def test_a_refused_attempt_is_placed_again_and_its_instance_left_alone_until_it_reports() -> None:
    driver = Driver()
    client, agent = warm(driver)
    (instance_id,) = agent.instances
    agent.instances[instance_id].state = "stopping"
    call = client.submit()
    assert len([d for d in driver.of(wire.Dispatch) if d.instance_id == instance_id]) == 2
    agent.complete()
    assert client.status(call) == "succeeded"
    agent.instances[instance_id].state = "idle"
    agent.beats()
    assert driver.pool().idle[-1].instance_id == instance_id


def test_a_stale_attempts_outcome_does_not_count() -> None:
    driver = Driver()
    client, agent, call = started(driver)
    driver.agent("b")
    agent.disconnect()
    driver.advance(1.1)
    (other,) = driver.agents.values()
    assert len(other.attempts) == 1
    agent.connect()
    agent.complete(result=b"stale")
    assert not client.outcomes(call)
    other.complete(result=b"current")
    assert client.outcome(call).result == b"current"
    client.acknowledge(call)
    driver.advance(5)
    assert not agent.held
    assert not other.held


def test_duplicates_of_every_message_change_nothing() -> None:
    driver = Driver()
    driver.twice = True
    client, agent, call = started(driver, retries=RetryLimits(exceptions=1))
    agent.complete(status=Status.FAILED, failure=EXCEPTION)
    driver.advance(3)
    agent.complete()
    assert client.status(call) == "succeeded"
    client.acknowledge(call)
    waiting = client.submit()
    client.cancel(waiting)
    agent.complete()
    assert client.status(waiting) == "cancelled"
    client.acknowledge(waiting)
    driver.advance(20)
    assert len(agent.executed) == 3
    assert not agent.held
    assert [ending.cause for ending in agent.endings] == ["expired"]
    assert driver.node().free == driver.node().capacity
