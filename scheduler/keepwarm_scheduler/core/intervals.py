"""A set of numbers that is mostly one run: the call numbers a session has been seen to use.

Kept as sorted, disjoint, non-adjacent intervals, so that its size follows the number of gaps (calls lost on the
way), not the number of calls ever made.
"""

from bisect import bisect_right
from collections.abc import Iterator

__all__ = ["IntervalSet"]


class IntervalSet:
    """Integers from 1 up.

    >>> seen = IntervalSet()
    >>> [seen.add(n) for n in (1, 2, 4, 2)]
    [True, True, True, False]
    >>> list(seen.missing(5, limit=10))
    [3, 5]
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, number: int) -> bool:
        """Add one number; false if it was there already."""
        starts, ends = self._starts, self._ends
        if ends and number == ends[-1] + 1:
            ends[-1] = number
            return True
        index = bisect_right(starts, number) - 1
        if index >= 0 and number <= ends[index]:
            return False
        joins_left = index >= 0 and ends[index] == number - 1
        joins_right = index + 1 < len(starts) and starts[index + 1] == number + 1
        if joins_left and joins_right:
            ends[index] = ends.pop(index + 1)
            del starts[index + 1]
        elif joins_left:
            ends[index] = number
        elif joins_right:
            starts[index + 1] = number
        else:
            starts.insert(index + 1, number)
            ends.insert(index + 1, number)
        return True

    def fill(self, up_to: int) -> None:
        """Add every number from 1 to ``up_to``, where all that are in the set lie in one run from 1.

        >>> seen = IntervalSet()
        >>> seen.fill(7)
        >>> 7 in seen, 8 in seen
        (True, False)
        """
        if not self._ends:
            self._starts, self._ends = [1], [up_to]
        else:
            assert self._starts == [1], "there are gaps"
            self._ends[0] = max(self._ends[0], up_to)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._starts, number) - 1
        return index >= 0 and number <= self._ends[index]

    def missing(self, up_to: int, limit: int) -> Iterator[int]:
        """The numbers from 1 to ``up_to`` that are not in the set, at most ``limit`` of them."""
        expected = 1
        for start, end in zip(self._starts, self._ends, strict=True):
            stop = min(start, up_to + 1)
            while expected < stop:
                if limit <= 0:
                    return
                yield expected
                expected, limit = expected + 1, limit - 1
            expected = max(expected, end + 1)
            if expected > up_to:
                return
        yield from range(expected, min(up_to, expected + limit - 1) + 1)

    @property
    def gaps(self) -> int:
        """How many intervals are stored: a measure of memory."""
        return len(self._starts)
