"""A client's process: the real session, a program that submits and cancels, a connection that comes and goes."""

from random import Random

from keepwarm.session import Completion, Session
from keepwarm.session_calls import Call, Function
from keepwarm_wire.messages import Message
from support.simulation.clock import MILLISECOND, Alarm, Clock
from support.simulation.history import History
from support.simulation.network import Link, Network
from support.simulation.workload import Declared, Planned

__all__ = ["ClientHost"]

_TURN_NS = MILLISECOND // 10
_OFFSET_NS = 3_000 * 1_000_000_000


class ClientHost:
    """One program with one session."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        network: Network,
        history: History,
        random: Random,
        functions: list[Declared],
        planned: list[Planned],
    ) -> None:
        self.name, self.clock, self.network, self.history = name, clock, network, history
        self.is_alive = True
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
                body=b"body of " + each.name.encode(),
            )
            for each in functions
        ]
        self._calls: dict[str, Call] = {}
        self._alarm = Alarm(clock, self._turn)
        self.link = Link(name, self._receive, self._connected, self._disconnected)
        history.add(clock.now_ns, "client", name, self.session.session_id)
        network.attach(self.link)
        for plan in planned:
            clock.at(plan.at_ns, lambda plan=plan: self._submit(plan))  # type: ignore[misc]

    # ------------------------------------------------------------ the program

    def _submit(self, plan: Planned) -> None:
        if not self.is_alive:
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
        if self.is_alive and self.session.cancel(self._now(), self._calls[uid]):
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
        self.session.connection_made(self._now())
        self._turn()

    def _disconnected(self) -> None:
        if self.is_alive:
            self.session.connection_lost()
            self._turn()

    def _receive(self, messages: list[Message]) -> None:
        for message in messages:
            self.session.handle(self._now(), message)
        self._turn()

    # ------------------------------------------------------------ turns

    def _now(self) -> int:
        return self.clock.now_ns + _OFFSET_NS

    def _turn(self) -> None:
        session, now_ns = self.session, self._now()
        session.tick(now_ns)
        self.network.send_up(self.link, session.take_outgoing(now_ns) if self.link.is_connected else [])
        while session.deliveries:
            delivery = session.deliveries.popleft()
            if isinstance(delivery, Completion):
                self._end(delivery)
        assert session.refusal is None, session.refusal
        due_ns = session.next_deadline()
        if due_ns is not None and self.link.is_connected:
            self._alarm.set(max(due_ns - _OFFSET_NS, self.clock.now_ns + _TURN_NS))
        else:
            self._alarm.set(None)

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
