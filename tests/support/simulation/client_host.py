"""A client's process: the real session, a program that submits and cancels, a connection that comes and goes."""

from collections.abc import Callable, Sequence
from random import Random

from keepwarm.session import Completion, Session
from keepwarm.session_calls import Call, Function
from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import Message
from support.simulation.clock import MILLISECOND, Alarm, HostClock, Pauses
from support.simulation.history import History
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
        for plan in planned:
            self.clock.at(plan.at_ns, lambda plan=plan: self._submit(plan))  # type: ignore[misc]

    # ------------------------------------------------------------ the program

    def _submit(self, plan: Planned) -> None:
        if not self._goes_on(lambda: self._submit(plan)):
            return
        uid = plan.work.uid
        function = self._functions[plan.function]
        self.history.add(self.clock.now_ns, "submit", self.name, uid, function.options.cpu)
        call = self._calls[uid] = Call(function, plan.work.encode(), uid)
        self.session.submit(call)
        if plan.cancel_after_ns:
            self.clock.after(plan.cancel_after_ns, lambda: self._cancel(uid))
        self._turn()

    def _cancel(self, uid: str) -> None:
        if self._goes_on(lambda: self._cancel(uid)) and self.session.cancel(self._now(), self._calls[uid]):
            self.history.add(self.clock.now_ns, "cancel", self.name, uid)
            self._turn()

    def die(self, *, with_goodbye: bool) -> None:
        """The process ends, with or without a word."""
        if not self.is_alive:
            return
        if with_goodbye:
            self.session.say_goodbye("the program ends")
            self.network.send_up(self.link, self.session.take_outgoing(self._now()))
        self.is_alive = False
        self.unfinished = 0
        self._alarm.set(None)
        self.history.add(self.clock.now_ns, "client gone", self.name)
        self.network.close(self.link)

    # ------------------------------------------------------------ the connection

    def _connected(self) -> None:
        if self._goes_on(self._connected):
            self.tally.messages += 1
            self.session.connection_made(self._now())
            self._turn()

    def _disconnected(self) -> None:
        if self._goes_on(self._disconnected):
            self.tally.messages += 1
            self.session.connection_lost()
            self._turn()

    def _receive(self, messages: Sequence[Message]) -> None:
        if not self._goes_on(lambda: self._receive(messages)):
            return
        now_ns = self._now()
        for message in messages:
            self.tally.messages += 1
            self.session.handle(now_ns, message)
        self._turn()

    def _goes_on(self, action: Callable[[], None]) -> bool:
        """Whether the process runs; while it is frozen, the action waits."""
        if self.is_alive and self.pauses.is_on:
            self.pauses.keep(action)
            return False
        return self.is_alive

    # ------------------------------------------------------------ turns

    def _now(self) -> int:
        return self.host_clock.now()

    def _wake(self) -> None:
        if self._goes_on(self._wake):
            self.tally.timers += 1
            self._turn()

    def _turn(self) -> None:
        session, now_ns = self.session, self._now()
        session.tick(now_ns)
        if self.link.is_connected:
            self.network.send_up(self.link, session.take_outgoing(now_ns))
        while session.deliveries:
            delivery = session.deliveries.popleft()
            if isinstance(delivery, Completion):
                self._end(delivery)
            else:
                self._told(delivery)
        assert session.refusal is None, session.refusal
        due_ns = session.next_deadline()
        if due_ns is not None and self.link.is_connected:
            self._alarm.set(max(self.host_clock.when(due_ns), self.clock.now_ns + _TURN_NS))
        else:
            self._alarm.set(None)

    def _told(self, delivery: object) -> None:
        """Something else that a session tells: nothing in a program of this kind."""

    def _end(self, completion: Completion) -> None:
        outcome, result = completion.outcome, completion.result
        failure = outcome.failure
        self.unfinished -= 1
        self.history.add(
            self.clock.now_ns,
            "end",
            self.name,
            completion.call.owner,
            outcome.status,
            b"" if result is None else result[:100],
            "" if failure is None else failure.kind,
            "" if failure is None else failure.message[:300],
        )
