"""The timing wheel: when each key falls due.

It owns a set of keys, each with one deadline, and answers two questions: which keys are due at `now_ns`, and when to
ask again. Leases have one wheel; heartbeats, call timeouts and retry delays have another.

Shape. Time is cut into ticks; the tick of a deadline is `ceil(deadline_ns / tick_ns)`, an absolute number, never an
offset. All keys of one tick live in one bucket, and the buckets hang in a hierarchy of levels with 64 slots each
(Varghese & Lauck, "Hashed and hierarchical timing wheels", SOSP 1987, scheme 7). A bucket's level is the highest
6-bit digit in which its tick differs from the cursor (the tick the wheel has reached), its slot is that digit. A bitmap
per level says which slots are in use, so the lowest set bit of the lowest used level is always the next work. When the
cursor enters a slot, the slot's buckets move down; what moves is the bucket, in one step, however many keys it holds.

Width of a slot and reach of a level, at ticks of 100 ms:

    level   slot         reach
    0       100 ms       6.4 s
    1       6.4 s        6 min 50 s
    2       6 min 50 s   7 h 17 min
    3       7 h 17 min   19.4 days
    4       19.4 days    3.4 years
    5       3.4 years    218 years
    6       218 years    13,900 years
    7..10   used by finer ticks: eleven levels hold every deadline up to 2**63 ns at ticks of 1 ns

Rules.
- Never early: a key is returned by the first `advance(t)` with `t >= tick * tick_ns`, thus less than a tick late.
- Order: by tick; within a tick in the order in which the keys were inserted. A renewal keeps a key's place.
- Renewal to a later deadline is lazy: only the deadline changes; the old bucket files the key anew when it comes up.
- A key is in exactly one bucket. `cancel` takes it out at once; nothing is left behind to be skipped later.
- A pause of any length costs the work that fell due in it, never a walk over the empty ticks.

Example, at ticks of 100 ms from time 0. `schedule("a", 250 ms)` gives tick 3: level 0, slot 3. `schedule("b", 7.05 s)`
gives tick 71 = 1 * 64 + 7: level 1, slot 1. `advance(299 ms)` returns nothing, `advance(300 ms)` returns "a".
`schedule("b", 12 s)` renews: "b" stays in bucket 71, so `next_deadline()` is 7.1 s, early but never late.
`advance(7.1 s)` takes slot 1 of level 1 down, finds bucket 71 at level 0, slot 7, and files "b" under tick 120.
`advance(12 s)` returns "b".

It must never read a clock, call back into its caller, or iterate a set.
"""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MAX_DEADLINE_NS: Final = 2**63
"""Later deadlines are cut to this one: 292 years after the clock's zero."""

DIGIT_BITS: Final = 6
SLOTS_PER_LEVEL: Final = 1 << DIGIT_BITS
LAST_SLOT: Final = SLOTS_PER_LEVEL - 1
LEVEL_COUNT: Final = 11


