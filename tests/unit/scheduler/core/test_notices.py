"""Notices of leases that ended early: who gets which, in what words, and what is counted."""

import json
from typing import Any

import pytest

from keepwarm_scheduler.core.dispatching import stop
from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.core.notices import FUNCTIONS_NAMED_MAX, NOTICES_PER_TURN_MAX
from keepwarm_scheduler.core.status import document
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from support.model_agent import GIB
from support.scheduler_driver import Agent, Client, Driver, warm

ELSEWHERE = Principal("key", "client", "elsewhere")


def joined(driver: Driver, agent: Agent, name: str, function: str, **changes: Any) -> Client:
    """Another client with a function of the same pool, which it has called."""
    client = driver.client(name)
    call = client.submit(client.declare(function, **changes))
    agent.complete()
    client.acknowledge(call)
    return client


def notices(client: Client) -> list[wire.LeaseBroken]:
    return client.of(wire.LeaseBroken)


def counts(driver: Driver) -> Any:
    return json.loads(document(driver.cluster))["leases_ended_early"]


def in_a_call(driver: Driver, client: Client, function: int) -> int:
    """Let a call run; its instance."""
    client.submit(function)
    (instance,) = driver.instances
    return instance.instance_id


# ---------------------------------------------------------------- killed


def test_a_call_that_takes_its_process_along_breaks_the_neighbours_leases() -> None:
    driver = Driver()
    culprit, agent = warm(driver, name="app:slow", keep_alive=600)
    owner = joined(driver, agent, "t", "app:owner", keep_alive=300)
    driver.advance(10)
    instance = in_a_call(driver, culprit, 1)
    agent.kill(instance)
    driver.settle()
    (notice,) = notices(owner)
    assert (notice.instance_id, notice.node, notice.functions) == (instance, "a", ("app:owner",))
    assert (notice.cause, notice.left_us) == ("killed: timeout of app:slow", 290_000_000)
    assert (notice.more_functions, notice.more_notices, len(notice.environment_id)) == (0, 0, 12)
    assert not notices(culprit)
    assert counts(driver) == {"killed (timeout)": 1}


def test_a_cancellation_and_an_overall_timeout_are_told_apart() -> None:
    driver = Driver()
    culprit, agent = warm(driver, name="app:slow", keep_alive=600, overall_timeout=5)
    owner = joined(driver, agent, "t", "app:owner", keep_alive=300)
    for how in ("cancellation", "timeout"):
        instance = in_a_call(driver, culprit, 1)
        if how == "cancellation":
            culprit.cancel(culprit.last)
        else:
            driver.advance(6)
        agent.kill(instance, "cancelled")
        driver.settle()
        assert [notice.cause for notice in notices(owner)][-1:] == [f"killed: {how} of app:slow"]
        owner.submit()
        agent.complete()
    assert counts(driver) == {"killed (cancellation)": 1, "killed (timeout)": 1}


def test_the_other_functions_of_the_same_program_are_told_of() -> None:
    driver = Driver()
    client, agent = warm(driver, name="app:slow", keep_alive=600)
    client.submit(client.declare("app:owner", keep_alive=None))
    agent.complete()
    agent.kill(in_a_call(driver, client, 1))
    driver.settle()
    (notice,) = notices(client)
    assert (notice.functions, notice.left_us) == (("app:owner",), FOREVER_US)


def test_an_outcome_that_got_lost_does_not_change_whose_fault_it_was() -> None:
    driver = Driver()
    culprit, agent = warm(driver, name="app:slow", keep_alive=600)
    owner = joined(driver, agent, "t", "app:owner", keep_alive=300)
    instance = in_a_call(driver, culprit, 1)
    driver.lose(wire.AttemptDone)
    agent.kill(instance)
    driver.settle()
    assert [notice.cause for notice in notices(owner)] == ["killed: timeout of app:slow"]
    assert not notices(culprit)


