"""Making room: for whom, at whose cost, and never for nothing."""

from typing import Any

from keepwarm_wire import messages as wire
from support.model_agent import GIB
from support.scheduler_driver import Agent, Client, Driver, warm


def evicted(agent: Agent) -> list[int]:
    """The instances that were ended to make room, in order."""
    return [ending.instance_id for ending in agent.endings if ending.cause == "evicted"]


def function(client: Client, name: str, **changes: Any) -> int:
    """A function with a pool of its own, that is kept for ten minutes."""
    return client.declare(f"module:{name}", env_vars=(wire.Pair("NAME", name),), keep_alive=600, **changes)


def instance_of(driver: Driver, number: int) -> int:
    """Who served the n-th attempt."""
    return driver.of(wire.Dispatch)[number].instance_id


def test_surplus_copies_make_room_before_a_last_copy() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=4 * GIB, cpu=8000), driver.client()
    many, lone = function(client, "many", memory_bytes=GIB), function(client, "lone", memory_bytes=GIB)
    client.submit(lone)
    agent.complete()
    for _ in range(3):
        client.submit(many)
    agent.complete()
    while agent.attempts:
        agent.complete()
    for _ in range(30):  # the lone one is used least: only that it is the last copy spares it
        client.submit(many)
        agent.complete()
    client.submit(function(client, "new", memory_bytes=GIB))
    driver.advance(1.1)
    assert len(evicted(agent)) == 1
    assert evicted(agent)[0] != instance_of(driver, 0)


def test_of_a_pools_copies_the_one_used_last_stays() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=2 * GIB), driver.client()
    many = function(client, "many", memory_bytes=GIB)
    client.submit(many)
    client.submit(many)
    agent.complete()
    driver.advance(1, beats=False)
    client.submit(many)
    agent.complete()
    used_last = driver.of(wire.Dispatch)[-1].instance_id
    client.submit(function(client, "new", memory_bytes=GIB))
    driver.advance(1.1)
    assert len(evicted(agent)) == 1
    assert evicted(agent) != [used_last]


def test_of_last_copies_the_one_used_least_goes() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=2 * GIB), driver.client()
    often, seldom = function(client, "often", memory_bytes=GIB), function(client, "seldom", memory_bytes=GIB)
    for number in [often] * 12 + [seldom] * 2:
        client.submit(number)
        agent.complete()
    client.submit(function(client, "new", memory_bytes=GIB))
    driver.advance(1.1)
    assert evicted(agent) == [instance_of(driver, 12)]


def test_the_clock_rises_so_that_what_was_worth_keeping_does_not_stay_for_ever() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=2 * GIB), driver.client()
    once_popular = function(client, "popular", memory_bytes=GIB)
    for _ in range(4):
        client.submit(once_popular)
        agent.complete()
    first = instance_of(driver, 0)
    clocks = []
    for number in range(12):
        client.submit(function(client, f"new{number}", memory_bytes=GIB))
        driver.advance(1.1)
        while agent.attempts:
            agent.complete()
        clocks.append(driver.cluster.clock)
        if first in evicted(agent):
            break
    assert clocks == sorted(clocks)
    assert clocks[-1] > 0
    assert first in evicted(agent)


def test_a_node_where_fewer_last_copies_fall_is_chosen() -> None:
    driver = Driver()
    one, other = driver.agent("a", memory=2 * GIB), driver.agent("b", memory=2 * GIB)
    client = driver.client()
    functions = [function(client, name, memory_bytes=GIB) for name in "xyz"]
    for number in (functions[0], functions[1], functions[2]):
        client.submit(number)
        for agent in (one, other):
            agent.complete()
    client.submit(functions[0])
    client.submit(functions[0])  # a second copy
    for _ in range(3):
        for agent in (one, other):
            agent.complete()
    assert sum(instance.state.value == "idle" for instance in driver.instances) == 4
    client.submit(function(client, "new", memory_bytes=GIB))
    driver.advance(1.1)
    pools = [instance.pool.env_vars[0].value for instance in driver.instances if instance.state.value != "stopping"]
    assert sorted({*pools}) == ["new", "x", "y", "z"]


def test_a_single_call_is_not_starved_by_anothers_endless_queue() -> None:
    """No instance is ever idle: the one that has just ended its call makes room."""
    driver = Driver()
    agent = driver.agent(memory=GIB, cpu=4000)
    greedy, modest = driver.client("greedy"), driver.client("modest")
    greedy.declare("module:greedy", memory_bytes=GIB, keep_alive=600)
    modest.declare("module:modest", memory_bytes=GIB, keep_alive=600, env_vars=(wire.Pair("A", "b"),))
    for _ in range(50):
        greedy.submit()
    call = modest.submit()
    for _ in range(8):
        agent.complete()
        driver.advance(0.25)
    assert modest.status(call) == "succeeded"
    assert len(evicted(agent)) <= 3
    for _ in range(200):
        agent.complete()
        driver.advance(0.25)
    assert all(greedy.status(number) == "succeeded" for number in range(1, 51))


def test_nobody_gives_way_to_a_call_of_the_same_client_that_came_later() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=GIB), driver.client()
    for name in ("first", "second"):
        function(client, name, memory_bytes=GIB)
    for _ in range(10):
        client.submit(1)
    client.submit(2)
    for _ in range(9):
        agent.complete()
        driver.advance(0.25)
    assert not evicted(agent)


def test_a_more_urgent_call_is_given_way_to() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=GIB), driver.client()
    for name in ("first", "second"):
        function(client, name, memory_bytes=GIB)
    for _ in range(10):
        client.submit(1)
    call = client.submit(2, priority=1)
    for _ in range(8):
        agent.complete()
        driver.advance(0.25)
    assert client.status(call) == "succeeded"


def test_nobody_is_ended_before_patience_is_over() -> None:
    driver = Driver()
    client, agent = warm(driver, memory_bytes=6 * GIB, keep_alive=600)
    client.submit(client.declare("module:other", memory_bytes=4 * GIB))
    driver.advance(0.9)
    assert not agent.endings


def test_a_node_short_of_memory_ends_idle_instances_one_with_each_beat_and_never_a_busy_one() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=8 * GIB, cpu=8000), driver.client()
    functions = [function(client, name, memory_bytes=GIB) for name in "xyz"]
    for number in functions:
        client.submit(number)
        agent.complete()
    client.submit(functions[0])  # runs on
    agent.memory_free_bytes = 100 << 20
    ended = []
    for _ in range(5):
        agent.beats()
        ended.append(len(evicted(agent)))
    assert ended == [1, 2, 2, 2, 2]
    assert [instance.state.value for instance in driver.instances] == ["busy"]


def test_a_node_with_memory_left_and_one_that_has_not_measured_end_nothing() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=8 * GIB), driver.client()
    client.submit(function(client, "x", memory_bytes=GIB))
    agent.complete()
    for free_bytes in (0, 128 << 20, 4 << 30):
        agent.memory_free_bytes = free_bytes
        agent.beats()
    assert evicted(agent) == []
