"""Leases that ended before their time, told to the program that relied on them.

Through the logger ``keepwarm``, one plain line each. A process that died, or that another function's call took with it,
is a warning, which Python shows on standard error unless the program has its own wishes for logs. An eviction is no
more than information: a cluster without room does that, and ``keepwarm status`` counts it. Rules: the first of each
cause is told at once, those that follow are counted and told in one line once ``AGAIN_AFTER_NS`` have passed, or when
the client is closed; called by the thread that owns the client's turn, never under a lock.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keepwarm.interruptions import BestEffort
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import LeaseBroken

__all__ = ["AGAIN_AFTER_NS", "EarlyEnds", "sentence"]

AGAIN_AFTER_NS: Final = 60 * 1_000_000_000
CAUSES_REMEMBERED: Final = 64
FUNCTIONS_SHOWN: Final = 3
EVICTED: Final = "evicted"

_LOG = logging.getLogger("keepwarm")


@dataclass(slots=True)
class _Told:
    """When a cause was last told, and how many ends it has had since."""

    at_ns: int
    untold: int = 0


class EarlyEnds:
    """Tells of early ends, not more often than anybody wants to read. Before a line, ``make_way`` is called."""

    def __init__(self, make_way: Callable[[], object] = lambda: None) -> None:
        self._make_way = make_way
        self._told: OrderedDict[str, _Told] = OrderedDict()

    def tell(self, now_ns: int, broken: LeaseBroken) -> None:
        """Log the end of a process, or count it if its cause was told a short while ago."""
        told = self._told.get(broken.cause)
        if told is not None and now_ns < told.at_ns + AGAIN_AFTER_NS:
            told.untold += 1 + broken.more_notices
            return
        if told is not None:
            self._sum_up(broken.cause, told)
        self._told[broken.cause] = _Told(now_ns)
        self._told.move_to_end(broken.cause)
        self._log(broken.cause, sentence(broken))
        if len(self._told) > CAUSES_REMEMBERED:
            self._sum_up(*self._told.popitem(last=False))

    def close(self) -> None:
        """Tell what has been counted and not told."""
        while self._told:
            self._sum_up(*self._told.popitem(last=False))

    def _sum_up(self, cause: str, told: _Told) -> None:
        if told.untold:
            processes = "1 more warm process" if told.untold == 1 else f"{told.untold} more warm processes"
            self._log(cause, f"{processes} ended before keep_alive was over ({_printable(cause)})")

    def _log(self, cause: str, line: str) -> None:
        level = logging.INFO if cause.partition(":")[0] == EVICTED else logging.WARNING
        if _LOG.isEnabledFor(level):
            self._make_way()
            with BestEffort():  # handlers of logs are the program's
                _LOG.log(level, "%s", line)


def sentence(broken: LeaseBroken) -> str:
    """An early end in words.

    >>> sentence(LeaseBroken(7, "node-1", "ab12", ("app:f",), 0, "killed: timeout of app:g", 9_000_000, 0))
    'the warm process of app:f on node-1 ended 9.0 s before its keep_alive was over (killed: timeout of app:g)'
    """
    names = ", ".join(broken.functions[:FUNCTIONS_SHOWN])
    more = len(broken.functions) - FUNCTIONS_SHOWN + broken.more_functions
    names += f" and {more} more functions" if more > 0 else ""
    early = "though its keep_alive has no end" if broken.left_us >= FOREVER_US else f"{_left(broken.left_us)} over"
    others = f"; {broken.more_notices} more ended with it" if broken.more_notices else ""
    return _printable(f"the warm process of {names} on {broken.node} ended {early} ({broken.cause}){others}")


def _left(left_us: int) -> str:
    return f"{left_us / 1e6:.1f} s before its keep_alive was"


def _printable(text: str) -> str:
    """Names come from other programs of the namespace: they write no lines of their own here."""
    return "".join(character if character.isprintable() else "?" for character in text)
