"""Which calls are given to a process directly, and how many processes are borrowed for them. Part of ``loans``.

Rules:
- Only calls of functions whose options ask for nothing that the scheduler or an agent would have to see to (timeouts,
  retries, at most once, a process for each call). They must be short, their arguments small, and print nothing.
- A loan is asked for when such calls come one soon after another, or many at once. One loan at a time is asked for, as
  long as more calls are under way than there are processes; meanwhile the calls wait here. Where none will come, what
  the processes that there are cannot take is submitted.
- Where a loan was of no use none is asked for during a while, the longer the more often that was so, of late with the
  program's other functions too: the calls are submitted.
  Those that have not been sent when loans are of use again go to them after all.
"""

import hashlib
import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from keepwarm.held_calls import HeldCalls
from keepwarm.loan_frames import Outcome as Ended
from keepwarm.session_calls import Call, CallState, Function
from keepwarm_wire.fields import FOREVER_US, INLINE_BYTES_MAX
from keepwarm_wire.identifiers import number_of
from keepwarm_wire.messages import CallReport, FunctionOptions, Lent, Outcome, Phase, Status

__all__ = ["PRINTS_NS", "Borrower", "Borrowing", "Loan", "Sent", "is_lendable", "report_of"]

MILLISECOND_NS = 1_000_000
LENT_MAX_NS = 10 * MILLISECOND_NS
"""Calls that take longer are submitted: the way through the scheduler is a small part of them."""

STREAK = 3
STREAK_NS = 20 * MILLISECOND_NS
"""After so many calls, each so soon after the one before, the next ones are worth a loan."""

BURST = 16
"""So many unanswered calls of a function are worth a loan at once."""

PROBE_NS = 50 * MILLISECOND_NS
"""Of calls of unknown length those beyond the first few wait so long for one of those to end."""

TAKEN_BACK_MAX = 4096
"""So many held calls are looked at for each outcome, so that nothing waits for that."""

LOANS_MAX = 64
USEFUL_CALLS = 16
"""A loan that others have ended before it had so many calls has cost more than it saved, unless so many wait for it."""

BARRED_NS = 200 * MILLISECOND_NS
BARRED_MAX_NS = 30_000 * MILLISECOND_NS
SHARED_BAR_MAX_NS = 2_000 * MILLISECOND_NS
"""So long at most no loan is asked for because of what another function of the program has found out."""

PRINTS_NS = 60_000 * MILLISECOND_NS


class Sent(NamedTuple):
    """What is to be written for a loan, to its calls' connection and to the other; then the former may have to end.

    Of a loan that has ended, what is still there is to be read before it is closed; of another only our half is shut.
    """

    loan: "Loan"
    data: bytes
    control: bytes
    closes: bool


class Loan:
    """One loan, from when it is asked for."""

    __slots__ = (
        "borrowing", "call", "cancel_at_ns", "closes", "control", "control_rest", "data", "doubtful", "ended",
        "first", "head_ns", "held", "is_broken", "is_closed", "is_forgotten", "is_of_no_use", "is_open", "is_wanted",
        "is_wanted_when_idle", "key", "lent", "passed", "pieces", "recalled", "rest", "sent", "sent_bytes",
    )  # fmt: skip

    def __init__(self, key: bytes, borrowing: "Borrowing", call: Call) -> None:
        self.key = key
        self.borrowing = borrowing
        self.call = call
        self.lent: Lent | None = None
        """Where it is."""
        self.is_open = self.is_closed = self.is_wanted = self.is_forgotten = self.closes = False
        self.is_wanted_when_idle = False
        """Whether others would like to have it, if it is not used."""
        self.is_of_no_use = False
        """Whether others wanted it when it had had few calls, and there were few for it."""
        self.is_broken = False
        """Whether the process has said something that makes no sense: nothing of it is listened to any more."""
        self.ended: Outcome | None = None
        """The outcome of the loan itself."""
        self.sent: deque[Call | None] = deque()
        """The calls that the process has and has not answered, in order; None for one that it gave back.

        The first of them is a call.
        """
        self.first = 1
        """The number of the first of them."""
        self.passed = 0
        """How many calls before that one were given back."""
        self.sent_bytes = 0
        self.head_ns = 0
        """Since when that one is the first, or there is none."""
        self.recalled = 0
        """The number of the last call that it had when all but the first were asked back."""
        self.cancel_at_ns = 0
        """When the loan itself is cancelled, for a call that does not end; 0 for never."""
        self.doubtful: list[Call] = []
        """Calls that had begun when the connection ended."""
        self.held: list[tuple[Call, Ended, bytes]] = []
        """Calls that have ended, and wait for their output."""
        self.pieces: list[bytes] = []
        self.data: list[bytes] = []
        self.control: list[bytes] = []
        self.rest = self.control_rest = b""

    @property
    def is_spare(self) -> bool:
        """Whether it is to be given back if it stays as idle as it is."""
        return self.is_wanted_when_idle and not (self.sent or self.is_wanted)

    @property
    def answered(self) -> int:
        """How many calls have ended under it."""
        return self.first - 1 - self.passed


