"""Compare the timing wheel with a lazy heap and a flat dict of ticks: ns per operation, and entries held.

    python benchmarks/wheel.py [--leases 1000000] [--tick-ms 100] [--seed 1]

Each structure goes through the same life: insert every lease (terms of 10 s to 10 min), cancel and insert a tenth again
(a call comes and goes), renew every lease to a later deadline, then walk in steps of 100 ms until all have expired,
asking after every step when to come next. "longest advance" is the longest call of that walk. Expiry in that walk
includes filing anew what was renewed; "expire in one call" is a second run without renewals, after one long pause.
"""

import argparse
import gc
import heapq
import random
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from keepwarm_scheduler.core.wheel import TimingWheel

MS_NS = 1_000_000
STEP_NS = 100 * MS_NS
SECOND_NS = 1_000_000_000
SHORTEST_TERM_NS = 10 * SECOND_NS
LONGEST_TERM_NS = 600 * SECOND_NS
RENEWAL_NS = 60 * SECOND_NS
QUESTIONS = 10_000


class Timers(Protocol):
    def __len__(self) -> int: ...
    def entry_count(self) -> int: ...
    def schedule(self, key: int, deadline_ns: int) -> None: ...
    def cancel(self, key: int) -> bool: ...
    def advance(self, now_ns: int) -> list[tuple[int, int]]: ...
    def next_deadline(self) -> int | None: ...


class LazyHeap:
    """One heap of (deadline, key). Later renewals wait in a dict, cancelled entries stay until they come to the top."""

    def __init__(self) -> None:
        self.deadlines: dict[int, int] = {}
        self.heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.deadlines)

    def entry_count(self) -> int:
        return len(self.heap)

    def schedule(self, key: int, deadline_ns: int) -> None:
        known_ns = self.deadlines.get(key)
        self.deadlines[key] = deadline_ns
        if known_ns is None or deadline_ns < known_ns:
            heapq.heappush(self.heap, (deadline_ns, key))

    def cancel(self, key: int) -> bool:
        return self.deadlines.pop(key, None) is not None

    def advance(self, now_ns: int) -> list[tuple[int, int]]:
        expired: list[tuple[int, int]] = []
        heap = self.heap
        while heap and heap[0][0] <= now_ns:
            filed_ns, key = heapq.heappop(heap)
            deadline_ns = self.deadlines.get(key)
            if deadline_ns is None:
                continue
            if deadline_ns > now_ns:
                heapq.heappush(heap, (deadline_ns, key))
            elif deadline_ns >= filed_ns:
                del self.deadlines[key]
                expired.append((key, deadline_ns))
        return expired

    def next_deadline(self) -> int | None:
        return self.heap[0][0] if self.heap else None


class DictOfTicks:
    """tick -> keys, in one flat dict, with a heap of ticks. Cancelled keys leave at once, their ticks stay in the heap.

    Keeps the wheel's rules (order of insertion within a tick, wake-ups not early after a cancel), except the limit.
    """

    def __init__(self, tick_ns: int) -> None:
        self.tick_ns = tick_ns
        self.inserted = 0
        self.deadlines: dict[int, int] = {}
        self.filed: dict[int, int] = {}
        self.buckets: dict[int, dict[int, int]] = {}
        self.ticks: list[int] = []

    def __len__(self) -> int:
        return len(self.deadlines)

    def entry_count(self) -> int:
        return sum(map(len, self.buckets.values()))

    def schedule(self, key: int, deadline_ns: int) -> None:
        known_ns = self.deadlines.get(key)
        if known_ns is None:
            number = self.inserted
            self.inserted = number + 1
        elif deadline_ns >= known_ns:
            self.deadlines[key] = deadline_ns
            return
        else:
            number = self.withdraw(key)
        self.deadlines[key] = deadline_ns
        self.file(key, number)

    def file(self, key: int, number: int) -> None:
        tick = -(-self.deadlines[key] // self.tick_ns)
        self.filed[key] = tick
        bucket = self.buckets.get(tick)
        if bucket is None:
            self.buckets[tick] = {key: number}
            heapq.heappush(self.ticks, tick)
        else:
            bucket[key] = number

    def withdraw(self, key: int) -> int:
        tick = self.filed.pop(key)
        bucket = self.buckets[tick]
        number = bucket.pop(key)
        if not bucket:
            del self.buckets[tick]
        return number

    def cancel(self, key: int) -> bool:
        if key not in self.deadlines:
            return False
        self.withdraw(key)
        del self.deadlines[key]
        return True

    def advance(self, now_ns: int) -> list[tuple[int, int]]:
        expired: list[tuple[int, int]] = []
        target = now_ns // self.tick_ns
        while self.ticks and self.ticks[0] <= target:
            tick = heapq.heappop(self.ticks)
            bucket = self.buckets.pop(tick, None)
            if bucket is not None:
                self.open(tick * self.tick_ns, bucket, expired)
        return expired

    def open(self, end_ns: int, bucket: dict[int, int], expired: list[tuple[int, int]]) -> None:
        due: list[int] = []
        for key, number in bucket.items():
            if self.deadlines[key] <= end_ns:
                due.append(key)
            else:
                self.file(key, number)
        due.sort(key=bucket.__getitem__)
        for key in due:
            del self.filed[key]
            expired.append((key, self.deadlines.pop(key)))

    def next_deadline(self) -> int | None:
        while self.ticks and self.ticks[0] not in self.buckets:
            heapq.heappop(self.ticks)
        return self.ticks[0] * self.tick_ns if self.ticks else None


class Figures(NamedTuple):
    insert_ns: float
    renew_ns: float
    cancel_ns: float
    expire_ns: float
    longest_ms: float
    one_call_ns: float
    next_deadline_ns: float
    entries: int


LABELS = (
    "insert, ns",
    "renew, ns",
    "cancel, ns",
    "expire by steps, ns",
    "longest advance, ms",
    "expire in one call, ns",
    "next_deadline, ns",
    "entries after renewal",
)


def timed(work: Callable[[], None], operations: int) -> float:
    """Return the nanoseconds per operation that `work` took."""
    gc.collect()
    begun_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begun_ns) / operations


