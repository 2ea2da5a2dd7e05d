"""What peers say beyond what honest ones say: it is bounded, harms nobody else, and is counted against them."""

import pytest

from keepwarm_scheduler.core import beats, calls, sessions
from keepwarm_scheduler.core.events import LOCAL, Principal
from keepwarm_wire import messages as wire
from keepwarm_wire.identifiers import token
from support.scheduler_driver import BEAT_NS, Client, Driver, options, warm

ANN = Principal("ann's key", "client", "default")
BOB = Principal("bob's key", "client", "default")
EVE = Principal("eve's key", "client", "other")


def client_of(driver: Driver, principal: Principal, name: str) -> Client:
    driver.joining = principal
    client = driver.client(name)
    driver.joining = LOCAL
    return client


def blame(driver: Driver, client: Client) -> int:
    """What was said too much since the last look."""
    return driver.core.oversteps().get(client.peer, 0)


# ---------------------------------------------------------------- sessions


@pytest.mark.parametrize("other", [BOB, EVE])
def test_a_session_is_its_keys_alone(other: Principal) -> None:
    driver = Driver()
    driver.agent()
    ann = client_of(driver, ANN, "s")
    call = ann.submit(ann.declare())
    thief = client_of(driver, other, "s")
    assert thief.of(wire.Refused)[0].code == "forbidden"
    thief.cancel(call)
    thief.say(wire.Goodbye(""))
    assert not thief.of(wire.Outcome)
    assert ann.session_id in driver.cluster.sessions
    driver.agents[next(iter(driver.agents))].complete()
    assert ann.status(call) == "succeeded"


def test_one_key_leaves_room_for_the_sessions_of_others() -> None:
    driver = Driver(sessions_per_key_max=3)
    for number in range(5):
        client_of(driver, ANN, f"a{number}")
    assert len(driver.cluster.sessions) == 3
    assert client_of(driver, BOB, "b").of(wire.Welcome)
    for number in range(5):
        assert driver.client(f"l{number}").of(wire.Welcome), "without keys there is one user only"
    first = next(client for client in driver.clients.values() if client.session_id.startswith(b"a0"))
    first.say(wire.Goodbye("done"))
    assert client_of(driver, ANN, "a9").of(wire.Welcome)


def test_a_connection_is_one_sessions_at_a_time() -> None:
    driver = Driver()
    client = client_of(driver, ANN, "one")
    client.declare()
    client.say(wire.ClientHello(1, 1, "test", b"t" * 16, "two", 0))
    assert driver.cluster.sessions[client.session_id].peer == b""
    assert driver.cluster.sessions[b"t" * 16].peer == client.peer


def test_a_repeated_hello_on_one_connection_repeats_no_outcomes() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    agent.complete()
    client.hello()
    client.hello()
    assert len(client.outcomes(call)) == 1


# ---------------------------------------------------------------- calls


def test_beats_that_come_too_often_are_not_answered_and_counted() -> None:
    driver = Driver()
    client = driver.client()
    for _ in range(100):
        client.beat()
    assert len(client.of(wire.ClientBeatReply)) == 8
    assert blame(driver, client) == 92 * 10
    driver.advance(BEAT_NS / 1e9, beats=False)
    client.beat()
    assert len(client.of(wire.ClientBeatReply)) == 9


def test_numbers_with_gaps_without_end_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_GAPS_MAX", 10)
    driver = Driver()
    client = driver.client()
    number = client.declare()
    client.acknowledge(*range(2, 200, 2))
    session = driver.cluster.sessions[client.session_id]
    assert session.seen.gaps == 10
    assert blame(driver, client) == 99  # as many as the message named
    client.submit(number, number=301)
    assert not session.calls
    assert blame(driver, client) == 10
    assert session.seen.gaps == 10


def test_acknowledgements_of_calls_that_never_were_are_counted_once_each() -> None:
    """A fourth of them: after a restart an honest client has a few."""
    driver = Driver()
    client = driver.client()
    client.acknowledge(*range(1, 1_001))
    assert blame(driver, client) == 250
    client.acknowledge(*range(1, 1_001))
    client.acknowledge(1_001, 1_002, 1_003)
    assert blame(driver, client) == 0


