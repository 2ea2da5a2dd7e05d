"""Calls that a session holds until they may be sent: higher priorities first, within one in the order they came.

Rules: adding and taking cost O(1), however many calls wait; a priority is kept only while calls of it wait.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence

from keepwarm.session_calls import Call

__all__ = ["HeldCalls"]


class HeldCalls:
    """A queue of calls. ``head`` and ``popleft`` are for one that is not empty."""

    __slots__ = ("_lanes", "_priorities")

    def __init__(self) -> None:
        self._priorities: list[int] = []
        self._lanes: dict[int, deque[Call]] = {}

    def append(self, call: Call) -> None:
        """Add a call behind the others of its priority."""
        lane = self._lanes.get(call.priority)
        if lane is None:
            lane = self._lanes[call.priority] = deque()
            insort(self._priorities, call.priority)
        lane.append(call)

    def head(self) -> Call:
        """The call that ``popleft`` would give. Raises IndexError when there is none."""
        return self._lanes[self._priorities[-1]][0]

    def popleft(self) -> Call:
        """Take the call that goes next. Raises IndexError when there is none."""
        lane = self._lanes[self._priorities[-1]]
        call = lane.popleft()
        if not lane:
            del self._lanes[self._priorities.pop()]
        return call

    def put_back(self, calls: Sequence[Call]) -> None:
        """Undo so many ``popleft``: these go before all others of their priorities, in this order."""
        for call in reversed(calls):
            if call.priority not in self._lanes:
                self.append(call)
            else:
                self._lanes[call.priority].appendleft(call)

    def clear(self) -> None:
        """Hold nothing any more."""
        self._priorities.clear()
        self._lanes.clear()

    def __bool__(self) -> bool:
        return bool(self._priorities)

    def __iter__(self) -> Iterator[Call]:
        for priority in reversed(self._priorities):
            yield from self._lanes[priority]