def test_a_call_that_was_stopped_in_time_is_not_to_blame_for_a_later_end() -> None:
    driver = Driver()
    client, agent = warm(driver, name="app:slow", keep_alive=600)
    instance = in_a_call(driver, client, 1)
    (token,) = agent.attempts
    agent.complete(token, status=wire.Status.TIMED_OUT, failure=wire.Failure("run_timeout", "Too long."))
    agent.die(instance)
    driver.settle()
    (notice,) = notices(client)
    assert (notice.functions, notice.cause) == (("app:slow",), "died")


# ---------------------------------------------------------------- died


@pytest.mark.parametrize(
    ("failure", "cause", "counted"),
    [
        (wire.Failure("process_died", "The process was killed by SIGSEGV."), "died: SIGSEGV", "died (crash)"),
        (wire.Failure("process_died", "The process ended with exit code -3."), "died: exit code -3", "died (crash)"),
        (wire.Failure("process_died", "It said: \x1b[2Jpassword"), "died: crash", "died (crash)"),
        (wire.Failure("out_of_memory", "It used 3 GiB."), "died: out of memory", "died (out of memory)"),
    ],
)
def test_a_death_is_told_with_its_signal_and_nothing_that_the_process_said(
    failure: wire.Failure, cause: str, counted: str
) -> None:
    driver = Driver()
    culprit, agent = warm(driver, name="app:bad", keep_alive=600)
    owner = joined(driver, agent, "t", "app:owner", keep_alive=300)
    instance = in_a_call(driver, culprit, 1)
    (token,) = agent.attempts
    driver.transmit(agent.peer, wire.InstanceEnded(instance, "died", failure, False, token))
    assert [notice.cause for notice in notices(owner)] == [f"{cause} in a call of app:bad"]
    assert not notices(culprit)
    assert counts(driver) == {counted: 1}


def test_an_idle_process_that_dies_is_nobodys_fault_and_told_to_all() -> None:
    driver = Driver()
    first, agent = warm(driver, name="app:f", keep_alive=600)
    second = joined(driver, agent, "t", "app:f", keep_alive=600)
    third = joined(driver, agent, "u", "app:g", keep_alive=1)
    driver.advance(5)
    failure = wire.Failure("process_died", "The process was killed by SIGKILL.")
    driver.transmit(agent.peer, wire.InstanceEnded(driver.instances[0].instance_id, "died", failure, False))
    assert [[notice.cause for notice in notices(client)] for client in (first, second)] == [["died: SIGKILL"]] * 2
    assert not notices(third), "its own term had been over"
    assert counts(driver) == {"died": 1}


def test_an_end_that_only_a_beat_tells_of_is_told_too() -> None:
    driver = Driver()
    client, agent = warm(driver, name="app:f", keep_alive=600)
    driver.lose(wire.InstanceEnded)
    agent.die(driver.instances[0].instance_id)
    driver.settle()
    agent.beats()
    assert [notice.cause for notice in notices(client)] == ["died"]


# ---------------------------------------------------------------- evicted


def test_an_eviction_is_told_with_what_was_left_when_it_was_decided() -> None:
    driver = Driver()
    owner, agent = warm(driver, name="app:owner", memory_bytes=6 * GIB, keep_alive=600)
    owner.submit(owner.declare("app:big", memory_bytes=4 * GIB))
    driver.advance(1.1)
    assert [ending.cause for ending in agent.endings] == ["evicted"]
    (notice,) = notices(owner)
    assert (notice.cause.partition(":")[0], notice.functions) == ("evicted", ("app:owner",))
    assert 598_900_000 <= notice.left_us <= 599_000_000
    assert counts(driver) == {"evicted (memory)": 1}


