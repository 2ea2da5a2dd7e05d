"""What an idle process is worth keeping when memory is short: a score, the lowest goes first.

Greedy-Dual (Cao and Irani 1997; FaasCache, ASPLOS 2021) with corrections that make it fair:

    score = clock + worth x cost / size ** 1.25
    worth = (min(uses, USES_MAX) + FAIRNESS x cold share) x (HOPELESS where it would be lost anyway, else 1)

``uses`` counts a pool's calls since its last process was evicted, ``cost`` is what a start takes, ``size`` the memory
held. The clock moves on to the score of each victim, so what is not used ages. Why not plain Greedy-Dual:

1. *Uses are capped.* A pool that is called every second does not need a thousand times the standing of one that is
   called every minute: both are safe. What it does not need keeps others in memory.
2. *Who suffered counts.* The share of a pool's calls that were cold is added, so rare functions are not left to pay for
   frequent ones.
3. *No memory for hopes that fail.* When a pool comes back after an eviction, the clock tells how much more worth it
   would have needed to be still there: its shortfall. One that regularly lacks far more than it has gives way at once:
   it will be cold in any case, and its memory keeps others warm. Each long gap that it survives gives hope back.
4. *Size counts a little more than in proportion.* In place of a large process several small ones stay, each of another
   function.

The constants were chosen by replaying one public day of calls under five caps on memory (docs/explanation/performance
says how it compares). Everything is in whole numbers, worth in thousandths of a use, so that a run repeats bit by bit.
Pure arithmetic on what it is given; nothing here knows a node or an instance.
"""

import math
from functools import lru_cache
from typing import Final

__all__ = ["FAIRNESS_MILLI", "HOPELESS_PERMILLE", "HOPELESS_SHORTFALL_PERCENT", "USES_MAX", "PoolWorth", "victim_score"]

USES_MAX: Final = 8
FAIRNESS_MILLI: Final = 9_500
"""What a pool whose every call is cold gains, in thousandths of a use."""
HOPELESS_SHORTFALL_PERCENT: Final = 40
"""Lacking more than this part of its own worth, a pool would be evicted again before its next call."""
HOPELESS_PERMILLE: Final = 130
"""What is left of its worth then. Not nothing: a pool that changes its ways has to be able to show it."""
_SIZE_EXPONENT: Final = 1.25
_MILLI: Final = 1_000
_MEBIBYTE: Final = 1 << 20
_SIZES_REMEMBERED: Final = 4_096


def victim_score(clock: int, worth_milli: int, cost_ns: int, size_bytes: int) -> int:
    """What an idle process is worth that was used when the clock stood at ``clock``. The lowest goes first.

    >>> victim_score(10, 4_000, cost_ns=500, size_bytes=64 << 20)
    11059
    """
    return clock + worth_milli * cost_ns // _burden(size_bytes)


@lru_cache(maxsize=_SIZES_REMEMBERED)
def _burden(size_bytes: int) -> int:
    """How heavily a process of this size weighs."""
    return max(1, round(math.pow(size_bytes / _MEBIBYTE, _SIZE_EXPONENT)))


class PoolWorth:
    """What is known of one pool's use: a handful of numbers, whatever its traffic. They outlive its processes.

    >>> pool = PoolWorth()
    >>> pool.started(0, cost_ns=500, size_bytes=100 << 20)
    >>> pool.called(0, cost_ns=500, size_bytes=100 << 20)
    >>> pool.worth_milli
    10500
    """

    __slots__ = ("_evicted_score", "_used_clock", "calls", "shortfall_milli", "starts", "uses")

    def __init__(self) -> None:
        self.calls = 0
        self.starts = 0
        self.uses = 0
        self.shortfall_milli: int | None = None
        """How much more worth was lacking at the evictions of the past, as a moving average; None before the first."""
        self._evicted_score: int | None = None
        self._used_clock = 0

    def started(self, clock: int, cost_ns: int, size_bytes: int) -> None:
        """A process is started: if an eviction is the reason, the clock says what was lacking."""
        self.starts += 1
        if self._evicted_score is None:
            return
        lacking = max(0, clock - self._evicted_score) * _burden(size_bytes) // max(1, cost_ns)
        known = self.shortfall_milli
        self.shortfall_milli = lacking if known is None else (known + lacking) // 2
        self._evicted_score = None

    def called(self, clock: int, cost_ns: int, size_bytes: int) -> None:
        """A call is sent to one of the pool's processes: the gap since the last call was survived, if it had one."""
        if self.shortfall_milli and self.uses:
            spanned = (clock - self._used_clock) * _burden(size_bytes) // max(1, cost_ns)
            whole = self.worth_milli
            self.shortfall_milli -= self.shortfall_milli * min(spanned, whole) // whole
        self.calls += 1
        self.uses += 1
        self._used_clock = clock

    def evicted(self, score: int) -> None:
        """The pool's last process is ended under pressure: what it has earned is over."""
        self.uses = 0
        self._evicted_score = score

    @property
    def cold_share_milli(self) -> int:
        """Starts for each thousand calls, as if one more of both had been seen; at most 1,000."""
        return min(_MILLI, (self.starts + 1) * _MILLI // (self.calls + 1))

    @property
    def worth_milli(self) -> int:
        """The factor of ``victim_score``, in thousandths: from 1 to ``USES_MAX`` and ``FAIRNESS`` together."""
        worth = min(self.uses, USES_MAX) * _MILLI + FAIRNESS_MILLI * self.cold_share_milli // _MILLI
        lacking = self.shortfall_milli
        if lacking is not None and lacking * 100 > worth * HOPELESS_SHORTFALL_PERCENT:
            worth = worth * HOPELESS_PERMILLE // _MILLI
        return max(1, worth)
