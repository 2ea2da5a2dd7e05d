"""A session that borrows, with all that it may meet: what happens is chosen from outside, one step after another."""

from collections import Counter

from keepwarm.borrowing import Loan, Sent
from keepwarm.session import SECOND_NS, Session
from keepwarm.session_calls import Call, CallState
from keepwarm.session_deliveries import Completion, LoanEnded, Returned
from keepwarm_wire import codec
from keepwarm_wire.messages import (
    Borrow,
    CallReport,
    Failure,
    Lent,
    LoanWanted,
    Message,
    Outcome,
    Phase,
    RetryLimits,
    Status,
    Submit,
)
from keepwarm_worker.runner import frames
from support.driven_session import LENDABLE
from support.lent_processes import Ledger, Lender, Process, unanswered

MILLISECOND_NS = SECOND_NS // 1000
KEY_BYTES = 16
SETTLE_TURNS = 2_000


class World:
    """One session, one scheduler, and the processes that are lent."""

    def __init__(self) -> None:
        self.now_ns = SECOND_NS
        self.session = Session(b"s" * 16, "test")
        self.session.loans.borrower.address = b"\0here"
        self.model = Lender()
        self.to_scheduler: list[Message] = []
        self.to_client: list[Message] = []
        self.processes: dict[int, Process] = {}
        """Those whose loans are not over, for the scheduler and the node, by the loans' numbers."""
        self.connected: dict[bytes, Process] = {}
        """Those whose connections the session knows of and which are not closed, by key."""
        self.ledger = Ledger()
        self.functions = [
            self.session.declare(
                name=name,
                version=b"v" * 32,
                codec="c",
                spec=b"",
                has_setup=False,
                options=LENDABLE._replace(retries=RetryLimits(lost_node=lost_node)),
                body=b"",
            )
            for name, lost_node in (("m:often", 3), ("m:once", 0))
        ]

    # ------------------------------------------------------------ the program

    def call(self, choice: int) -> None:
        number = len(self.ledger.calls)
        call = Call(self.functions[choice % 4 == 0], number.to_bytes(4, "big"), owner=number)
        self.ledger.add(call)
        self.session.submit(call)

    def cancel(self, choice: int) -> None:
        left = self.session.unanswered()
        if choice % 2:
            left = [call for call in left if call.state is CallState.LENT] or left
        if left:
            call = left[choice % len(left)]
            assert self.session.cancel(self.now_ns, call)
            assert isinstance(call.owner, int)
            self.ledger.cancelled.add(call.owner)

    # ------------------------------------------------------------ what happens

    def step(self, action: str, choice: int) -> None:
        if action in ("call", "burst"):
            for _ in range(20 if action == "burst" else 1):
                self.call(choice)
        elif action == "cancel":
            self.cancel(choice)
        elif action in ("moment", "while", "long while"):
            self.now_ns += MILLISECOND_NS * {"moment": 1, "while": 60, "long while": 2100}[action]
        elif action in ("reconnect", "restart"):
            self.break_connection(action, choice)
        elif action in _OF_THE_NETWORK:
            _OF_THE_NETWORK[action](self)
        elif action in _OF_THE_SCHEDULER:
            _OF_THE_SCHEDULER[action](self, choice)  # type: ignore[no-untyped-call]  # each is a method of this class
        else:
            living = [process for process in self.processes.values() if process.loan is not None]
            fit = [process for process in living if _is_of_use(action, process)] or living
            if fit:
                _OF_A_PROCESS[action](self, fit[choice % len(fit)])
        if action == "take in" and self.connected:
            self.take_in(list(self.connected.values())[choice % len(self.connected)], choice)
        self.turn()

    def turn(self) -> None:
        self.session.tick(self.now_ns)
        self.to_scheduler += self.session.take_outgoing(self.now_ns)
        for sent in self.session.loans.take_outgoing():
            self.route(sent)
        while self.session.deliveries:
            delivery = self.session.deliveries.popleft()
            if isinstance(delivery, Completion | Returned):
                self.ledger.end(delivery)
            else:
                assert isinstance(delivery, LoanEnded)
        assert self.model.violations == []
        assert Counter(map(id, self.session.unanswered())) == self.ledger.left()

    # ------------------------------------------------------------ the scheduler and the network

    def borrows(self) -> list[Borrow]:
        asked = [each for session in self.model.sessions.values() for each in unanswered(session).values()]
        return [each for each in asked if isinstance(each, Borrow) and each.call_number not in self.processes]

    def grant(self, choice: int) -> None:
        waiting = self.borrows()
        if waiting:
            borrow = waiting[choice % len(waiting)]
            key = borrow.arguments[:KEY_BYTES]
            self.processes[borrow.call_number] = Process(borrow.call_number, key)
            self.to_client.append(Lent(borrow.call_number, "n", "e", 1, 1, borrow.call_number))

    def refuse(self, choice: int) -> None:
        waiting = self.borrows()
        if waiting:
            self.outcome(waiting[choice % len(waiting)].call_number, Status.FAILED, "not_lent")

    def connect(self, choice: int) -> None:
        waiting = [process for process in self.processes.values() if process.loan is None]
        if not waiting:
            return
        process = waiting[choice % len(waiting)]
        loan = self.session.loans.borrower.requested.get(process.key)
        if loan is None or any(each.loan is loan for each in self.connected.values()):
            self.finish(process, Status.FAILED, "not_lent")
        else:
            process.loan = loan
            self.connected[process.key] = process

    def want(self, choice: int) -> None:
        if self.processes:
            numbers = list(self.processes)
            self.to_client.append(LoanWanted(numbers[choice % len(numbers)], when_idle=choice % 3 == 0))

    def outcome(self, number: int, status: int, kind: str = "", result: bytes = b"") -> None:
        """The outcome of a loan, if there is still a scheduler that knows of it."""
        for session in self.model.sessions.values():
            if number in session.unanswered:
                failure = Failure(kind, kind) if kind else None
                report = CallReport("n", "e", 1, 1, "ready", 1, ())
                self.to_client.append(self.model.end(session, number, Outcome(0, status, result, failure, report)))

    def lose_node(self, choice: int) -> None:
        living = [process for process in self.processes.values() if process.loan is not None]
        if living:
            self.stop(living[choice % len(living)], "lost", Status.LOST, "node_lost")

    def answer_submitted(self, count: int) -> None:
        for session in self.model.sessions.values():
            submits = [each for each in unanswered(session).values() if isinstance(each, Submit)]
            for submit in submits[:count]:
                assert isinstance(submit.arguments, bytes)
                self.ledger.begin_run(submit.arguments, None).end = "returned"
                report = CallReport("n", "e", 1, 1, "ready", 1, (Phase("run", 20),))
                outcome = Outcome(0, Status.SUCCEEDED, submit.arguments, None, report)
                self.to_client.append(self.model.end(session, submit.call_number, outcome))

    def deliver_to_scheduler(self) -> None:
        if self.to_scheduler:
            [message] = codec.decode_frame(codec.encode_frame([self.to_scheduler.pop(0)]))
            self.to_client += self.model.handle(b"connection", message)
            for number in self.model.cancelled:
                if number in self.processes:
                    self.processes[number].is_interrupted = True
                else:
                    self.outcome(number, Status.CANCELLED)
            self.model.cancelled.clear()

    def deliver_to_client(self) -> None:
        if self.to_client:
            [message] = codec.decode_frame(codec.encode_frame([self.to_client.pop(0)]))
            if isinstance(message, Outcome) and message.failure is not None and message.failure.kind == "process_died":
                self.ledger.died(message.call_number)
            self.session.handle(self.now_ns, message)

    def lose_notice(self) -> None:
        notices = [place for place, each in enumerate(self.to_client) if isinstance(each, Lent | LoanWanted | Outcome)]
        if notices:
            self.to_client.pop(notices[0])

    def deliver_everything(self) -> None:
        while self.to_scheduler or self.to_client:
            self.deliver_to_scheduler()
            self.deliver_to_client()

    def lend(self) -> None:
        """Everything goes as it should: who asks for a process gets one."""
        self.turn()
        self.deliver_everything()
        self.grant(0)
        self.connect(0)
        for process in list(self.connected.values()):
            if not process.is_seen:
                self.take_in(process)

    def take_in_all(self) -> None:
        for process in list(self.connected.values()):
            while process.key in self.connected and (process.data or process.control):
                self.take_in(process)

    def break_connection(self, action: str, choice: int) -> None:
        """Not often, or nothing else would happen."""
        if choice % 4:
            return
        if action == "reconnect":
            self.reconnect()
        elif choice % 8:
            self.restart()
        else:
            self.restart_all()

    def reconnect(self) -> None:
        self.to_scheduler.clear()
        self.to_client.clear()
        self.model.greeted.clear()
        self.session.connection_lost()
        self.session.connection_made(self.now_ns)

    def restart(self) -> None:
        """Another scheduler, which knows of no loan; the processes run on."""
        self.model.restart()
        self.reconnect()
        for process in [each for each in self.processes.values() if each.loan is None]:
            del self.processes[process.number]

    def restart_all(self) -> None:
        for process in list(self.processes.values()):
            self.stop(process, "lost", Status.LOST, "")
        self.restart()

    # ------------------------------------------------------------ a process

    def route(self, sent: Sent) -> None:
        process = self.connected.get(sent.loan.key)
        if process is None:
            return
        for call in process.reader.feed(sent.data):
            assert isinstance(call, frames.Call)
            if not process.is_over:
                process.inbox.append(call)
        if not process.is_over:
            process.asked += process.control_reader.feed(sent.control)
        if sent.closes and sent.loan.ended is None:
            process.is_shut = True
        elif sent.closes:
            self.hang_up(process)

    def hang_up(self, process: Process) -> None:
        """The session ends the connection, once it has read what there is."""
        while process.data:
            self.session.loans.received(self.now_ns, sent_to(process), process.data.popleft())
        self.closed(process)
        if not process.is_over:
            self.stop(process, "unheard", Status.SUCCEEDED, "")

    def closed(self, process: Process) -> None:
        del self.connected[process.key]
        self.session.loans.closed(self.now_ns, sent_to(process), process.begun)

    def take_in(self, process: Process, choice: int = 0) -> None:
        """The session reads something of it, or that it is over."""
        if not process.is_seen:
            process.is_seen = True
            self.session.loans.opened(self.now_ns, sent_to(process))
        elif process.control and (choice % 2 or not process.data):
            self.session.loans.received_control(self.now_ns, sent_to(process), process.control.popleft())
        elif process.data:
            data = process.data.popleft()
            cut = choice % len(data)
            self.session.loans.received(self.now_ns, sent_to(process), data[:cut])
            self.session.loans.received(self.now_ns, sent_to(process), data[cut:])
        elif process.is_over:
            self.closed(process)

    def begin(self, process: Process) -> None:
        while process.inbox and process.running is None and not process.has_printed:
            call = process.inbox.popleft()
            assert isinstance(call.arguments, bytes)
            if call.attempt in process.recalled:
                continue
            process.running = call
            process.begun = call.attempt
            self.ledger.begin_run(call.arguments, process)

    def answer(self, process: Process, how: str = "returned", *, printed: bool = False, large: bool = False) -> None:
        call = process.running
        if call is None:
            return
        assert isinstance(call.arguments, bytes)
        process.running = None
        run = self.ledger.run_of(call, process)
        run.end = "unheard" if process.has_lied else how
        run.has_printed = printed
        if how == "returned" and large:
            data = call.arguments + b"x" * 100
            process.data += [frames.encode(frames.Piece(data[:50])), frames.encode(frames.Piece(data[50:]))]
            process.data.append(
                frames.encode(frames.Done(call.attempt, 20, printed, frames.Stored("name", len(data), bytes(32))))
            )
        elif how == "kept":
            run.end = "unheard" if process.has_lied else "kept"
            kept = frames.encode(frames.Done(call.attempt, 20, printed, call.arguments))
            self.finish(process, Status.SUCCEEDED, "", kept)
        elif how == "returned":
            process.data.append(frames.encode(frames.Done(call.attempt, 20, printed, call.arguments)))
        else:
            kind = "user_exception" if how == "failed" else "cancelled"
            status = frames.STATUS_FAILED if how == "failed" else frames.STATUS_CANCELLED
            said = frames.Result(call.attempt, status, "", b"", 0, 20, kind, "", "", "", printed)
            process.data.append(frames.encode(said))
        process.has_printed |= printed

    def obey(self, process: Process) -> None:
        if not process.asked:
            return
        asked = process.asked.popleft()
        assert isinstance(asked, frames.Recall | frames.Cancel)
        number = asked.attempt
        if isinstance(asked, frames.Cancel):
            if process.running is not None and process.running.attempt == number:
                self.answer(process, "interrupted")
        elif number > process.begun and number not in process.recalled:
            process.recalled.add(number)
            process.control.append(frames.encode(frames.Recalled(number)))

    def interrupt(self, process: Process) -> None:
        """The loan itself is to end."""
        if process.is_interrupted:
            self.answer(process, "interrupted")
            self.stop(process, "interrupted", Status.CANCELLED, "cancelled")

    def leave(self, process: Process) -> None:
        """It has nothing to do, or its last call has printed."""
        if process.running is None and (process.has_printed or not process.inbox):
            self.stop(process, "left", Status.SUCCEEDED, "")

    def lie(self, process: Process) -> None:
        process.has_lied = True
        process.data.append(frames.encode(frames.Done(1 << 40, 20, False, b"forged")))

    def die(self, process: Process) -> None:
        self.stop(process, "died", Status.FAILED, "process_died")

    def stop(self, process: Process, end: str, status: int, kind: str) -> None:
        if process.running is not None:
            self.ledger.run_of(process.running, process).end = end
            process.running = None
        process.control.clear()
        self.finish(process, status, kind)

    def finish(self, process: Process, status: int, kind: str = "", result: bytes = b"") -> None:
        process.is_over = True
        process.inbox.clear()
        process.asked.clear()
        self.processes.pop(process.number, None)
        self.outcome(process.number, status, kind, result)

    # ------------------------------------------------------------ the end

    def settle(self) -> None:
        """All is well from here on."""
        for _ in range(SETTLE_TURNS):
            self.deliver_everything()
            self.turn()
            self.grant(0)
            self.connect(0)
            self.answer_submitted(1000)
            for process in list(self.processes.values()):
                if process.loan is not None:
                    self.go_on(process)
            for process in list(self.connected.values()):
                while process.data or process.control or not process.is_seen:
                    self.take_in(process)
                if process.is_over and process.key in self.connected:
                    self.take_in(process)
            self.now_ns += 10 * MILLISECOND_NS
            self.turn()
            if self.is_quiet:
                return

    def go_on(self, process: Process) -> None:
        while process.asked:
            self.obey(process)
        self.begin(process)
        self.answer(process)
        process.idle = 0 if process.inbox else process.idle + 1
        if process.is_interrupted or process.has_printed or (process.idle and process.is_shut) or process.idle > 5:
            self.leave(process)

    @property
    def is_quiet(self) -> bool:
        is_empty = not self.session.held_calls and self.model.is_empty
        return is_empty and not (self.to_scheduler or self.to_client or self.processes or self.connected)


