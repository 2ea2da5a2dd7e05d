"""After a restart of the scheduler: nothing runs twice that need not, and no lease is shortened."""

import pytest

from keepwarm_scheduler.config import CoreConfig
from keepwarm_scheduler.core.effects import ClaimPayload, DropPayload, ForgetNode
from keepwarm_wire import messages as wire
from support.scheduler_driver import BEAT_NS, Agent, Client, Driver, warm

TICK_NS = CoreConfig().tick_ns
LARGE = wire.Reference(b"r" * 16, 1 << 20, b"d" * 32)


def running(driver: Driver, **changes: object) -> tuple[Client, Agent, int]:
    agent, client = driver.agent(), driver.client()
    client.declare(**changes)  # type: ignore[arg-type]
    return client, agent, client.submit()


def reconnect(client: Client) -> None:
    """Say hello to a scheduler that knows nothing: declare and submit again what is unanswered."""
    client.hello()
    assert client.of(wire.Welcome)[-1].known is False
    for declaration in client.declared.values():
        client.say(declaration)
    for number in client.submitted:
        if not client.outcomes(number):
            client.submit(number=number, resent=True, function=client.submitted[number].function_number)


def test_a_call_sent_again_waits_for_the_nodes_of_the_last_epoch() -> None:
    driver = Driver()
    client, agent, call = running(driver)
    agent.disconnect(noticed=False)
    driver.restart()
    driver.agent("b")
    reconnect(client)
    driver.advance(9)
    assert len(driver.of(wire.Dispatch)) == 1
    agent.connect()
    assert len(driver.of(wire.Dispatch)) == 1
    agent.complete()
    assert client.status(call) == "succeeded"


def test_a_call_sent_again_runs_anew_after_a_grace_of_ten_seconds() -> None:
    driver = Driver()
    client, agent, call = running(driver)
    agent.disconnect(noticed=False)
    driver.restart()
    other = driver.agent("b")
    reconnect(client)
    driver.advance(10.1)
    other.complete()
    assert client.status(call) == "succeeded"
    assert ForgetNode("a") in driver.effects


def test_a_call_sent_again_runs_at_once_when_there_was_no_node() -> None:
    driver = Driver()
    client = driver.client()
    client.declare()
    call = client.submit()
    driver.restart()
    agent = driver.agent()
    reconnect(client)
    agent.complete()
    assert client.status(call) == "succeeded"


def come_back(client: Client, agent: Agent, first: str) -> None:
    """Both find the scheduler that was started anew, ``first`` the one."""
    for who in (first, "client" if first == "agent" else "agent"):
        if who == "agent":
            agent.beats()
        else:
            reconnect(client)


@pytest.mark.parametrize("first", ["agent", "client"])
def test_a_running_attempt_is_adopted_whoever_is_back_first(first: str) -> None:
    driver = Driver()
    client, agent, call = running(driver)
    driver.restart()
    come_back(client, agent, first)
    assert not agent.cancelled
    agent.complete(result=b"once")
    assert client.outcome(call).result == b"once"
    client.acknowledge(call)
    driver.advance(5)
    assert len(agent.executed) == 1
    assert not agent.held


@pytest.mark.parametrize("first", ["agent", "client"])
def test_an_outcome_that_the_node_kept_is_taken(first: str) -> None:
    driver = Driver()
    client, agent, call = running(driver)
    driver.lose(wire.AttemptDone)
    agent.complete(result=b"kept")
    driver.restart()
    come_back(client, agent, first)
    driver.advance(3)
    assert client.outcome(call).result == b"kept"
    client.acknowledge(call)
    driver.advance(5)
    assert len(agent.executed) == 1
    assert not agent.held


