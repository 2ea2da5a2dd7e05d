"""How pools get instances: locks, bursts, room, impossibility."""

import pytest

from keepwarm_wire import messages as wire
from support.model_agent import GIB
from support.scheduler_driver import Driver, options, warm

FAILURE = wire.Failure("resolve_failed", "No such package.")


def test_a_burst_starts_no_more_instances_than_the_nodes_cpu_can_use() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=3000), driver.client()
    client.declare()
    for _ in range(50):
        client.submit()
    assert len(driver.of(wire.StartInstance)) == 3
    while agent.attempts:
        agent.complete()
    assert all(client.status(call) == "succeeded" for call in range(1, 51))
    assert len(driver.of(wire.StartInstance)) == 3


def test_starts_that_end_in_the_instant_of_a_burst_are_made_up_for() -> None:
    """What was decided a moment ago for the many calls of the burst does not hold once the cluster has changed."""
    driver = Driver()
    agent, client = driver.agent(starts=False, cpu=2000), driver.client()
    client.declare()
    for _ in range(80):
        client.submit()
    first = list(agent.instances)
    assert len(first) == 2
    for instance_id in first:
        del agent.instances[instance_id]
        driver.transmit(agent.peer, wire.InstanceEnded(instance_id, "stopped", None, True))
    driver.settle()
    assert len(agent.instances) == 2


def test_a_burst_starts_no_more_instances_than_it_has_calls() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False, cpu=64_000), driver.client()
    client.declare()
    for _ in range(5):
        client.submit()
    assert len(driver.of(wire.StartInstance)) == 5
    agent.started()
    assert len(agent.attempts) == 5


def test_short_calls_wait_for_a_busy_instance_once_run_times_are_known() -> None:
    driver = Driver()
    client, agent = warm(driver)
    for _ in range(5):
        client.submit()
        agent.complete()
    client.submit()
    client.submit()
    assert len(agent.attempts) == 1
    assert len(driver.of(wire.StartInstance)) == 1


def test_a_wait_that_turns_out_long_starts_another_instance_though_calls_keep_coming() -> None:
    driver = Driver()
    client, agent = warm(driver)
    for _ in range(5):
        client.submit()
        agent.complete()
    client.submit()
    for _ in range(20):
        client.submit()
        driver.advance(0.1)
    assert len(driver.of(wire.StartInstance)) > 1


def test_equal_specs_are_resolved_once_for_all_calls_and_clients() -> None:
    driver = Driver()
    agent = driver.agent(starts=False)
    for name in ("s", "t"):
        client = driver.client(name)
        client.declare(requirements=("requests",))
        client.submit()
        client.submit()
    (key,) = agent.locks
    assert len(driver.of(wire.MakeLock)) == 1
    agent.finish_lock(key)
    driver.settle()
    assert len(driver.of(wire.StartInstance)) == 4


def test_a_spec_that_cannot_be_resolved_fails_all_that_wait_and_a_later_call_tries_anew() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare(requirements=("no-such-package",))
    calls = [client.submit(), client.submit()]
    agent.finish_lock(next(iter(agent.locks)), FAILURE)
    driver.settle()
    assert [client.outcome(call).failure for call in calls] == [FAILURE, FAILURE]
    client.submit()
    assert len(driver.of(wire.MakeLock)) == 2


def test_a_lock_that_is_no_text_fails_its_calls_and_not_the_scheduler() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare(requirements=("requests",))
    call = client.submit()
    agent.finish_lock(next(iter(agent.locks)), lock=b"\xff")
    driver.settle()
    assert client.status(call) == "failed"


@pytest.mark.parametrize("kind", [wire.MakeLock, wire.LockMade, wire.StartInstance, wire.InstanceReady])
def test_a_lost_word_on_the_way_to_an_instance_is_repaired_by_a_beat(kind: type[object]) -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    driver.lose(kind)
    client.declare(requirements=("requests",))
    call = client.submit()
    driver.advance(6)
    agent.complete()
    assert client.status(call) == "succeeded"
    assert len(driver.instances) == 1


def test_a_lock_is_made_by_another_node_when_its_maker_is_lost() -> None:
    driver = Driver()
    agent = driver.agent(starts=False)
    client = driver.client()
    client.declare(requirements=("requests",))
    call = client.submit()
    other = driver.agent("b")
    agent.disconnect()
    driver.advance(1.1)
    other.complete()
    assert client.status(call) == "succeeded"


def test_a_start_that_cannot_work_fails_every_call_that_waits_for_it() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare()
    calls = [client.submit(), client.submit()]
    agent.finish_start(next(iter(agent.instances)), FAILURE)
    driver.settle()
    assert [client.outcome(call).failure for call in calls] == [FAILURE, FAILURE]
    assert driver.pool().queued == 0


def test_a_start_that_may_work_another_time_is_tried_three_times() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare()
    call = client.submit()
    for _ in range(3):
        assert not client.outcomes(call)
        agent.finish_start(next(iter(agent.instances)), FAILURE, True)
        driver.settle()
    assert client.outcome(call).failure == FAILURE
    assert not driver.instances


def test_idle_instances_of_others_make_room_only_after_patience() -> None:
    driver = Driver()
    client, agent = warm(driver, memory_bytes=6 * GIB, keep_alive=600)
    call = client.submit(client.declare("module:other", memory_bytes=4 * GIB))
    driver.advance(0.9)
    assert not agent.endings
    driver.advance(0.2)
    assert [ending.cause for ending in agent.endings] == ["evicted"]
    agent.complete()
    assert client.status(call) == "succeeded"


