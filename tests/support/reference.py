"""Slow and obvious models that the real parts are compared with. They share no code with what they check."""

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

LATEST_DEADLINE_NS = 2**63


def ceil_tick(deadline_ns: int, tick_ns: int) -> int:
    """Return the first tick that does not lie before the deadline."""
    whole, rest = divmod(deadline_ns, tick_ns)
    return whole + 1 if rest else whole


class NaiveTimers(Generic[K]):
    """The timing wheel's interface over one dict, which keeps keys in the order of their insertion."""

    def __init__(self, tick_ns: int, start_ns: int) -> None:
        self.tick_ns = tick_ns
        self.now_ns = start_ns
        self.deadlines: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self.deadlines)

    def __contains__(self, key: object) -> bool:
        return key in self.deadlines

    def deadline_ns(self, key: K) -> int | None:
        return self.deadlines.get(key)

    def entry_count(self) -> int:
        return len(self.deadlines)

    def schedule(self, key: K, deadline_ns: int) -> None:
        self.deadlines[key] = min(deadline_ns, LATEST_DEADLINE_NS)

    def cancel(self, key: K) -> bool:
        return self.deadlines.pop(key, None) is not None

    def tick(self, key: K) -> int:
        return ceil_tick(self.deadlines[key], self.tick_ns)

    def advance(self, now_ns: int, limit: int | None = None) -> list[tuple[K, int]]:
        self.now_ns = max(self.now_ns, now_ns)
        due = [key for key in self.deadlines if self.tick(key) * self.tick_ns <= self.now_ns]
        due.sort(key=self.tick)  # stable: equal ticks stay in the order of insertion
        return [(key, self.deadlines.pop(key)) for key in due[:limit]]

    def next_deadline(self) -> int | None:
        """Return the exact instant: the real wheel may be earlier for a renewed key, never later."""
        return min((self.tick(key) * self.tick_ns for key in self.deadlines), default=None)