@pytest.mark.parametrize("first", ["agent", "client"])
@pytest.mark.parametrize("kind", ["process_died", "user_exception"])
def test_a_failure_that_the_node_kept_is_retried_as_any_other(first: str, kind: str) -> None:
    driver = Driver()
    client, agent, call = running(driver, retries=wire.RetryLimits(exceptions=1, crash=1))
    driver.lose(wire.AttemptDone)
    agent.complete(status=wire.Status.FAILED, failure=wire.Failure(kind, "It failed."))
    driver.restart()
    come_back(client, agent, first)
    driver.advance(3)
    assert not client.outcomes(call)
    assert len(agent.runnable()) == 1
    agent.complete(status=wire.Status.FAILED, failure=wire.Failure(kind, "It failed again."))
    failure = client.outcome(call).failure
    assert failure is not None
    assert failure.message == "It failed again."
    client.acknowledge(call)
    driver.advance(15)
    assert not agent.held
    assert not driver.cluster.recovering


def test_the_attempt_of_a_client_that_does_not_return_is_cancelled_after_half_a_minute() -> None:
    driver = Driver()
    _client, agent, _call = running(driver)
    driver.clients.clear()
    driver.restart()
    agent.beats()
    driver.advance(29)
    assert not agent.cancelled
    driver.advance(2)
    assert agent.cancelled
    agent.complete()
    driver.advance(40)
    assert not agent.held
    assert not driver.cluster.unclaimed
    assert not driver.cluster.held


def test_a_client_that_returns_after_its_attempt_was_cancelled_has_its_call_run_again() -> None:
    driver = Driver()
    client, agent, call = running(driver)
    driver.clients.clear()
    driver.restart()
    agent.beats()
    driver.advance(31)
    driver.clients[client.peer] = client
    reconnect(client)
    agent.complete()
    agent.complete()
    assert client.status(call) == "succeeded"


def test_an_outcome_of_a_client_that_does_not_return_is_given_up() -> None:
    driver = Driver()
    _client, agent, _call = running(driver)
    agent.complete()
    driver.clients.clear()
    driver.restart()
    agent.beats()
    driver.advance(29)
    assert agent.held
    driver.advance(4)
    assert not agent.held


def kept_over_a_restart(driver: Driver) -> int:
    """A node has kept the large result of a call over a restart of the scheduler; the call's client is not back yet."""
    _client, agent, call = running(driver)
    driver.lose(wire.AttemptDone)
    agent.complete(result=LARGE)
    driver.clients.clear()
    driver.restart()
    agent.beats()
    return call


def test_a_large_result_that_is_kept_for_a_client_is_claimed_until_it_is_given_up() -> None:
    driver = Driver()
    kept_over_a_restart(driver)
    assert driver.done(ClaimPayload) == [ClaimPayload(LARGE.payload_id)]
    assert not driver.done(DropPayload)
    driver.advance(33)
    assert len(driver.done(DropPayload)) == len(driver.done(ClaimPayload)), "as often as it was claimed"


def test_an_outcome_that_was_given_up_is_settled_again_if_the_node_has_not_heard_of_it() -> None:
    """Its bytes are dropped by then: nothing that the node repeats may ask for them."""
    driver = Driver()
    _client, agent, _call = running(driver)
    agent.complete()
    (kept,) = agent.held.values()
    driver.clients.clear()
    driver.restart()
    agent.beats()
    driver.advance(33)
    settled = len(agent.of(wire.Final))
    assert not driver.core.wants_result(kept)
    agent.say(kept)
    driver.settle()
    assert agent.of(wire.Final)[settled:] == [wire.Final((kept.attempt,))]
    assert not driver.cluster.held


def test_a_cancelled_call_sent_again_is_cancelled_where_it_runs() -> None:
    driver = Driver()
    client, agent, call = running(driver)
    driver.restart()
    reconnect(client)
    client.cancel(call)
    assert client.status(call) == "cancelled"
    agent.beats()
    assert agent.cancelled


def test_a_restart_shortens_no_lease_and_lengthens_it_by_no_more_than_a_tick() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=60)
    driver.advance(7)
    driver.restart(after_s=5)
    agent.beats()
    driver.advance(60)
    (ending,) = agent.endings
    assert ending.cause == "expired"
    assert 0 <= ending.at_ns - ending.lease_end_ns < 100_000_000


