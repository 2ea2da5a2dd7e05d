"""Nodes save up for calls that need more than one ending call gives back."""

from typing import Any

import pytest

from keepwarm_scheduler.core.places import has_room
from keepwarm_scheduler.core.saving import SAVED_MAX_NS
from support.scheduler_driver import Client, Driver

BIG: dict[str, dict[str, Any]] = {"cpu": {"cpu": 4000}, "memory": {"memory_bytes": 4 << 28}}
SMALL: dict[str, dict[str, Any]] = {"cpu": {}, "memory": {"memory_bytes": 2 << 28}}


class Busy:
    """A node with four cores, and room for four small instances, that one client keeps busy; another's big function."""

    def __init__(self, kind: str) -> None:
        self.driver = Driver()
        self.agent = self.driver.agent(cpu=4000, memory=8 << 28)
        self.crowd, self.other = self.driver.client("one"), self.driver.client("two")
        self.small = self.crowd.declare(keep_alive=1000, **SMALL[kind])
        self.big = self.other.declare("m:big", keep_alive=1000, **BIG[kind])
        for _ in range(12):
            self.crowd.submit(self.small)

    def small_calls_end(self, count: int, seconds: float = 0.5) -> None:
        """One after the other, and as many more come."""
        for _ in range(count):
            self.driver.advance(seconds)
            token = next((token for token in self.agent.runnable() if self.is_small(token)), None)
            if token is not None:
                self.agent.complete(token)
            self.crowd.submit(self.small)

    def is_small(self, token: int) -> bool:
        return self.agent.attempts[token].session_id == self.crowd.session_id

    def runs(self) -> bool:
        """Whether the big call does."""
        return any(not self.is_small(token) for token in self.agent.runnable())


@pytest.mark.parametrize("kind", BIG)
@pytest.mark.parametrize("priority", [0, 100])
def test_a_big_call_gets_its_turn_among_small_ones_without_end(kind: str, priority: int) -> None:
    busy = Busy(kind)
    call = busy.other.submit(busy.big, priority=priority)
    ended = 0
    while not busy.runs():
        assert ended < 12, "it waits for ever"
        busy.small_calls_end(1)
        ended += 1
    busy.agent.complete(next(token for token in busy.agent.runnable() if not busy.is_small(token)))
    assert busy.other.status(call) == "succeeded"
    busy.small_calls_end(8)
    assert busy.driver.node().saved_for is None


@pytest.mark.parametrize("kind", BIG)
def test_a_big_call_of_less_priority_waits(kind: str) -> None:
    busy = Busy(kind)
    busy.other.submit(busy.big, priority=-1)
    busy.small_calls_end(40)
    assert not busy.runs()
    assert len(busy.agent.runnable()) == 4


@pytest.mark.parametrize("kind", BIG)
def test_what_was_saved_is_given_to_others_once_the_big_call_is_cancelled(kind: str) -> None:
    busy = Busy(kind)
    call = busy.other.submit(busy.big)
    while busy.driver.node().saved_for is None:
        busy.small_calls_end(1)
    assert len(busy.agent.runnable()) == 3
    busy.other.cancel(call)
    busy.driver.advance(1.1)
    assert len(busy.agent.runnable()) == 4
    assert busy.driver.node().saved_for is None


def test_no_node_is_left_half_empty_for_long_calls_without_end() -> None:
    busy = Busy("cpu")
    busy.other.submit(busy.big)
    while len(busy.agent.runnable()) == 4:
        busy.small_calls_end(1)
    busy.driver.advance(SAVED_MAX_NS / 1e9 + 1)
    assert len(busy.agent.runnable()) == 4, "the small calls take too long"


def test_calls_that_deserve_it_more_are_not_kept_waiting() -> None:
    busy = Busy("cpu")
    busy.other.submit(busy.big)
    while len(busy.agent.runnable()) == 4:
        busy.small_calls_end(1)
    urgent = busy.crowd.submit(busy.small, priority=5)
    busy.driver.advance(1.1)
    assert len(busy.agent.runnable()) == 4
    assert any(dispatch.call_number == urgent for dispatch in busy.agent.attempts.values())


def test_room_that_comes_free_is_kept_for_the_pool_that_is_saved_for() -> None:
    busy = Busy("memory")
    busy.other.submit(busy.big)
    while (saved := busy.driver.node().saved_for) is None:
        busy.small_calls_end(1)
    node = busy.driver.node()
    small = next(pool for pool in busy.driver.cluster.pools.values() if pool is not saved)
    node.parked.clear()  # of an empty node
    small.per_node.clear()
    node.free["memory"] = 8 << 28
    assert has_room(node, saved)
    assert not has_room(node, small)


def keep_busy(client: Client, function: int, count: int) -> None:
    for _ in range(count):
        client.submit(function)


def test_one_node_at_a_time_saves_for_a_pool() -> None:
    driver = Driver()
    agents = [driver.agent(name, cpu=4000, memory=8 << 28) for name in ("a", "b")]
    crowd, other = driver.client("one"), driver.client("two")
    small, big = crowd.declare(keep_alive=1000), other.declare("m:big", keep_alive=1000, cpu=4000)
    keep_busy(crowd, small, 30)
    keep_busy(other, big, 3)
    most = 0
    for _ in range(8):
        driver.advance(0.5)
        for agent in agents:
            token = next(iter(agent.runnable()), None)
            if token is not None:
                agent.complete(token)
        keep_busy(crowd, small, 2)
        most = max(most, sum(driver.node(agent.name).saved_for is not None for agent in agents))
    assert most == 1
