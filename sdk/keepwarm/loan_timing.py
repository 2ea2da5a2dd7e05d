"""When loans are looked at, and how long outcomes may gather. Part of ``loans``, and pure."""

from collections.abc import Collection

from keepwarm.borrowing import MILLISECOND_NS, Loan

__all__ = ["GLANCE_NS", "due_ns", "idle_until_ns", "pause_ns"]

PAUSE_CALLS = 8
PAUSE_CALL_NS = 5_000
PAUSE_MAX_NS = 8 * MILLISECOND_NS
"""While every process has so many calls, their outcomes are left to gather for half of the time that these take, each
at least so long; at most for so long."""

LOOK_NS = 10 * MILLISECOND_NS
"""How soon it is seen, while there is a loan, how long its calls take."""

GLANCE_NS = 2 * MILLISECOND_NS
"""How soon it is seen, while no caller waits for anything, that others want a loan: they wait for that long."""

IDLE_NS = 5 * MILLISECOND_NS
"""So long a loan that others would like to have may be idle: where the machine is busy, programs are slow to call."""

IDLE_IN_TURN_NS = MILLISECOND_NS
"""The same where another function of the program waits: who calls functions in turn calls none of them meanwhile."""


def idle_until_ns(loan: Loan, requested: Collection[Loan]) -> int:
    """Until when a loan that others would like to have may be idle, while its program waits for the ``requested``."""
    is_in_turn = any(other.borrowing is not loan.borrowing for other in requested)
    return loan.head_ns + (IDLE_IN_TURN_NS if is_in_turn else IDLE_NS)


def due_ns(ticked_ns: int, loans: Collection[Loan], requested: Collection[Loan]) -> int:
    """When what was looked at last at this instant is to be looked at again."""
    return min((ticked_ns + LOOK_NS, *(idle_until_ns(loan, requested) for loan in loans if loan.is_spare)))


def pause_ns(loans: Collection[Loan]) -> int:
    """How long the outcomes of open loans may be left to gather, so that many are read at once; 0 for not at all."""
    if not loans or any(len(loan.sent) < PAUSE_CALLS for loan in loans):
        return 0
    return min((PAUSE_MAX_NS, *(len(loan.sent) // 2 * (PAUSE_CALL_NS + loan.borrowing.mean_ns) for loan in loans)))
