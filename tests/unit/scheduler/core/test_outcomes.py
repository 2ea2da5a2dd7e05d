"""How a call ends: once, with a report of where it ran and how long each phase took."""

from keepwarm_scheduler.core.effects import ClaimPayload, DropPayload
from keepwarm_scheduler.core.outcomes import record
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import Status
from support.scheduler_driver import Driver, warm


def test_a_call_that_is_done_stays_as_it_is() -> None:
    driver = Driver()
    client, agent = warm(driver)
    number = client.submit()
    agent.complete(result=b"first")
    call = driver.cluster.sessions[client.session_id].calls[number]
    record(driver.cluster, call, Status.FAILED, b"second", None, None)
    assert call.outcome.result == b"first"
    assert not driver.cluster.effects


def test_a_large_result_is_claimed_until_its_client_has_it() -> None:
    driver = Driver()
    client, agent = warm(driver)
    number = client.submit()
    large = wire.Reference(b"r" * 16, 1 << 20, b"d" * 32)
    agent.complete(result=large)
    assert driver.done(ClaimPayload) == [ClaimPayload(large.payload_id)]
    assert not driver.done(DropPayload)
    client.acknowledge(number)
    assert driver.done(DropPayload) == [DropPayload(large.payload_id)]


def test_a_large_result_of_a_node_that_has_not_said_hello_is_nobodys() -> None:
    """Its late words may come after the news of its end; the agent itself may never come back."""
    driver = Driver()
    client, agent = warm(driver)
    client.submit()
    agent.disconnect()
    (attempt,) = agent.attempts
    large = wire.Reference(b"r" * 16, 1 << 20, b"d" * 32)
    late = wire.AttemptDone(attempt, client.session_id, 2, 1, 1, Status.SUCCEEDED, large, None, 0, 0, True)
    driver.transmit(driver.new_peer(), late)
    assert not driver.done(ClaimPayload)


def test_a_warm_call_reports_no_build_and_no_start() -> None:
    driver = Driver()
    client, agent = warm(driver)
    driver.advance(1)
    call = client.submit()
    driver.advance(2)
    agent.complete()
    report = client.outcome(call).report
    assert report is not None
    assert report.temperature == "ready"
    assert dict(report.phases) == {"run": 1000}
    assert report.attempt == 2


def test_a_cold_call_reports_the_phases_of_its_way_in_order() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare(requirements=("requests",))
    call = client.submit()
    driver.advance(1, beats=False)
    agent.now_ns = driver.now_ns
    agent.finish_lock(next(iter(agent.locks)))
    driver.settle()
    driver.advance(1, beats=False)
    agent.started()
    agent.complete()
    report = client.outcome(call).report
    assert report is not None
    assert [phase.name for phase in report.phases] == ["waiting", "lock", "start", "run"]
    assert sum(phase.duration_us for phase in report.phases[:3]) == 2_000_000


def test_a_call_that_never_ran_reports_where_it_failed() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare()
    call = client.submit()
    driver.advance(1, beats=False)
    agent.now_ns = driver.now_ns
    agent.finish_start(next(iter(agent.instances)), wire.Failure("start_failed", "no"))
    driver.settle()
    report = client.outcome(call).report
    assert report is not None
    assert (report.node, report.temperature, report.attempt) == ("a", "cold", 0)
    assert dict(report.phases) == {"waiting": 1_000_000}


def test_a_call_that_ends_in_the_queue_is_taken_out_of_its_count() -> None:
    driver = Driver()
    driver.agent(cpu=1000)
    client = driver.client()
    client.declare()
    client.submit()
    waiting = client.submit()
    assert driver.pool().queued == 1
    client.cancel(waiting)
    assert driver.pool().queued == 0
