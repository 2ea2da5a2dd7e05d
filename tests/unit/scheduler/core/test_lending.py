"""Loans: what is lent to whom, and how that ends."""

import json

import pytest

from keepwarm_scheduler.core.ahead import find_room
from keepwarm_scheduler.core.events import Principal
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import RetryLimits
from support.scheduler_driver import lenders, shorten

REMOTE = Principal("key", "any", "default")


# ---------------------------------------------------------------- what is lent, and where


def test_a_loan_is_dispatched_as_one_and_its_client_is_told_where() -> None:
    driver, agent, (client,) = lenders()
    loan = client.borrow()
    [instance] = driver.instances
    (lent,) = client.of(wire.Lent)
    assert (lent.call_number, lent.node, lent.instance_id, lent.process_id) == (loan, "a", instance.instance_id, 7)
    assert lent.environment_id == driver.pool().environment_id
    assert lent.attempt == agent.token_of(client, loan)
    assert agent.attempts[lent.attempt].is_loan
    agent.end(client, loan)
    assert client.status(loan) == "succeeded"
    assert not driver.cluster.loans


def test_an_ordinary_call_is_no_loan() -> None:
    _, agent, (client,) = lenders()
    call = client.submit()
    assert not agent.attempts[agent.token_of(client, call)].is_loan
    assert not client.of(wire.Lent)


def test_a_copy_of_a_request_is_no_other_request() -> None:
    driver, _, (client,) = lenders(2)
    loan = client.borrow()
    client.borrow(number=loan)
    assert len(driver.cluster.loans) == 1


def test_a_session_is_told_whether_there_are_loans() -> None:
    driver, _, (client,) = lenders()
    assert client.of(wire.Welcome)[-1].lends
    driver.joining = REMOTE
    assert not driver.client("far").of(wire.Welcome)[-1].lends


@pytest.mark.parametrize("which", ["client", "agent", "agent that cannot"])
def test_nothing_is_lent_unless_all_are_on_one_machine(which: str) -> None:
    driver, agent, (client,) = lenders()
    if which == "agent that cannot":
        driver.agent("b")
    driver.joining = REMOTE
    if which == "agent":
        driver.agent("b", can_lend=True)
    elif which == "client":
        client = driver.client("far")
        client.declare()
    loan = client.borrow()
    assert client.status(loan) == "failed"
    failure = client.outcome(loan).failure
    assert failure is not None
    assert failure.kind == "not_lent"
    assert not agent.runnable()


def test_a_node_elsewhere_ends_all_lending() -> None:
    driver, agent, (one, other) = lenders(2, "AB")
    loans = one.borrow(), other.borrow(), other.borrow()
    driver.joining = REMOTE
    driver.agent("b", can_lend=True)
    assert one.wanted() == [loans[0]]
    assert other.wanted() == [loans[1]]
    assert other.status(loans[2]) == "failed"
    assert not driver.pool().loans
    agent.end(one, loans[0])
    assert one.status(loans[0]) == "succeeded"


def test_a_loan_that_its_node_never_had_is_not_lent_again_once_nothing_is() -> None:
    driver, _, (client,) = lenders()
    driver.lose(wire.Dispatch)
    loan = client.borrow()
    driver.joining = REMOTE
    driver.agent("b", can_lend=True)
    driver.advance(5)
    assert client.status(loan) == "failed"


def test_a_loan_that_its_node_never_had_is_lent_again() -> None:
    driver, agent, (client,) = lenders()
    driver.lose(wire.Dispatch)
    loan = client.borrow()
    driver.advance(5)
    assert len(client.of(wire.Lent)) == 2
    assert agent.has(client, loan)


# ---------------------------------------------------------------- how a loan ends


@pytest.mark.parametrize("kind", ["process_died", "out_of_memory"])
def test_a_loan_whose_process_dies_is_not_retried(kind: str) -> None:
    driver, agent, (client,) = lenders(retries=RetryLimits(crash=3, out_of_memory=3, exceptions=3))
    loan = client.borrow()
    agent.die(driver.instances[0].instance_id, kind)
    driver.settle()
    assert client.status(loan) == "failed"
    assert not driver.cluster.loans


def test_a_loan_that_raises_is_not_retried() -> None:
    _, agent, (client,) = lenders(retries=RetryLimits(exceptions=3))
    loan = client.borrow()
    why = wire.Failure("user_exception", "It did.")
    agent.end(client, loan, status=wire.Status.FAILED, failure=why)
    assert client.status(loan) == "failed"


