"""How a session's calls get to the scheduler: functions, numbers, the credit window, uploads, what to send again.

Part of the session's state machine and as pure. Rules: never more unanswered calls or inline bytes with the scheduler
than its credit; a reference is sent only after its bytes are stored; a function is declared before the first call that
needs it; a call keeps its number for good.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

from keepwarm.held_calls import HeldCalls
from keepwarm.session_calls import Call, CallState, Function
from keepwarm.session_functions import Functions
from keepwarm.transfers import ACTIVE_MAX, Transfers, Upload
from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import (
    Borrow,
    Cancel,
    Message,
    Payload,
    PayloadChunk,
    PayloadCredit,
    PayloadRefused,
    PayloadStored,
    Reference,
    Submit,
)

__all__ = ["Sending", "next_chunks"]

CHUNKS_PER_TURN = 4
CALLS_PER_TURN = 4096
"""At most so many calls are made ready in one turn, so that beats and cancels get in between."""


T = TypeVar("T")


class Sending:
    """The sending half of a session. Messages are appended to ``outgoing``, in the order they must be sent."""

    def __init__(self, session_id: bytes) -> None:
        self.outgoing: list[Message] = []
        self.functions = Functions(self.outgoing)
        self.numbered: dict[int, Call] = {}
        """Calls that have been sent at least once and are not done, by number."""
        self.last_number = 0
        self._session_id = session_id
        self._home: tuple[bytes, int] = (b"", 0)
        self.small = HeldCalls()
        """Calls whose arguments travel in their messages."""
        self._large = HeldCalls()
        self._bodies_wanted: list[Function] = []
        self._uploads: Transfers[Upload[Call | Function]] = Transfers()
        self._payloads_made = 0
        self.inflight_calls = 0
        self._inflight_bytes = 0
        self._credit_calls = 0
        self._credit_bytes = 0

    # ------------------------------------------------------------ what is to be sent

    def add_function(self, function: Function) -> None:
        """Make a function usable for calls."""
        if function.is_large:
            function.payload_id = self._new_payload_id()
        self.functions.add(function)

    def queue(self, call: Call) -> None:
        """Hold a call until its function's body is stored and the credit allows it."""
        function = call.function
        call.state = CallState.HELD
        if function.lacks_body:
            function.waiting.append(call)
            self.want_body(function)
        else:
            (self._large if call.size > INLINE_BYTES_MAX else self.small).append(call)

    def want_body(self, function: Function) -> None:
        """See that a large body gets to the scheduler."""
        if not function.body_wanted:
            function.body_wanted = True
            self._bodies_wanted.append(function)

    def introduce(self, function: Function) -> None:
        """Declare a function unless that was done."""
        if not function.is_declared:
            function.is_declared = function.was_declared = True
            self.outgoing.append(function.declaration())

    def unanswered(self) -> list[Call]:
        """Every call that is not done, in the order in which they would be sent again."""
        uploading = (upload.owner for upload in self._uploads.everything())
        waiting: Iterator[Call] = (call for function in self.functions for call in function.waiting)
        calls = [self.numbered[number] for number in sorted(self.numbered)]
        calls += [call for call in uploading if isinstance(call, Call) and call.number == 0]
        calls += [call for queue in (self.small, self._large, waiting) for call in queue if call.number == 0]
        return [call for call in calls if call.state is not CallState.DONE and not call.is_loan]

    def finish(self, now_ns: int, call: Call) -> None:
        """A call is done: whatever is under way for it ends."""
        self.answered(now_ns, call)
        if call.is_loan:
            self.functions.end(call.function)
        call.state = CallState.DONE
        call.arguments = b""
        self.numbered.pop(call.number, None)

    def answered(self, now_ns: int, call: Call) -> None:
        """A call's outcome is here, if not yet its result: the scheduler no longer counts it."""
        if call.in_credit:
            call.in_credit = False
            self.inflight_calls -= 1
            self._inflight_bytes -= call.credited_bytes
        if call.state is CallState.UPLOADING:
            self.outgoing += self._uploads.remove(now_ns, call.payload_id)

    # ------------------------------------------------------------ the connection

    def welcomed(self, now_ns: int, home: tuple[bytes, int], credit_calls: int, credit_bytes: int, known: bool) -> None:
        """The scheduler of ``home`` (cluster id, epoch) talks to us, and knows it already or not."""
        self._home = home
        self._credit_calls, self._credit_bytes = credit_calls, credit_bytes
        for function in self.functions:
            function.is_declared = False
        if known:
            self.functions.say_again()
            self.outgoing += self._uploads.begin_again(now_ns)
        else:
            self._start_over()

    def _start_over(self) -> None:
        calls = self.unanswered()
        for loan in [call for call in self.numbered.values() if call.is_loan]:
            del self.numbered[loan.number]
            self.functions.end(loan.function)
        self.outgoing.clear()
        self._uploads.clear()
        self.small.clear()
        self._large.clear()
        self._bodies_wanted.clear()
        self.functions.start_over()
        self.inflight_calls = self._inflight_bytes = 0
        for call in calls:
            call.in_credit = call.is_uploaded = False
            self.queue(call)

    # ------------------------------------------------------------ time

    def tick(self, now_ns: int) -> None:
        """Repeat what has stalled and make ready what the credit allows."""
        if self._uploads.is_busy:
            self.outgoing += self._uploads.tick(now_ns)
        if self._bodies_wanted:
            self._upload_bodies(now_ns)
        if self.small:
            self._send_small()
        if self._large:
            self._send_large(now_ns)

    def _upload_bodies(self, now_ns: int) -> None:
        for function in self._bodies_wanted:
            if function.is_forgotten:
                continue
            upload: Upload[Call | Function] = Upload(function.payload_id, function.body, function.sha256, function)
            self.outgoing += self._uploads.add(now_ns, upload)
        self._bodies_wanted.clear()

    def next_deadline(self) -> int | None:
        """When ``tick`` is next due, apart from new calls, outcomes and connections."""
        return self._uploads.next_deadline()

    @property
    def has_outgoing(self) -> bool:
        """Whether there is something to send at once."""
        if self.outgoing or not self._uploads.is_busy:
            return bool(self.outgoing)
        return any(upload.sendable for upload in self._uploads.active())

    def chunks(self, now_ns: int) -> list[PayloadChunk]:
        """The next pieces of uploads that the scheduler has credit for: a few, of each upload in turn."""
        return next_chunks(self._uploads, now_ns)

    def _send_small(self) -> None:
        small = self.small
        room = min(self._credit_calls - self.inflight_calls, CALLS_PER_TURN)
        if self._large and room <= ACTIVE_MAX:
            return  # the last places are for large calls, which small ones would starve
        while small and room > 0:
            call = small.head()
            if call.state is not CallState.HELD:
                small.popleft()
            elif call.size > self._credit_bytes:
                self._large.append(small.popleft())
            elif self._inflight_bytes + call.size > self._credit_bytes:
                return
            else:
                small.popleft()
                room -= 1
                self._take_credit(call, call.size)
                self._submit(call)

    def _send_large(self, now_ns: int) -> None:
        while self._large and self.inflight_calls < self._credit_calls and len(self._uploads) < ACTIVE_MAX:
            call = self._large.popleft()
            if call.state is not CallState.HELD:
                continue
            self._take_credit(call, 0)
            call.payload_id = call.payload_id or self._new_payload_id()
            call.sha256 = call.sha256 or hashlib.sha256(call.arguments).digest()
            self._upload_arguments(now_ns, call)

    def _upload_arguments(self, now_ns: int, call: Call) -> None:
        call.state = CallState.UPLOADING
        upload: Upload[Call | Function] = Upload(call.payload_id, call.arguments, call.sha256, call)
        self.outgoing += self._uploads.add(now_ns, upload)

    def _take_credit(self, call: Call, size: int) -> None:
        call.in_credit = True
        call.credited_bytes = size
        self.inflight_calls += 1
        self._inflight_bytes += size

    def _submit(self, call: Call) -> None:
        function = call.function
        self.introduce(function)
        self._number(call)
        arguments: Payload = call.arguments
        if call.state is CallState.UPLOADING or call.is_uploaded:
            call.is_uploaded = True
            arguments = Reference(call.payload_id, call.size, call.sha256)
        call.state = CallState.SUBMITTED
        resent = call.first_home != self._home
        self.outgoing.append(Submit(call.number, function.number, call.priority, resent, arguments, call.lost_nodes))
        if call.cancelling:
            self.outgoing.append(Cancel(call.number))

    def _number(self, call: Call) -> None:
        if call.number == 0:
            self.last_number += 1
            call.number = self.last_number
            self.numbered[call.number] = call
            call.first_home = self._home

    def submit_again(self, call: Call) -> None:
        """The scheduler lacks a call that was sent; its function's declaration may be lost with it."""
        call.function.is_declared = False
        if call.is_loan:
            self.borrow(call)
        else:
            self._submit(call)

    def borrow(self, call: Call) -> None:
        """Ask for a loan. It is sent at once: there are few. Its function is not forgotten before it has ended."""
        if not call.number:
            self.functions.begin(call.function)
        self.introduce(call.function)
        self._number(call)
        call.state = CallState.SUBMITTED
        self.outgoing.append(Borrow(call.number, call.function.number, call.priority, call.arguments))
        if call.cancelling:
            self.outgoing.append(Cancel(call.number))

    def _new_payload_id(self) -> bytes:
        self._payloads_made += 1
        number = self._payloads_made.to_bytes(8, "big")
        return hashlib.blake2b(number, key=self._session_id, digest_size=16).digest()

    # ------------------------------------------------------------ messages about uploads

    def on_credit(self, now_ns: int, message: PayloadCredit) -> None:
        """The window of an upload has moved, or the scheduler wants bytes again that it had been given."""
        upload = self._uploads.get(message.payload_id)
        if upload is not None:
            upload.credit(now_ns, message.received, message.limit)
        elif not message.limit:
            self._hand_over_again(now_ns, message.payload_id)

    def _hand_over_again(self, now_ns: int, payload_id: bytes) -> None:
        for function in self.functions:
            if function.payload_id == payload_id and function.is_stored:
                function.is_stored = function.is_declared = False
                self.want_body(function)
        for call in self.numbered.values():
            if call.payload_id == payload_id and call.state is CallState.SUBMITTED:
                self._upload_arguments(now_ns, call)

    def on_stored(self, now_ns: int, message: PayloadStored) -> None:
        """An upload is complete: what waited for it goes on."""
        upload = self._uploads.get(message.payload_id)
        if upload is None:
            return
        self.outgoing += self._uploads.remove(now_ns, message.payload_id)
        owner = upload.owner
        if isinstance(owner, Call):
            self._submit(owner)
        else:
            owner.is_stored = True
            for call in self._take_waiting(owner):
                self.queue(call)

    def on_refused(self, now_ns: int, message: PayloadRefused) -> Iterable[Call]:
        """An upload cannot be taken. Returns the calls that fail for it."""
        upload = self._uploads.get(message.payload_id)
        if upload is None:
            return ()
        self.outgoing += self._uploads.remove(now_ns, message.payload_id)
        owner = upload.owner
        return [owner] if isinstance(owner, Call) else self._take_waiting(owner)

    def body_under(self, payload_id: bytes) -> Function | None:
        """The function whose body is on its way as this payload."""
        upload = self._uploads.get(payload_id)
        return upload.owner if upload is not None and isinstance(upload.owner, Function) else None

    def _take_waiting(self, function: Function) -> list[Call]:
        waiting = [call for call in function.waiting if call.state is CallState.HELD]
        function.waiting.clear()
        function.body_wanted = False  # after a refusal the next call tries again: a full disk does not stay full
        return waiting


def next_chunks(uploads: Transfers[Upload[T]], now_ns: int) -> list[PayloadChunk]:
    """The next pieces of uploads that the scheduler has credit for: a few, of each upload in turn."""
    if not uploads.is_busy:
        return []
    chunks: list[PayloadChunk] = []
    for upload in [upload for upload in uploads.active() if upload.sendable][:CHUNKS_PER_TURN]:
        chunk = upload.next_chunk(now_ns)
        if chunk is not None:
            chunks.append(chunk)
            uploads.rotate(upload.payload_id)
    return chunks