def test_a_warm_instance_of_the_last_epoch_serves_at_once() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    driver.restart()
    agent.beats()
    reconnect(client)
    call = client.submit()
    agent.complete()
    assert client.status(call) == "succeeded"
    assert len(driver.of(wire.StartInstance)) == 1


@pytest.mark.parametrize(("is_told", "late_ns"), [(True, TICK_NS), (False, BEAT_NS)])
def test_an_instance_that_was_starting_keeps_the_term_it_was_started_for(is_told: bool, late_ns: int) -> None:
    """To the tick. Agents of an earlier version tell of it only once the instance is ready: a beat late then."""
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    agent.tells_terms_of_starts = is_told
    client.declare(keep_alive=0.3)
    client.submit()
    driver.clients.clear()
    driver.restart()
    agent.beats()
    driver.advance(0.5)
    agent.started()
    driver.advance(15)
    (ending,) = agent.endings
    assert ending.cause == "expired"
    assert 0 <= ending.at_ns - ending.lease_end_ns <= late_ns


def test_the_end_of_an_unclaimed_attempt_shortens_no_lease() -> None:
    driver = Driver()
    _client, agent, _call = running(driver, keep_alive=100)
    driver.clients.clear()
    driver.restart()
    agent.beats()
    agent.complete()
    driver.advance(103)
    (ending,) = agent.endings
    assert ending.cause == "expired"
    assert ending.at_ns >= ending.lease_end_ns


def test_what_adopted_instances_hold_is_booked_once_their_pool_is_known() -> None:
    driver = Driver()
    agent, client = driver.agent(gpu=1000), driver.client()
    client.declare(gpu=1000, keep_alive=600)
    client.submit()
    driver.restart()
    agent.beats()
    assert driver.node().free["gpu"] == 1000
    reconnect(client)
    client.submit()
    free = driver.node().free
    assert (free["gpu"], free["cpu"]) == (0, 3000)
    agent.complete()
    agent.complete()
    assert len(driver.of(wire.StartInstance)) == 1
    agent.die(next(iter(agent.instances)))
    driver.settle()
    assert driver.node().free == driver.node().capacity


def test_a_private_instance_found_after_its_call_serves_no_other() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare(keep_alive=0)
    call = client.submit()
    agent.disconnect(noticed=False)
    agent.complete()
    driver.restart()
    agent.connect()
    reconnect(client)
    second = client.submit()
    agent.complete()
    driver.advance(3)
    agent.complete()
    assert client.status(call) == client.status(second) == "succeeded"
    assert len({d.instance_id for d in driver.of(wire.Dispatch)}) == 2


def test_a_second_restart_before_anyone_is_back_still_waits() -> None:
    driver = Driver()
    client, agent, call = running(driver)
    driver.restart()
    driver.restart(nodes=("a",))
    reconnect(client)
    agent.beats()
    agent.complete()
    assert client.status(call) == "succeeded"
    assert len(agent.executed) == 1


def test_an_adopted_call_with_keep_alive_0_releases_its_instance() -> None:
    driver = Driver()
    client, agent, call = running(driver, keep_alive=0, env_vars=(wire.Pair("A", "b"),))
    driver.restart()
    agent.beats()
    assert not driver.pool().is_private  # known by its key alone
    reconnect(client)
    agent.complete()
    assert client.status(call) == "succeeded"
    assert [ending.cause for ending in agent.endings] == ["released"]


def test_a_large_result_that_was_kept_for_a_client_goes_once_the_client_has_it() -> None:
    """It is claimed twice, while it is kept and for its call, and is dropped as often."""
    driver = Driver()
    call = kept_over_a_restart(driver)
    client = driver.client()
    client.declare()
    client.submit(number=call, resent=True)
    assert client.outcome(call).result == LARGE
    client.acknowledge(call)
    assert driver.done(ClaimPayload) == [ClaimPayload(LARGE.payload_id)] * 2
    assert driver.done(DropPayload) == [DropPayload(LARGE.payload_id)] * 2