def test_calls_beyond_the_credit_and_of_unknown_functions_are_counted() -> None:
    driver = Driver(credit_calls=2)
    client = driver.client()
    client.submit(7)
    assert blame(driver, client) == 1
    number = client.declare()
    for _ in range(4):
        client.submit(number)
    assert blame(driver, client) == 10
    assert driver.core.oversteps() == {}


def test_a_function_with_too_much_text_is_refused() -> None:
    """A start repeats it to every node."""
    driver = Driver()
    client = driver.client()
    variables = tuple(wire.Pair(f"V{number}", "x" * 65_000) for number in range(20))
    client.declare(env_vars=variables)
    assert client.of(wire.Refused)[0].code == "too_large"
    assert not driver.cluster.sessions[client.session_id].functions


def test_what_nobody_declares_any_more_is_forgotten() -> None:
    driver = Driver()
    first, second = driver.client("1"), driver.client("2")
    for number in range(20):
        first.declare(f"m:f{number}", requirements=(f"p{number}",))
    second.declare(requirements=("p3",))
    assert len(driver.cluster.environments) == 20
    first.say(wire.Goodbye("done"))
    assert len(driver.cluster.environments) == len(driver.cluster.families) == 1
    second.say(wire.Goodbye("done"))
    assert not driver.cluster.environments
    assert not driver.cluster.families


def test_a_resolved_environment_is_remembered_without_anybody_who_uses_it() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    client.submit(client.declare(requirements=("x",)))
    client.say(wire.Goodbye("done"))
    assert len(driver.cluster.environments) == 1


def test_nodes_take_a_function_of_one_namespace_for_no_other_namespaces() -> None:
    """Its version is what its client says: the same word from elsewhere may stand for other bytes."""
    driver = Driver()
    agent = driver.agent()
    for principal, name in ((ANN, "a"), (EVE, "e"), (BOB, "b")):
        client = client_of(driver, principal, name)
        client.submit(client.declare(version=b"v" * 32))
        driver.advance(1.0)
        agent.complete()
    ann, eve, bob = (dispatch.version for dispatch in agent.of(wire.Dispatch))
    assert ann == bob
    assert ann != eve


# ---------------------------------------------------------------- nodes


def test_a_status_that_means_nothing_is_the_nodes_failure() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    (attempt,) = agent.attempts
    agent.complete(status=99)
    outcome = client.outcome(call)
    assert outcome.status == wire.Status.FAILED
    assert outcome.failure is not None
    assert outcome.failure.kind == "bad_outcome"
    assert attempt not in driver.cluster.attempts


def test_an_agents_long_words_still_fit_when_some_are_added() -> None:
    driver = Driver()
    client, agent = warm(driver, retries=wire.RetryLimits(crash=9))
    call = client.submit()
    for _ in range(3):
        agent.complete(status=wire.Status.FAILED, failure=wire.Failure("process_died", "x" * 8192))
        driver.advance(30)
        agent.started()
    assert client.status(call) == "poisoned"


def state_of(instance_id: int) -> wire.InstanceState:
    return wire.InstanceState(instance_id, b"p" * 32, "e", "idle", 0, 1, 1, 0, (), ())


@pytest.mark.parametrize(
    "instance_id", [token(1, 900), token(2, 1), (1 << 63) - 1], ids=["later", "next epoch", "huge"]
)
def test_an_instance_that_was_never_started_is_not_adopted(instance_id: int) -> None:
    driver = Driver()
    _, agent = warm(driver)
    known = dict(driver.cluster.instances)
    agent.say(agent_beat(state_of(instance_id), number=50))
    driver.settle()
    assert instance_id not in driver.cluster.instances
    assert instance_id not in known


def agent_beat(*instances: wire.InstanceState, number: int) -> wire.AgentBeat:
    return wire.AgentBeat(number, 0, instances, (), (), (), wire.NodeLoad(0, 1 << 33, 1 << 33))


def test_an_instance_of_another_node_stays_there() -> None:
    driver = Driver()
    warm(driver)
    (instance,) = driver.instances
    thief = driver.agent("thief")
    thief.say(agent_beat(state_of(instance.instance_id), number=50))
    driver.settle()
    assert instance.node.name == "a"
    assert driver.cluster.instances[instance.instance_id] is instance
    assert not driver.node("thief").instances