class Borrowing:
    """What is known of a function that may be worth a loan, and what its calls wait for."""

    __slots__ = (
        "barred_ns", "bars_ns", "ended_ns", "function", "has_left_many", "is_barred", "is_on", "loans", "mean_ns",
        "priority", "probing_ns", "queue", "requested", "streak",
    )  # fmt: skip

    def __init__(self, function: Function) -> None:
        self.function = function
        self.is_on = False
        """Whether its calls go to loans."""
        self.priority = 0
        """That of the calls that do. Others are submitted, for the scheduler to see which goes first."""
        self.probing_ns = 0
        """Since when it is wanted to be known how long its calls are; 0 for not yet. It is waited for only once."""
        self.queue: deque[Call] = deque()
        self.loans: list[Loan] = []
        """Those that are open."""
        self.requested: Loan | None = None
        self.mean_ns = 0
        """How long its calls ran of late; 0 before one has."""
        self.streak = 0
        self.has_left_many = False
        """Whether many calls that waited for loans were handed on to be submitted, and may wait for that."""
        self.ended_ns = 0
        self.is_barred = False
        self.barred_ns = 0
        """Until when no loan is asked for."""
        self.bars_ns = BARRED_NS

    @property
    def under_way(self) -> int:
        """How many of its calls are with processes, or wait for them."""
        return len(self.queue) + sum(len(loan.sent) for loan in self.loans)

    @property
    def is_short(self) -> bool:
        """Whether its calls are known to be."""
        return 0 < self.mean_ns <= LENT_MAX_NS

    @property
    def is_long(self) -> bool:
        """Whether its calls are known to be."""
        return self.mean_ns > LENT_MAX_NS

    def measure(self, run_us: int) -> None:
        """A call has run for so long."""
        run_ns = run_us * 1_000
        self.mean_ns = max(1, self.mean_ns + (run_ns - self.mean_ns) // 8 if self.mean_ns else run_ns)

    def bar(self, now_ns: int, for_ns: int = 0) -> None:
        """Ask for no loan for a while: the longer the more often that was of no use."""
        if not for_ns:
            for_ns, self.bars_ns = self.bars_ns, min(self.bars_ns * 2, BARRED_MAX_NS)
        self.is_barred, self.barred_ns = True, max(self.barred_ns, now_ns + for_ns)

    def unbar(self, now_ns: int) -> None:
        """Ask again, if the time for it has come."""
        if self.is_barred and now_ns >= self.barred_ns:
            self.is_barred = False


def is_lendable(options: FunctionOptions) -> bool:
    """Whether a function's calls may go to a process directly: nothing about them needs the scheduler or an agent."""
    timeouts = (options.queue_timeout_us, options.run_timeout_us, options.overall_timeout_us)
    retries = options.retries
    is_retried = retries.exceptions or retries.crash or retries.out_of_memory
    return all(timeout >= FOREVER_US for timeout in timeouts) and not (
        is_retried or options.at_most_once or options.keep_alive_us == 0
    )


def report_of(loan: Loan, run_us: int) -> CallReport | None:
    """Where a call ran that a process was given directly; None if that was not told."""
    lent = loan.lent
    if lent is None:
        return None
    phases = (Phase("run", run_us),) if run_us else ()
    place = (lent.node, lent.environment_id, lent.instance_id, lent.process_id)
    return CallReport(*place, "ready", number_of(lent.attempt), phases)


class Borrower:
    """Decides for one session. ``borrow`` sends a loan's call, ``cancel`` cancels one, ``submit`` sends any other.

    ``held`` are those that wait for being sent.
    """

    def __init__(
        self,
        secret: bytes,
        borrow: Callable[[Call], None],
        cancel: Callable[[Call], None],
        submit: Callable[[Call], None],
        held: HeldCalls,
    ) -> None:
        self.address = b""
        """Where processes reach this program; empty where they cannot."""
        self.is_offered = False
        """Whether the scheduler lends."""
        self.requested: dict[bytes, Loan] = {}
        """Loans that are not open yet, by their keys."""
        self.on: dict[int, Borrowing] = {}
        """The functions whose calls go to loans, by their numbers."""
        self._secret = secret
        self._made = 0
        self._bars_ns = BARRED_NS
        """What the functions know together of how long loans are of no use."""
        self._borrow, self._cancel, self._submit, self._held = borrow, cancel, submit, held

    def takes(self, call: Call) -> bool:
        """Whether a new call is to go to a loan; then it waits in its function's queue."""
        function = call.function
        borrowing = function.borrowing or self._met(function)
        if borrowing is None or call.size > INLINE_BYTES_MAX:
            return False
        if not borrowing.is_on:
            if function.unanswered <= BURST or borrowing.is_long or not self._may_borrow:
                return False  # a bar may be over by now, which the next look at it tells
            self._turn_on(borrowing, call.priority)
        elif call.priority != borrowing.priority:
            return False
        borrowing.queue.append(call)
        return True

    def take_held(self, count_max: int = sys.maxsize) -> int:
        """Loans may be had, since the scheduler is there or again: of the held calls, all but the first of a function.

        Those that have a number were sent to an earlier one, which may have had them run: they are for the scheduler.
        Looks at so many at most; returns how many were taken.
        """
        if not self._may_borrow:
            return 0
        held, left = self._held, Counter[Function]()
        looked_at: list[Call] = []
        stays: list[Call] = []
        while held and len(looked_at) < count_max:
            looked_at.append(held.popleft())
        for call in looked_at:
            left[call.function] += 1
            if call.number or left[call.function] <= BURST or call.state is not CallState.HELD or not self.takes(call):
                stays.append(call)
        held.put_back(stays)
        return len(looked_at) - len(stays)

    def ended_elsewhere(self, now_ns: int, call: Call, outcome: Outcome) -> None:
        """A call that was submitted has ended: is the next one worth a loan?"""
        borrowing = call.function.borrowing or self._met(call.function)
        if borrowing is None:
            return
        if outcome.report is not None:
            run_us = next((phase.duration_us for phase in outcome.report.phases if phase.name == "run"), 0)
            if run_us or outcome.status == Status.SUCCEEDED:
                borrowing.measure(run_us)
        is_soon = now_ns - borrowing.ended_ns < STREAK_NS
        borrowing.streak = borrowing.streak + 1 if is_soon else 1
        borrowing.ended_ns = now_ns
        borrowing.unbar(now_ns)
        is_worth_it = borrowing.streak >= STREAK and borrowing.is_short and not borrowing.is_barred
        if not is_worth_it or not self._may_borrow:
            return
        if not borrowing.is_on:
            self._turn_on(borrowing, call.priority)
        if borrowing.has_left_many:
            borrowing.has_left_many = self.take_held(TAKEN_BACK_MAX) > 0

    def was_of_use(self, borrowing: Borrowing) -> None:
        """A loan has ended as it should."""
        borrowing.bars_ns = self._bars_ns = BARRED_NS

    def was_of_no_use(self, now_ns: int, borrowing: Borrowing) -> None:
        """Others have ended a loan before it was worth it, and would those of this program's other functions too."""
        borrowing.bars_ns = max(borrowing.bars_ns, self._bars_ns)
        borrowing.bar(now_ns)
        self._bars_ns = min(borrowing.bars_ns, SHARED_BAR_MAX_NS)

    def printed(self, now_ns: int, function: Function) -> None:
        """A call of the function has printed something."""
        if function.borrowing is not None:
            function.borrowing.bar(now_ns, PRINTS_NS)
            if not function.borrowing.loans:
                self.turn_off(function.borrowing)

    def consider(self, now_ns: int, borrowing: Borrowing) -> None:
        """Ask for one more loan, take that back, or submit the calls."""
        borrowing.unbar(now_ns)
        if not borrowing.mean_ns:
            borrowing.probing_ns = borrowing.probing_ns or now_ns
            if now_ns - borrowing.probing_ns >= PROBE_NS:
                self.turn_off(borrowing)
            return
        queue, requested = borrowing.queue, borrowing.requested
        while queue and queue[0].state is CallState.DONE:
            queue.popleft()
        under_way, takers = len(queue), 0
        for loan in borrowing.loans:
            if not (loan.is_wanted or loan.closes):
                under_way, takers = under_way + len(loan.sent), takers + 1
        if requested is not None:
            if under_way <= takers and not queue:
                self._cancel(requested.call)
        elif under_way > takers and self._may_have_more(borrowing):
            self._request(borrowing)
        elif takers and queue and len(borrowing.loans) < LOANS_MAX:
            self._submit_queue(borrowing)  # more than those will do soon, and there will be no others
        elif not takers and (queue or now_ns - borrowing.ended_ns >= STREAK_NS):
            self.turn_off(borrowing)

    def turn_off(self, borrowing: Borrowing) -> None:
        """Its calls are submitted from now on."""
        if borrowing.is_on:
            borrowing.is_on, borrowing.streak = False, 0
            del self.on[borrowing.function.number]
        if borrowing.requested is not None:
            self._cancel(borrowing.requested.call)
        self._submit_queue(borrowing)

    def _submit_queue(self, borrowing: Borrowing) -> None:
        queue, borrowing.queue = borrowing.queue, deque()
        borrowing.has_left_many |= len(queue) > BURST
        for call in queue:
            if call.state is not CallState.DONE:
                self._submit(call)

    @property
    def _may_borrow(self) -> bool:
        return self.is_offered and bool(self.address)

    def _may_have_more(self, borrowing: Borrowing) -> bool:
        is_possible = self._may_borrow and borrowing.is_short and not borrowing.function.lacks_body
        return is_possible and not borrowing.is_barred and len(borrowing.loans) < LOANS_MAX

    def _met(self, function: Function) -> Borrowing | None:
        """A function's calls come for the first time since something may be lent. Where nothing is, nothing is kept."""
        if self._may_borrow and is_lendable(function.options):
            function.borrowing = Borrowing(function)
        return function.borrowing

    def _turn_on(self, borrowing: Borrowing, priority: int) -> None:
        self.on[borrowing.function.number] = borrowing  # first: what is on and not there would never be looked at
        borrowing.is_on, borrowing.priority = True, priority

    def _request(self, borrowing: Borrowing) -> None:
        self._made += 1
        key = hashlib.blake2b(self._made.to_bytes(8, "big"), key=self._secret, digest_size=16).digest()
        call = Call(borrowing.function, key + self.address, None, priority=borrowing.priority)
        call.is_loan = True
        call.loan = borrowing.requested = self.requested[key] = Loan(key, borrowing, call)
        self._borrow(call)
