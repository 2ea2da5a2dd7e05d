"""The calls of a session that are to be accepted, and how they get to the scheduler. Part of ``session_detached``.

Rules: never more that is sent and not accepted yet than the window; a reference is sent only after its bytes are
stored, and a call after its function's declaration; what was sent is said again a beat later, with the declaration,
until it is answered. Attached calls that run for hours take nothing of the window.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from keepwarm.session_calls import CallState, Function
from keepwarm.session_sending import Sending, next_chunks
from keepwarm.transfers import ACTIVE_MAX, Transfers, Upload
from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import (
    Message,
    Payload,
    PayloadChunk,
    PayloadCredit,
    PayloadRefused,
    PayloadStored,
    Reference,
    SubmitDetached,
)

__all__ = ["Spawn", "Spawning", "Told", "said_until"]

WINDOW_CALLS: Final = 2_000
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""What is sent and not accepted yet; the rest is held. All of it may have to be said again each beat."""


class Spawn:
    """A detached call that is not accepted yet. ``owner`` is told the answer; it is never looked at here."""

    __slots__ = (
        "arguments", "call_id", "function", "key", "owner", "payload_id", "priority", "result_ttl_us",
        "said_ns", "sha256", "size", "state",
    )  # fmt: skip

    def __init__(
        self,
        call_id: bytes,
        function: Function,
        arguments: bytes,
        owner: object,
        *,
        key: str = "",
        result_ttl_us: int = 0,
        priority: int = 0,
        sha256: bytes = b"",
    ) -> None:
        self.call_id = call_id
        self.function = function
        self.arguments = arguments
        self.size = len(arguments)
        self.owner = owner
        self.key = key
        self.result_ttl_us = result_ttl_us
        self.priority = priority
        self.state = CallState.HELD
        self.sha256 = sha256 or (hashlib.sha256(arguments).digest() if self.is_large else b"")
        """Of large arguments; computed here when it is not given."""
        self.payload_id = hashlib.blake2b(b"arguments", key=call_id, digest_size=16).digest() if self.is_large else b""
        self.said_ns = 0

    @property
    def is_large(self) -> bool:
        """Whether the arguments travel as a payload of their own."""
        return self.size > INLINE_BYTES_MAX

    @property
    def inline_bytes(self) -> int:
        """What it takes of the window."""
        return 0 if self.is_large else self.size

    def message(self) -> SubmitDetached:
        """What says it."""
        arguments: Payload = Reference(self.payload_id, self.size, self.sha256) if self.is_large else self.arguments
        return SubmitDetached(
            self.call_id, self.function.number, self.priority, self.key, self.result_ttl_us, arguments
        )


class Told(NamedTuple):
    """An answer, for whom waited for it. ``result`` is the bytes of a call that succeeded."""

    owner: object
    message: Message
    result: bytes | None = None


