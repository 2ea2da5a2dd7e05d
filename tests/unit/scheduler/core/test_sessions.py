"""Clients: sessions over connections, declarations, credit, beats."""

from keepwarm_scheduler.core.effects import ClaimPayload, DropPayload
from keepwarm_scheduler.core.events import PeerLost
from keepwarm_wire import messages as wire
from support.scheduler_driver import Driver, warm


def test_a_session_outlives_its_connection() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    driver.feed(PeerLost(client.peer))
    agent.complete()
    assert not client.outcomes(call)
    del driver.clients[client.peer]
    client.peer = driver.new_peer()
    driver.clients[client.peer] = client
    client.hello()
    assert client.of(wire.Welcome)[-1].known


def test_a_session_that_has_declared_nothing_ends_with_its_connection() -> None:
    """Whoever says hello without end would else have everybody beat the less often."""
    driver = Driver()
    client = driver.client()
    before = driver.cluster.pace.interval_ns(driver.cluster.peers_count)
    for number in range(1_000):
        client.say(wire.ClientHello(1, 1, "test", number.to_bytes(16, "big"), "", 0))
    assert len(driver.cluster.sessions) == 1
    assert driver.cluster.oversteps[client.peer] == 1_000 * 20
    assert driver.cluster.pace.interval_ns(driver.cluster.peers_count) == before
    driver.feed(PeerLost(client.peer))
    assert not driver.cluster.sessions
    client.hello()
    client.declare()
    assert client.submit()


def test_a_session_that_has_declared_nothing_is_not_known_when_it_comes_again() -> None:
    """Its first welcome may have been lost: the client must not take this scheduler for one that has its functions."""
    driver = Driver()
    client = driver.client()
    client.hello()
    assert not client.of(wire.Welcome)[-1].known
    client.declare()
    client.hello()
    assert client.of(wire.Welcome)[-1].known


def test_bytes_that_were_stored_for_a_late_copy_are_dropped() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare()
    call = client.submit()
    agent.complete()
    client.say(wire.Received((call,)))
    late = wire.Reference(b"p" * 16, 100_000, bytes(32))
    client.say(wire.Submit(call, 1, 0, False, late))
    assert DropPayload(late.payload_id) in driver.effects
    assert client.status(call) == "succeeded"


def test_a_client_that_says_hello_on_a_second_connection_is_served_there() -> None:
    driver = Driver()
    client = driver.client()
    old, client.peer = client.peer, driver.new_peer()
    driver.clients[client.peer] = client
    client.hello()
    driver.transmit(old, wire.ClientBeat(9, 0))
    assert client.of(wire.Refused)[-1].code == "hello_first"
    assert len(driver.cluster.sessions) == 1


def test_a_session_unheard_for_half_a_minute_is_ended() -> None:
    driver = Driver()
    client, agent = warm(driver)
    client.submit()
    del driver.clients[client.peer]
    driver.advance(29)
    assert not agent.cancelled
    driver.advance(2)
    assert agent.cancelled
    assert not driver.cluster.sessions
    agent.complete()
    assert not agent.held


def test_a_goodbye_cancels_what_is_unfinished_and_keeps_nothing() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=1000), driver.client()
    client.declare(queue_timeout=60, overall_timeout=60)
    client.submit()
    client.submit()
    client.say(wire.Goodbye("done"))
    assert agent.cancelled
    assert not driver.cluster.sessions
    assert driver.pool().queued == 0
    assert driver.cluster.timers.entry_count() == 2  # the node's, and the pool's that looks again once more


def test_payloads_are_dropped_when_nobody_needs_them() -> None:
    driver = Driver()
    client, agent = warm(driver)
    reference = wire.Reference(b"r" * 16, 1 << 20, b"d" * 32)
    client.say(wire.Submit(2, 1, 0, False, reference))
    assert agent.attempts
    assert driver.done(ClaimPayload) == [ClaimPayload(b"r" * 16)]
    assert not driver.done(DropPayload)
    agent.complete()
    assert driver.done(DropPayload) == [DropPayload(b"r" * 16)]


def test_what_is_not_taken_claims_no_payload() -> None:
    """Nothing would ever drop it: it is to expire, unless its sender is taken at its word before."""
    driver = Driver()
    client = driver.client()
    client.declare()
    large = wire.Reference(b"r" * 16, 1 << 20, b"d" * 32)
    client.say(wire.Submit(1, 2, 0, False, large))  # of a function whose declaration is lost
    client.say(client.declared[1]._replace(body=large))  # a number that is in use
    driver.transmit(driver.new_peer(), wire.Submit(1, 1, 0, False, large))  # from who has not said hello
    assert not driver.done(ClaimPayload)


def test_a_large_function_is_claimed_until_its_session_ends() -> None:
    driver = Driver()
    client = driver.client()
    client.declare()
    body = wire.Reference(b"b" * 16, 1 << 20, b"d" * 32)
    client.say(client.declared[1]._replace(function_number=2, body=body))
    assert driver.done(ClaimPayload) == [ClaimPayload(body.payload_id)]
    client.say(wire.Goodbye("done"))
    assert driver.done(DropPayload) == [DropPayload(body.payload_id)]


