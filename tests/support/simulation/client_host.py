"""A client's process: the real session, a program that submits and cancels, a connection that comes and goes."""

from collections.abc import Callable, Sequence
from random import Random

from keepwarm.borrowing import is_lendable
from keepwarm.session import Session
from keepwarm.session_calls import Call, Function
from keepwarm.session_deliveries import Completion, LoanEnded, Returned
from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import Failure, LoanWanted, Message, Status
from support.simulation.clock import MILLISECOND, Alarm, HostClock, Pauses
from support.simulation.desk import Desk
from support.simulation.history import History
from support.simulation.lending import Line
from support.simulation.network import Link, Network
from support.simulation.tally import Tally
from support.simulation.workload import Declared, Planned

__all__ = ["ClientHost"]

_TURN_NS = MILLISECOND // 10
_LARGE_BODY = b"." * INLINE_BYTES_MAX


class ClientHost:
    """One program with one session."""

    def __init__(
        self,
        name: str,
        clock: HostClock,
        network: Network,
        history: History,
        tally: Tally,
        random: Random,
        functions: list[Declared],
        planned: list[Planned],
    ) -> None:
        self.name, self.host_clock, self.network, self.history = name, clock, network, history
        self.clock, self.tally = clock.clock, tally
        self.is_alive = True
        self.pauses = Pauses(self.clock)
        self.planned = planned
        self.unfinished = len(planned)
        self.session = Session(random.randbytes(16), name)
        self.desk = Desk(self)
        self._functions: list[Function] = [
            self.session.declare(
                name=each.name,
                version=each.version,
                codec="cloudpickle:cp311",
                spec=each.spec,
                has_setup=each.has_setup,
                options=each.options,
                body=b"body of " + each.name.encode() + (_LARGE_BODY if each.is_large else b""),
            )
            for each in functions
        ]
        self._calls: dict[str, Call] = {}
        self._alarm = Alarm(self.clock, self._wake)
        self.link = Link(name, self._receive, self._connected, self._disconnected)
        history.add(self.clock.now_ns, "client", name, self.session.session_id)
        network.attach(self.link)
        self._followers = {plan.after: plan for plan in planned if plan.after}
        for plan in planned:
            if plan.after:
                continue
            self.clock.at(plan.at_ns, lambda plan=plan: self._submit(plan))  # type: ignore[misc]

    # ------------------------------------------------------------ the program

    def _submit(self, plan: Planned) -> None:
        if self._goes_on(lambda: self._submit(plan)):
            self._begin(plan)
            self._turn()

    def _begin(self, plan: Planned) -> None:
        uid = plan.work.uid
        if self.session.loans.borrower.address:
            self.tally.meet("call where anything is lent")
        function = self._functions[plan.function]
        self.history.add(self.clock.now_ns, "submit", self.name, uid, function.options.cpu)
        if is_lendable(function.options):
            self.history.add(self.clock.now_ns, "may be lent", self.name, uid)
        call = self._calls[uid] = Call(function, plan.work.encode(), uid)
        self.session.submit(call)
        if plan.cancel_after_ns:
            self.clock.after(plan.cancel_after_ns, lambda: self._cancel(uid))

    def _cancel(self, uid: str) -> None:
        if self._goes_on(lambda: self._cancel(uid)) and self.session.cancel(self.now(), self._calls[uid]):
            self.history.add(self.clock.now_ns, "cancel", self.name, uid)
            self._turn()

    def die(self, *, with_goodbye: bool) -> None:
        """The process ends, with or without a word."""
        if not self.is_alive:
            return
        if with_goodbye:
            self.session.say_goodbye("the program ends")
            self.network.send_up(self.link, self.session.take_outgoing(self.now()))
        self.is_alive = False
        self.unfinished = 0
        self._alarm.set(None)
        self.history.add(self.clock.now_ns, "client gone", self.name)
        self.network.close(self.link)
        self.desk.close()

    # ------------------------------------------------------------ the connection

    def _connected(self) -> None:
        if self._goes_on(self._connected):
            self.tally.messages += 1
            self.session.connection_made(self.now())
            self._turn()

    def _disconnected(self) -> None:
        if self._goes_on(self._disconnected):
            self.tally.messages += 1
            self.session.connection_lost()
            self._turn()

    def _receive(self, messages: Sequence[Message]) -> None:
        if not self._goes_on(lambda: self._receive(messages)):
            return
        now_ns = self.now()
        for message in messages:
            self.tally.messages += 1
            if isinstance(message, LoanWanted):
                self.tally.meet("loan is wanted when idle" if message.when_idle else "loan is wanted")
            self.session.handle(now_ns, message)
        self._turn()

    def on_line(self, line: Line) -> None:
        """Something has come from a lent process."""
        if self._goes_on(lambda: self.on_line(line)):
            self.tally.messages += 1
            self.desk.look(line)
            self._turn()

    def give_up_loans(self) -> bool:
        """The program is interrupted amid its work with lent processes. False if it has none."""
        if not self.is_alive or self.pauses.is_on or not self.desk.give_up():
            return False
        self._turn()
        return True

    def _goes_on(self, action: Callable[[], None]) -> bool:
        """Whether the process runs; while it is frozen, the action waits."""
        if self.is_alive and self.pauses.is_on:
            self.pauses.keep(action)
            return False
        return self.is_alive

    # ------------------------------------------------------------ turns

    def now(self) -> int:
        """What its machine's clock shows."""
        return self.host_clock.now()

    def _wake(self) -> None:
        if self._goes_on(self._wake):
            self.tally.timers += 1
            self._turn()

    def _turn(self) -> None:
        session = self.session
        is_news = True
        while is_news:
            self._deliver()
            now_ns = self.now()
            session.tick(now_ns)
            if self.link.is_connected:
                self.network.send_up(self.link, session.take_outgoing(now_ns))
            is_news = self.desk.send(session.loans.take_outgoing()) or bool(session.deliveries)
        assert session.refusal is None, session.refusal
        due_ns = session.next_deadline()
        if due_ns is not None and self.link.is_connected:
            self._alarm.set(max(self.host_clock.when(due_ns), self.clock.now_ns + _TURN_NS))
        else:
            self._alarm.set(None)

    def _deliver(self) -> None:
        session = self.session
        while session.deliveries:
            delivery = session.deliveries.popleft()
            if isinstance(delivery, Completion):
                self._end(delivery)
            elif isinstance(delivery, Returned):
                self._returned(delivery)
            elif isinstance(delivery, LoanEnded):
                self._loan_ended(delivery)
            else:
                self._told(delivery)

    def _told(self, delivery: object) -> None:
        """Something else that a session tells: nothing in a program of this kind."""

    def _returned(self, delivery: Returned) -> None:
        self._note_end(delivery.call.owner, Status.SUCCEEDED, delivery.result, None)

    def _loan_ended(self, delivery: LoanEnded) -> None:
        loan = delivery.call.loan
        assert loan is not None
        outcome, token = loan.ended, self.desk.tokens.get(loan.key, 0)
        kind = "" if outcome is None or outcome.failure is None else outcome.failure.kind
        if kind == "not_lent":
            self.tally.meet("loan is refused")
        self.history.add(self.clock.now_ns, "loan ended", self.name, token, kind)

    def _end(self, completion: Completion) -> None:
        outcome, result = completion.outcome, completion.result
        self._note_end(completion.call.owner, outcome.status, b"" if result is None else result, outcome.failure)

    def _note_end(self, owner: object, status: int, result: bytes, failure: Failure | None) -> None:
        kind, message = ("", "") if failure is None else (failure.kind, failure.message)
        self.unfinished -= 1
        self.history.add(self.clock.now_ns, "end", self.name, owner, status, result[:100], kind, message[:300])
        plan = self._followers.pop(str(owner), None)
        if plan is not None:
            self._begin(plan)
