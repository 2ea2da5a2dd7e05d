"""A session driven by hand: its clock, what the scheduler says to it, and what it sends and delivers."""

from keepwarm.session import SECOND_NS, Completion, Session
from keepwarm.session_calls import Call, Function
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    ClientHello,
    FunctionOptions,
    Message,
    Outcome,
    Reference,
    RetryLimits,
    Status,
    Welcome,
)

OPTIONS = FunctionOptions(1, FOREVER_US, FOREVER_US, FOREVER_US, FOREVER_US, RetryLimits(), 1000, 0, 0)
CLUSTER = b"c" * 16


def welcome(*, known: bool = False, epoch: int = 1, calls: int = 100, size: int = 1 << 20) -> Welcome:
    return Welcome(1, CLUSTER, epoch, known, calls, size, 1_000_000)


class Driven:
    """A session with a hand on its clock."""

    def __init__(self) -> None:
        self.now_ns = 10 * SECOND_NS
        self.session = Session(b"s" * 16, "test")
        self.function = self.declare()

    def declare(self, body: bytes = b"body", name: str = "m:f") -> Function:
        return self.session.declare(
            name=name, version=b"v" * 32, codec="c", spec=b"{}", has_setup=False, options=OPTIONS, body=body
        )

    def open(self, hello: Welcome | None = None) -> "Driven":
        self.session.connection_made(self.now_ns)
        assert [type(message) for message in self.out()] == [ClientHello]
        self.get(hello or welcome())
        return self

    def call(self, arguments: bytes = b"a", function: Function | None = None) -> Call:
        call = Call(function or self.function, arguments, owner=None)
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
