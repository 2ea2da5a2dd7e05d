"""Messages that bring payload bytes or refer to them: answered from the store, so that the core never sees bytes.

A message that refers to bytes that are not here is not for the core yet: its sender is asked for them, and repeats it.
One that says of bytes that they are others than they are is refused: the core counts what it is told.
"""

from collections.abc import Callable

from keepwarm_scheduler.core.detached import missing_body
from keepwarm_scheduler.core.events import LOCAL, Principal
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.intake import Taken
from keepwarm_scheduler.payload_store import EVERYBODY, PayloadStore
from keepwarm_wire.messages import (
    AttemptDone,
    DeclareFunction,
    Message,
    PayloadChunk,
    PayloadCredit,
    PayloadOffer,
    PayloadRefused,
    Reference,
    Refused,
    Submit,
    SubmitDetached,
)

__all__ = ["PayloadTraffic"]

_BLAME = 10
"""On a connection, for bytes that were refused, or that are not here though a message says so."""

_CARRIES_PAYLOAD = {Submit: "arguments", SubmitDetached: "arguments", DeclareFunction: "body", AttemptDone: "result"}


class PayloadTraffic:
    """What of the messages that come in is the store's affair.

    Args:
        payloads: where the bytes are.
        core: asked whether it wants what a message refers to.
        send: sends a peer a message.
        blame: notes on a connection that it said what is of no use.
        warn: logs a line.
    """

    def __init__(
        self,
        payloads: PayloadStore,
        core: SchedulerCore,
        send: Callable[[bytes, Message], None],
        blame: Callable[[bytes, int], None],
        warn: Callable[[str], None],
    ) -> None:
        self._payloads, self._core, self._send, self._blame, self._warn = payloads, core, send, blame, warn

    def takes(self, taken: Taken) -> bool:
        """Whether this is for the store, or has to wait for bytes; its sender has been answered then."""
        peer, principal, message = taken
        kind, payloads, answer = type(message), self._payloads, None
        if kind is PayloadChunk:
            answer = payloads.arrived(message, _owner(principal))
        elif kind is PayloadCredit:
            answer = payloads.wanted(peer, message)
        elif kind is PayloadOffer:
            answer = payloads.offered(message, _owner(principal))
        elif kind is PayloadRefused:
            self._warn(f"peer {peer.hex()} refused a payload: {message.failure.message!a}")
        else:
            answer = self._not_yet(peer, principal, message)
            if answer is None:
                return False
            self._blame(peer, _BLAME)
        if answer is not None:
            self._send(peer, answer)
            if type(answer) is PayloadRefused:
                self._blame(peer, _BLAME)
        return True

    def _not_yet(self, peer: bytes, principal: Principal, message: Message) -> Message | None:
        """What is said to a message that the core is not to see, for the bytes that it refers to."""
        field = _CARRIES_PAYLOAD.get(type(message))
        payload = b"" if field is None else getattr(message, field)
        missing: Reference | None = None
        if type(payload) is Reference:
            if payload.payload_id not in self._payloads:
                missing = payload if self._is_wanted(principal, message) else None
            elif not self._payloads.is_as_said(payload):
                return Refused("protocol", f"{type(message).__name__} refers to a payload of another size or digest.")
        if missing is None and type(message) is SubmitDetached and self._core.wants_arguments(principal, message):
            missing = missing_body(self._core.cluster, peer, message, self._payloads.__contains__)
        # No refusal: that would end an upload of these bytes which has begun since its sender said this.
        return None if missing is None else PayloadCredit(missing.payload_id, 0, 0)

    def _is_wanted(self, principal: Principal, message: Message) -> bool:
        """Whether the core would want the bytes."""
        if type(message) is AttemptDone:
            return self._core.wants_result(message)  # not if settled long ago: the agent has only to be told
        if type(message) is SubmitDetached:
            return self._core.wants_arguments(principal, message)  # nor if accepted long ago: the same of the client
        return True


def _owner(principal: Principal) -> str:
    return EVERYBODY if principal is LOCAL else principal.key
