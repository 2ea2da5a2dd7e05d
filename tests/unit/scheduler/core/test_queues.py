"""The fair queue: its rules one by one, and against a naive model."""

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keepwarm_scheduler.core.queues import FairQueue


def filled(*entries: tuple[str, int, str]) -> FairQueue[str]:
    """A queue of (owner, priority, entry)."""
    queue = FairQueue[str]()
    for owner, priority, entry in entries:
        queue.push(owner, priority, entry)
    return queue


def drained(queue: FairQueue[str]) -> list[str]:
    """Everything, in the order in which it is taken."""
    return [queue.pop() for _ in range(len(queue))]


def test_one_owner_is_served_in_order() -> None:
    assert drained(filled(("a", 0, "1"), ("a", 0, "2"), ("a", 0, "3"))) == ["1", "2", "3"]


def test_owners_take_turns_whoever_has_more() -> None:
    queue = filled(*(("a", 0, f"a{n}") for n in range(100_000)), ("b", 0, "b0"), ("c", 0, "c0"))
    assert [queue.pop() for _ in range(5)] == ["a0", "b0", "c0", "a1", "a2"]


def test_a_higher_priority_goes_first_and_its_owner_keeps_its_turn_below() -> None:
    queue = filled(("a", 0, "a"), ("b", 0, "b"), ("b", 100, "urgent"), ("a", -100, "idle"))
    assert drained(queue) == ["urgent", "a", "b", "idle"]


def test_what_comes_first_again_goes_to_the_head() -> None:
    queue = filled(("a", 0, "a1"), ("b", 0, "b1"), ("b", 0, "b2"))
    queue.push("b", 0, "b0", first=True)
    assert drained(queue) == ["b0", "a1", "b1", "b2"]


def test_what_is_removed_is_gone_and_takes_nobodys_turn() -> None:
    queue = filled(("a", 0, "a1"), ("a", 0, "a2"), ("b", 0, "b1"))
    assert queue.remove("a", 0, "a1")
    assert not queue.remove("a", 0, "a1")
    assert not queue.remove("b", 1, "b1")
    assert not queue.remove("c", 0, "c1")
    assert list(queue) == ["a2", "b1"]
    assert drained(queue) == ["a2", "b1"]


def test_an_empty_queue_keeps_nothing() -> None:
    queue = filled(("a", 0, "1"), ("b", 3, "2"), ("c", -3, "3"))
    assert queue.footprint() == (3, 3)
    queue.remove("b", 3, "2")
    drained(queue)
    assert queue.footprint() == (0, 0)
    assert queue.head() is None
    with pytest.raises(IndexError):
        queue.pop()


def test_nothing_waits_twice() -> None:
    queue = filled(("a", 0, "1"))
    with pytest.raises(ValueError, match="waits already"):
        queue.push("a", 0, "1")
    assert len(queue) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=60))
def test_between_two_turns_of_an_owner_each_other_has_at_most_one(pushes: list[tuple[str, int]]) -> None:
    """With equal priorities, and everybody's calls there from the start."""
    queue = FairQueue[tuple[str, int]]()
    for number, (owner, _) in enumerate(pushes):
        queue.push(owner, 0, (owner, number))
    order = [queue.pop() for _ in range(len(queue))]
    for owner in "abc":
        own = [number for who, number in order if who == owner]
        assert own == sorted(own), "an owner's own calls come in order"
        places = [place for place, (who, _) in enumerate(order) if who == owner]
        for before, after in pairwise(places):
            between = [who for who, _ in order[before + 1 : after]]
            assert len(between) == len(set(between)), "somebody had two turns"


class AgainstAModel(RuleBasedStateMachine):
    """Lists, rings and searches, as slow and as plain as possible."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue()
        self.lanes: dict[int, dict[str, deque[int]]] = {}
        self.ring: dict[int, deque[str]] = {}
        self.where: dict[int, tuple[str, int]] = {}
        self.last = 0

    @rule(owner=st.sampled_from("abcd"), priority=st.sampled_from([-100, 0, 0, 0, 7, 100]), first=st.booleans())
    def push(self, owner: str, priority: int, first: bool) -> None:
        self.last += 1
        self.queue.push(owner, priority, self.last, first=first)
        self.where[self.last] = owner, priority
        lane = self.lanes.setdefault(priority, {}).setdefault(owner, deque())
        ring = self.ring.setdefault(priority, deque())
        if first:
            lane.appendleft(self.last)
            if owner in ring:
                ring.remove(owner)
            ring.appendleft(owner)
        else:
            lane.append(self.last)
            if owner not in ring:
                ring.append(owner)

    @rule()
    def pop(self) -> None:
        levels = [priority for priority, ring in self.ring.items() if ring]
        if not levels:
            assert self.queue.head() is None
            return
        ring = self.ring[max(levels)]
        owner = ring.popleft()
        lane = self.lanes[max(levels)][owner]
        expected = lane.popleft()
        if lane:
            ring.append(owner)
        assert self.queue.head() == expected
        assert self.queue.pop() == expected
        del self.where[expected]

    @rule(which=st.integers(0, 1000))
    def remove(self, which: int) -> None:
        if not self.where:
            return
        entry = list(self.where)[which % len(self.where)]
        owner, priority = self.where.pop(entry)
        assert self.queue.remove(owner, priority, entry)
        lane = self.lanes[priority][owner]
        lane.remove(entry)
        if not lane:
            self.ring[priority].remove(owner)

    @invariant()
    def the_same_waits(self) -> None:
        assert len(self.queue) == len(self.where)
        assert sorted(self.queue) == sorted(self.where)
        lanes = sum(bool(lane) for owners in self.lanes.values() for lane in owners.values())
        assert self.queue.footprint() == (sum(bool(ring) for ring in self.ring.values()), lanes)


TestAgainstAModel = AgainstAModel.TestCase