def test_an_agents_word_for_instances_without_end_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "_INSTANCES_PER_NODE_MAX", 5)
    driver = Driver()
    agent = driver.agent()
    agent.say(agent_beat(*[state_of(number) for number in range(1, 50)], number=50))
    driver.settle()
    assert len(driver.instances) == 5


def test_outcomes_of_an_earlier_epoch_are_held_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_HELD_PER_NODE_MAX", 3)
    driver = Driver(epoch=2)
    agent, other = driver.agent("a"), driver.agent("b")
    for node in (agent, other):
        for number in range(1, 6):
            attempt = token(1, number + (10 if node is other else 0))
            node.say(wire.AttemptDone(attempt, node.name.encode() * 16, number, 1, 1, 0, b"", None, 0, 0, False))
        driver.settle()
    assert driver.cluster.held_of == {"a": 3, "b": 3}
    assert len(driver.cluster.given_up) == 4
    driver.advance(40)
    assert not driver.cluster.held
    assert not driver.cluster.held_of


def test_a_node_that_speaks_of_what_it_has_not_is_counted() -> None:
    driver = Driver()
    agent = driver.agent()
    driver.core.oversteps()
    for message in (
        wire.AttemptStarted(9),
        wire.AttemptRefused(9, 9, "gone"),
        wire.AttemptOutput(9, 1, b"", 0),
        wire.AttemptDone(token(driver.cluster.epoch, 9), b"s" * 16, 1, 1, 1, 0, b"", None, 0, 0, False),
        wire.InstanceReady(9, 1, True, 0, 0),
        wire.InstanceBusy(9, 1),
        wire.InstanceEnded(9, "died", None, False),
        wire.InstanceProgress(9, "building", ""),
    ):
        agent.say(message)
    driver.settle()
    assert driver.core.oversteps() == {agent.peer: 8}


def test_an_outcome_that_is_repeated_until_its_client_has_it_is_nobodys_fault() -> None:
    driver = Driver()
    client, agent = warm(driver)
    driver.core.oversteps()
    client.submit()
    agent.complete()
    assert agent.held, "its client has not said yet that it has it"
    driver.node().pardons = 0
    for done in (*agent.held.values(),) * 3:
        agent.say(done)
    driver.settle()
    assert driver.core.oversteps() == {}
    assert agent.held


def test_what_a_node_says_of_calls_that_nobody_waits_for_any_more_is_nobodys_fault() -> None:
    driver = Driver()
    client, agent = warm(driver)
    driver.core.oversteps()
    client.submit()
    client.say(wire.Goodbye("done"))
    agent.complete()
    assert driver.core.oversteps() == {}


def test_a_node_is_pardoned_a_few_words_for_each_attempt_and_no_more() -> None:
    driver = Driver()
    agent = warm(driver)[1]
    pardons = driver.node().pardons
    assert pardons > 0
    driver.core.oversteps()
    for _ in range(pardons + 3):
        agent.say(wire.AttemptStarted(9))
    driver.settle()
    assert driver.core.oversteps() == {agent.peer: 3}


def test_an_outcome_of_an_earlier_scheduler_is_nobodys_fault() -> None:
    driver = Driver(epoch=2)
    agent = driver.agent()
    driver.core.oversteps()
    agent.say(wire.AttemptDone(token(1, 9), b"s" * 16, 1, 1, 1, 0, b"", None, 0, 0, False))
    driver.settle()
    assert driver.core.oversteps() == {}
    assert len(driver.cluster.held) == 1


def test_beats_of_a_node_that_come_too_often_weigh_more() -> None:
    driver = Driver()
    agent = driver.agent()
    driver.core.oversteps()
    driver.advance(0.2, beats=False)
    for _ in range(3):
        agent.beats()
    assert driver.core.oversteps() == {agent.peer: 200}


def test_a_node_with_too_much_text_is_refused() -> None:
    driver = Driver()
    labels = tuple(wire.Pair(f"l{number}", "x" * 65_000) for number in range(20))
    agent = driver.agent(labels=labels)
    assert agent.of(wire.Refused)[0].code == "too_large"
    assert not driver.cluster.nodes


def test_options_of_a_usual_size_are_taken() -> None:
    assert options(env_vars=(wire.Pair("PATH", "/bin"),)).env_vars
