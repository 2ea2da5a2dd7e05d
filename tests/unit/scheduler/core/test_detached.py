"""Detached calls come in: accepted once and for all, whatever is repeated and whoever leaves."""

from keepwarm_scheduler.core.effects import ClaimPayload
from keepwarm_scheduler.core.events import Principal
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import RetryLimits, Status
from support.durable_driver import DetachedClient, DurableDriver, finished, session
from support.scheduler_driver import Agent

DAY_S = 24 * 3600.0
LARGE = wire.Reference(b"p" * 16, 1 << 20, b"d" * 32)


def test_a_call_is_accepted_runs_and_is_told_to_who_is_attached(client: DetachedClient, agent: Agent) -> None:
    call_id = client.spawn(b"one")
    assert client.accepted(call_id) == wire.DetachedAccepted(call_id, call_id, False)
    client.attach(call_id)
    assert not client.ends(call_id)
    (dispatch,) = agent.of(wire.Dispatch)
    assert dispatch.arguments == b"arguments"
    agent.complete()
    (outcome,) = client.ends(call_id)
    assert (outcome.status, outcome.result) == (Status.SUCCEEDED, str(dispatch.attempt).encode())
    assert outcome.report is not None
    assert not agent.held


def test_the_outcome_is_there_for_any_client_of_the_namespace_later(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    call_id = finished(client, agent)
    client.say(wire.Goodbye("done"))
    other = session(driver, "other")
    other.attach(call_id)
    assert other.ends(call_id)[0].status == Status.SUCCEEDED


def test_a_submit_that_is_repeated_makes_one_call(client: DetachedClient, agent: Agent) -> None:
    for _ in range(3):
        call_id = client.spawn(b"one")
    assert [one.is_known for one in client.of(wire.DetachedAccepted)] == [False, True, True]
    agent.complete()
    client.spawn(b"one")
    assert len(agent.executed) == 1
    assert client.show(call_id).attempts == 1


def test_arguments_that_are_handed_over_for_a_known_key_are_not_claimed(
    driver: DurableDriver, client: DetachedClient
) -> None:
    """The call that has the key has its own: these are nobody's, and are to expire."""
    client.spawn(b"one", key="k", arguments=LARGE)
    again = client.spawn(b"two", key="k", arguments=LARGE._replace(payload_id=b"q" * 16))
    assert client.accepted(again) == wire.DetachedAccepted(again, b"one".ljust(16, b"."), True)
    assert not driver.done(ClaimPayload)


def test_a_submit_of_an_unknown_function_waits_for_its_declaration(driver: DurableDriver, agent: Agent) -> None:
    client = session(driver)
    call_id = client.spawn(b"one")
    assert client.accepted(call_id) is None
    client.declare()
    client.spawn(b"one")
    assert client.accepted(call_id) is not None
    agent.complete()


def test_a_client_that_is_gone_does_not_end_its_call(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    call_id = client.spawn(b"one")
    client.say(wire.Goodbye("done"))
    driver.advance(60)
    agent.complete()
    assert session(driver, "other").show(call_id).state == "succeeded"


def test_a_failure_is_an_outcome_and_retries_are_those_of_the_function(driver: DurableDriver, agent: Agent) -> None:
    client = session(driver)
    client.declare(retries=RetryLimits(exceptions=1))
    call_id = client.spawn(b"one")
    failure = wire.Failure("user_exception", "ValueError: no")
    agent.complete(status=Status.FAILED, failure=failure)
    assert client.show(call_id).state == "queued"
    driver.advance(2)
    agent.complete(status=Status.FAILED, failure=failure)
    entry = client.show(call_id)
    assert (entry.state, entry.reason, entry.attempts) == ("failed", "user_exception", 2)


def test_a_key_stands_for_one_call(client: DetachedClient, agent: Agent) -> None:
    first = client.spawn(b"one", key="k")
    second = client.spawn(b"two", key="k")
    assert client.accepted(second) == wire.DetachedAccepted(second, first, True)
    agent.complete()
    third = client.spawn(b"three", key="k")
    assert client.accepted(third) == wire.DetachedAccepted(third, first, True)
    assert len(agent.executed) == 1


def test_a_key_with_other_arguments_or_another_function_is_a_conflict(client: DetachedClient) -> None:
    client.declare("module:other")
    client.spawn(b"one", key="k")
    assert client.refusals(client.spawn(b"two", key="k", arguments=b"others")) == ["key_conflict"]
    assert client.refusals(client.spawn(b"three", 2, key="k")) == ["key_conflict"]


def test_a_key_is_kept_for_a_day_over_restarts_and_beyond_its_result(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    first = finished(client, agent, key="k", ttl_s=10)
    driver.advance(20)
    driver.reboot()
    client = session(driver)
    client.declare()
    again = client.spawn(b"two", key="k")
    assert client.accepted(again) == wire.DetachedAccepted(again, first, True)
    client.attach(first)
    assert client.refusals(first) == ["expired"]
    driver.advance(DAY_S, beats=False)
    client = session(driver)
    client.declare()
    again = client.spawn(b"three", key="k")
    assert client.accepted(again) == wire.DetachedAccepted(again, again, False)


def test_the_key_of_an_unfinished_call_outlives_its_day(driver: DurableDriver) -> None:
    client = session(driver)
    client.declare()
    first = client.spawn(b"one", key="k")
    driver.advance(DAY_S + 10, beats=False)
    client = session(driver)
    client.declare()
    again = client.spawn(b"two", key="k")
    assert client.accepted(again) == wire.DetachedAccepted(again, first, True)
    client.say(wire.CancelDetached(first))
    assert client.accepted(client.spawn(b"three", key="k")) == wire.DetachedAccepted(
        b"three".ljust(16, b"."), b"three".ljust(16, b"."), False
    )


def test_more_than_the_disk_may_hold_is_refused_and_no_result_is_dropped(driver: DurableDriver) -> None:
    driver.reboot(detached_bytes_max=100)
    agent, client = driver.agent(), session(driver)
    client.declare()
    call_id = client.spawn(b"one", arguments=b"x" * 90)
    assert client.refusals(client.spawn(b"two", arguments=b"x" * 20)) == ["results_full"]
    agent.complete(result=b"r" * 95)
    assert client.refusals(client.spawn(b"three", arguments=b"x" * 6)) == ["results_full"]
    client.attach(call_id)
    assert client.ends(call_id)[0].result == b"r" * 95
    client.say(wire.ForgetDetached((call_id,)))
    assert client.accepted(client.spawn(b"four", arguments=b"x" * 90)) is not None


def test_more_calls_than_are_allowed_are_refused(driver: DurableDriver) -> None:
    driver.reboot(detached_calls_max=2)
    client = session(driver)
    client.declare()
    for name in (b"one", b"two"):
        assert client.accepted(client.spawn(name)) is not None
    assert client.refusals(client.spawn(b"three")) == ["too_many"]


def test_a_submit_that_is_known_needs_no_bytes(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    finished(client, agent, key="k", arguments=LARGE)
    known = wire.SubmitDetached(b"one".ljust(16, b"."), 1, 0, "", 0, LARGE)
    assert not driver.core.wants_arguments(wire_principal("default"), known)
    assert not driver.core.wants_arguments(wire_principal("default"), known._replace(call_id=b"n" * 16, key="k"))
    assert driver.core.wants_arguments(wire_principal("other"), known._replace(call_id=b"n" * 16, key="k"))
    assert driver.core.wants_arguments(wire_principal("default"), known._replace(call_id=b"n" * 16))


def wire_principal(namespace: str) -> Principal:
    return Principal("key", "client", namespace)


def test_the_impatience_of_attached_calls_does_not_end_detached_ones(driver: DurableDriver) -> None:
    """No node at all: an attached call fails after a minute, a detached one waits."""
    client = session(driver)
    client.declare()
    call_id = client.spawn(b"one")
    number = client.submit()
    driver.advance(3_000)
    assert client.status(number) == "failed"
    assert client.show(call_id).state == "queued"
    driver.agent().complete()
    assert client.show(call_id).state == "succeeded"


def test_what_no_node_could_run_fails_in_the_end(driver: DurableDriver, agent: Agent) -> None:
    client = session(driver)
    client.declare(cpu=9_000)
    call_id, number = client.spawn(b"one"), client.submit()
    driver.advance(30)
    assert client.status(number) == "failed"
    assert client.show(call_id).state == "queued"
    driver.advance(600)
    entry = client.show(call_id)
    assert (entry.state, entry.reason) == ("failed", "no_feasible_node")
