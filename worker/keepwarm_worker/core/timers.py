"""Deadlines by name: at most one per key, replaced or cancelled at will.

A heap with lazy deletion: cancelled entries are skipped when they come up, and the heap is rebuilt when most of it is
dead. A node has few instances; the scheduler's wheel would be more than is needed here.
"""

from heapq import heapify, heappop, heappush

__all__ = ["Timers"]

_DEAD_ENTRIES_MAX = 64

Key = tuple[str, int]
"""What is due (the name of a handler) and for whom (an instance id or an attempt token, or 0)."""


class Timers:
    """Deadlines in nanoseconds. Equal deadlines come up in the order in which they were set."""

    __slots__ = ("_deadlines", "_heap", "_number")

    def __init__(self) -> None:
        self._deadlines: dict[Key, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, Key]] = []
        self._number = 0

    def set(self, key: Key, deadline_ns: int) -> None:
        """Set or move the deadline of ``key``."""
        self._number += 1
        self._deadlines[key] = (deadline_ns, self._number)
        heappush(self._heap, (deadline_ns, self._number, key))
        if len(self._heap) > 2 * len(self._deadlines) + _DEAD_ENTRIES_MAX:
            self._heap = [(deadline, number, each) for each, (deadline, number) in self._deadlines.items()]
            heapify(self._heap)

    def cancel(self, key: Key) -> None:
        """Forget the deadline of ``key``, if it has one."""
        self._deadlines.pop(key, None)

    def next(self) -> int | None:
        """The earliest deadline, or None."""
        heap = self._heap
        while heap and self._deadlines.get(heap[0][2]) != heap[0][:2]:
            heappop(heap)
        return heap[0][0] if heap else None

    def pop_due(self, now_ns: int) -> Key | None:
        """Take the earliest key whose deadline is at or before ``now_ns``, or None. A taken key has no deadline."""
        earliest = self.next()
        if earliest is None or earliest > now_ns:
            return None
        key = heappop(self._heap)[2]
        del self._deadlines[key]
        return key
