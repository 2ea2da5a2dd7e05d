"""Virtual time: a heap of things to do, ordered by instant and, within an instant, by when they were asked for."""

from collections.abc import Callable
from heapq import heappop, heappush

__all__ = ["MILLISECOND", "SECOND", "Alarm", "Clock"]

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND

Action = Callable[[], None]


class Clock:
    """The one clock of a simulated cluster. Hosts add an offset of their own, as machines do."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.steps = 0
        self._heap: list[tuple[int, int, Action]] = []
        self._number = 0

    def at(self, at_ns: int, action: Action) -> None:
        """Do something at an instant; one that has passed counts as now."""
        self._number += 1
        heappush(self._heap, (max(at_ns, self.now_ns), self._number, action))

    def after(self, delay_ns: int, action: Action) -> None:
        """Do something after a delay."""
        self.at(self.now_ns + delay_ns, action)

    def run(self, until_ns: int, is_over: Callable[[], bool] | None = None) -> None:
        """Let time pass to ``until_ns``, or until ``is_over``."""
        heap = self._heap
        while heap and heap[0][0] <= until_ns:
            if is_over is not None and is_over():
                return
            at_ns, _, action = heappop(heap)
            self.now_ns = at_ns
            self.steps += 1
            action()
        self.now_ns = max(self.now_ns, until_ns)


class Alarm:
    """The next wake-up of one host: setting it anew replaces it."""

    def __init__(self, clock: Clock, action: Action) -> None:
        self._clock = clock
        self._action = action
        self._at_ns: int | None = None
        self._generation = 0

    def set(self, at_ns: int | None) -> None:
        """Wake at this instant, and not at the one that was set before; None for never."""
        if at_ns is not None:
            at_ns = max(at_ns, self._clock.now_ns)
        if at_ns == self._at_ns:
            return
        self._at_ns = at_ns
        self._generation += 1
        if at_ns is not None:
            generation = self._generation
            self._clock.at(at_ns, lambda: self._ring(generation))

    def _ring(self, generation: int) -> None:
        if generation == self._generation:
            self._at_ns = None
            self._action()
