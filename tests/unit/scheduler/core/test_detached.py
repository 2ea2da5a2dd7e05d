"""Detached calls come in: accepted once and for all, whatever is repeated and whoever leaves."""

from keepwarm_scheduler.core.detached import missing_body
from keepwarm_scheduler.core.effects import ClaimPayload, DropPayload
from keepwarm_scheduler.core.events import Principal
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import RetryLimits, Status
from support.durable_driver import DetachedClient, DurableDriver, finished, session
from support.raw_peers import declaration
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
    assert {effect.payload_id for effect in driver.done(ClaimPayload)} == {LARGE.payload_id}


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


def test_what_is_dropped_of_a_session_for_a_detached_call_was_claimed_for_it(
    driver: DurableDriver, client: DetachedClient
) -> None:
    """Another call of the session may have the same arguments: its claim is its own."""
    client.spawn(b"one", arguments=LARGE)
    assert driver.done(ClaimPayload) == [ClaimPayload(LARGE.payload_id)]
    assert driver.done(DropPayload) == [DropPayload(LARGE.payload_id)]


def test_one_namespace_takes_up_half_of_the_bytes_and_no_more(driver: DurableDriver) -> None:
    """Where there are keys; and it is told that it is its own share that is used up."""
    driver.reboot(detached_bytes_max=100)
    driver.agent()
    mine, other = (session(driver, name, wire_principal(name)) for name in ("mine", "other"))
    for one in (mine, other):
        one.declare()
    first = mine.spawn(b"one", arguments=b"x" * 40)
    assert mine.accepted(first) is not None
    refused = mine.spawn(b"two", arguments=b"x" * 11)
    (refusal,) = mine.of(wire.DetachedRefused)
    assert (refusal.call_id, refusal.code) == (refused, "results_full")
    assert "namespace mine take up 40 bytes. Its share is 50:" in refusal.reason
    assert other.accepted(other.spawn(b"three", arguments=b"x" * 45)) is not None
    driver.reboot()
    mine = session(driver, "mine", wire_principal("mine"))
    mine.declare()
    assert mine.refusals(mine.spawn(b"two", arguments=b"x" * 11)) == ["results_full"]
    mine.say(wire.CancelDetached(first))
    mine.say(wire.ForgetDetached((first,)))
    assert mine.accepted(mine.spawn(b"four", arguments=b"x" * 50)) is not None


def test_one_namespace_makes_half_of_the_calls_and_no_more(driver: DurableDriver) -> None:
    driver.reboot(detached_calls_max=4)
    mine, other = (session(driver, name, wire_principal(name)) for name in ("mine", "other"))
    for one in (mine, other):
        one.declare()
    calls = [mine.spawn(b"%d" % number) for number in range(3)]
    assert mine.refusals(calls[2]) == ["too_many"]
    assert "Its share is 2:" in mine.of(wire.DetachedRefused)[-1].reason
    assert other.accepted(other.spawn(b"other")) is not None
    mine.say(wire.CancelDetached(calls[0]))
    assert mine.refusals(mine.spawn(b"four")) == ["too_many"], "finished ones count"
    mine.say(wire.ForgetDetached((calls[0],)))
    assert mine.accepted(mine.spawn(b"five")) is not None


def test_without_keys_there_is_nobody_to_share_with(driver: DurableDriver) -> None:
    driver.reboot(detached_calls_max=3, detached_bytes_max=100)
    client = session(driver)
    client.declare()
    for name in (b"one", b"two", b"three"):
        assert client.accepted(client.spawn(name, arguments=b"x" * 30)) is not None


BODY = wire.Reference(b"b" * 16, 1 << 20, b"d" * 32)


def declared(driver: DurableDriver, name: str, body: wire.Payload = BODY) -> DetachedClient:
    """A session with one function."""
    client = session(driver, name)
    client.say(declaration()._replace(body=body))
    return client


def missing(driver: DurableDriver, client: DetachedClient, *here: bytes) -> wire.Reference | None:
    """The body that is missing for a call, when these are here."""
    return missing_body(
        driver.cluster, client.peer, wire.SubmitDetached(b"n" * 16, 1, 0, "", 0, b""), here.__contains__
    )


def test_a_call_needs_the_body_of_its_function_unless_it_is_kept(driver: DurableDriver, agent: Agent) -> None:
    client = declared(driver, "one")
    assert missing(driver, client) == BODY
    assert missing(driver, client, BODY.payload_id) is None
    client.spawn(b"one")
    again = BODY._replace(payload_id=b"a" * 16)
    other = declared(driver, "two", again)
    assert missing(driver, other, BODY.payload_id) is None
    assert missing(driver, declared(driver, "three", b"inline")) is None
    assert missing(driver, session(driver, "four")) is None
    other.spawn(b"two")
    assert list(driver.kept) == [BODY.payload_id]


def test_a_function_whose_body_the_disk_has_lost_is_kept_anew(driver: DurableDriver, agent: Agent) -> None:
    """Calls that are there already end without it; those that come have the bytes of their own declaration."""
    client = declared(driver, "one")
    client.spawn(b"one")
    again = BODY._replace(payload_id=b"a" * 16)
    other = declared(driver, "two", again)
    assert missing(driver, other) == again
    assert missing(driver, other, again.payload_id) is None
    other.spawn(b"two")
    assert list(driver.kept) == [BODY.payload_id, again.payload_id]
    assert missing(driver, client, again.payload_id) is None
    client.spawn(b"three")
    for _ in range(3):
        agent.complete()
    driver.advance(601)
    assert not driver.kept
    assert not driver.cluster.book.functions


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