_OF_THE_NETWORK = {
    "to scheduler": World.deliver_to_scheduler,
    "to client": World.deliver_to_client,
    "lose notice": World.lose_notice,
    "to both": World.deliver_everything,
    "lend": World.lend,
    "take in all": World.take_in_all,
}
_OF_THE_SCHEDULER = {
    "grant": World.grant,
    "refuse": World.refuse,
    "connect": World.connect,
    "want": World.want,
    "lose node": World.lose_node,
    "answer one": lambda world, _: world.answer_submitted(1),
    "answer all": lambda world, _: world.answer_submitted(1000),
    "take in": lambda world, _: None,
}
_OF_A_PROCESS = {
    "begin": World.begin,
    "answer": World.answer,
    "print": lambda world, process: world.answer(process, printed=True),
    "large": lambda world, process: world.answer(process, large=True),
    "fail": lambda world, process: world.answer(process, "failed"),
    "unread": lambda world, process: world.answer(process, "kept"),
    "obey": World.obey,
    "interrupt": World.interrupt,
    "leave": World.leave,
    "lie": World.lie,
    "die": World.die,
}


def _is_of_use(action: str, process: Process) -> bool:
    if action == "begin":
        return bool(process.inbox) and process.running is None
    if action == "obey":
        return bool(process.asked)
    if action in ("interrupt", "lie"):
        return process.is_interrupted
    return process.running is not None


def sent_to(process: Process) -> Loan:
    assert process.loan is not None
    return process.loan
