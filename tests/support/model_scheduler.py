"""A small model of the scheduler's side of a client session, without sockets: what the protocol page promises.

It executes nothing: a call's outcome is made by ``answer`` (by default its arguments come back). It keeps count of what
it must never see: more unanswered calls or bytes than the credit it gave, a reference to bytes that it does not have.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from keepwarm_wire.fields import CHUNK_BYTES_MAX, INLINE_BYTES_MAX
from keepwarm_wire.messages import (
    Cancel,
    ClientBeat,
    ClientBeatReply,
    ClientHello,
    DeclareFunction,
    Failure,
    Goodbye,
    Message,
    Outcome,
    PayloadChunk,
    PayloadCredit,
    PayloadOffer,
    PayloadRefused,
    PayloadStored,
    Received,
    Reference,
    Refused,
    Status,
    Submit,
    Welcome,
)

WINDOW_BYTES = 4 * 1024 * 1024
Answer = Callable[[Submit, bytes], "bytes | Outcome | None"]


@dataclass
class Incoming:
    """A payload on its way to the scheduler."""

    size: int
    sha256: bytes
    data: bytearray = field(default_factory=bytearray)


@dataclass
class ModelSession:
    """What the model knows of one client."""

    functions: dict[int, DeclareFunction] = field(default_factory=dict)
    unanswered: dict[int, Submit] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    cancelled: set[int] = field(default_factory=set)
    arriving: dict[bytes, Incoming] = field(default_factory=dict)
    stored: dict[bytes, bytes] = field(default_factory=dict)
    results: dict[bytes, bytes] = field(default_factory=dict)
    beats_without_reception: dict[int, int] = field(default_factory=dict)
    last_unknown: int = 0


class ModelScheduler:
    """Messages of clients in, messages to them out."""

    def __init__(
        self, *, credit_calls: int = 1000, credit_bytes: int = 1 << 24, beat_interval_us: int = 1_000_000
    ) -> None:
        self.cluster_id = b"c" * 16
        self.epoch = 1
        self.credit_calls = credit_calls
        self.credit_bytes = credit_bytes
        self.beat_interval_us = beat_interval_us
        self.answer: Answer = lambda _submit, arguments: arguments
        self.chunk_bytes = CHUNK_BYTES_MAX
        self.window_bytes = WINDOW_BYTES
        self.greeted: dict[bytes, bytes] = {}
        """Session ids by connection."""
        self.sessions: dict[bytes, ModelSession] = {}
        self.submits: list[Submit] = []
        self.declared: list[DeclareFunction] = []
        self.goodbyes: list[str] = []
        self.violations: list[str] = []

    def restart(self, *, forget: bool = True) -> None:
        """Another process takes over, with the next epoch; connections and, mostly, sessions are forgotten."""
        self.epoch += 1
        self.greeted.clear()
        if forget:
            self.sessions.clear()

    def handle(self, connection: bytes, message: Message) -> list[Message]:
        """Take in one message and return the answers."""
        if isinstance(message, ClientHello):
            return [self._hello(connection, message)]
        session = self.sessions.get(self.greeted.get(connection, b""))
        if session is None:
            return [Refused("hello_first", "say hello first")]
        if isinstance(message, Goodbye):
            self.goodbyes.append(message.reason)
            del self.sessions[self.greeted.pop(connection)]
            return []
        handler = _HANDLERS.get(type(message))
        return handler(self, session, message) if handler is not None else [Refused("protocol", type(message).__name__)]

    def _hello(self, connection: bytes, hello: ClientHello) -> Welcome:
        known = hello.session_id in self.sessions
        if not known:
            self.sessions[hello.session_id] = ModelSession()
        self.greeted[connection] = hello.session_id
        return Welcome(
            1, self.cluster_id, self.epoch, known, self.credit_calls, self.credit_bytes, self.beat_interval_us
        )

    def _declare(self, session: ModelSession, message: DeclareFunction) -> list[Message]:
        if isinstance(message.body, Reference) and message.body.payload_id not in session.stored:
            self.violations.append(f"{message.name} was declared before its body was stored")
        session.functions[message.function_number] = message
        self.declared.append(message)
        return []

    def _submit(self, session: ModelSession, message: Submit) -> list[Message]:
        number = message.call_number
        if number in session.settled or number in session.unanswered or number in session.outcomes:
            return []
        if message.function_number not in session.functions:
            return []  # its declaration was lost: the beat's reply names the call as missing
        arguments = message.arguments
        if isinstance(arguments, Reference) and arguments.payload_id not in session.stored:
            self.violations.append(f"call {number} refers to bytes that are not here")
            return []
        self.submits.append(message)
        session.unanswered[number] = message
        self._check_credit(session)
        data = session.stored[arguments.payload_id] if isinstance(arguments, Reference) else arguments
        answer = self.answer(message, data)
        if answer is None:
            return []
        return [self.end(session, number, answer)]

    def _check_credit(self, session: ModelSession) -> None:
        unanswered = session.unanswered.values()
        inline = sum(len(submit.arguments) for submit in unanswered if isinstance(submit.arguments, bytes))
        if len(session.unanswered) > self.credit_calls or inline > self.credit_bytes:
            self.violations.append(f"{len(session.unanswered)} calls with {inline} bytes are over the credit")

    def end(self, session: ModelSession, number: int, answer: bytes | Outcome) -> Outcome:
        """Record the one outcome of a call."""
        submit = session.unanswered.pop(number)
        if isinstance(submit.arguments, Reference):
            session.stored.pop(submit.arguments.payload_id, None)
        if isinstance(answer, Outcome):
            outcome = answer._replace(call_number=number)
        elif len(answer) <= INLINE_BYTES_MAX:
            outcome = Outcome(number, Status.SUCCEEDED, answer, None, None)
        else:
            digest = hashlib.sha256(answer).digest()
            payload_id = hashlib.blake2b(number.to_bytes(8, "big"), key=b"result", digest_size=16).digest()
            session.results[payload_id] = bytes(answer)
            outcome = Outcome(number, Status.SUCCEEDED, Reference(payload_id, len(answer), digest), None, None)
        session.outcomes[number] = outcome
        return outcome

    def _cancel(self, session: ModelSession, message: Cancel) -> list[Message]:
        session.cancelled.add(message.call_number)
        if message.call_number not in session.unanswered:
            return []
        cancelled = Outcome(0, Status.CANCELLED, b"", Failure("cancelled", "cancelled"), None)
        return [self.end(session, message.call_number, cancelled)]

    def _received(self, session: ModelSession, message: Received) -> list[Message]:
        for number in message.call_numbers:
            outcome = session.outcomes.pop(number, None)
            if outcome is not None and isinstance(outcome.result, Reference):
                session.results.pop(outcome.result.payload_id, None)
            session.settled.add(number)
            session.beats_without_reception.pop(number, None)
        return []

    def _beat(self, session: ModelSession, message: ClientBeat) -> list[Message]:
        known = session.settled | session.unanswered.keys() | session.outcomes.keys()
        missing = tuple(number for number in range(1, message.submitted_up_to + 1) if number not in known)
        repeated = [
            session.outcomes[number] for number in session.outcomes if number in session.beats_without_reception
        ]
        session.beats_without_reception = dict.fromkeys(session.outcomes, 1)
        return [ClientBeatReply(message.beat_number, missing), *repeated]

    def _offer(self, session: ModelSession, message: PayloadOffer) -> list[Message]:
        if message.payload_id in session.stored:
            return [PayloadStored(message.payload_id)]
        incoming = session.arriving.setdefault(message.payload_id, Incoming(message.size, message.sha256))
        return [self._window(message.payload_id, incoming)]

    def _window(self, payload_id: bytes, incoming: Incoming) -> PayloadCredit:
        received = len(incoming.data)
        return PayloadCredit(payload_id, received, min(received + self.window_bytes, incoming.size))

    def _chunk(self, session: ModelSession, message: PayloadChunk) -> list[Message]:
        incoming = session.arriving.get(message.payload_id)
        if incoming is None or message.offset != len(incoming.data):
            return []
        incoming.data += message.data
        if len(incoming.data) < incoming.size:
            return [self._window(message.payload_id, incoming)]
        del session.arriving[message.payload_id]
        if hashlib.sha256(incoming.data).digest() != incoming.sha256:
            return [PayloadRefused(message.payload_id, Failure("internal", "wrong digest"))]
        session.stored[message.payload_id] = bytes(incoming.data)
        return [PayloadStored(message.payload_id)]

    def _fetch(self, session: ModelSession, message: PayloadCredit) -> list[Message]:
        data = session.results.get(message.payload_id)
        if data is None:
            return [PayloadRefused(message.payload_id, Failure("internal", "no such payload"))]
        view = memoryview(data)
        starts = range(message.received, message.limit, self.chunk_bytes)
        return [
            PayloadChunk(message.payload_id, start, bytes(view[start : min(start + self.chunk_bytes, message.limit)]))
            for start in starts
        ]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held for any client. A transfer that was given up is the payload store's to forget."""
        return not any(s.unanswered or s.outcomes or s.results for s in self.sessions.values())


_HANDLERS: dict[type, Callable[..., list[Message]]] = {
    DeclareFunction: ModelScheduler._declare,
    Submit: ModelScheduler._submit,
    Cancel: ModelScheduler._cancel,
    Received: ModelScheduler._received,
    ClientBeat: ModelScheduler._beat,
    PayloadOffer: ModelScheduler._offer,
    PayloadChunk: ModelScheduler._chunk,
    PayloadCredit: ModelScheduler._fetch,
}
