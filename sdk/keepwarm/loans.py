"""Calls given to a process directly: the client's side of loans, a part of the session's state machine and as pure.

Where scheduler, node and program share a machine, the session may borrow an instance (``Borrow``): a call that lasts
as long as the loan, and under which the process takes calls from this program itself. Who opens, reads and writes the
connection is told here what came (``opened``, ``received``, ``closed``), and what is to be sent (``take_outgoing``).

Rules:
- Only short calls of functions whose options ask for nothing that scheduler or agent would have to see to (timeouts,
  retries, at most once), and of those that print nothing: the others are submitted.
- A process has no more calls than it runs in ``HORIZON_NS``; where one takes long, those behind it are called back.
- What had not begun when a loan ended is given to another, or submitted. What had begun ends as its attempt did, which
  the loan's own outcome tells.
- A loan whose call printed something is over, and that call ends with it: output comes before the outcome.
- An outcome that we did not read in time is the loan's own result: the process waits for nobody.
- A loan that others want is given no more calls, and those that have not begun are called back; one that they would
  like to have ends once it has been idle for ``IDLE_NS``. After one that had few calls none is asked for for a while.
"""

from collections import deque
from collections.abc import Callable

from keepwarm import loan_timing
from keepwarm.borrowing import MILLISECOND_NS, PRINTS_NS, USEFUL_CALLS, Borrower, Borrowing, Loan, Sent, report_of
from keepwarm.held_calls import HeldCalls
from keepwarm.loan_ends import FORGOTTEN, cancelled, end_with_loan, failed
from keepwarm.loan_frames import FrameError, Piece, Recalled, call_frame, cancel_frame, read, read_whole, recall_frame
from keepwarm.loan_frames import Outcome as Ended
from keepwarm.session_calls import Call, CallState
from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import Lent, LoanWanted, Outcome, Status

__all__ = ["Loans"]

HORIZON_NS = 16 * MILLISECOND_NS
"""How much running a process is given ahead."""

WINDOW_MAX = 256
WINDOW_BYTES = 256 * 1024
CALL_MIN_NS = 15_000
"""What a call costs a process at least, more or less."""

SLOW_NS = 50 * MILLISECOND_NS
"""So long a call may run before those behind it are called back."""

GRACE_NS = 2_000 * MILLISECOND_NS
"""So long a cancelled call may go on before its process is ended."""

_NO_VERSION = bytes(32)
"""A loan is of one function: its calls need not name it."""