def test_a_loan_ends_with_its_node() -> None:
    driver, agent, (client,) = lenders(retries=RetryLimits(lost_node=3))
    loan = client.borrow()
    agent.disconnect()
    driver.advance(2)
    assert client.status(loan) == "lost"
    failure = client.outcome(loan).failure
    assert failure is not None
    assert failure.message == "Node a was lost while it ran the call."  # its client knows how often
    assert not driver.cluster.loans


def test_a_loan_is_cancelled_as_a_call_is() -> None:
    _, agent, (client,) = lenders()
    loan, queued = client.borrow(), client.borrow()
    client.cancel(queued)
    assert client.status(queued) == "cancelled"
    client.cancel(loan)
    agent.complete()
    assert client.status(loan) == "cancelled"


def test_the_end_of_a_session_ends_its_loans() -> None:
    driver, agent, (one, other) = lenders(sessions="AB")
    one.borrow()
    one.borrow()
    one.say(wire.Goodbye("done"))
    assert agent.cancelled
    assert not driver.pool().loans
    agent.complete()
    call = other.submit()
    assert agent.has(other, call)


def test_how_long_something_was_lent_says_nothing_of_its_function() -> None:
    driver, agent, (client,) = lenders()
    [times] = driver.pool().run_times.values()
    before = times.mean_ns, times.is_measured
    for _ in range(8):
        loan = client.borrow()
        agent.end(client, loan)
    assert (times.mean_ns, times.is_measured) == before


def test_a_loan_of_an_earlier_scheduler_is_ended_rather_than_taken_for_another() -> None:
    driver, agent, (client,) = lenders()
    loan = client.borrow()
    old = agent.token_of(client, loan)
    agent.disconnect(noticed=False)
    driver.restart()
    client.hello()
    client.say(client.declared[1])
    client.borrow(number=loan)
    agent.connect()
    driver.settle()
    driver.advance(3)
    assert old in agent.cancelled
    agent.complete(old)
    assert driver.cluster.attempts.keys() == driver.cluster.loans.keys()


# ---------------------------------------------------------------- calls ahead


def test_nothing_is_sent_ahead_to_what_is_lent() -> None:
    driver, agent, (client,) = lenders()
    shorten(client, agent)
    client.borrow()
    call = client.submit()
    assert not agent.has(client, call)
    assert driver.pool().queued == 1


def test_a_loan_is_not_sent_ahead() -> None:
    driver, agent, (client,) = lenders()
    shorten(client, agent)
    call, loan = client.submit(), client.borrow()
    assert driver.pool().queued == 1
    assert not agent.has(client, loan)
    agent.end(client, call)
    assert agent.has(client, loan)


def test_a_loan_that_waits_keeps_no_call_from_being_sent_ahead() -> None:
    driver, agent, (one, other) = lenders(sessions="AB")
    shorten(one, agent)
    one.submit()
    loan = other.borrow()
    calls = [one.submit() for _ in range(2)]
    assert all(agent.has(one, call) for call in calls)
    assert find_room(driver.cluster, driver.pool(), next(iter(driver.pool().loans))) is None
    assert not agent.has(other, loan)


# ---------------------------------------------------------------- operators


@pytest.mark.parametrize("mode", ["cordon", "drain"])
def test_a_node_that_is_to_be_left_alone_has_its_loans_called_back(mode: str) -> None:
    driver, _, (client,) = lenders()
    driver.agent("b", can_lend=True)
    loan = client.borrow()
    operator = driver.new_peer()
    driver.transmit(operator, wire.AdminHello(1, 1, "test"))
    driver.transmit(operator, wire.CordonNode(1, "b", mode, 0))
    assert not client.wanted()
    driver.transmit(operator, wire.CordonNode(2, "a", mode, 0))
    assert client.wanted() == [loan]


def test_what_was_given_to_a_lent_process_is_explained_by_its_loan() -> None:
    driver, _, (client,) = lenders()
    loan = client.borrow()
    operator = driver.new_peer()
    driver.transmit(operator, wire.AdminHello(1, 1, "test"))
    name = f"{client.session_id.hex()[:8]}-{loan}"
    documents = []
    for request, asked in enumerate([name, f"{name}.3"]):
        driver.transmit(operator, wire.ExplainRequest(request, asked))
        _, reply = driver.other[-1]
        documents.append(json.loads(reply.document))
    assert documents[0]["call"] == documents[1]["call"]
    assert documents[0]["state"] == documents[1]["state"]
