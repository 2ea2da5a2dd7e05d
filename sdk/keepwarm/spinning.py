"""How long a caller looks for its answer again and again before it sleeps.

A processor that goes to sleep takes tens of microseconds to wake: a good part of a warm call's time. Where a single
short call is waited for, and answers have come quickly of late, it is faster not to sleep at all. Rules: only for one
call at a time, only for about as long as such calls have taken, and only where another processor is there to do the
work. Longer answers, and those of a busy machine, end it by themselves. Pure: durations are arguments.
"""

from typing import Final

__all__ = ["Spinning"]

QUICK_NS: Final = 600_000
"""Only while answers take less than this."""

PATIENCE: Final = 2
"""So many times as long as answers have taken is looked for the next one."""

_SMOOTHING: Final = 4
"""Each new sample counts one fourth."""


class Spinning:
    """The time that answers of single calls have taken of late.

    >>> spinning = Spinning(processors=2)
    >>> spinning.limit_ns(calls=1)
    0
    >>> for _ in range(20):
    ...     spinning.answered(300_000)
    >>> spinning.limit_ns(calls=1) > 600_000, spinning.limit_ns(calls=2)
    (True, 0)
    """

    __slots__ = ("_is_useful", "_mean_ns")

    def __init__(self, processors: int) -> None:
        self._is_useful = processors > 1
        self._mean_ns = 4 * QUICK_NS

    def limit_ns(self, calls: int) -> int:
        """How long to look for an answer while so many calls are unanswered; 0 for not at all."""
        if calls != 1 or self._mean_ns >= QUICK_NS or not self._is_useful:
            return 0
        return PATIENCE * self._mean_ns

    def answered(self, waited_ns: int) -> None:
        """The answer to a single call came after so long."""
        self._mean_ns += (min(waited_ns, 8 * QUICK_NS) - self._mean_ns) // _SMOOTHING
