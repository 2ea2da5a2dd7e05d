"""Detached calls: accepted once and for all, whoever asks, whatever is repeated, whenever the scheduler is killed."""

from collections.abc import Iterator

import pytest

from keepwarm_scheduler.core.detached_records import keeper_id
from keepwarm_scheduler.core.effects import ForgetFunction, ReleasePayload, SaveOutcome
from keepwarm_scheduler.core.events import Principal
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.identifiers import epoch_of
from keepwarm_wire.messages import RetryLimits, Status
from support.durable_driver import DetachedClient, DurableDriver, session
from support.scheduler_driver import Agent

DAY_S = 24 * 3600.0
LARGE = wire.Reference(b"p" * 16, 1 << 20, b"d" * 32)


@pytest.fixture
def driver() -> Iterator[DurableDriver]:
    driver = DurableDriver()
    yield driver
    driver.close()


@pytest.fixture
def agent(driver: DurableDriver) -> Agent:
    return driver.agent()


@pytest.fixture
def client(driver: DurableDriver, agent: Agent) -> DetachedClient:
    client = session(driver)
    client.declare()
    return client


def finished(client: DetachedClient, agent: Agent, name: bytes = b"one", **how: object) -> bytes:
    """A detached call that has succeeded."""
    call_id = client.spawn(name, **how)  # type: ignore[arg-type]
    agent.complete()
    assert client.show(call_id).state == "succeeded"
    return call_id


# ---------------------------------------------------------------- the way of a call


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


# ---------------------------------------------------------------- keys


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


# ---------------------------------------------------------------- room


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


# ---------------------------------------------------------------- payloads beside the journal


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


