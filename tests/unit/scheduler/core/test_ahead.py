"""Calls sent ahead: to whom, how many, and what becomes of those that wait when something goes wrong."""

import json
from itertools import pairwise
from typing import Any

import pytest

from keepwarm_scheduler.core import explaining
from keepwarm_scheduler.core.ahead import HORIZON_NS, depth
from keepwarm_scheduler.core.estimates import MIN_SAMPLES, RunTimes
from keepwarm_scheduler.core.transitions import InstanceState
from keepwarm_wire import messages as wire
from support.scheduler_driver import BEAT_NS, SECOND_NS, Agent, Client, Driver

DEPTH = 4
"""Of calls that run for 1 ms, which is what the model of an agent says of all."""


def short(
    driver: Driver, *, instances: int = 1, ahead_max: int = 8, cpu: int = 4000, **changes: Any
) -> tuple[Client, Agent]:
    """A client whose function 1 is known to be short, and an agent with so many idle instances of its pool."""
    agent = driver.agent(ahead_max=ahead_max, cpu=cpu)
    client = driver.client()
    client.declare(**changes)
    for _ in range(-(-MIN_SAMPLES // instances)):
        calls = [client.submit() for _ in range(instances)]
        agent.complete()
        assert [client.status(call) for call in calls] == ["succeeded"] * instances
        client.acknowledge(*calls)
    assert len(driver.instances) == instances
    driver.log.clear()
    return client, agent


def sent(driver: Driver) -> list[tuple[int, bool]]:
    """The calls that were sent since, by number, and whether each was sent ahead."""
    return [(dispatch.call_number, dispatch.is_ahead) for dispatch in driver.of(wire.Dispatch)]


def test_only_what_is_measured_to_be_short_goes_ahead_and_no_more_than_a_horizon_of_it() -> None:
    assert depth(None) == 0
    times = RunTimes()
    for sample in range(MIN_SAMPLES):
        assert depth(times) == 0, sample
        times.add(1_000_000)
    assert depth(times) == DEPTH
    for _ in range(100):
        times.add(HORIZON_NS + 1_000_000)
    assert depth(times) == 0
    for _ in range(200):
        times.add(1)
    assert 200 < depth(times) < 300


def test_calls_go_ahead_to_the_busy_instance_until_it_has_enough() -> None:
    driver = Driver()
    client, _ = short(driver)
    first = client.submit()
    others = [client.submit() for _ in range(DEPTH + 2)]
    assert sent(driver) == [(first, False), *((call, True) for call in others[:DEPTH])]
    assert driver.pool().queued == 2
    (instance,) = driver.instances
    assert [attempt.is_ahead for attempt in instance.ahead] == [True] * DEPTH


def test_where_several_sessions_call_half_as_much_goes_ahead_for_a_while() -> None:
    """Whoever comes next waits for it: there somebody does."""
    driver = Driver()
    client, agent = short(driver)
    other = driver.client("other")
    other.declare()
    first = client.submit()
    theirs = other.submit()
    for _ in range(DEPTH):
        client.submit()
    assert sent(driver) == [(first, False), (theirs, True), (2 + MIN_SAMPLES, True)]
    while driver.pool().queued or driver.pool().busy:
        agent.complete()
    driver.advance(1.5)
    driver.log.clear()
    for _ in range(DEPTH + 2):
        client.submit()
    assert [is_ahead for _, is_ahead in sent(driver)] == [False] + [True] * DEPTH


@pytest.mark.parametrize("ahead_max", [0, 2])
def test_an_agent_says_how_many_it_takes(ahead_max: int) -> None:
    driver = Driver()
    client, _ = short(driver, ahead_max=ahead_max)
    for _ in range(6):
        client.submit()
    assert [is_ahead for _, is_ahead in sent(driver)] == [False] + [True] * ahead_max


def test_calls_are_spread_over_the_busy_instances() -> None:
    driver = Driver()
    client, _ = short(driver, instances=2)
    for _ in range(6):
        client.submit()
    heads, ahead = driver.of(wire.Dispatch)[:2], driver.of(wire.Dispatch)[2:]
    assert {dispatch.instance_id for dispatch in heads} == set(driver.cluster.instances)
    assert all(dispatch.is_ahead for dispatch in ahead)
    assert [one.instance_id != other.instance_id for one, other in pairwise(ahead)] == [True] * 3


def test_an_end_makes_room_for_another_and_all_are_answered_in_order() -> None:
    driver = Driver()
    client, agent = short(driver)
    calls = [client.submit() for _ in range(10)]
    for done, call in enumerate(calls, 1):
        agent.complete(agent.runnable()[0])
        assert client.status(call) == "succeeded"
        assert len(driver.of(wire.Dispatch)) == min(10, 1 + DEPTH + done)
    assert [number for number, _ in sent(driver)] == calls
    assert driver.instances[0].state is InstanceState.IDLE


def test_a_call_that_waits_has_booked_nothing_and_takes_the_booking_when_its_turn_comes() -> None:
    driver = Driver()
    client, agent = short(driver)
    node, (instance,) = driver.node(), driver.instances
    calls = [client.submit() for _ in range(3)]
    assert node.free["cpu"] == 3000
    for call in calls:
        assert node.free["cpu"] == 3000
        assert instance.attempt is not None
        assert instance.attempt.key == (client.session_id, call)
        assert (instance.attempt.cpu, instance.attempt.is_ahead) == (1000, False)
        assert all(attempt.cpu == 0 for attempt in instance.ahead)
        agent.complete(agent.runnable()[0])
    assert node.free["cpu"] == 4000


def test_the_lease_runs_from_the_last_of_them_and_not_while_any_waits() -> None:
    driver = Driver()
    client, agent = short(driver, keep_alive=1)
    for _ in range(3):
        client.submit()
    agent.complete(agent.runnable()[0])
    driver.advance(0.03, beats=False)
    agent.complete(agent.runnable()[0])
    ended_ns = driver.now_ns
    driver.advance(0.01, beats=False)
    agent.complete(agent.runnable()[0])
    assert driver.instances[0].lease.deadline_ns == ended_ns + 10_000_000 + 1_000_000_000
    driver.advance(1.2)
    assert [ending.cause for ending in agent.endings] == ["expired"]


def test_those_behind_a_call_that_takes_long_are_asked_back_and_run_elsewhere() -> None:
    driver = Driver()
    client, agent = short(driver)
    first, second, third = (client.submit() for _ in range(3))
    head = agent.runnable()[0]
    driver.advance(0.04, beats=False)
    assert not driver.of(wire.RecallAttempts)
    driver.advance(0.03, beats=False)
    (recall,) = driver.of(wire.RecallAttempts)
    assert len(recall.attempts) == 2
    assert agent.recalled == 2
    driver.advance(1, beats=False)
    before, again = driver.of(wire.Dispatch)[:3], driver.of(wire.Dispatch)[3:]
    assert again
    assert all(dispatch.instance_id != before[0].instance_id for dispatch in again)
    while len(agent.runnable()) > 1:
        agent.complete(agent.runnable()[1])
    assert [client.status(call) for call in (second, third)] == ["succeeded"] * 2
    assert not client.outcomes(first)
    agent.complete(head)
    assert client.status(first) == "succeeded"


def test_what_is_asked_back_is_not_sent_there_again() -> None:
    """Else it would go to and fro until the call that hangs ends."""
    driver = Driver()
    client, _ = short(driver, cpu=1000)
    client.submit()
    call = client.submit()
    driver.advance(0.07, beats=False)
    assert len(driver.of(wire.RecallAttempts)) == 1
    assert [number for number, _ in sent(driver)] == [call - 1, call]
    assert driver.pool().queued == 1
    driver.advance(10)
    assert len(driver.of(wire.Dispatch)) == 2


def test_an_instance_that_ends_leaves_no_timer_behind() -> None:
    """Another of the same number may be told of, by an agent that lies."""
    driver = Driver()
    client, agent = short(driver)
    client.submit()
    client.submit()
    (instance,) = driver.instances
    assert ("recall", instance.instance_id) in driver.cluster.timers
    agent.die(instance.instance_id)
    driver.settle()
    assert ("recall", instance.instance_id) not in driver.cluster.timers


def test_nothing_is_sent_behind_a_call_that_already_takes_long() -> None:
    driver = Driver()
    client, _ = short(driver, cpu=1000)
    client.submit()
    driver.advance(0.06, beats=False)
    client.submit()
    assert len(driver.of(wire.Dispatch)) == 1
    assert driver.pool().queued == 1


def test_a_lost_request_to_give_calls_back_is_repeated() -> None:
    driver = Driver()
    client, agent = short(driver)
    client.submit()
    call = client.submit()
    driver.lose(wire.RecallAttempts)
    driver.advance(0.07, beats=False)
    assert agent.recalled == 0
    driver.advance(2.5)
    assert agent.recalled == 1
    agent.complete(agent.runnable()[-1])
    assert client.status(call) == "succeeded"


def test_a_call_that_cannot_be_taken_ahead_is_not_offered_over_and_over() -> None:
    """The node lacks its function's bytes: it has them sent, and is given the call when its turn has come."""
    driver = Driver()
    client, agent = short(driver)
    other = client.declare("module:other")
    for _ in range(MIN_SAMPLES):
        client.submit(other)
        agent.complete()
    agent.functions.popitem()
    driver.log.clear()
    client.submit()
    driver.lose(wire.FunctionBody)
    call = client.submit(other)
    assert len(driver.of(wire.Dispatch)) == 2
    assert driver.pool().queued == 1
    agent.complete()
    driver.advance(3)
    agent.complete()
    assert client.status(call) == "succeeded"


def test_a_lost_dispatch_of_the_first_is_repaired_and_the_others_run_meanwhile() -> None:
    driver = Driver()
    client, agent = short(driver)
    driver.lose(wire.Dispatch)
    first = client.submit()
    others = [client.submit() for _ in range(3)]
    while agent.runnable():
        agent.complete(agent.runnable()[0])
    assert [client.status(call) for call in others] == ["succeeded"] * 3
    driver.advance(2.1)
    agent.complete()
    assert client.status(first) == "succeeded"
    assert driver.node().free["cpu"] == 4000


def test_a_lost_dispatch_of_one_that_waits_is_repaired() -> None:
    driver = Driver()
    client, agent = short(driver)
    first = client.submit()
    driver.lose(wire.Dispatch)
    second, third = client.submit(), client.submit()
    for _ in range(2):
        agent.complete(agent.runnable()[0])
    assert [client.status(call) for call in (first, third)] == ["succeeded"] * 2
    driver.advance(2.1)
    agent.complete()
    assert client.status(second) == "succeeded"


def test_a_lost_outcome_of_the_first_is_repaired_by_the_next_beat() -> None:
    driver = Driver()
    client, agent = short(driver)
    first, second = client.submit(), client.submit()
    driver.lose(wire.AttemptDone)
    agent.complete(agent.runnable()[0])
    agent.complete(agent.runnable()[0])
    assert client.status(second) == "succeeded"
    assert not client.outcomes(first)
    driver.advance(2.1)
    assert client.status(first) == "succeeded"
    assert driver.instances[0].state is InstanceState.IDLE
    assert driver.node().free["cpu"] == 4000


def test_a_death_is_the_first_calls_and_those_behind_it_are_placed_again() -> None:
    driver = Driver()
    client, agent = short(driver)
    calls = [client.submit() for _ in range(4)]
    agent.die(driver.instances[0].instance_id)
    driver.settle()
    assert client.status(calls[0]) == "failed"
    agent.complete()
    while agent.runnable():
        agent.complete(agent.runnable()[0])
    assert [client.status(call) for call in calls[1:]] == ["succeeded"] * 3
    ran = [token for token, (session, _) in agent.executed.items() if session == client.session_id]
    assert len(ran) == MIN_SAMPLES + 4


def test_a_refusal_of_one_that_waits_takes_its_instance_from_no_call_that_runs() -> None:
    """It may come before the word of what has become of that one."""
    driver = Driver()
    client, agent = short(driver)
    first, second = client.submit(), client.submit()
    dispatch = driver.of(wire.Dispatch)[1]
    agent._leave(dispatch.attempt)
    driver.transmit(agent.peer, wire.AttemptRefused(dispatch.attempt, dispatch.instance_id, "ended"))
    (instance,) = [each for each in driver.instances if each.attempt is not None and each.attempt.key[1] == first]
    assert instance.state is InstanceState.BUSY
    agent.complete()
    driver.settle()
    agent.complete()
    assert [client.status(call) for call in (first, second)] == ["succeeded"] * 2


def test_the_calls_of_a_lost_node_are_placed_again_on_another() -> None:
    driver = Driver()
    client, agent = short(driver)
    calls = [client.submit() for _ in range(4)]
    other = driver.agent("b", ahead_max=8)
    agent.disconnect(noticed=False)
    driver.advance(30)
    while other.runnable():
        other.complete(other.runnable()[0])
    assert [client.status(call) for call in calls] == ["succeeded"] * 4


def test_a_new_scheduler_finds_all_of_them_where_they_are() -> None:
    driver = Driver()
    client, agent = short(driver)
    calls = [client.submit() for _ in range(4)]
    agent.disconnect(noticed=False)
    driver.restart()
    agent.connect()
    client.peer = driver.new_peer()
    driver.clients[client.peer] = client
    client.hello()
    for declaration in client.declared.values():
        client.say(declaration)
    for number in calls:
        client.submit(number=number, resent=True)
    assert len(driver.of(wire.Dispatch)) == 4
    (instance,) = driver.instances
    assert [attempt.key[1] for attempt in instance.ahead] == calls[1:]
    while agent.runnable():
        agent.complete(agent.runnable()[0])
    assert [client.status(call) for call in calls] == ["succeeded"] * 4
    assert len(driver.of(wire.Dispatch)) == 4
    assert driver.node().free["cpu"] == 4000


def test_what_nobody_has_claimed_renews_the_lease_though_a_call_was_to_run_after_it() -> None:
    """Its keep_alive is known to the node alone: until that tells, there is no deadline."""
    driver = Driver()
    client, agent = short(driver, cpu=1000, keep_alive=5.0)
    first, second = client.submit(), client.submit()
    agent.disconnect(noticed=False)
    driver.restart(after_s=4.0)
    agent.connect()
    driver.lose(wire.AttemptRefused)
    agent.receive(driver.now_ns, wire.RecallAttempts(1, (agent.token_of(client, second),)))
    driver.settle()
    agent.end(client, first)
    ended_ns = driver.now_ns
    driver.advance(10)
    (ending,) = agent.endings
    assert ending.cause == "expired"
    assert 0 <= ending.at_ns - (ended_ns + 5 * SECOND_NS) <= BEAT_NS


def test_a_cancelled_call_that_waits_ends_and_leaves_its_process_and_its_lease_alone() -> None:
    driver = Driver()
    client, agent = short(driver)
    first, second, third = (client.submit() for _ in range(3))
    (instance,) = driver.instances
    before = (instance.sequence, instance.lease.deadline_ns)
    driver.now_ns += 1_000_000
    client.cancel(second)
    assert client.status(second) == "cancelled"
    assert (instance.sequence, instance.lease.deadline_ns) == before
    assert [attempt.key[1] for attempt in instance.ahead] == [third]
    for _ in range(2):
        agent.complete(agent.runnable()[0])
    assert [client.status(call) for call in (first, third)] == ["succeeded"] * 2
    assert not agent.endings


def test_the_queue_timeout_of_a_call_that_waits_goes_on_and_harms_no_other() -> None:
    driver = Driver()
    client, agent = short(driver, queue_timeout=0.03)
    first, second = client.submit(), client.submit()
    driver.advance(0.045, beats=False)
    assert client.status(second) == "timed out"
    failure = client.outcome(second).failure
    assert failure is not None
    assert failure.message == "The call did not start within 0.03 s (it was waiting: another call of its process)."
    assert not client.outcomes(first)
    agent.complete()
    assert client.status(first) == "succeeded"
    assert not agent.endings


def test_a_call_that_began_meets_no_queue_timeout_though_the_end_of_the_one_before_it_is_not_known() -> None:
    driver = Driver()
    client, agent = short(driver, queue_timeout=0.03)
    client.submit()
    second = client.submit()
    driver.lose(wire.AttemptDone)
    agent.complete(agent.runnable()[0])
    driver.transmit(agent.peer, wire.AttemptStarted(agent.runnable()[0]))
    driver.advance(0.045, beats=False)
    agent.complete()
    assert client.status(second) == "succeeded"


def test_what_must_not_run_twice_is_never_sent_ahead() -> None:
    driver = Driver()
    client, _ = short(driver, at_most_once=True)
    client.submit()
    client.submit()
    assert not any(is_ahead for _, is_ahead in sent(driver))


def test_large_arguments_are_never_sent_ahead() -> None:
    driver = Driver()
    client, _ = short(driver)
    client.submit()
    client.say(wire.Submit(99, 1, 0, False, wire.Reference(b"p" * 16, 1 << 20, b"d" * 32)))
    assert not any(is_ahead for _, is_ahead in sent(driver))


def test_a_call_of_a_private_pool_is_never_sent_ahead() -> None:
    driver = Driver()
    agent = driver.agent(ahead_max=8, cpu=1000)
    client = driver.client()
    client.declare(keep_alive=0)
    for _ in range(MIN_SAMPLES):
        client.submit()
        agent.complete()
    driver.log.clear()
    client.submit()
    client.submit()
    assert not any(is_ahead for _, is_ahead in sent(driver))


def test_nothing_is_sent_ahead_to_a_closed_node() -> None:
    driver = Driver()
    client, agent = short(driver)
    client.submit()
    admin = driver.new_peer()
    driver.transmit(admin, wire.AdminHello(1, 1, "test"))
    driver.transmit(admin, wire.CordonNode(1, "a", "cordon", 0, False))
    call = client.submit()
    assert [is_ahead for _, is_ahead in sent(driver)] == [False]
    assert driver.pool().queued == 1
    agent.complete()
    assert not client.outcomes(call)


def test_another_pools_call_gets_the_cpu_after_the_slice_that_was_given() -> None:
    driver = Driver()
    client, agent = short(driver, cpu=1000)
    other = client.declare("module:other", memory_bytes=1 << 30)
    client.submit(other)
    agent.complete()
    driver.log.clear()
    mine = [client.submit() for _ in range(1 + DEPTH)]
    theirs = client.submit(other)
    for _ in range(10):
        client.submit()
    for _ in (*mine, theirs):
        driver.now_ns += 1_000_000
        agent.complete(agent.runnable()[0])
    assert [number for number, _ in sent(driver)][len(mine)] == theirs
    assert client.status(theirs) == "succeeded"


def test_an_operator_is_told_that_a_call_went_ahead_and_was_asked_back() -> None:
    driver = Driver()
    client, agent = short(driver)
    client.submit()
    call = client.submit()
    driver.advance(0.07, beats=False)
    while agent.runnable():
        agent.complete(agent.runnable()[-1])
    client.say(wire.ExplainRequest(1, explaining.call_id(client.session_id, call)))
    document = json.loads(client.of(wire.ExplainReply)[-1].document)
    steps = [(step["code"], step["text"]) for step in document["steps"]]
    assert ("ahead", "sent ahead to a busy process on a, with 1 short call to be run before it.") in steps
    text = "the call before it in the process on a took longer than was expected: placed again."
    assert ("recalled", text) in steps