def test_instances_that_serve_a_call_never_make_room() -> None:
    driver = Driver()
    client, agent = warm(driver, memory_bytes=6 * GIB)
    client.submit()
    client.submit(client.declare("module:other", memory_bytes=4 * GIB))
    driver.advance(60)
    assert not agent.endings
    assert len(agent.attempts) == 1
    agent.complete()
    driver.advance(1.1)
    assert [ending.cause for ending in agent.endings] == ["evicted"]


def test_a_leased_gpu_is_given_to_a_call_that_waits_for_it() -> None:
    driver = Driver()
    agent, client = driver.agent(gpu=1000), driver.client()
    client.declare(gpu=1000, keep_alive=None)
    client.submit()
    agent.complete()
    client.submit(client.declare("module:other", gpu=1000, env_vars=(wire.Pair("A", "b"),)))
    driver.advance(1.1)
    assert [ending.cause for ending in agent.endings] == ["evicted"]
    assert len(agent.attempts) == 1


def test_no_second_victim_falls_while_the_first_is_still_ending() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    for name in ("module:a", "module:b"):
        client.declare(name, memory_bytes=(3 * GIB) + (name == "module:b"), keep_alive=600)
        client.submit(len(client.declared))
        agent.complete()
    agent._on_stop = None  # type: ignore[assignment, method-assign]
    driver.lose(wire.StopInstance)
    client.submit(client.declare("module:c", memory_bytes=4 * GIB))
    driver.advance(1.95, beats=False)
    driver.lose(wire.StopInstance)
    driver.advance(2.0, beats=False)
    states = sorted(instance.state.value for instance in driver.instances)
    assert states == ["idle", "stopping"]


def test_a_call_waits_for_cpu_without_ending_anyones_lease() -> None:
    driver = Driver()
    agent, client = driver.agent(cpu=2000, memory=1 * GIB), driver.client()
    for name in ("module:a", "module:b"):
        client.declare(name, env_vars=(wire.Pair("NAME", name),), keep_alive=600)
    first = [client.submit(1), client.submit(1)]
    agent.complete()
    agent.complete()
    client.submit(2)
    agent.complete()
    hogs = [client.submit(1), client.submit(1)]
    client.submit(2), client.submit(2)
    driver.advance(30)
    assert not agent.endings
    assert len(first) == len(hogs) == 2


def test_what_no_node_can_ever_run_fails_with_the_reason_after_a_bound() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    client.declare(cpu=8000)
    calls = [client.submit(), client.submit()]
    driver.advance(4.9)
    assert not client.of(wire.Outcome)
    driver.advance(0.2)
    for call in calls:
        failure = client.outcome(call).failure
        assert failure is not None
        assert failure.kind == "no_feasible_node"
        assert "cpu=8" in failure.message
        assert "a: cpu=4" in failure.message


def test_an_impossible_call_fails_though_the_one_before_it_was_cancelled() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    client.declare(cpu=8000)
    first, second = client.submit(), client.submit()
    driver.advance(1)
    client.cancel(first)
    driver.advance(8)
    assert client.status(second) == "failed"


def test_a_node_that_can_run_an_impossible_call_saves_it() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    client.declare(cpu=8000)
    call = client.submit()
    driver.advance(4)
    driver.agent("big", cpu=16_000).complete()
    driver.advance(4)
    assert client.status(call) == "succeeded"


def test_labels_select_nodes() -> None:
    driver = Driver()
    driver.agent("a")
    agent = driver.agent("b", labels=(wire.Pair("zone", "x"),))
    client = driver.client()
    client.declare(labels=(wire.Pair("zone", "x"),))
    client.submit()
    assert len(agent.attempts) == 1


def test_a_missing_python_is_said_to_be_missing() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    call = client.submit(client.declare(python="3.9", requirements=("requests",)))
    driver.advance(5.1)
    failure = client.outcome(call).failure
    assert failure is not None
    assert failure.kind == "python_missing"
    assert "3.9" in failure.message
    assert "a: 3.11" in failure.message


def test_a_cluster_without_nodes_is_waited_for_a_minute() -> None:
    driver = Driver()
    client = driver.client()
    client.declare()
    call = client.submit()
    driver.advance(59)
    assert not client.outcomes(call)
    driver.advance(1.1)
    failure = client.outcome(call).failure
    assert failure is not None
    assert failure.kind == "no_feasible_node"
    assert "keepwarm agent" in failure.message


def test_a_call_that_ended_while_it_waited_for_a_lock_leaves_no_timer() -> None:
    driver = Driver()
    client = driver.client()
    client.declare(requirements=("requests",))
    client.cancel(client.submit())
    client.submit()
    driver.agent("b", pythons=())
    assert driver.cluster.timers.entry_count() <= 4


def test_undeclared_memory_is_booked_as_a_default() -> None:
    driver = Driver()
    driver.agent()
    client = driver.client()
    client.declare(memory_bytes=0)
    client.submit()
    assert driver.of(wire.StartInstance)[0].memory_bytes == driver.config.undeclared_memory_bytes
    assert options().memory_bytes == 256 << 20


def test_calls_that_end_while_they_wait_for_a_lock_are_not_kept() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare(requirements=("requests",))
    for _ in range(3):
        client.cancel(client.submit())
    last = client.submit()
    (environment,) = driver.cluster.environments.values()
    assert [call.number for call in environment.waiting] == [last]
    agent.finish_lock(next(iter(agent.locks)))
    driver.settle()
    agent.started()
    agent.complete()
    assert client.status(last) == "succeeded"
    assert len(agent.executed) == 1
