"""Detached calls end, are kept, expire and are forgotten."""

from keepwarm_scheduler.core.effects import ForgetFunction, ReleasePayload, SaveOutcome
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import Status
from support.durable_driver import DetachedClient, DurableDriver, finished, session
from support.scheduler_driver import Agent

DAY_S = 24 * 3600.0
LARGE = wire.Reference(b"p" * 16, 1 << 20, b"d" * 32)


def test_a_result_expires_and_is_remembered_for_a_week(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    call_id = finished(client, agent, ttl_s=60)
    driver.advance(59)
    client.attach(call_id)
    assert client.ends(call_id)
    driver.advance(2)
    client.attach(call_id)
    assert client.refusals(call_id) == ["expired"]
    driver.reboot()
    client = session(driver)
    client.say(wire.ShowDetached(1, call_id))
    assert client.refusals(call_id) == ["expired"]
    driver.advance(7 * DAY_S, beats=False)
    client = session(driver)
    client.attach(call_id)
    assert client.refusals(call_id) == ["unknown"]


def test_tombstones_are_bounded(driver: DurableDriver) -> None:
    driver.reboot(tombstones_max=3)
    agent, client = driver.agent(), session(driver)
    client.declare()
    calls = [finished(client, agent, b"%d" % number) for number in range(5)]
    client.say(wire.ForgetDetached(tuple(calls)))
    client.attach(*calls)
    assert [client.refusals(call)[-1] for call in calls] == ["unknown", "unknown", "expired", "expired", "expired"]


def test_the_lifetime_of_a_result_is_bounded(client: DetachedClient, agent: Agent) -> None:
    call_id = finished(client, agent, ttl_s=1e9)
    assert client.show(call_id).left_us == 30 * 24 * 3600 * 1_000_000
    assert client.show(finished(client, agent, b"two")).left_us == 24 * 3600 * 1_000_000


def test_large_arguments_are_kept_until_the_call_ends(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    client.spawn(b"one", arguments=LARGE)
    client.spawn(b"two", arguments=LARGE)
    assert list(driver.kept) == [LARGE.payload_id]
    assert agent.of(wire.Dispatch)[0].arguments == LARGE
    agent.complete()
    assert not driver.kept


def test_a_large_result_is_kept_until_it_expires(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    result = wire.Reference(b"r" * 16, 1 << 20, b"d" * 32)
    call_id = client.spawn(b"one", ttl_s=60)
    agent.complete(result=result)
    assert list(driver.kept) == [result.payload_id]
    driver.reboot()
    client = session(driver)
    client.attach(call_id)
    assert client.ends(call_id)[0].result == result
    driver.advance(61)
    assert not driver.kept


def test_a_function_is_kept_while_calls_need_it_and_a_while_longer(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    for name in (b"one", b"two", b"three"):
        finished(client, agent, name)
    client.say(wire.Goodbye("done"))
    driver.advance(590, beats=False)
    assert not driver.done(ForgetFunction)
    driver.advance(11, beats=False)
    assert len(driver.done(ForgetFunction)) == 1
    assert not driver.done(ReleasePayload)


def test_what_is_told_of_a_failure_counts_as_a_result_does(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    failure = wire.Failure("user_exception", "boom", "d" * 60_000, b"e" * (1 << 20))
    size = 18 + 60_000 + (1 << 20)
    call_id = client.spawn(b"one")
    agent.complete(status=Status.FAILED, failure=failure)
    assert client.show(call_id).result_bytes == driver.cluster.book.stored_bytes == size
    driver.reboot()
    client = session(driver)
    assert driver.cluster.book.stored_bytes == size
    client.say(wire.ForgetDetached((call_id,)))
    assert driver.cluster.book.stored_bytes == 0


def test_a_failure_keeps_no_result_and_a_success_no_failure(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    """Nobody would ask for it."""
    failure = wire.Failure("user_exception", "boom")
    failed = client.spawn(b"one")
    agent.complete(status=Status.FAILED, failure=failure, result=LARGE)
    succeeded = client.spawn(b"two")
    client.attach(failed, succeeded)
    agent.complete(status=Status.SUCCEEDED, failure=failure, result=LARGE)
    assert not client.ends(failed)[0].result
    assert client.ends(succeeded)[0].failure is None
    assert list(driver.kept) == [LARGE.payload_id]
    driver.reboot()
    assert driver.cluster.book.stored_bytes == LARGE.size + 18
    client = session(driver)
    client.say(wire.ForgetDetached((failed, succeeded)))
    assert not driver.kept


def test_outcomes_are_saved_once(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    driver.twice = True
    call_id = client.spawn(b"one")
    client.attach(call_id)
    agent.complete()
    driver.advance(10)
    assert len(driver.done(SaveOutcome)) == 1
    assert client.ends(call_id)
    assert not agent.held
