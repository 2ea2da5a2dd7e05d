"""Where an instance could start, and finding it without looking at every node."""

from typing import Any

import pytest

from keepwarm_scheduler.core import places
from keepwarm_scheduler.core.placement import Temperature
from keepwarm_wire import messages as wire
from support.model_agent import GIB
from support.scheduler_driver import Driver, warm

MANY = 70
"""More nodes than are all compared."""


def crowd(driver: Driver, count: int = MANY) -> None:
    """Many equal nodes."""
    for number in range(count):
        driver.agent(f"n{number:02}")


def test_the_node_that_is_warm_is_found_among_many() -> None:
    driver = Driver()
    crowd(driver)
    client = driver.client()
    client.declare(cpu=1000)
    client.submit()
    client.submit()
    first, second = (instance.node.name for instance in driver.instances)
    assert first == second


def watch(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """The first argument of each call of a function of the module, from now on."""
    seen: list[Any] = []
    original = vars(places)[name]

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[0])
        return original(*arguments)

    monkeypatch.setattr(places, name, watched)
    return seen


@pytest.mark.parametrize("count", [3, MANY])
def test_where_the_environment_is_on_disk_goes_before_where_it_is_not(count: int) -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=1)
    crowd(driver, count)
    driver.advance(2)
    assert not driver.instances
    client.submit(1)
    assert [instance.node.name for instance in driver.instances] == [agent.name]
    assert len(driver.of(wire.StartInstance)) == 2


@pytest.mark.parametrize("count", [3, MANY])
def test_the_least_loaded_node_is_chosen_where_nothing_is_hot(count: int) -> None:
    driver = Driver()
    crowd(driver, count)
    client = driver.client()
    for number in range(count):
        client.submit(client.declare(f"module:f{number}", requirements=(f"package{number}",)))
    empty = [node.name for node in driver.cluster.nodes.values() if not node.instances]
    assert not empty, "every node runs one before any runs two"


def test_a_rare_node_is_found_among_many() -> None:
    driver = Driver()
    crowd(driver)
    driver.agent("rare", gpu=1000)
    client = driver.client()
    client.submit(client.declare(gpu=1000))
    assert [instance.node.name for instance in driver.instances] == ["rare"]


def test_a_search_among_many_looks_at_few(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    crowd(driver, 150)
    looked_at = watch(monkeypatch, "has_room")
    client = driver.client()
    client.submit(client.declare())
    assert len(driver.instances) == 1
    assert len(looked_at) <= 40


def test_a_search_that_found_nothing_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    crowd(driver)
    client = driver.client()
    client.declare(memory_bytes=6 * GIB, keep_alive=600)
    for _ in range(MANY):
        client.submit()
    assert len(driver.instances) == MANY
    client.submit()
    looked_at = watch(monkeypatch, "has_room")
    for _ in range(10):
        client.submit()
    assert not looked_at


def test_room_on_one_node_is_looked_for_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the others that are blocked stay so: nothing else has changed."""
    driver = Driver()
    agents = [driver.agent(name) for name in "abc"]
    client = driver.client()
    client.declare(memory_bytes=4 * GIB)
    for _ in range(6):
        client.submit()
    big, huge = client.declare("module:big", memory_bytes=3 * GIB), client.declare("module:huge", memory_bytes=8 * GIB)
    client.submit(big)
    client.submit(huge)
    searches = watch(monkeypatch, "best")
    running = agents[1].runnable()[0]
    agents[1].die(agents[1].attempts[running].instance_id)
    driver.settle()
    assert len(searches) == 1
    assert [one.node.name for one in driver.instances if one.memory_bytes == 3 * GIB] == ["b"]


def test_a_candidate_says_how_hot_and_how_loaded_a_node_is() -> None:
    driver = Driver()
    client, _ = warm(driver)
    client.submit()
    driver.agent("b")
    pool = driver.pool()
    assert places.candidate(driver.node("a"), pool) == ("a", Temperature.WARM, 250, 1)
    assert places.candidate(driver.node("b"), pool) == ("b", Temperature.COLD, 0, 0)


def test_what_a_node_has_on_disk_is_known_until_it_is_gone() -> None:
    driver = Driver()
    _, agent = warm(driver)
    (environment_id,) = driver.cluster.built_on
    assert driver.cluster.built_on[environment_id] == {"a": None}
    agent.disconnect()
    driver.advance(1000)
    assert not driver.cluster.nodes
    assert not driver.cluster.built_on
    assert not driver.cluster.levels
    assert not driver.cluster.unfiled


def test_undeclared_memory_books_the_most_that_was_seen() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare(memory_bytes=0)
    client.submit()
    agent.complete()
    client.submit()
    agent.memory_bytes = 1 * GIB
    agent.beats()
    client.submit()
    agent.memory_bytes = 1
    agent.beats()
    client.submit()
    booked = [start.memory_bytes for start in driver.of(wire.StartInstance)]
    assert booked == [driver.config.undeclared_memory_bytes, 1 * GIB, 1 * GIB]


def test_no_more_is_booked_than_the_node_offers_where_it_was_seen() -> None:
    driver = Driver()
    agent, client = driver.agent(memory=2 * GIB), driver.client()
    client.declare(memory_bytes=0)
    client.submit()
    agent.complete()
    agent.memory_bytes = 100 * GIB
    agent.beats()
    assert driver.pool().shape.memory_bytes == 2 * GIB
