"""A queue that is fair among owners: priorities first, then each owner in turn, then first come, first served.

Rules: pushing, taking and removing cost O(1), whatever waits; what is removed is gone at once and leaves nothing to be
skipped; an owner who has been served goes to the end of the ring, so that between two turns of an owner each other
owner of the same priority has at most one. Knows nothing of calls: entries are told apart by hash and equality.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T", bound=Hashable)

_Lane = OrderedDict[T, None]
"""What one owner has waiting at one priority. Ordered dicts: a plain dict's front is slow once it was eaten from."""


class FairQueue(Generic[T]):
    """Entries by priority (higher first), owner (in turn) and arrival.

    >>> queue = FairQueue[str]()
    >>> for owner, entry in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1")):
    ...     queue.push(owner, 0, entry)
    >>> queue.push("c", 5, "urgent")
    >>> [queue.pop() for _ in range(len(queue))]
    ['urgent', 'a1', 'b1', 'a2', 'a3']
    """

    __slots__ = ("_length", "_levels", "_priorities")

    def __init__(self) -> None:
        self._length = 0
        self._priorities: list[int] = []
        self._levels: dict[int, OrderedDict[Hashable, _Lane[T]]] = {}

    def push(self, owner: Hashable, priority: int, entry: T, *, first: bool = False) -> None:
        """Add an entry behind its owner's others; with ``first`` before them, and the next turn is the owner's.

        Raises:
            ValueError: it waits already.
        """
        lanes = self._levels.get(priority)
        if lanes is None:
            lanes = self._levels[priority] = OrderedDict()
            insort(self._priorities, priority)
        lane = lanes.get(owner)
        if lane is None:
            lane = lanes[owner] = OrderedDict()
        elif entry in lane:
            raise ValueError(f"{entry!r} waits already")
        lane[entry] = None
        if first:
            lane.move_to_end(entry, last=False)
            lanes.move_to_end(owner, last=False)
        self._length += 1

    def head(self) -> T | None:
        """The entry that ``pop`` would give, or None."""
        if not self._length:
            return None
        lanes = self._levels[self._priorities[-1]]
        return next(iter(lanes[next(iter(lanes))]))

    def pop(self) -> T:
        """Take the entry at the head; its owner's next one waits for the others' turns.

        Raises:
            IndexError: nothing waits.
        """
        if not self._length:
            raise IndexError("pop from an empty queue")
        priority = self._priorities[-1]
        lanes = self._levels[priority]
        owner = next(iter(lanes))
        lane = lanes[owner]
        entry, _ = lane.popitem(last=False)
        if lane:
            lanes.move_to_end(owner)
        else:
            self._close(priority, owner)
        self._length -= 1
        return entry

    def remove(self, owner: Hashable, priority: int, entry: T) -> bool:
        """Take an entry out, wherever it waits. False if it does not."""
        lanes = self._levels.get(priority)
        lane = None if lanes is None else lanes.get(owner)
        if lane is None or entry not in lane:
            return False
        del lane[entry]
        if not lane:
            self._close(priority, owner)
        self._length -= 1
        return True

    def _close(self, priority: int, owner: Hashable) -> None:
        """An owner has nothing left at this priority."""
        lanes = self._levels[priority]
        del lanes[owner]
        if not lanes:
            del self._levels[priority]
            self._priorities.remove(priority)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """Every entry, by priority and owner; not in the order in which they will be taken."""
        for priority in reversed(self._priorities):
            for lane in self._levels[priority].values():
                yield from lane

    def heads(self) -> Iterator[T]:
        """The next entry of every owner, at each of its priorities, the highest first."""
        for priority in reversed(self._priorities):
            for lane in self._levels[priority].values():
                yield next(iter(lane))

    def footprint(self) -> tuple[int, int]:
        """How many priorities and lanes are kept: none of them empty."""
        return len(self._priorities), sum(len(lanes) for lanes in self._levels.values())
