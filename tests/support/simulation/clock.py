"""Virtual time: a heap of things to do, ordered by instant and, within an instant, by when they were asked for.

Each host reads a clock of its own, as machines do: with an offset, and running a little fast or slow.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

__all__ = ["MILLISECOND", "SECOND", "Alarm", "Clock", "HostClock", "Pauses"]

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
_MILLION = 1_000_000
_ACTIONS_MAX = 300_000
"""A run of a minute does ten thousand things; one that does so many goes on for ever."""

Action = Callable[[], None]


class Clock:
    """The true time of a simulated cluster."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._heap: list[tuple[int, int, Action]] = []
        self._number = 0
        self._done = 0

    def at(self, at_ns: int, action: Action) -> None:
        """Do something at an instant; one that has passed counts as now."""
        self._number += 1
        now_ns = self.now_ns
        heappush(self._heap, (at_ns if at_ns > now_ns else now_ns, self._number, action))

    def after(self, delay_ns: int, action: Action) -> None:
        """Do something after a delay."""
        self.at(self.now_ns + delay_ns, action)

    def run(self, until_ns: int, is_over: Callable[[], bool] | None = None) -> None:
        """Let time pass to ``until_ns``, or until ``is_over``."""
        heap = self._heap
        while heap and heap[0][0] <= until_ns:
            if is_over is not None and is_over():
                return
            self.now_ns, _, action = heappop(heap)
            self._done += 1
            assert self._done < _ACTIONS_MAX, f"still busy after {_ACTIONS_MAX} actions"
            action()
        self.now_ns = max(self.now_ns, until_ns)


class HostClock(NamedTuple):
    """A machine's monotonic clock: it started at ``offset_ns`` and gains ``drift_ppm`` millionths (or loses)."""

    clock: Clock
    offset_ns: int
    drift_ppm: int = 0

    def now(self) -> int:
        """What the machine believes."""
        now_ns = self.clock.now_ns
        return self.offset_ns + now_ns + (now_ns * self.drift_ppm // _MILLION if self.drift_ppm else 0)

    def when(self, local_ns: int) -> int:
        """The first true instant at which the machine's clock shows ``local_ns``."""
        passed_ns = local_ns - self.offset_ns
        return -(-passed_ns * _MILLION // (_MILLION + self.drift_ppm)) if self.drift_ppm else passed_ns


class Alarm:
    """The next wake-up of one host: setting it anew replaces it."""

    def __init__(self, clock: Clock, action: Action) -> None:
        self._clock = clock
        self._action = action
        self._at_ns: int | None = None
        self._generation = 0

    def set(self, at_ns: int | None) -> None:
        """Wake at this instant, and not at the one that was set before; None for never."""
        if at_ns is not None and at_ns < self._clock.now_ns:
            at_ns = self._clock.now_ns
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


class Pauses:
    """Whether a process is frozen (SIGSTOP, a machine that swaps), and what it finds when it goes on."""

    def __init__(self, clock: Clock) -> None:
        self.is_on = False
        self._clock = clock
        self._until_ns = 0
        self._kept: list[Action] = []

    def begin(self, duration_ns: int) -> None:
        """Freeze, or stay frozen for longer."""
        self.is_on = True
        self._until_ns = max(self._until_ns, self._clock.now_ns + duration_ns)
        self._clock.at(self._until_ns, self._end)

    def keep(self, action: Action) -> None:
        """Something arrives at a frozen process: it is met in order afterwards."""
        self._kept.append(action)

    def end(self) -> None:
        """Go on now."""
        self._until_ns = self._clock.now_ns
        self._end()

    def _end(self) -> None:
        if self._clock.now_ns < self._until_ns or not self.is_on:
            return
        self.is_on = False
        kept, self._kept = self._kept, []
        for action in kept:
            action()
