"""Loans come back when others wait, and wait for their turn."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from keepwarm_scheduler.core.lending import QUANTUM_NS, RETURN_NS, WAITS_NS
from keepwarm_scheduler.core.saving import SAVED_MAX_NS
from keepwarm_wire import messages as wire
from support.scheduler_driver import SECOND_NS, Agent, Client, Driver, lenders, shorten

INSTANT = 0.001
"""Much less than a quantum."""
QUANTUM = QUANTUM_NS / SECOND_NS + 0.02
"""And what a timer may be late."""
WAITS = 2 * WAITS_NS / SECOND_NS + 0.05


# ---------------------------------------------------------------- calls that wait


def test_a_call_that_has_to_wait_has_a_loan_called_back_at_once() -> None:
    _, agent, (one, other) = lenders(sessions="AB")
    loan, call = one.borrow(), other.submit()
    assert one.wanted() == [loan]
    agent.end(one, loan)
    assert agent.has(other, call)


def test_a_call_of_the_same_session_has_its_loan_called_back_too() -> None:
    _, _, (client,) = lenders()
    loan = client.borrow()
    client.submit()
    assert client.wanted() == [loan]


def test_loans_are_called_back_one_at_a_time_and_the_others_after_a_while() -> None:
    driver, _, (one, other) = lenders(3, "AB")
    loans = [one.borrow() for _ in range(3)]
    for _ in range(5):
        other.submit()
    assert one.wanted() == [loans[0]]
    driver.advance(RETURN_NS / SECOND_NS + QUANTUM)
    assert sorted(one.wanted()) == loans


def test_a_call_that_comes_later_has_another_loan_called_back() -> None:
    """Who waits already is waited for: the loan that comes back is theirs."""
    driver, _, (one, other) = lenders(3, "AB")
    loans = [one.borrow() for _ in range(3)]
    for count in (1, 2, 3):
        other.submit()
        assert one.wanted() == loans[:count]
        driver.advance(INSTANT)


def test_the_session_that_has_most_gives_first() -> None:
    _, _, (one, two, other) = lenders(3, "ABC")
    one.borrow()
    loans = two.borrow(), two.borrow()
    other.submit()
    assert not one.wanted()
    assert two.wanted() == [loans[0]]


def test_no_loan_is_called_back_once_nobody_waits() -> None:
    driver, agent, (one, other) = lenders(2, "AB")
    loans = [one.borrow() for _ in range(2)]
    call = other.submit()
    agent.end(one, loans[0])
    assert agent.has(other, call)
    driver.advance(1)
    assert one.wanted() == loans[:1]


def test_no_loan_is_called_back_for_a_call_that_it_does_not_keep_waiting() -> None:
    driver, agent, (one, other) = lenders(4, "AB")
    loan = one.borrow()
    agent.starts = False
    number = other.declare("m:other", env_vars=(wire.Pair("A", "b"),))
    other.submit(number)
    driver.advance(1)
    assert not one.wanted()
    agent.started()
    assert agent.has(one, loan)
    assert len(agent.runnable()) == 2


def test_a_loan_that_does_not_come_back_is_called_back_again() -> None:
    driver, _, (one, other) = lenders(sessions="AB")
    loan = one.borrow()
    other.submit()
    driver.advance(1)
    assert one.wanted() == [loan]
    driver.advance(9)
    assert 4 <= len(one.wanted()) <= 6


def test_a_loan_that_does_not_come_back_does_not_hide_the_others() -> None:
    driver, _, (one, other) = lenders(2, "AB")
    loans = [one.borrow() for _ in range(2)]
    other.submit()
    driver.advance(RETURN_NS / SECOND_NS)
    other.submit()
    assert set(one.wanted()) == set(loans)


def test_a_loan_that_is_granted_while_a_call_waits_is_called_back() -> None:
    driver, agent, (one, other) = lenders(sessions="AB")
    call = one.submit()
    loan = one.borrow(priority=1)
    waiting = other.submit()
    agent.end(one, call)
    assert agent.has(one, loan)
    driver.advance(QUANTUM)
    assert one.wanted() == [loan]
    agent.end(one, loan)
    assert agent.has(other, waiting)


def test_no_timer_of_a_loan_outlives_it() -> None:
    driver, agent, (one, other) = lenders(sessions="AB")
    loan = one.borrow()
    other.submit()
    assert ("loan", agent.token_of(one, loan)) in driver.cluster.timers
    token = agent.token_of(one, loan)
    agent.end(one, loan)
    assert ("loan", token) not in driver.cluster.timers


# ---------------------------------------------------------------- loans that wait


def test_a_loan_that_waits_has_one_called_back_only_after_a_quantum() -> None:
    driver, agent, (one, other) = lenders(sessions="AB")
    loan, waiting = one.borrow(), other.borrow()
    driver.advance(INSTANT)
    assert not one.wanted()
    driver.advance(QUANTUM)
    assert one.wanted() == [loan]
    agent.end(one, loan)
    assert agent.has(other, waiting)


def test_an_old_loan_is_called_back_at_once_for_one_that_waits() -> None:
    driver, _, (one, other) = lenders(sessions="AB")
    loan = one.borrow()
    driver.advance(1)
    other.borrow()
    assert one.wanted() == [loan]


def test_those_who_have_equally_much_do_not_take_from_each_other() -> None:
    driver, _, (one, other) = lenders(2, "AB")
    one.borrow()
    other.borrow()
    driver.advance(1)
    one.borrow()
    other.borrow()
    driver.advance(3)
    assert not one.wanted()
    assert not other.wanted()


def test_a_session_takes_nothing_from_itself_for_another_loan() -> None:
    driver, agent, (client,) = lenders()
    client.borrow()
    driver.advance(1)
    waiting = client.borrow()
    driver.advance(3)
    assert not client.wanted()
    assert not client.outcomes(waiting), "the function has a process"
    agent.complete()
    assert agent.has(client, waiting)


def test_functions_of_one_session_have_their_turns() -> None:
    driver, agent, (client,) = lenders()
    client.declare("m:other")
    loan, waiting = client.borrow(1), client.borrow(2)
    driver.advance(INSTANT)
    assert not client.wanted()
    driver.advance(QUANTUM)
    assert client.wanted() == [loan]
    agent.end(client, loan)
    assert agent.has(client, waiting)


def test_functions_of_one_session_that_have_equally_much_do_not_take_from_each_other() -> None:
    driver, _, (client,) = lenders(2)
    client.declare("m:other")
    for _ in range(2):
        client.borrow(1)
        client.borrow(2)
    driver.advance(3)
    assert not client.wanted()


def test_a_function_takes_nothing_from_another_session_that_has_as_much_as_its_own() -> None:
    driver, _, (one, other) = lenders(2, "AB")
    other.declare("m:other")
    loans = one.borrow(), other.borrow(1)
    waiting = other.borrow(2)
    driver.advance(QUANTUM)
    assert not one.wanted()
    assert other.wanted() == [loans[1]]
    assert not other.outcomes(waiting)


# ---------------------------------------------------------------- what is idle


def test_a_loan_that_waits_has_those_called_back_that_are_idle() -> None:
    """Also of those that have no more: what is not used is not to keep anybody waiting."""
    driver, _, (one, other) = lenders(2, "AB")
    loans = one.borrow(), other.borrow()
    one.borrow()
    assert other.wanted_when_idle() == [loans[1]]
    other.borrow()
    driver.advance(1)
    assert (one.wanted_when_idle(), other.wanted_when_idle()) == ([loans[0]], [loans[1]]), "once is enough"
    assert not one.wanted()
    assert not other.wanted()


@pytest.mark.parametrize("functions", [(1, 1), (1, 2)])
def test_a_program_is_told_that_it_wants_its_own_loan_only_for_another_function(functions: tuple[int, int]) -> None:
    """Else more processes for a burst than there are would end those that there are."""
    driver, agent, (client,) = lenders()
    client.declare("m:other")
    loans = [client.borrow(function) for function in (1, *functions)]
    driver.advance(QUANTUM)
    agent.end(client, loans[0])
    driver.advance(QUANTUM)
    assert client.wanted_when_idle() == ([] if functions == (1, 1) else loans[:2])


def test_loans_are_called_back_for_one_that_waits_one_at_a_time() -> None:
    driver, _, (one, other) = lenders(3, "AB")
    loans = [one.borrow() for _ in range(3)]
    other.borrow()
    called_back_s: list[float] = []
    for step in range(100):
        driver.advance(INSTANT)
        called_back_s += [step * INSTANT] * (len(one.wanted()) - len(called_back_s))
    assert one.wanted() == loans
    assert all(later - earlier >= 0.9 * RETURN_NS / SECOND_NS for earlier, later in pairwise(called_back_s))


def test_a_loan_that_is_granted_while_another_waits_is_to_come_back_when_idle() -> None:
    _, agent, (one, other) = lenders(sessions="AB")
    loan, waiting, behind = one.borrow(), other.borrow(), one.borrow()
    agent.end(one, loan)
    assert agent.has(other, waiting)
    assert other.wanted_when_idle() == [waiting]
    agent.end(other, waiting)
    assert agent.has(one, behind)
    assert one.wanted_when_idle() == [loan], "nobody waits"


def test_a_loan_that_is_called_back_need_not_be_idle_for_that() -> None:
    driver, _, (one, other) = lenders(sessions="AB")
    loan = one.borrow()
    other.submit()
    other.borrow()
    driver.advance(1)
    assert set(one.wanted()) == {loan}
    assert not one.wanted_when_idle()


# ---------------------------------------------------------------- loans that wait in vain


def test_a_loan_whose_function_has_no_process_is_refused_after_a_while() -> None:
    """Else one function of a session would wait for as long as another is called."""
    driver, _, (client,) = lenders()
    client.declare("m:other")
    loan = client.borrow(1)
    waiting = client.borrow(2)
    driver.advance(WAITS_NS / SECOND_NS - 0.01)
    assert not client.outcomes(waiting)
    driver.advance(WAITS)
    assert client.status(waiting) == "failed"
    assert client.wanted() == [loan]


def test_a_loan_comes_after_the_calls_that_wait() -> None:
    _, agent, (one, other) = lenders(sessions="AB")
    first, loan = one.submit(), other.borrow()
    calls = [one.submit() for _ in range(3)]
    for call in [first, *calls]:
        assert not agent.has(other, loan)
        agent.end(one, call)
    assert agent.has(other, loan)


def test_a_loan_of_higher_priority_comes_before_calls() -> None:
    _, agent, (one, other) = lenders(sessions="AB")
    call = one.submit()
    one.submit()
    loan = other.borrow(priority=1)
    agent.end(one, call)
    assert agent.has(other, loan)


def test_a_loan_that_has_given_way_for_long_is_refused() -> None:
    driver, agent, (one, other) = lenders(sessions="AB")
    running = one.submit()
    loan = other.borrow()
    for _ in range(4):
        following = one.submit()
        driver.advance(0.05)
        agent.end(one, running)
        running = following
    assert not other.outcomes(loan)
    one.submit()
    driver.advance(WAITS)
    assert other.status(loan) == "failed"


def test_loans_in_the_queue_are_counted_whatever_becomes_of_them() -> None:
    driver, agent, (one, other) = lenders(sessions="AB")
    one.submit()
    loans = one.borrow(), other.borrow(), other.borrow()
    assert len(driver.pool().loans) == 3
    other.cancel(loans[1])
    assert len(driver.pool().loans) == 2
    agent.complete()
    assert len(driver.pool().loans) == 1
    other.say(wire.Goodbye("done"))
    one.say(wire.Goodbye("done"))
    assert not driver.pool().loans


@pytest.mark.parametrize("what", ["loan", "call"])
def test_no_further_process_is_started_for_a_loan_without_free_cpu(what: str) -> None:
    driver, agent, (one, other) = lenders(2, "AB")
    shorten(one, agent, 0)
    agent.die(driver.pool().idle[0].instance_id)
    driver.settle()
    busy = one.declare("m:busy", env_vars=(wire.Pair("A", "b"),))
    one.submit(busy)
    one.submit()
    assert driver.node().free["cpu"] == 0
    started = len(driver.of(wire.StartInstance))
    for _ in range(3):
        if what == "loan":
            other.borrow()
        else:
            other.submit()
    driver.advance(WAITS_NS / SECOND_NS - 0.01)
    assert (len(driver.of(wire.StartInstance)) > started) == (what == "call")


def test_a_process_is_started_for_a_loan_where_cpu_is_free() -> None:
    driver, agent, (one, other) = lenders(2, "AB")
    shorten(one, agent)
    agent.die(driver.pool().idle[0].instance_id)
    driver.settle()
    one.borrow()
    loan = other.borrow()
    driver.advance(WAITS_NS / SECOND_NS - 0.01)
    assert agent.has(other, loan)


@pytest.mark.parametrize("what", ["loan", "call"])
def test_no_idle_process_of_others_is_ended_for_a_loan(what: str) -> None:
    driver = Driver()
    agent = driver.agent(cpu=4000, memory=2 << 30, can_lend=True)
    client = driver.client()
    client.declare(keep_alive=1000, memory_bytes=1 << 30)
    client.declare("m:other", keep_alive=1000, memory_bytes=(1 << 30) - 1)
    client.submit(1)
    client.submit(2)
    agent.complete()
    client.borrow(1)
    if what == "loan":
        client.borrow(1)
    else:
        client.submit(1)
    driver.advance(3)
    assert bool(driver.of(wire.StopInstance)) == (what == "call")


# ---------------------------------------------------------------- other pools


def greedy(driver: Driver, agent: Agent, client: Client, seconds: float, until: Callable[[], bool]) -> bool:
    """Let a client have all that is lent, for as long as nobody wants it back; whether ``until`` came true."""
    ended_ns = driver.now_ns + int(seconds * SECOND_NS)
    asked = [client.borrow() for _ in range(4)]
    while driver.now_ns < ended_ns:
        driver.advance(0.02)
        for loan in set(client.wanted()):
            if agent.has(client, loan):
                agent.end(client, loan)
        for number in list(asked):
            if client.outcomes(number):
                asked.remove(number)
                client.acknowledge(number)
                client.heard.clear()
                if len(asked) < 4:
                    asked.append(client.borrow())
        if until():
            return True
    return False


def test_a_call_that_needs_a_whole_node_gets_its_turn_though_all_of_it_is_lent() -> None:
    driver, agent, (one, other) = lenders(4, "AB")
    big = other.declare("m:big", cpu=4000)
    call = other.submit(big)
    assert greedy(driver, agent, one, SAVED_MAX_NS / SECOND_NS, lambda: agent.has(other, call))
    agent.end(other, call)
    assert other.status(call) == "succeeded"


def test_a_call_that_needs_the_memory_of_lent_processes_gets_its_turn() -> None:
    driver = Driver()
    agent = driver.agent(cpu=4000, memory=4 << 30, can_lend=True)
    one, other = driver.client("A"), driver.client("B")
    one.declare(keep_alive=1000, memory_bytes=1 << 30)
    for _ in range(4):
        one.submit()
    agent.complete()
    big = other.declare("m:big", memory_bytes=4 << 30)
    call = other.submit(big)
    for _ in range(4):
        one.borrow()
    assert greedy(driver, agent, one, SAVED_MAX_NS / SECOND_NS, lambda: agent.has(other, call))


def test_a_call_that_cpu_is_lent_to_others_gets_it() -> None:
    _, agent, (one, other) = lenders(sessions="AB")
    number = other.declare("m:other", env_vars=(wire.Pair("A", "b"),))
    other.submit(number)
    agent.complete()
    loan = one.borrow()
    call = other.submit(number)
    assert one.wanted() == [loan]
    agent.end(one, loan)
    assert agent.has(other, call)


def test_nothing_is_lent_while_calls_of_others_wait_for_memory() -> None:
    driver = Driver()
    agent = driver.agent(cpu=4000, memory=1 << 30, can_lend=True)
    one, other = driver.client("A"), driver.client("B")
    one.declare(keep_alive=1000, memory_bytes=1 << 30)
    other.declare("m:other", memory_bytes=(1 << 30) - 1)
    one.submit()
    waiting = other.submit()
    driver.advance(3)
    loan = one.borrow()
    assert one.status(loan) == "failed"
    other.cancel(waiting)
    agent.complete()
    loan = one.borrow()
    assert agent.has(one, loan)
    driver.advance(3)
    assert not one.wanted()