class Spawning:
    """See the module's docstring. Messages are appended to the session's ``outgoing``, answers to ``deliveries``."""

    def __init__(self, sending: Sending, deliveries: deque[Any]) -> None:
        self.beat_ns = 1_000_000_000
        self.held_bytes = 0
        self._sending = sending
        self._outgoing = sending.outgoing
        self._deliveries = deliveries
        self._spawns: dict[bytes, Spawn] = {}
        """Every call that is not accepted yet, by id. Those that were not said are also in one of the next three."""
        self._small: deque[Spawn] = deque()
        self._large: deque[Spawn] = deque()
        self._without_body: dict[Function, list[Spawn]] = {}
        """Calls whose function's body is on its way."""
        self._uploads: Transfers[Upload[Spawn]] = Transfers()
        self._said: dict[bytes, Spawn] = {}
        """Calls that were sent, the one said longest ago first."""
        self._said_bytes = 0
        self._by_payload: dict[bytes, Spawn] = {}

    def __len__(self) -> int:
        """How many calls are not accepted yet."""
        return len(self._spawns)

    def owners(self) -> list[object]:
        """Whoever waits for a call to be accepted."""
        return [spawn.owner for spawn in self._spawns.values()]

    def spawn(self, spawn: Spawn) -> None:
        """Take a call. Its owner is told ``DetachedAccepted``, or what refuses it."""
        self._spawns[spawn.call_id] = spawn
        self._sending.functions.begin(spawn.function)
        self.held_bytes += spawn.size
        if spawn.is_large:
            self._by_payload[spawn.payload_id] = spawn
        self._hold(spawn)

    def withdraw(self, now_ns: int, spawn: Spawn) -> bool:
        """Nobody waits for the acceptance any more. True if the call was sent: then it may be accepted all the same."""
        if self._spawns.get(spawn.call_id) is not spawn:
            return False
        was_said = spawn.state is CallState.SUBMITTED
        self._drop(now_ns, spawn)
        return was_said

    # ------------------------------------------------------------ the connection and time

    def welcomed(self, now_ns: int, known: bool) -> None:
        """The scheduler talks to us. If it knows us, it has the bytes that it was given."""
        if known:
            self._outgoing += self._uploads.begin_again(now_ns)
        else:
            self._uploads.clear()
            self._small.clear()
            self._large.clear()
            self._without_body.clear()
            self._said.clear()
            self._said_bytes = 0
            for spawn in self._spawns.values():
                self._hold(spawn)
        for spawn in self._said.values():
            spawn.said_ns = now_ns - self.beat_ns

    def tick(self, now_ns: int, *, is_backed_up: bool) -> None:
        """Say what is new, and what a beat has left unanswered again unless earlier messages have not left yet."""
        self._outgoing += self._uploads.tick(now_ns)
        arrived = [function for function in self._without_body if not function.lacks_body]
        for function in arrived:
            for spawn in self._without_body.pop(function):
                if spawn.state is CallState.HELD:
                    self._hold(spawn)
        if not is_backed_up:
            self._repeat(now_ns)
        self._send_small(now_ns)
        self._send_large(now_ns)

    def next_deadline(self) -> int | None:
        """When ``tick`` is next due, apart from new wishes and messages."""
        oldest = next(iter(self._said.values()), None)
        stalled_ns = self._uploads.next_deadline()
        if oldest is None:
            return stalled_ns
        due_ns = oldest.said_ns + self.beat_ns
        return due_ns if stalled_ns is None else min(due_ns, stalled_ns)

    @property
    def has_chunks(self) -> bool:
        """Whether ``chunks`` would give any."""
        return self._uploads.is_busy and any(upload.sendable for upload in self._uploads.active())

    def chunks(self, now_ns: int) -> list[PayloadChunk]:
        """The next pieces of uploads that the scheduler has credit for."""
        return next_chunks(self._uploads, now_ns)

    # ------------------------------------------------------------ the way of a call

    def _hold(self, spawn: Spawn) -> None:
        spawn.state = CallState.HELD
        function = spawn.function
        if function.lacks_body:
            self._without_body.setdefault(function, []).append(spawn)
            self._sending.want_body(function)
        else:
            (self._large if spawn.is_large else self._small).append(spawn)

    def _send_small(self, now_ns: int) -> None:
        while self._small and len(self._said) < WINDOW_CALLS:
            spawn = self._small[0]
            if self._said_bytes + spawn.inline_bytes > WINDOW_BYTES:
                return
            self._small.popleft()
            if spawn.state is CallState.HELD:
                self._say(now_ns, spawn)

    def _send_large(self, now_ns: int) -> None:
        while self._large and len(self._uploads) < ACTIVE_MAX and len(self._said) < WINDOW_CALLS:
            spawn = self._large.popleft()
            if spawn.state is CallState.HELD:
                spawn.state = CallState.UPLOADING
                upload = Upload(spawn.payload_id, spawn.arguments, spawn.sha256, spawn)
                self._outgoing += self._uploads.add(now_ns, upload)

    def _say(self, now_ns: int, spawn: Spawn) -> None:
        spawn.state, spawn.said_ns = CallState.SUBMITTED, now_ns
        self._said[spawn.call_id] = spawn
        self._said_bytes += spawn.inline_bytes
        self._sending.introduce(spawn.function)
        self._outgoing.append(spawn.message())

    def _unsay(self, spawn: Spawn) -> None:
        if self._said.pop(spawn.call_id, None) is not None:
            self._said_bytes -= spawn.inline_bytes

    def _repeat(self, now_ns: int) -> None:
        spawns = said_until(self._said.values(), now_ns - self.beat_ns)
        for spawn in spawns:
            spawn.function.is_declared = False  # its declaration may be what was lost
        for spawn in spawns:
            self._unsay(spawn)
            self._say(now_ns, spawn)

    def _drop(self, now_ns: int, spawn: Spawn) -> None:
        del self._spawns[spawn.call_id]
        self._sending.functions.end(spawn.function)
        self.held_bytes -= spawn.size
        self._by_payload.pop(spawn.payload_id, None)
        self._unsay(spawn)
        if spawn.state is CallState.UPLOADING:
            self._outgoing += self._uploads.remove(now_ns, spawn.payload_id)
        spawn.state = CallState.DONE
        spawn.arguments = b""

    def answer(self, now_ns: int, call_id: bytes, message: Message) -> None:
        """A call is accepted or refused: its owner is told."""
        spawn = self._spawns.get(call_id)
        if spawn is not None:
            self._drop(now_ns, spawn)
            self._deliveries.append(Told(spawn.owner, message))

    # ------------------------------------------------------------ messages about payloads

    def on_credit(self, now_ns: int, message: PayloadCredit) -> None:
        """The window of an upload has moved, or the scheduler wants bytes again that it had been given."""
        upload = self._uploads.get(message.payload_id)
        if upload is not None:
            upload.credit(now_ns, message.received, message.limit)
            return
        spawn = self._by_payload.get(message.payload_id)
        if spawn is not None and spawn.state is CallState.SUBMITTED and not message.limit:
            self._unsay(spawn)
            self._hold(spawn)

    def on_stored(self, now_ns: int, message: PayloadStored) -> None:
        """Arguments have arrived: the call that refers to them can be sent."""
        if self._uploads.get(message.payload_id) is not None:
            self._outgoing += self._uploads.remove(now_ns, message.payload_id)
            spawn = self._by_payload.get(message.payload_id)
            if spawn is not None:
                self._say(now_ns, spawn)

    def on_payload_refused(self, now_ns: int, message: PayloadRefused, body_of: Function | None) -> None:
        """Arguments, or the body of a function, cannot be taken: calls are not accepted for that."""
        refused = self._without_body.pop(body_of, []) if body_of is not None else []
        if self._uploads.get(message.payload_id) is not None:
            refused.append(self._by_payload[message.payload_id])
        for spawn in refused:
            self.answer(now_ns, spawn.call_id, message)


class _Said(Protocol):
    said_ns: int


T = TypeVar("T", bound=_Said)


def said_until(waiting: Iterable[T], due_ns: int) -> list[T]:
    """Those that were last said at ``due_ns`` or before, of some in the order of that."""
    return list(takewhile(lambda each: each.said_ns <= due_ns, waiting))