def test_a_submit_that_is_known_needs_no_bytes(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    finished(client, agent, key="k", arguments=LARGE)
    known = wire.SubmitDetached(b"one".ljust(16, b"."), 1, 0, "", 0, LARGE)
    assert not driver.core.wants_arguments(wire_principal("default"), known)
    assert not driver.core.wants_arguments(wire_principal("default"), known._replace(call_id=b"n" * 16, key="k"))
    assert driver.core.wants_arguments(wire_principal("other"), known._replace(call_id=b"n" * 16, key="k"))
    assert driver.core.wants_arguments(wire_principal("default"), known._replace(call_id=b"n" * 16))


def wire_principal(namespace: str) -> Principal:
    return Principal("key", "client", namespace)


# ---------------------------------------------------------------- cancelling


def test_a_queued_call_is_cancelled_at_once(driver: DurableDriver) -> None:
    client = session(driver)
    client.declare()
    call_id = client.spawn(b"one")
    client.attach(call_id)
    client.say(wire.CancelDetached(call_id))
    assert client.of(wire.DetachedCancelled) == [wire.DetachedCancelled(call_id, "cancelled")]
    assert client.ends(call_id)[0].status == Status.CANCELLED


def test_a_running_call_is_stopped_by_its_node(client: DetachedClient, agent: Agent) -> None:
    call_id = client.spawn(b"one")
    client.say(wire.CancelDetached(call_id))
    assert client.of(wire.DetachedCancelled)[-1].state == "stopping"
    agent.complete()
    client.say(wire.CancelDetached(call_id))
    assert client.of(wire.DetachedCancelled)[-1].state == "cancelled"


def test_a_success_that_was_recorded_first_wins(client: DetachedClient, agent: Agent) -> None:
    call_id = finished(client, agent)
    client.say(wire.CancelDetached(call_id))
    assert client.of(wire.DetachedCancelled)[-1].state == "succeeded"


def test_a_cancel_survives_the_scheduler(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    """The node never heard of it, and the new scheduler stops what it finds running."""
    call_id = client.spawn(b"one")
    driver.lose(wire.CancelAttempt)
    client.say(wire.CancelDetached(call_id))
    driver.reboot()
    agent.connect()
    agent.complete()
    client = session(driver)
    assert client.show(call_id).state == "cancelled"
    assert len(agent.executed) == 1


# ---------------------------------------------------------------- who sees what


def test_calls_of_another_namespace_are_unknown(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    call_id = finished(client, agent)
    stranger = session(driver, "stranger", Principal("key", "client", "other"))
    stranger.attach(call_id)
    stranger.say(wire.ShowDetached(1, call_id))
    stranger.say(wire.CancelDetached(call_id))
    stranger.say(wire.ForgetDetached((call_id,)))
    assert stranger.refusals(call_id) == ["unknown"] * 3
    assert stranger.of(wire.DetachedForgotten) == [wire.DetachedForgotten(())]
    assert stranger.listed().entries == ()
    assert stranger.listed(namespace="default").entries == ()
    stranger.declare()
    assert stranger.refusals(stranger.spawn(b"one"))[-1] == "id_conflict"


def test_an_administrator_sees_every_namespace(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    call_id = finished(client, agent)
    admin = session(driver, "admin", Principal("key", "admin", "other"))
    assert [entry.call_id for entry in admin.listed().entries] == [call_id]
    assert admin.listed(namespace="other").entries == ()
    admin.attach(call_id)
    assert admin.ends(call_id)


def test_an_administrators_connection_may_ask_and_stop(
    driver: DurableDriver, client: DetachedClient, agent: Agent
) -> None:
    call_id = client.spawn(b"one")
    peer = driver.new_peer()
    driver.transmit(peer, wire.AdminHello(1, 1, "test"))
    for message in (
        wire.ListDetached(7, b"", "", "", 0),
        wire.ShowDetached(8, call_id),
        wire.CancelDetached(call_id),
        wire.ForgetDetached((call_id,)),
    ):
        driver.transmit(peer, message)
    answers = [message for to, message in driver.other if to == peer]
    assert [type(answer) for answer in answers[1:]] == [
        wire.DetachedListed,
        wire.DetachedShown,
        wire.DetachedCancelled,
        wire.DetachedForgotten,
    ]


def test_nobody_speaks_as_a_keeper(driver: DurableDriver, client: DetachedClient) -> None:
    """The id of a keeper's session can be computed by anybody."""
    client.spawn(b"one")
    (keeper,) = driver.cluster.book.keepers.values()
    impostor = DetachedClient(driver, keeper.session.session_id)
    impostor.hello()
    assert impostor.of(wire.Refused)
    assert not impostor.of(wire.Welcome)


def test_an_impostor_who_came_first_is_put_out(driver: DurableDriver, agent: Agent) -> None:
    impostor = DetachedClient(driver, keeper_id(b"c" * 16, "default"))
    impostor.hello()
    impostor.declare()
    impostor.submit()
    client = session(driver)
    client.declare()
    call_id = client.spawn(b"one")
    agent.complete()
    agent.complete()
    assert client.show(call_id).state == "succeeded"


# ---------------------------------------------------------------- looking


def test_pages_are_newest_first_and_complete(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    calls = [client.spawn(b"%d" % number) for number in range(7)]
    agent.complete()
    found: list[bytes] = []
    cursor = b""
    for _ in range(10):
        page = client.listed(cursor, limit=3)
        found += [entry.call_id for entry in page.entries]
        if page.is_last:
            break
        cursor = page.entries[-1].cursor
    assert found == calls[::-1]
    done, unfinished = client.listed(state="done").entries, client.listed(state="unfinished").entries
    assert (
        {entry.state for entry in done}
        == {"succeeded"}
        == {entry.state for entry in client.listed(state="succeeded").entries}
    )
    assert {entry.call_id for entry in (*done, *unfinished)} == set(calls)
    waiting = [entry for state in ("queued", "dispatched", "running") for entry in client.listed(state=state).entries]
    assert sorted(waiting) == sorted(unfinished)


def test_an_entry_says_what_people_want_to_know(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    call_id = client.spawn(b"one", key="k")
    driver.advance(3)
    entry = client.show(call_id)
    assert entry._replace(cursor=b"") == wire.DetachedEntry(
        call_id, b"", "default", "module:function", "k", "test", "running", "", "a", 1, 3_000_000,
        FOREVER_US, FOREVER_US, 0,
    )  # fmt: skip
    agent.complete(result=b"12345")
    driver.advance(2)
    entry = client.show(call_id)
    assert (entry.state, entry.node, entry.result_bytes, entry.ended_us) == ("succeeded", "a", 5, 2_000_000)


# ---------------------------------------------------------------- restarts


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


def test_outcomes_are_saved_once(driver: DurableDriver, client: DetachedClient, agent: Agent) -> None:
    driver.twice = True
    call_id = client.spawn(b"one")
    client.attach(call_id)
    agent.complete()
    driver.advance(10)
    assert len(driver.done(SaveOutcome)) == 1
    assert client.ends(call_id)
    assert not agent.held
