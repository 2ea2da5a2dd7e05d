"""Processes that are lent, a scheduler that lends them, and what is to be so of the calls that they run."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import cast

from keepwarm.borrowing import Loan
from keepwarm.session_calls import Call
from keepwarm.session_deliveries import Completion, Returned
from keepwarm_wire.messages import (
    Borrow,
    Cancel,
    Message,
    Status,
    Submit,
    Welcome,
)
from keepwarm_worker.runner import frames
from support.model_scheduler import ModelScheduler, ModelSession


@dataclass
class Run:
    """One time that a call was run."""

    process: "Process | None"
    end: str = ""
    has_printed: bool = False


@dataclass(eq=False)
class Process:
    """A process that is lent, as its loan's call reached it."""

    number: int
    key: bytes
    loan: Loan | None = None
    inbox: deque[frames.Call] = field(default_factory=deque)
    asked: deque[frames.Frame] = field(default_factory=deque)
    data: deque[bytes] = field(default_factory=deque)
    control: deque[bytes] = field(default_factory=deque)
    is_shut: bool = False
    is_over: bool = False
    is_seen: bool = False
    """Whether the session has been told that it connected."""
    begun: int = 0
    running: frames.Call | None = None
    recalled: set[int] = field(default_factory=set)
    is_interrupted: bool = False
    has_lied: bool = False
    has_printed: bool = False
    is_known_dead: bool = False
    idle: int = 0
    reader: frames.FrameDecoder = field(default_factory=frames.FrameDecoder)
    control_reader: frames.FrameDecoder = field(default_factory=frames.FrameDecoder)


class Lender(ModelScheduler):
    """A scheduler that lends."""

    def __init__(self) -> None:
        super().__init__(credit_calls=1000, beat_interval_us=200_000)
        self.answer = lambda _submit, _arguments: None
        self.cancelled: list[int] = []

    def handle(self, connection: bytes, message: Message) -> list[Message]:
        session = self.sessions.get(self.greeted.get(connection, b""))
        if isinstance(message, Borrow) and session is not None:
            number = message.call_number
            is_known = number in session.settled or number in session.unanswered or number in session.outcomes
            if not is_known and message.function_number in session.functions:
                unanswered(session)[number] = message
            return []
        if (
            isinstance(message, Cancel)
            and session is not None
            and isinstance(unanswered(session).get(message.call_number), Borrow)
        ):
            self.cancelled.append(message.call_number)
            return []
        return [
            each._replace(lends=True) if isinstance(each, Welcome) else each
            for each in super().handle(connection, message)
        ]


def unanswered(session: ModelSession) -> dict[int, Submit | Borrow]:
    """What the model keeps of a session's calls; loans are among them."""
    return cast("dict[int, Submit | Borrow]", session.unanswered)


class Ledger:
    """What calls there are, how often each was run and with what end, and how each ended for the program."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.runs: list[list[Run]] = []
        self.ends: Counter[int] = Counter()
        self.cancelled: set[int] = set()

    def add(self, call: Call) -> None:
        self.calls.append(call)
        self.runs.append([])

    def left(self) -> Counter[int]:
        """The calls that have not ended, by ``id``."""
        return Counter(id(call) for number, call in enumerate(self.calls) if not self.ends[number])

    def begin_run(self, arguments: bytes, process: "Process | None") -> Run:
        """A call is run: if it was before by a lent process, that had no outcome, and not since that had died."""
        owner = int.from_bytes(arguments[:4], "big")
        for earlier in self.runs[owner]:
            if earlier.process is None:
                assert process is None  # the scheduler has it, or another one after that
                continue
            loan = earlier.process.loan
            is_unheard = earlier.end == "kept" and loan is not None and (loan.is_forgotten or loan.is_broken)
            is_over = earlier.end in ("died", "lost", "interrupted", "unheard", "left")
            assert is_over or is_unheard, (owner, earlier.end)
            assert not (earlier.end == "died" and earlier.process.is_known_dead)
        run = Run(process)
        self.runs[owner].append(run)
        return run

    def run_of(self, call: frames.Call, process: Process) -> Run:
        assert isinstance(call.arguments, bytes)
        owner = int.from_bytes(call.arguments[:4], "big")
        [run] = [run for run in self.runs[owner] if run.process is process and not run.end]
        return run

    def died(self, number: int) -> None:
        """The session is told that the process of this loan has died."""
        for runs in self.runs:
            for run in runs:
                if run.process is not None and run.process.number == number:
                    run.process.is_known_dead = True

    def end(self, delivery: Completion | Returned) -> None:
        owner = delivery.call.owner
        assert isinstance(owner, int)
        self.ends[owner] += 1
        assert self.ends[owner] == 1
        if delivery.result is not None:
            assert delivery.result[:4] == owner.to_bytes(4, "big")
            assert any(run.end in ("returned", "kept") for run in self.runs[owner])
            loan = delivery.call.loan
            if self.runs[owner][-1].has_printed and loan is not None:
                assert loan.ended is not None or loan.is_forgotten
            return
        assert isinstance(delivery, Completion)
        if delivery.call.loan is not None and delivery.call.loan.is_broken:
            return  # who knows what it did
        failure = delivery.outcome.failure
        kind = "" if failure is None else failure.kind
        if delivery.outcome.status == Status.CANCELLED:
            assert owner in self.cancelled
        elif kind == "process_died":
            assert any(run.end == "died" for run in self.runs[owner])
        elif kind == "node_lost":
            allowed = delivery.call.function.options.retries.lost_node
            assert sum(run.end == "lost" for run in self.runs[owner]) > allowed
        else:
            assert kind == "user_exception"
            assert any(run.end == "failed" for run in self.runs[owner])
