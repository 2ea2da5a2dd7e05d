"""A session driven by hand: its clock, what the scheduler says to it, and what it sends and delivers."""

from keepwarm.borrowing import Loan, Sent
from keepwarm.session import SECOND_NS, Session
from keepwarm.session_calls import Call, Function
from keepwarm.session_deliveries import Completion, Delivery, Returned
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    Borrow,
    CallReport,
    Cancel,
    ClientHello,
    Failure,
    FunctionOptions,
    Lent,
    Message,
    Outcome,
    Phase,
    Reference,
    RetryLimits,
    Status,
    Submit,
    Welcome,
)
from keepwarm_worker.runner import frames

OPTIONS = FunctionOptions(1, FOREVER_US, FOREVER_US, FOREVER_US, FOREVER_US, RetryLimits(), 1000, 0, 0)
CLUSTER = b"c" * 16


def welcome(
    *, known: bool = False, epoch: int = 1, calls: int = 100, size: int = 1 << 20, lends: bool = False
) -> Welcome:
    return Welcome(1, CLUSTER, epoch, known, calls, size, 1_000_000, lends)


class Driven:
    """A session with a hand on its clock."""

    def __init__(self) -> None:
        self.now_ns = 10 * SECOND_NS
        self.session = Session(b"s" * 16, "test")
        self.function = self.declare()

    def declare(self, body: bytes = b"body", name: str = "m:f", options: FunctionOptions = OPTIONS) -> Function:
        return self.session.declare(
            name=name, version=b"v" * 32, codec="c", spec=b"{}", has_setup=False, options=options, body=body
        )

    def open(self, hello: Welcome | None = None) -> "Driven":
        self.session.connection_made(self.now_ns)
        assert [type(message) for message in self.out()] == [ClientHello]
        self.get(hello or welcome())
        return self

    def call(self, arguments: bytes = b"a", function: Function | None = None, priority: int = 0) -> Call:
        call = Call(function or self.function, arguments, owner=None, priority=priority)
        self.session.submit(call)
        return call

    def get(self, *messages: Message) -> None:
        for message in messages:
            self.session.handle(self.now_ns, message)

    def out(self, after_s: float = 0) -> list[Message]:
        self.now_ns += int(after_s * SECOND_NS)
        self.session.tick(self.now_ns)
        return self.session.take_outgoing(self.now_ns)

    def sent(self, kind: type, after_s: float = 0) -> list[Message]:
        return [message for message in self.out(after_s) if isinstance(message, kind)]

    def completions(self) -> list[Completion]:
        found = [delivery for delivery in self.session.deliveries if isinstance(delivery, Completion)]
        self.session.deliveries.clear()
        return found


def success(number: int, result: bytes | Reference = b"r") -> Outcome:
    return Outcome(number, Status.SUCCEEDED, result, None, None)


def kinds(messages: list[Message]) -> list[type]:
    """What was sent of calls and loans."""
    return [type(message) for message in messages if isinstance(message, Borrow | Submit | Cancel)]


LENDABLE = OPTIONS._replace(keep_alive_us=1_000_000)


def ran(number: int, run_us: int, result: bytes | Reference = b"r") -> Outcome:
    """The outcome of a submitted call that ran for so long."""
    return Outcome(
        number, Status.SUCCEEDED, result, None, CallReport("n", "e", 1, 1, "ready", 1, (Phase("run", run_us),))
    )


def failed(number: int, status: int = frames.STATUS_FAILED, **fields: object) -> frames.Result:
    """What a runner says of a call that did not return."""
    made = frames.Result(number, status, "pickle", b"", 0, 20, "user_exception", "", "", "", False)
    return made._replace(**fields)  # type: ignore[arg-type]


class LentProcess:
    """The other end of a loan, in the runner's own bytes. It says and does only what it is told to."""

    def __init__(self, driven: "DrivenLoans", loan: Loan) -> None:
        self.driven = driven
        self.loan = loan
        self.given: dict[int, bytes] = {}
        """Arguments by number, of what it has neither answered nor given back."""
        self.recalls: list[int] = []
        self.cancels: list[int] = []
        self.is_shut = False
        """Whether the session has ended its half."""
        self.is_hung_up = False
        """Whether the session wants no more of it, as its loan has ended."""
        self._data, self._control = frames.FrameDecoder(), frames.FrameDecoder()

    def take(self, sent: Sent) -> None:
        """What the session writes."""
        for call in self._data.feed(sent.data):
            assert isinstance(call, frames.Call)
            assert isinstance(call.arguments, bytes)
            self.given[call.attempt] = call.arguments
        for asked in self._control.feed(sent.control):
            assert isinstance(asked, frames.Recall | frames.Cancel)
            (self.recalls if isinstance(asked, frames.Recall) else self.cancels).append(asked.attempt)
        if sent.closes and self.loan.ended is None:
            self.is_shut = True
        self.is_hung_up |= sent.closes and self.loan.ended is not None

    def open(self) -> "LentProcess":
        self.driven.session.loans.opened(self.driven.now_ns, self.loan)
        self.driven.session.tick(self.driven.now_ns)
        self.driven.route()
        return self

    def say(self, *said: frames.Frame | bytes) -> None:
        data = b"".join(each if isinstance(each, bytes) else frames.encode(each) for each in said)
        self.driven.session.loans.received(self.driven.now_ns, self.loan, data)

    def answer(self, count: int = 1, run_us: int = 20, printed: bool = False) -> None:
        """Return the arguments of the first calls that it has."""
        for number in list(self.given)[:count]:
            self.say(frames.Done(number, run_us, printed, self.given.pop(number)))

    def give_back(self, *numbers: int) -> None:
        for number in numbers:
            self.given.pop(number)
        said = b"".join(frames.encode(frames.Recalled(number)) for number in numbers)
        self.driven.session.loans.received_control(self.driven.now_ns, self.loan, said)

    def close(self, begun: int = 0) -> None:
        """Its connection ends, after so many calls have begun."""
        self.driven.session.loans.closed(self.driven.now_ns, self.loan, begun)

    def end(self, status: int = Status.SUCCEEDED, failure: Failure | None = None, result: bytes = b"") -> None:
        """The outcome of the loan itself."""
        report = CallReport("n", "e", 1, 1, "ready", 1, ())
        self.driven.get(Outcome(self.loan.call.number, status, result, failure, report))