def test_functions_that_a_client_forgets_are_forgotten_unless_a_call_of_theirs_is_unfinished() -> None:
    driver = Driver()
    client, agent = warm(driver)
    body = wire.Reference(b"b" * 16, 1 << 20, b"d" * 32)
    client.say(client.declared[1]._replace(function_number=2, body=body))
    client.declare("m:other", requirements=("never-called",))
    client.submit(1)
    session = driver.cluster.sessions[client.session_id]
    client.say(wire.ForgetFunctions((1, 2, 2, 3, 4)))
    assert list(session.functions) == [1]
    assert driver.done(DropPayload) == [DropPayload(body.payload_id)]
    assert len(driver.cluster.environments) == 1
    agent.complete()
    client.say(wire.ForgetFunctions((1,)))
    assert not session.functions
    client.submit(1)
    assert driver.core.oversteps() == {client.peer: 1}


def test_outcomes_are_repeated_the_less_often_the_older_they_are() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    agent.complete()
    times = []
    for second in range(0, 100, 2):
        before = len(client.outcomes(call))
        driver.advance(2)
        if len(client.outcomes(call)) > before:
            times.append(second + 2)
    assert times == [2, 4, 8, 16, 32, 62, 92]


def test_no_more_outcomes_are_repeated_in_one_go_than_a_link_may_take() -> None:
    driver = Driver()
    client, agent = warm(driver)
    result = bytes(60_000)
    calls = [client.submit() for _ in range(400)]
    while agent.runnable():
        agent.complete(result=result)
    heard = len(client.of(wire.Outcome))
    driver.advance(2.1)
    repeated = [outcome.call_number for outcome in client.of(wire.Outcome)[heard:]]
    assert repeated == calls[: len(repeated)]
    assert 16_000_000 < len(repeated) * len(result) < 17_000_000
    driver.advance(2)
    repeated = [outcome.call_number for outcome in client.of(wire.Outcome)[heard:]]
    assert set(repeated) == set(calls), "the others' turn has come"


def test_a_beat_names_what_never_arrived() -> None:
    driver = Driver()
    client, _agent = warm(driver)
    driver.lose(wire.Submit)
    lost = client.submit()
    client.submit()
    client.beat()
    assert client.of(wire.ClientBeatReply)[-1].missing == (lost,)
    client.submit(number=lost)
    client.last += 1
    client.beat()
    assert client.of(wire.ClientBeatReply)[-1].missing == (client.last,)


def test_a_call_of_an_unknown_function_is_named_as_missing_until_it_is_declared() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    driver.lose(wire.DeclareFunction)
    client.declare()
    call = client.submit()
    client.beat()
    assert client.of(wire.ClientBeatReply)[-1].missing == (call,)
    client.say(client.declared[1])
    client.submit(number=call)
    client.beat()
    assert client.of(wire.ClientBeatReply)[-1].missing == ()


def test_a_call_submitted_twice_runs_once() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    client.submit(number=call)
    agent.complete()
    client.submit(number=call)
    client.acknowledge(call)
    client.submit(number=call)
    agent.complete()
    assert len(client.outcomes(call)) == 2
    assert len(agent.executed) == 2


def test_calls_far_beyond_the_credit_are_not_taken() -> None:
    driver = Driver(credit_calls=2)
    client = driver.client()
    assert client.of(wire.Welcome)[-1].credit_calls == 2
    client.declare()
    for _ in range(6):
        client.submit()
    assert len(driver.cluster.sessions[client.session_id].calls) == 3
    client.beat()
    assert client.of(wire.ClientBeatReply)[-1].missing == (4, 5, 6)


def test_a_spec_that_cannot_be_read_refuses_in_words() -> None:
    driver = Driver()
    client = driver.client()
    client.declare()
    client.say(client.declared[1]._replace(function_number=2, spec=b"{}"))
    assert client.of(wire.Refused)[-1].code == "bad_spec"


def test_too_many_functions_are_refused() -> None:
    driver = Driver(functions_per_session_max=1)
    client = driver.client()
    client.declare("module:a")
    client.declare("module:b")
    assert client.of(wire.Refused)[-1].code == "too_many_functions"


def test_a_full_scheduler_refuses_strangers_and_not_those_it_knows() -> None:
    driver = Driver(sessions_max=1)
    client = driver.client()
    client.declare()
    stranger = driver.client("t")
    assert stranger.of(wire.Refused)[-1].code == "too_many_sessions"
    client.hello()
    assert client.of(wire.Welcome)[-1].known


def test_received_of_an_unfinished_call_changes_nothing() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    client.acknowledge(call, 99)
    agent.complete()
    assert client.status(call) == "succeeded"


def test_cancelling_an_unknown_call_changes_nothing() -> None:
    driver = Driver()
    client, _ = warm(driver)
    client.cancel(99)
    assert not client.outcomes(99)


def test_a_pool_is_forgotten_with_its_last_user_and_its_last_instance() -> None:
    """Else a cluster that runs for months remembers every combination of options that it ever saw."""
    driver = Driver()
    client, _ = warm(driver, keep_alive=5)
    client.say(wire.Goodbye("done"))
    assert len(driver.cluster.pools) == 1  # its instance is leased still
    driver.advance(10)
    assert not driver.instances
    assert not driver.cluster.pools
    again = driver.client("t")
    again.declare()
    again.submit()
    assert len(driver.cluster.pools) == 1