class TimingWheel(Generic[K]):
    """Keys with deadlines, returned once each when due. All times are integer nanoseconds of one monotonic clock.

    Args:
        tick_ns: the resolution; a key is returned less than this after its deadline. At least 1.
        start_ns: the clock's reading now. At least 0.

    Raises:
        ValueError: `tick_ns` or `start_ns` is out of range.

    >>> wheel = TimingWheel[str](tick_ns=100, start_ns=0)
    >>> wheel.schedule("lease", deadline_ns=250)
    >>> wheel.advance(250), wheel.next_deadline(), wheel.advance(300)
    ([], 300, [('lease', 250)])
    """

    def __init__(self, tick_ns: int, start_ns: int) -> None:
        if tick_ns < 1:
            raise ValueError(f"tick_ns is {tick_ns}, a tick lasts at least 1 ns: pass the wheel a positive tick_ns.")
        if start_ns < 0:
            raise ValueError(f"start_ns is {start_ns}, a monotonic clock is never negative: pass the clock's reading.")
        self._tick_ns = tick_ns
        self._now_ns = start_ns
        self._cursor = start_ns // tick_ns
        self._inserted = 0  # insertions so far; each key carries its own number, which orders it within its tick
        self._deadlines: dict[K, int] = {}
        self._filed: dict[K, int] = {}  # the tick under which a key is filed: that of its deadline, or earlier
        self._buckets: dict[int, dict[K, int]] = {}  # tick -> {key: insertion number}; only ticks after the cursor
        # Level and slot -> the ticks of its buckets, as an ordered set. A slot of level 0 is one tick and needs none.
        self._slots: dict[int, dict[int, None]] = {}
        self._occupied = [0] * LEVEL_COUNT  # per level, bit s set: slot s holds a bucket
        self._earliest: int | None = None  # the earliest tick that has a bucket, where known
        # Keys filed at or before the cursor, LAST one first: popitem() takes from the end at no cost per key before it.
        self._due: dict[K, int] = {}
        self._due_unsorted = False

    def __len__(self) -> int:
        return len(self._deadlines)

    def __contains__(self, key: object) -> bool:
        return key in self._deadlines

    def deadline_ns(self, key: K) -> int | None:
        """Return the deadline of `key` in nanoseconds, or None if the wheel does not hold it."""
        return self._deadlines.get(key)

    def entry_count(self) -> int:
        """Count the entries in all buckets, for tests and diagnostics: always equal to `len()`."""
        return len(self._due) + sum(map(len, self._buckets.values()))

    def schedule(self, key: K, deadline_ns: int) -> None:
        """Insert `key`, or give it a new deadline. A deadline already past is due at the next `advance`.

        >>> wheel = TimingWheel[str](tick_ns=100, start_ns=0)
        >>> wheel.schedule("lease", deadline_ns=250)
        >>> wheel.schedule("lease", deadline_ns=450)
        >>> wheel.advance(400), wheel.advance(500)
        ([], [('lease', 450)])
        """
        if deadline_ns > MAX_DEADLINE_NS:
            deadline_ns = MAX_DEADLINE_NS
        known_ns = self._deadlines.get(key)
        if known_ns is None:
            number = self._inserted
            self._inserted = number + 1
        elif deadline_ns >= known_ns and key not in self._due:
            self._deadlines[key] = deadline_ns  # lazy: the bucket it is in comes up first and will see
            return
        else:
            number = self._withdraw(key)
        self._deadlines[key] = deadline_ns
        self._file(key, number)

    def cancel(self, key: K) -> bool:
        """Take `key` out of the wheel; return whether it was there.

        >>> wheel = TimingWheel[str](tick_ns=100, start_ns=0)
        >>> wheel.schedule("lease", deadline_ns=250)
        >>> wheel.cancel("lease"), wheel.cancel("lease"), wheel.next_deadline()
        (True, False, None)
        """
        if key not in self._deadlines:
            return False
        self._withdraw(key)
        del self._deadlines[key]
        return True

    def advance(self, now_ns: int, limit: int | None = None) -> list[tuple[K, int]]:
        """Move to `now_ns` and return what is due as (key, deadline in ns), by tick, then in order of insertion.

        The returned keys have left the wheel: the caller may schedule any key again at once. A `now_ns` before an
        earlier one counts as that earlier one. At most `limit` keys are returned (default: all); the rest come with
        the next calls, and until then `next_deadline()` is not after now. `limit` does not bound how many renewed keys
        are filed anew on the way.

        Raises:
            ValueError: `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit is {limit}, the most keys to return: pass None for all, or a number from 0 up.")
        self._now_ns = max(self._now_ns, now_ns)
        target = self._now_ns // self._tick_ns
        room = len(self._deadlines) if limit is None else limit
        expired: list[tuple[K, int]] = []
        while True:
            self._take_due(expired, room)
            if self._due:
                return expired  # the cursor waits here, so that what is scheduled meanwhile falls into its order
            tick = self._descend(target)
            if tick is None:
                self._cursor = target
                return expired
            self._open(tick)

    def next_deadline(self) -> int | None:
        """Return the instant, in ns, at which to call `advance` next; None if the wheel is empty.

        Never later than the earliest tick of any key; earlier only because of a key that was renewed lazily.
        """
        if self._due:
            self._sort_due()
            return self._filed[next(reversed(self._due))] * self._tick_ns
        if not self._buckets:
            return None
        if self._earliest is None:
            level, place, first_tick = self._first_slot()
            self._earliest = min(self._slots[place]) if level else first_tick
        return self._earliest * self._tick_ns

    # Keys in buckets.

    def _file(self, key: K, number: int) -> None:
        """Put a key that is in no bucket where its deadline belongs."""
        tick = -(-self._deadlines[key] // self._tick_ns)
        self._filed[key] = tick
        if tick <= self._cursor:
            self._due[key] = number
            self._due_unsorted = True
            return
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {key: number}
            self._hang(tick)
        else:
            bucket[key] = number

    def _withdraw(self, key: K) -> int:
        """Take a key out of its bucket; return its insertion number."""
        tick = self._filed.pop(key)
        if tick <= self._cursor:
            return self._due.pop(key)
        bucket = self._buckets[tick]
        number = bucket.pop(key)
        if not bucket:
            del self._buckets[tick]
            self._unhang(tick)
        return number

    def _open(self, tick: int) -> None:
        """Let the cursor reach `tick`: its keys are due, or were renewed and are filed anew, all after `tick`."""
        bucket = self._buckets.pop(tick)  # out of the wheel first: nothing is ever filed into it while it is read
        self._occupied[0] &= self._occupied[0] - 1  # its lowest bit is this tick's
        self._earliest = None
        self._cursor = tick
        end_ns = tick * self._tick_ns
        due: list[K] = []
        for key, number in bucket.items():
            if self._deadlines[key] <= end_ns:
                due.append(key)
            else:
                self._file(key, number)
        due.sort(key=bucket.__getitem__, reverse=True)
        self._due = {key: bucket[key] for key in due}

    def _take_due(self, expired: list[tuple[K, int]], room: int) -> None:
        """Move due keys to the end of `expired`, until it holds `room` of them."""
        self._sort_due()
        due, deadlines, filed = self._due, self._deadlines, self._filed
        for _ in range(min(len(due), room - len(expired))):
            key, _number = due.popitem()
            del filed[key]
            expired.append((key, deadlines.pop(key)))

    def _sort_due(self) -> None:
        """Bring due keys into order again. Only needed when a key was scheduled for a tick already reached."""
        if self._due_unsorted:
            in_order = sorted(self._due.items(), key=lambda item: (self._filed[item[0]], item[1]), reverse=True)
            self._due = dict(in_order)
            self._due_unsorted = False

    # Buckets in slots.

    def _level_and_slot(self, tick: int) -> tuple[int, int]:
        """Return where a tick hangs: the same answer until `_descend` takes it down."""
        level = (((tick ^ self._cursor) | LAST_SLOT).bit_length() - 1) // DIGIT_BITS
        return level, (tick >> (level * DIGIT_BITS)) & LAST_SLOT

    def _hang(self, tick: int) -> None:
        level, slot = self._level_and_slot(tick)
        self._occupied[level] |= 1 << slot
        if level:
            self._slots.setdefault(level * SLOTS_PER_LEVEL + slot, {})[tick] = None
        if self._earliest is not None and tick < self._earliest:
            self._earliest = tick

    def _unhang(self, tick: int) -> None:
        level, slot = self._level_and_slot(tick)
        if tick == self._earliest:
            self._earliest = None
        if level:
            place = level * SLOTS_PER_LEVEL + slot
            ticks = self._slots[place]
            del ticks[tick]
            if ticks:
                return
            del self._slots[place]
        self._occupied[level] ^= 1 << slot

    def _first_slot(self) -> tuple[int, int, int]:
        """Return level, place and first tick of the slot that comes up next. Some slot must be in use."""
        for level, bits in enumerate(self._occupied):
            if bits:
                slot = (bits & -bits).bit_length() - 1
                shift = level * DIGIT_BITS
                parent = self._cursor >> (shift + DIGIT_BITS)
                return level, level * SLOTS_PER_LEVEL + slot, ((parent << DIGIT_BITS) | slot) << shift
        raise AssertionError("a bucket hangs in no slot")

    def _descend(self, target: int) -> int | None:
        """Return the first bucket's tick if not after `target`, taking down the slots that the cursor enters.

        A slot in use always lies ahead of the cursor's own digit at that level, under the same higher digits: the
        cursor enters no slot without emptying it. So slots never wrap, and a tick's place can be computed at any time.
        """
        while self._buckets:
            level, place, first_tick = self._first_slot()
            if first_tick > target:
                return None
            if level == 0:
                return first_tick
            self._cursor = first_tick
            self._occupied[level] &= self._occupied[level] - 1  # its lowest bit is this slot
            for tick in self._slots.pop(place):
                self._hang(tick)
        return None