class DrivenLoans(Driven):
    """A session that may borrow, and the processes that are lent to it."""

    def __init__(self, options: FunctionOptions = LENDABLE) -> None:
        super().__init__()
        self.session.loans.borrower.address = b"\0address"
        self.function = self.declare(name="m:lent", options=options)
        self.processes: dict[bytes, LentProcess] = {}
        self.submitted: list[int] = []
        """Numbers of calls that were submitted and are not answered by ``answer_submitted``."""
        self.open(welcome(lends=True))

    def out(self, after_s: float = 0) -> list[Message]:
        messages = super().out(after_s)
        self.route()
        self.submitted += [message.call_number for message in messages if isinstance(message, Submit)]
        return messages

    def route(self) -> None:
        """Write what the session has for the processes."""
        for sent in self.session.loans.take_outgoing():
            if sent.loan.key in self.processes:
                self.processes[sent.loan.key].take(sent)

    def settle(self) -> None:
        """What is asked for is refused, and what is submitted is answered, until there is nothing of either."""
        for _ in range(6):
            for loan in list(self.session.loans.borrower.requested.values()):
                self.get(Outcome(loan.call.number, Status.FAILED, b"", Failure("not_lent", "Not lent."), None))
            self.answer_submitted()

    def answer_submitted(self, run_us: int = 20) -> None:
        """Every call that the session has submitted has its outcome."""
        self.out()
        for number in self.submitted:
            self.get(ran(number, run_us))
        self.submitted.clear()

    def learn(self, run_us: int = 20) -> None:
        """A call of the function is submitted, and takes so long."""
        self.call()
        [submit] = self.sent(Submit)
        assert isinstance(submit, Submit)
        self.get(ran(submit.call_number, run_us))
        self.session.deliveries.clear()

    def learned(self, run_us: int = 20, times: int = 3) -> "DrivenLoans":
        for _ in range(times):
            self.learn(run_us)
        return self

    def granted(self, after_s: float = 0) -> LentProcess:
        """The process that the session asks for, as it connects."""
        self.out(after_s)
        [loan] = self.session.loans.borrower.requested.values()
        process = self.processes[loan.key] = LentProcess(self, loan)
        self.get(Lent(loan.call.number, "n", "e", 1, 1, 7))
        return process

    def lend(self, after_s: float = 0) -> LentProcess:
        return self.granted(after_s).open()

    def given(self, count: int) -> tuple[LentProcess, list[Call]]:
        """A process that has so many calls, whose arguments are their places."""
        calls = [self.call(bytes([place])) for place in range(count)]
        return self.lend(), calls

    def quiet(self, *processes: LentProcess) -> None:
        """The loans are over, and so are requests and what was submitted: nothing is left."""
        for process in processes:
            process.close(process.loan.first - 1)
            process.end()
        self.settle()
        self.out(after_s=1)
        assert set(self.counters()) == {0}
        assert self.session.loans.borrower.on == {}

    def delivered(self) -> list[Delivery]:
        found = list(self.session.deliveries)
        self.session.deliveries.clear()
        return found

    def ends(self) -> list[tuple[Call, bytes | Failure | None]]:
        """The calls that have ended: each with its result, or its failure."""
        return [
            (each.call, each.result if isinstance(each, Returned) or each.result is not None else each.outcome.failure)
            for each in self.delivered()
            if isinstance(each, Returned | Completion)
        ]

    def counters(self) -> tuple[int, ...]:
        """All that is to be zero when nothing is unanswered and no loan is left."""
        session, loans = self.session, self.session.loans
        return (
            session.held_calls,
            session.held_bytes,
            sum(function.unanswered for function in session.functions),
            loans.inflight,
            sum(process.loan.sent_bytes for process in self.processes.values()),
            len(session.unanswered()),
            len(session._sending.numbered),
            len(loans._open) + len(loans._ending) + len(loans.borrower.requested),
        )