@pytest.mark.parametrize(("shape", "what"), [({"memory_bytes": 6 * GIB}, "memory"), ({"gpu": 1000}, "gpu")])
@pytest.mark.parametrize("is_near", [True, False])
def test_an_eviction_names_the_function_that_it_was_for_within_its_namespace_only(
    shape: dict[str, Any], what: str, is_near: bool
) -> None:
    driver = Driver()
    agent, owner, other = driver.agent(gpu=1000), driver.client("s"), driver.client("t")
    owner.submit(owner.declare("app:owner", keep_alive=600, **shape))
    agent.complete()
    if not is_near:
        driver.cluster.sessions[other.session_id].principal = ELSEWHERE
    call = other.submit(other.declare("app:big", env_vars=(wire.Pair("A", "b"),), **shape))
    waiting = driver.cluster.sessions[other.session_id].calls[call]
    stop(driver.cluster, driver.instances[0], "evicted", waiting)
    driver.tick()
    assert [notice.cause for notice in notices(owner)] == [f"evicted: {what}" + (" for app:big" if is_near else "")]
    assert not notices(other)
    assert counts(driver) == {f"evicted ({what})": 1}


def test_a_process_that_served_nothing_was_for_the_function_it_was_started_for() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    call = client.submit(client.declare("app:f", keep_alive=600))
    client.cancel(call)
    agent.started()
    evicted = driver.instances[0]
    stop(driver.cluster, evicted, "evicted")
    driver.tick()
    assert [(notice.functions, notice.cause) for notice in notices(client)] == [(("app:f",), "evicted: memory")]


def test_an_eviction_that_the_node_refuses_is_none() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=600)
    next(iter(agent.instances.values())).sequence += 1  # it has served a call that the scheduler does not know of
    stop(driver.cluster, driver.instances[0], "evicted")
    driver.tick()
    assert not notices(client)
    assert not counts(driver)


# ---------------------------------------------------------------- kept promises


def test_leases_that_are_kept_are_not_told_of() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=1)
    client.submit(client.declare("app:private", keep_alive=0))
    agent.complete()
    driver.advance(3)
    assert [ending.cause for ending in agent.endings] == ["released", "expired"]
    client.submit()
    agent.complete()
    driver.core.stop("the end")
    agent.die(driver.instances[0].instance_id)
    driver.settle()
    assert not notices(client)
    assert not counts(driver)


@pytest.mark.parametrize("cause", ["stopped", "orphan", "released", "expired"])
def test_other_ends_break_no_promise_however_much_is_left(cause: str) -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=None)
    driver.transmit(agent.peer, wire.InstanceEnded(driver.instances[0].instance_id, cause, None, False))
    assert not driver.instances
    assert not notices(client)
    assert not counts(driver)


def test_a_node_that_is_lost_or_leaves_breaks_no_promise_of_its_own_will() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=600)
    driver.transmit(agent.peer, wire.Goodbye("done"))
    assert not driver.instances
    assert not notices(client)
    assert not counts(driver)


def test_a_client_that_is_not_connected_or_gone_is_told_nothing_and_it_counts() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=600)
    client.say(wire.Goodbye("done"))
    agent.die(driver.instances[0].instance_id)
    driver.settle()
    assert not notices(client)
    assert counts(driver) == {"died": 1}


# ---------------------------------------------------------------- bounds


def test_a_turn_tells_a_client_only_so_much_and_says_how_much_more() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=100_000, memory=100 * GIB), driver.client()
    client.declare("app:f", keep_alive=600)
    ends = NOTICES_PER_TURN_MAX + 5
    for _ in range(ends):
        client.submit()
    agent.complete()
    assert len(driver.instances) == ends
    agent.instances.clear()  # and nobody says so
    agent.beats()
    told = notices(client)
    assert len(told) == NOTICES_PER_TURN_MAX
    assert [notice.more_notices for notice in told] == [0] * (NOTICES_PER_TURN_MAX - 1) + [5]
    assert counts(driver) == {"died": ends}


def test_a_notice_names_only_so_many_functions() -> None:
    driver = Driver()
    client, agent = warm(driver, name="app:0", keep_alive=600)
    for number in range(1, FUNCTIONS_NAMED_MAX + 3):
        client.submit(client.declare(f"app:{number}", keep_alive=600))
        agent.complete()
    agent.die(driver.instances[0].instance_id)
    driver.settle()
    (notice,) = notices(client)
    assert (len(notice.functions), notice.more_functions) == (FUNCTIONS_NAMED_MAX, 3)
