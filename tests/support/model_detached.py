"""The model scheduler with detached calls: accepted once by id, ended by the test, told to whoever attaches."""

import hashlib
from collections import Counter

from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import (
    AttachDetached,
    CancelDetached,
    DetachedAccepted,
    DetachedCancelled,
    DetachedOutcome,
    DetachedRefused,
    Message,
    Reference,
    Status,
    SubmitDetached,
)
from support.model_scheduler import ModelScheduler, ModelSession

__all__ = ["Keeping"]


class Keeping(ModelScheduler):
    """The model scheduler with detached calls, which are on its disk and so outlive its restarts."""

    def __init__(self) -> None:
        super().__init__(beat_interval_us=200_000)
        self.refuses = ""
        """The code with which every submit is refused; empty for none."""
        self.arguments: dict[bytes, bytes] = {}
        self.accepted: Counter[bytes] = Counter()
        self.ended: dict[bytes, bytes] = {}
        self.watched: dict[bytes, None] = {}
        self.stopped: list[bytes] = []

    def handle(self, connection: bytes, message: Message) -> list[Message]:
        """As ``ModelScheduler``."""
        session = self.sessions.get(self.greeted.get(connection, b""))
        if session is not None and isinstance(message, SubmitDetached):
            return self._spawned(session, message)
        if session is not None and isinstance(message, AttachDetached):
            return [answer for call_id in message.call_ids for answer in self._attached(session, call_id)]
        if session is not None and isinstance(message, CancelDetached):
            self.stopped.append(message.call_id)
            known = message.call_id in self.accepted
            cancelled = DetachedCancelled(message.call_id, "stopping")
            return [cancelled if known else DetachedRefused(message.call_id, "unknown", "?")]
        return super().handle(connection, message)

    def _spawned(self, session: ModelSession, message: SubmitDetached) -> list[Message]:
        known = message.call_id in self.accepted
        if self.refuses:
            return [DetachedRefused(message.call_id, self.refuses, "says the model")]
        if not known:
            arguments = message.arguments
            if message.function_number not in session.functions:
                return []
            if isinstance(arguments, Reference):
                if arguments.payload_id not in session.stored:
                    self.violations.append("a call refers to bytes that are not here")
                    return []
                arguments = session.stored[arguments.payload_id]
            self.accepted[message.call_id] += 1
            self.arguments[message.call_id] = arguments
        return [DetachedAccepted(message.call_id, message.call_id, known)]

    def _attached(self, session: ModelSession, call_id: bytes) -> list[Message]:
        if call_id not in self.accepted:
            return [DetachedRefused(call_id, "unknown", "?")]
        if call_id not in self.ended:
            self.watched[call_id] = None
            return []
        return [self.outcome(session, call_id)]

    def outcome(self, session: ModelSession, call_id: bytes) -> DetachedOutcome:
        """What a session is told of a call that has ended."""
        result = self.ended[call_id]
        if len(result) <= INLINE_BYTES_MAX:
            return DetachedOutcome(call_id, Status.SUCCEEDED, result, None, None)
        payload_id = hashlib.blake2b(b"result", key=call_id, digest_size=16).digest()
        session.results[payload_id] = result
        reference = Reference(payload_id, len(result), hashlib.sha256(result).digest())
        return DetachedOutcome(call_id, Status.SUCCEEDED, reference, None, None)
