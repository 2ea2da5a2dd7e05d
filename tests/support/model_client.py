"""A client as the protocol describes it, without sockets: for tests of the scheduler.

It holds its unanswered calls, submits again what a scheduler does not know or names as missing, acknowledges every
outcome, and keeps the first one of each call. What it says is appended to ``outbox``.
"""

from keepwarm_wire import messages as wire


class ModelClient:
    """One session."""

    def __init__(self, session_id: bytes, functions: tuple[wire.DeclareFunction, ...]) -> None:
        self.session_id, self.functions = session_id, functions
        self.outbox: list[wire.Message] = []
        self.welcomed = False
        self.epoch = 0
        self.last = self.beats = 0
        self.unanswered: dict[int, int] = {}
        self.sent_under: dict[int, int] = {}
        self.outcomes: dict[int, wire.Outcome] = {}
        self.cancelled: dict[int, None] = {}

    def hello(self) -> None:
        self.outbox.append(wire.ClientHello(1, 1, "model", self.session_id, "model", self.epoch))

    def say(self, message: wire.Message) -> None:
        if self.welcomed:
            self.outbox.append(message)

    def submit(self, function: int) -> int:
        self.last += 1
        self.unanswered[self.last] = function
        self._send(self.last)
        return self.last

    def cancel(self, number: int) -> None:
        self.cancelled[number] = None
        self.say(wire.Cancel(number))

    def beat(self) -> None:
        self.beats += 1
        self.say(wire.ClientBeat(self.beats, self.last))
        for number in self.cancelled:
            if number in self.unanswered:
                self.say(wire.Cancel(number))

    def receive(self, message: wire.Message) -> None:
        kind = type(message)
        if kind is wire.Welcome:
            self._on_welcome(message)
        elif kind is wire.Refused:
            assert message.code == "hello_first", message
            self.welcomed = False
            self.hello()
        elif kind is wire.Outcome:
            if self.unanswered.pop(message.call_number, None) is not None:
                self.outcomes[message.call_number] = message
            self.say(wire.Received((message.call_number,)))
        elif kind is wire.ClientBeatReply:
            for number in message.missing:
                if number in self.unanswered:
                    self._declare()
                    self._send(number)

    def _on_welcome(self, message: wire.Welcome) -> None:
        self.welcomed, self.epoch = True, message.epoch
        if not message.known:
            self._declare()
            for number in list(self.unanswered):
                self._send(number)

    def _declare(self) -> None:
        for declaration in self.functions:
            self.say(declaration)

    def _send(self, number: int) -> None:
        if self.welcomed:
            first = self.sent_under.setdefault(number, self.epoch)
            self.say(wire.Submit(number, self.unanswered[number], 0, first != self.epoch, b"arguments"))
