"""Which deaths the kernel's kills for memory explain: a rule over counts, and the words for it.

The kernel counts whom it kills for memory, and names nobody. So: of the processes that died of a SIGKILL which nobody
here has sent, as many were killed for memory as the count has risen by, the largest first.

Rules: a rise explains one death each, and none of a process that began after it was seen. It is kept for a while,
because a killed process is counted first and is gone only once its memory is given back. What is told of sizes is
what was measured last, never more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["RISE_KEPT_NS", "KillLedger", "sentence"]

RISE_KEPT_NS = 5_000_000_000
"""Giving back a process's memory takes seconds at most; a rise that explains nothing by then was of a stranger."""

_MIB = 1 << 20


@dataclass(slots=True)
class _Rise:
    at_ns: int
    left: int


class KillLedger:
    """The rises of the kernel's count that explain no death yet. ``count`` is what it stands at now.

    >>> ledger = KillLedger(7)
    >>> ledger.explains(2, 8, began_ns=1, memory_bytes=100, others=[])
    True
    >>> ledger.explains(3, 8, began_ns=1, memory_bytes=100, others=[])
    False
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._rises: list[_Rise] = []

    def saw(self, now_ns: int, count: int) -> None:
        """Take in what the count stands at; what is too old to explain anything is dropped."""
        self._rises = [rise for rise in self._rises if rise.left and now_ns - rise.at_ns <= RISE_KEPT_NS]
        if count > self._count:
            self._rises.append(_Rise(now_ns, count - self._count))
        self._count = count

    def explains(self, now_ns: int, count: int, *, began_ns: int, memory_bytes: int, others: Iterable[int]) -> bool:
        """Whether a process that has died of a stranger's SIGKILL was killed for memory; one rise less if so.

        Args:
            now_ns: the instant.
            count: what the kernel's count stands at.
            began_ns: when the process was started.
            memory_bytes: what it was last seen using.
            others: the same of those that have died so too, and have not been judged yet; asked only if it matters.
        """
        self.saw(now_ns, count)
        usable = [rise for rise in self._rises if rise.at_ns >= began_ns and rise.left]
        left = sum(rise.left for rise in usable)
        if not left or left <= sum(1 for other in others if other > memory_bytes):
            return False
        usable[0].left -= 1
        return True


def sentence(evidence: str, used_bytes: int, booked_bytes: int) -> str:
    """What a caller is told: what happened, how it is known, what was used and what had been asked for.

    >>> sentence("the count rose", 0, 256 << 20)
    'The process was killed by the kernel for lack of memory: the count rose. It ended before its memory was measured; \
256 MiB were booked for it (`memory=` of its resources, else what such processes were seen to use).'
    """
    used = (
        f"It was last seen using {_mebibytes(used_bytes)}" if used_bytes else "It ended before its memory was measured"
    )
    return (
        f"The process was killed by the kernel for lack of memory: {evidence}. {used}; "
        f"{_mebibytes(booked_bytes)} were booked for it (`memory=` of its resources, else what such processes were "
        "seen to use)."
    )


def _mebibytes(size: int) -> str:
    return f"{-(-size // _MIB)} MiB"