class Loans:
    """The loans of one session.

    ``borrow`` sends a loan's call, ``cancel_loan`` cancels one, ``submit`` sends a call the ordinary way; ``complete``
    takes a failed call's end, ``succeed`` that of one that returned: its result and how long it ran, in microseconds.
    ``held`` are the calls that wait for being submitted.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        borrow: Callable[[Call], None],
        cancel_loan: Callable[[Call], None],
        submit: Callable[[Call], None],
        complete: Callable[[int, Call, Outcome], None],
        succeed: Callable[[Call, bytes, int], None],
        held: HeldCalls,
    ) -> None:
        self.borrower = Borrower(secret, borrow, cancel_loan, submit, held)
        """Which calls go to loans, and how many there are to be."""
        self._cancel_loan, self._submit = cancel_loan, submit
        self._complete, self._succeed = complete, succeed
        self._open: dict[bytes, Loan] = {}
        self._ending: dict[bytes, Loan] = {}
        """Loans whose connection is over and whose outcome is not here, or the reverse."""
        self._changed: dict[bytes, Loan] = {}
        self._ticked_ns = 0
        self.inflight = 0
        """How many calls processes have."""

    # ------------------------------------------------------------ time

    def tick(self, now_ns: int) -> None:
        """Give the processes what they may have, and ask for another one where that is of use."""
        self._ticked_ns = now_ns
        for borrowing in list(self.borrower.on.values()):
            self._fill(now_ns, borrowing)
            if borrowing.is_long:
                self._return_all(now_ns, borrowing)
            else:
                self.borrower.consider(now_ns, borrowing)
        for loan in self._open.values():
            if loan.sent:
                self._look_after(now_ns, loan)
            elif loan.is_spare and now_ns >= loan_timing.idle_until_ns(loan, self.borrower.requested.values()):
                self.on_wanted(loan)

    def _fill(self, now_ns: int, borrowing: Borrowing) -> None:
        if not borrowing.queue:
            return
        loans = [
            loan
            for loan in borrowing.loans
            if not (loan.is_wanted or loan.closes or loan.recalled >= loan.first)  # a slow one is given nothing more
        ]
        if not loans:
            return
        window = min(max(HORIZON_NS // max(borrowing.mean_ns, CALL_MIN_NS), 1), WINDOW_MAX)
        each = -(-(len(borrowing.queue) + sum(len(loan.sent) for loan in loans)) // len(loans))
        for loan in loans:
            self._send(now_ns, loan, borrowing.queue, min(window, each))

    def _send(self, now_ns: int, loan: Loan, queue: deque[Call], window: int) -> None:
        sent = loan.sent
        if len(sent) >= window or not queue:
            return
        if not sent:
            loan.head_ns = now_ns
        while queue and len(sent) < window and loan.sent_bytes < WINDOW_BYTES:
            call = queue.popleft()
            if call.state is CallState.DONE:
                continue
            call.state, call.loan, call.lent_number = CallState.LENT, loan, loan.first + len(sent)
            loan.data.append(call_frame(call.lent_number, _NO_VERSION, call.arguments))
            loan.sent_bytes += call.size
            self.inflight += 1
            sent.append(call)
        self._changed[loan.key] = loan

    def _return_all(self, now_ns: int, borrowing: Borrowing) -> None:
        """Its calls have become long."""
        borrowing.bar(now_ns)
        self.borrower.turn_off(borrowing)
        for loan in borrowing.loans:
            self.on_wanted(loan)

    def _look_after(self, now_ns: int, loan: Loan) -> None:
        if now_ns - loan.head_ns >= SLOW_NS:
            self._call_back(loan)
        if loan.cancel_at_ns and now_ns >= loan.cancel_at_ns:
            loan.cancel_at_ns = 0
            if any(call is not None and call.cancelling for call in loan.sent):
                self.on_wanted(loan)
                if loan.is_forgotten:
                    self.on_outcome(now_ns, loan, FORGOTTEN)  # nobody can end it for us: we hang up
                else:
                    self._cancel_loan(loan.call)

    def _call_back(self, loan: Loan) -> None:
        """Have the process give back what it has not begun."""
        sent = loan.sent
        if sent and loan.recalled < loan.first:
            loan.recalled = loan.first + len(sent) - 1
            numbers = [number for number, call in enumerate(sent, loan.first) if call is not None]
            loan.control += map(recall_frame, numbers[1:])
            self._changed[loan.key] = loan

    def next_deadline(self) -> int | None:
        """When ``tick`` is next due, apart from new calls and what comes."""
        if not (self._open or self.borrower.on):
            return None
        if self._changed:
            return self._ticked_ns
        return loan_timing.due_ns(self._ticked_ns, self._open.values(), self.borrower.requested.values())

    @property
    def look_ns(self) -> int | None:
        """When the connections are to be looked at though no caller waits: others may want what is lent."""
        return self._ticked_ns + loan_timing.GLANCE_NS if self._open else None

    def pause_ns(self) -> int:
        """How long outcomes may be left to gather; 0 for not at all."""
        return loan_timing.pause_ns(self._open.values())

    def take_outgoing(self) -> list[Sent]:
        """What is to be written now."""
        outgoing = []
        for loan in self._changed.values():
            outgoing.append(Sent(loan, b"".join(loan.data), b"".join(loan.control), loan.closes))
            loan.data.clear()
            loan.control.clear()
        self._changed.clear()
        return outgoing

    # ------------------------------------------------------------ what the program does

    def cancel(self, now_ns: int, call: Call) -> None:
        """End a call that a process has, if it has not ended by then."""
        loan = call.loan
        if loan is None or call.cancelling:
            return
        call.cancelling = True
        if call in loan.sent and not loan.is_closed:
            number = call.lent_number
            loan.control += [recall_frame(number), cancel_frame(number)]
            loan.cancel_at_ns = loan.cancel_at_ns or now_ns + GRACE_NS
            self._changed[loan.key] = loan
        elif loan.is_closed:
            self._cancel_if_doubtful(loan)

    def _cancel_if_doubtful(self, loan: Loan) -> None:
        """The connection is over: the process of a cancelled call is reached by the scheduler only."""
        if loan.ended is None and not loan.is_forgotten and any(call.cancelling for call in loan.doubtful):
            self._cancel_loan(loan.call)

    # ------------------------------------------------------------ what the connection does

    def opened(self, now_ns: int, loan: Loan) -> None:
        """The process has connected, and been answered."""
        if self.borrower.requested.pop(loan.key, None) is not loan:
            return
        borrowing = loan.borrowing
        if borrowing.requested is loan:
            borrowing.requested = None
        loan.is_open, loan.head_ns = True, now_ns
        self._open[loan.key] = loan
        borrowing.loans.append(loan)
        if loan.is_wanted or loan.call.cancelling or not borrowing.is_on:
            loan.is_wanted = True
            self._let_go(loan)

    def received(self, now_ns: int, loan: Loan, data: bytes) -> None:
        """Bytes of the calls' connection."""
        if loan.is_broken or loan.is_closed:
            return
        frames: list[Ended | Piece | Recalled] = []
        try:
            loan.rest = read(loan.rest + data if loan.rest else data, frames)
            for frame in frames:
                if type(frame) is Ended:
                    self._ended(now_ns, loan, frame)
                elif type(frame) is Piece and loan.sent:
                    loan.pieces.append(frame.data)
                else:
                    raise FrameError("a recall on the connection of calls, or a result of nothing")
        except FrameError:
            self._break(loan)
            return
        loan.head_ns = now_ns
        self._pass_given_back(loan)

    def received_control(self, now_ns: int, loan: Loan, data: bytes) -> None:
        """Bytes of the other connection."""
        if loan.is_broken or loan.is_closed:
            return
        frames: list[Ended | Piece | Recalled] = []
        returned = []
        try:
            loan.control_rest = read(loan.control_rest + data, frames)
            for frame in frames:
                if type(frame) is not Recalled:
                    raise FrameError("an outcome on the connection of recalls")
                place = frame.number - loan.first
                call = loan.sent[place] if 0 <= place < len(loan.sent) else None
                if call is not None:
                    loan.sent[place] = None
                    returned.append(call)
        except FrameError:
            self._break(loan)
        if loan.sent and loan.sent[0] is None:
            loan.head_ns = now_ns
        self._given_back(now_ns, loan, returned)
        self._pass_given_back(loan)

    def _pass_given_back(self, loan: Loan) -> None:
        """Nothing more is said of calls that were given back: the first that the process has is one that it runs."""
        sent = loan.sent
        while sent and sent[0] is None:
            sent.popleft()
            loan.first += 1
            loan.passed += 1
        if loan.is_wanted and not sent:
            self._let_go(loan)

    def closed(self, now_ns: int, loan: Loan, begun: int) -> None:
        """The connection is over. ``begun`` is the number of the last call that began."""
        if loan.is_closed:
            return
        loan.is_closed, loan.is_open = True, False
        self._open.pop(loan.key, None)
        if loan in loan.borrowing.loans:
            loan.borrowing.loans.remove(loan)
        calls = [(number, call) for number, call in enumerate(loan.sent, loan.first) if call is not None]
        loan.sent.clear()
        returned = []
        for number, call in calls:
            was_asked_back = not loan.is_broken and (number <= loan.recalled or call.cancelling)
            if number > begun or (number < begun and was_asked_back):  # what has begun before has its outcome
                returned.append(call)
            else:
                loan.doubtful.append(call)
        self.inflight -= len(loan.doubtful)
        self._given_back(now_ns, loan, returned)
        loan.sent_bytes = 0
        loan.pieces.clear()
        loan.rest = loan.control_rest = b""
        self._cancel_if_doubtful(loan)
        self._end(now_ns, loan)

    def _break(self, loan: Loan) -> None:
        """What the process says makes no sense: the connection is given up."""
        loan.is_broken = True
        self.on_wanted(loan)
        self._let_go(loan)

    def _let_go(self, loan: Loan) -> None:
        loan.closes = True
        self._changed[loan.key] = loan

    # ------------------------------------------------------------ ends

    def _ended(self, now_ns: int, loan: Loan, frame: Ended) -> None:
        payload = frame.payload
        if payload is None or loan.pieces:
            payload = self._joined(now_ns, loan, frame)
        call = self._take(now_ns, loan, frame.number)
        if frame.printed:
            loan.held.append((call, frame, payload))
            loan.is_wanted = True
            loan.borrowing.bar(now_ns, PRINTS_NS)
        elif frame.status:
            self._fail(now_ns, loan, call, frame, payload)
        else:
            loan.borrowing.measure(frame.run_us)
            self._succeed(call, payload, frame.run_us)

    def _joined(self, now_ns: int, loan: Loan, frame: Ended) -> bytes:
        """The payload that came in pieces; they are of no use where the process could not send all of it."""
        pieces, loan.pieces = loan.pieces, []
        if frame.payload is not None:
            return frame.payload
        payload = b"".join(pieces)
        if len(payload) != frame.size:
            raise FrameError("a payload of another size than was said")
        if not loan.borrowing.is_barred:
            loan.borrowing.bar(now_ns)  # so much is better read by the agent, which others need not wait for
        return payload

    def _take(self, now_ns: int, loan: Loan, number: int) -> Call:
        """The call that has ended: the first that the process has, but for those that it gives back."""
        sent = loan.sent
        place = number - loan.first
        call = sent[place] if 0 <= place < len(sent) else None
        if call is None:
            raise FrameError("the outcome of a call that it was not given")
        if place:
            self._pass_over(now_ns, loan, place)
        if call.cancelling:
            loan.cancel_at_ns = now_ns + GRACE_NS  # of the next one that is cancelled
        sent.popleft()
        loan.first += 1
        loan.sent_bytes -= call.size
        self.inflight -= 1
        return call

    def _pass_over(self, now_ns: int, loan: Loan, count: int) -> None:
        """A later call has ended: those before it were asked back, and the answer to that is on its way."""
        passed = [loan.sent[place] for place in range(count)]
        for number, call in enumerate(passed, loan.first):
            if call is not None and not (call.cancelling or number <= loan.recalled):
                raise FrameError("the outcome of a call before that of an earlier one")
        for _ in passed:
            loan.sent.popleft()
        loan.first += count
        loan.passed += count
        self._given_back(now_ns, loan, [call for call in passed if call is not None])

    def _given_back(self, now_ns: int, loan: Loan, calls: list[Call]) -> None:
        """The process has not begun these, and will not."""
        borrowing = loan.borrowing
        self.inflight -= len(calls)
        goes_on = []
        for call in calls:
            loan.sent_bytes -= call.size
            call.state, call.loan = CallState.HELD, None
            if call.cancelling:
                self._complete(now_ns, call, cancelled())
            else:
                goes_on.append(call)
        if borrowing.is_on:
            borrowing.queue.extendleft(reversed(goes_on))
        else:
            for call in goes_on:
                self._submit(call)

    def _fail(self, now_ns: int, loan: Loan, call: Call, frame: Ended, payload: bytes) -> None:
        if frame.status == Status.CANCELLED and not call.cancelling:
            call.state, call.loan = CallState.HELD, None
            self._submit(call)  # it was interrupted because the loan was: not what its caller wanted
            return
        self._complete(now_ns, call, failed(frame, payload, report_of(loan, frame.run_us)))

    def handle(self, loan: Loan, message: Lent | LoanWanted) -> None:
        """What the scheduler says of a loan: where it is, or that others want it."""
        if isinstance(message, Lent):
            loan.lent = message
        elif message.when_idle:
            loan.is_wanted_when_idle = True
        else:
            self.on_wanted(loan)

    def on_wanted(self, loan: Loan) -> None:
        """Others wait for the process."""
        if not loan.is_wanted:
            loan.is_of_no_use = loan.answered + loan.borrowing.under_way < USEFUL_CALLS
        loan.is_wanted = True
        if loan.is_open:
            self._call_back(loan)
            if not loan.sent:
                self._let_go(loan)

    def on_outcome(self, now_ns: int, loan: Loan, outcome: Outcome) -> None:
        """The loan is over, or was not granted."""
        loan.ended = outcome
        borrowing = loan.borrowing
        was_requested = self.borrower.requested.pop(loan.key, None) is loan
        if borrowing.requested is loan:
            borrowing.requested = None
        if was_requested:
            loan.is_closed = True
        if outcome.status != Status.CANCELLED and (was_requested or outcome.status != Status.SUCCEEDED):
            borrowing.bar(now_ns)
        elif outcome.status == Status.SUCCEEDED and not borrowing.is_barred:
            if not loan.is_of_no_use or loan.call.cancelling:
                self.borrower.was_of_use(borrowing)
            elif not any(other is not loan for other in borrowing.loans):
                self.borrower.was_of_no_use(now_ns, borrowing)
        if not loan.is_closed:
            self._let_go(loan)  # what is still to be read is read before that
        self._end(now_ns, loan)

    def _end(self, now_ns: int, loan: Loan) -> None:
        """Both ends of a loan are known, or only one yet."""
        ended = FORGOTTEN if loan.is_forgotten else loan.ended
        if ended is None or not loan.is_closed:
            self._ending[loan.key] = loan
            return
        self._ending.pop(loan.key, None)
        for call, frame, payload in loan.held:
            self._tell(now_ns, loan, call, frame, payload)
        loan.held.clear()
        self._take_unread(now_ns, loan, ended)
        doubtful, loan.doubtful = loan.doubtful, []
        for call in doubtful:
            self._end_doubtful(now_ns, call, ended)
        if loan.ended is not None:
            loan.ended = loan.ended._replace(result=b"")  # the futures of all its calls keep the loan

    def _take_unread(self, now_ns: int, loan: Loan, ended: Outcome) -> None:
        """The loan's result, if it has any, is all that the process had to say of the last call that began."""
        if loan.is_broken or not isinstance(ended.result, bytes):
            return
        frame = read_whole(ended.result)
        for call in loan.doubtful:
            if frame is not None and frame.payload is not None and call.lent_number == frame.number:
                loan.doubtful.remove(call)
                if len(frame.payload) > INLINE_BYTES_MAX and not loan.borrowing.is_barred:
                    loan.borrowing.bar(now_ns)  # as where it is read in time
                self._tell(now_ns, loan, call, frame, frame.payload)
                return

    def _tell(self, now_ns: int, loan: Loan, call: Call, frame: Ended, payload: bytes) -> None:
        """A call has ended as this frame says."""
        if frame.status:
            self._fail(now_ns, loan, call, frame, payload)
        else:
            self._succeed(call, payload, frame.run_us)

    def _end_doubtful(self, now_ns: int, call: Call, ended: Outcome) -> None:
        if call.cancelling:
            self._complete(now_ns, call, cancelled(ended.report))
        elif (outcome := end_with_loan(call, ended)) is not None:
            self._complete(now_ns, call, outcome)
        else:
            call.state, call.loan = CallState.HELD, None
            self._submit(call)

    def start_over(self, now_ns: int) -> None:
        """The scheduler knows nothing of the session, nor of its loans: what has begun goes on, nothing else begins."""
        for loan in (self.borrower.requested | self._open | self._ending).values():
            loan.call.state = CallState.DONE
            if loan.key in self.borrower.requested:
                self.on_outcome(now_ns, loan, FORGOTTEN)
            elif loan.ended is None:
                loan.is_forgotten = True
                self.on_wanted(loan)
                if loan.is_closed:
                    self._end(now_ns, loan)
