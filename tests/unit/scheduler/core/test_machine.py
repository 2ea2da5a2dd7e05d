"""The whole core: hellos, administration, and how a local cluster ends itself."""

import json

import pytest

from keepwarm_scheduler.core.effects import StopProcess
from keepwarm_scheduler.core.events import LOCAL, PeerLost, PeerMessage, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_wire import messages as wire
from support.scheduler_driver import SECOND_NS, Driver, warm

ADMIN = b"admin"


def admin(driver: Driver, *messages: wire.Message) -> list[wire.Message]:
    """What an administrator hears who says hello and then this."""
    for message in (wire.AdminHello(1, 1, "test"), *messages):
        driver.transmit(ADMIN, message)
    return [message for peer, message in driver.other if peer == ADMIN]


@pytest.mark.parametrize(
    "message", [wire.Submit(1, 1, 0, False, b""), wire.AgentBeatReply(1, 1), wire.StatusRequest(1), wire.Received((1,))]
)
def test_whoever_has_not_said_hello_is_told_to(message: wire.Message) -> None:
    driver = Driver()
    driver.transmit(b"stranger", message)
    ((peer, answer),) = driver.other
    assert peer == b"stranger"
    assert answer.code == "hello_first"


def test_a_client_may_not_speak_as_an_agent() -> None:
    driver = Driver()
    client = driver.client()
    client.say(wire.AttemptStarted(1))
    assert client.of(wire.Refused)[-1].code == "hello_first"


@pytest.mark.parametrize(
    "hello",
    [
        wire.ClientHello(90, 91, "future", b"s" * 16, "", 0),
        wire.AgentHello(90, 91, "future", "a", b"i" * 16, "p", (), (), (), 0),
        wire.AdminHello(90, 91, "future"),
    ],
)
def test_a_peer_of_another_protocol_is_refused_in_words(hello: wire.Message) -> None:
    driver = Driver()
    driver.transmit(b"stranger", hello)
    ((_, answer),) = driver.other
    assert "version" in answer.code
    assert answer.reason
    assert not driver.cluster.sessions
    assert not driver.cluster.nodes


def test_status_is_a_document() -> None:
    driver = Driver()
    warm(driver)
    welcome, reply = admin(driver, wire.StatusRequest(7))
    assert isinstance(welcome, wire.Welcome)
    assert reply.request_number == 7
    assert json.loads(reply.document)["epoch"] == 1


def test_a_busy_cluster_refuses_to_stop() -> None:
    driver = Driver()
    client, _agent = warm(driver)
    client.submit()
    assert admin(driver, wire.StopCluster(False))[-1] == wire.StopRefused(1)
    assert not driver.done(StopProcess)


@pytest.mark.parametrize("force", [True, False])
def test_a_cluster_stops_when_told_and_tells_everyone(force: bool) -> None:
    driver = Driver()
    client, agent = warm(driver)
    if force:
        client.submit()
    assert isinstance(admin(driver, wire.StopCluster(force))[-1], wire.Goodbye)
    assert client.of(wire.Goodbye)
    assert agent.said_goodbye
    assert len(driver.done(StopProcess)) == 1


def test_an_administrator_who_leaves_has_to_say_hello_again() -> None:
    driver = Driver()
    admin(driver, wire.Goodbye("done"), wire.StatusRequest(1))
    assert driver.other[-1][1].code == "hello_first"
    admin(driver)
    driver.feed(PeerLost(ADMIN))
    driver.transmit(ADMIN, wire.StatusRequest(1))
    assert driver.other[-1][1].code == "hello_first"


def leave(driver: Driver) -> None:
    for client in list(driver.clients.values()):
        client.say(wire.Goodbye("done"))
    driver.clients.clear()


def test_a_local_cluster_ends_itself_once_the_last_lease_is_over() -> None:
    driver = Driver(local=True)
    warm(driver, keep_alive=10)
    leave(driver)
    driver.advance(9)
    assert not driver.done(StopProcess)
    driver.advance(2.5)
    assert len(driver.done(StopProcess)) == 1


def test_a_local_cluster_with_an_endless_lease_stays() -> None:
    driver = Driver(local=True)
    warm(driver, keep_alive=None)
    leave(driver)
    driver.advance(3600)
    assert not driver.done(StopProcess)


def test_a_local_cluster_stays_while_a_client_is_connected() -> None:
    driver = Driver(local=True)
    driver.client()
    driver.advance(3600)
    assert not driver.done(StopProcess)


def test_a_client_that_comes_in_the_last_moment_keeps_a_local_cluster() -> None:
    driver = Driver(local=True)
    driver.client()
    leave(driver)
    driver.advance(0.9)
    driver.client("t")
    driver.advance(60)
    assert not driver.done(StopProcess)


def test_a_local_cluster_that_nobody_ever_joins_ends_itself() -> None:
    driver = Driver(local=True)
    driver.advance(29)
    assert not driver.done(StopProcess)
    driver.advance(3)
    assert len(driver.done(StopProcess)) == 1


def test_a_cluster_started_by_hand_never_ends_itself() -> None:
    driver = Driver()
    driver.client()
    leave(driver)
    driver.advance(3600)
    assert not driver.done(StopProcess)


def test_being_stopped_from_outside_says_goodbye() -> None:
    driver = Driver()
    _client, _agent = warm(driver)
    effects = driver.core.stop("told to")
    assert sum(isinstance(getattr(effect, "message", None), wire.Goodbye) for effect in effects) == 2
    assert effects[-1] == StopProcess("told to")


def test_time_never_runs_backwards() -> None:
    core = SchedulerCore(Driver().config, 1, b"c" * 16, 5 * SECOND_NS)
    core.handle(4 * SECOND_NS, Tick())
    assert core.cluster.now_ns == 5 * SECOND_NS


def test_a_deadline_at_the_clocks_zero_is_a_deadline() -> None:
    core = SchedulerCore(Driver().config, 1, b"c" * 16, 0)
    assert core.next_deadline() is None
    core.cluster.leases.schedule(1, 0)
    assert core.next_deadline() == 0
    core.handle(0, Tick())
    assert core.next_deadline() is None


def test_more_expiries_than_fit_a_turn_are_taken_in_the_next() -> None:
    driver = Driver(expiries_per_turn_max=1)
    agent, client = driver.agent(), driver.client()
    client.declare()
    for _ in range(3):
        client.submit()
    agent.complete()
    driver.advance(11)
    assert len(agent.endings) == 3


def test_the_same_events_have_the_same_effects() -> None:
    def run() -> list[object]:
        driver = Driver()
        for name in ("a", "b", "c"):
            driver.agent(name)
        client = driver.client()
        for n in range(4):
            client.declare(f"module:f{n}", memory_bytes=(256 + n) << 20)
        for n in range(20):
            client.submit(1 + n % 4)
        driver.advance(5)
        for agent in driver.agents.values():
            agent.complete()
        driver.advance(60)
        return list(driver.effects)

    assert run() == run()


def test_an_event_from_a_connection_that_is_gone_changes_nothing() -> None:
    driver = Driver()
    client = driver.client()
    client.declare()
    driver.feed(PeerLost(client.peer))
    driver.feed(PeerLost(client.peer))
    driver.feed(PeerMessage(client.peer, LOCAL, wire.Goodbye("")))
    assert client.session_id in driver.cluster.sessions