def schedule_all(timers: Timers, deadlines_ns: dict[int, int]) -> None:
    schedule = timers.schedule
    for key, deadline_ns in deadlines_ns.items():
        schedule(key, deadline_ns)


def cancel_all(timers: Timers, keys: list[int]) -> None:
    cancel = timers.cancel
    for key in keys:
        cancel(key)


def ask_next(timers: Timers, times: int) -> None:
    for _ in range(times):
        timers.next_deadline()


def walk(timers: Timers, wanted: int) -> float:
    """Advance in steps until `wanted` keys have expired; return the longest single advance in ms."""
    now_ns = returned = longest_ns = 0
    while returned < wanted:
        now_ns += STEP_NS
        begun_ns = time.perf_counter_ns()
        returned += len(timers.advance(now_ns))
        longest_ns = max(longest_ns, time.perf_counter_ns() - begun_ns)
        timers.next_deadline()
    return longest_ns / 1e6


def live(make: Callable[[], Timers], first_ns: dict[int, int], returning: list[int]) -> Figures:
    """Take one structure through the life that the module describes."""
    leases = len(first_ns)
    renewed_ns = {key: deadline_ns + RENEWAL_NS for key, deadline_ns in first_ns.items()}
    timers = make()
    insert_ns = timed(lambda: schedule_all(timers, first_ns), leases)
    cancel_ns = timed(lambda: cancel_all(timers, returning), len(returning))
    schedule_all(timers, {key: first_ns[key] for key in returning})
    renew_ns = timed(lambda: schedule_all(timers, renewed_ns), leases)
    entries = timers.entry_count()
    next_deadline_ns = timed(lambda: ask_next(timers, QUESTIONS), QUESTIONS)
    longest_ms: list[float] = []
    expire_ns = timed(lambda: longest_ms.append(walk(timers, leases)), leases)
    assert len(timers) == 0

    paused = make()
    schedule_all(paused, first_ns)
    one_call_ns = timed(lambda: paused.advance(2 * LONGEST_TERM_NS).clear(), leases)
    assert len(paused) == 0
    return Figures(insert_ns, renew_ns, cancel_ns, expire_ns, longest_ms[0], one_call_ns, next_deadline_ns, entries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leases", type=int, default=1_000_000, help="how many leases to hold (default: %(default)s)")
    parser.add_argument("--tick-ms", type=int, default=100, help="length of a tick in ms (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the deadlines (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.leases < 10 or arguments.tick_ms < 1:
        parser.error("--leases is at least 10, --tick-ms at least 1")

    tick_ns = arguments.tick_ms * MS_NS
    structures: dict[str, Callable[[], Timers]] = {
        "lazy heap": LazyHeap,
        "dict of ticks": lambda: DictOfTicks(tick_ns),
        "wheel": lambda: TimingWheel[int](tick_ns, 0),
    }
    chooser = random.Random(arguments.seed)
    first_ns = {key: chooser.randint(SHORTEST_TERM_NS, LONGEST_TERM_NS) for key in range(arguments.leases)}
    returning = chooser.sample(range(arguments.leases), arguments.leases // 10)
    results = {name: live(make, first_ns, returning) for name, make in structures.items()}

    print(f"{arguments.leases} leases, ticks of {arguments.tick_ms} ms, seed {arguments.seed}\n")
    print(f"{'':24}" + "".join(f"{name:>16}" for name in results))
    for column, label in enumerate(LABELS):
        print(f"{label:24}" + "".join(f"{figures[column]:16,.0f}" for figures in results.values()))


if __name__ == "__main__":
    main()
