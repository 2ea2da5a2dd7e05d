"""The scheduler's payloads: large arguments, functions and results, as the daemon keeps them, in memory.

Clients hand theirs over in credited chunks. Agents, whose transfers are not simulated, take theirs and put results
here directly. It is emptied when the scheduler starts, but for what its journal refers to: clients and agents hand over
again what is unanswered. What is claimed for nothing for too long was left by a peer that is gone, and is dropped.
"""

from collections import Counter
from collections.abc import Iterable

from keepwarm_wire.messages import (
    AttemptDone,
    DeclareFunction,
    Failure,
    Message,
    PayloadChunk,
    PayloadCredit,
    PayloadOffer,
    PayloadRefused,
    PayloadStored,
    Reference,
    Submit,
    SubmitDetached,
)
from support.simulation.clock import SECOND, Clock

__all__ = ["Shelf"]

_FIELDS: dict[type, str] = {
    Submit: "arguments", SubmitDetached: "arguments", DeclareFunction: "body", AttemptDone: "result"
}  # fmt: skip
"""Messages that may refer to a payload, and where they do."""


UNCLAIMED_NS = 20 * SECOND


class Shelf:
    """Payloads by id, those that are here and those that arrive."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stored: dict[bytes, bytes] = {}
        self._arriving: dict[bytes, tuple[PayloadOffer, bytearray]] = {}
        self._unclaimed_ns: dict[bytes, int] = {}
        self._claims: Counter[bytes] = Counter()
        """How many calls and functions of sessions need each payload."""
        self._kept: dict[bytes, bytes] = {}
        """What detached calls refer to: files, which survive the process."""

    def ids(self) -> list[bytes]:
        """What is here or arrives."""
        return [*self._stored, *self._arriving]

    def kept_ids(self) -> list[bytes]:
        """What is kept for detached calls."""
        return list(self._kept)

    def clear(self, kept: Iterable[bytes]) -> None:
        """A scheduler starts with what its journal refers to: all of that is here, and all else is swept away."""
        self._kept = {payload_id: self._kept[payload_id] for payload_id in kept}
        self._stored.clear()
        self._arriving.clear()
        self._unclaimed_ns.clear()
        self._claims.clear()

    def get(self, payload_id: bytes) -> bytes | None:
        """The bytes, if they are here."""
        return self._stored.get(payload_id, self._kept.get(payload_id))

    def keep(self, payload_id: bytes) -> None:
        """These bytes have to survive the process."""
        if payload_id not in self._kept:
            self._kept[payload_id] = self._stored[payload_id]

    def release(self, payload_id: bytes) -> None:
        """No detached call refers to them any more."""
        del self._kept[payload_id]

    def put(self, payload_id: bytes, data: bytes) -> None:
        """An agent hands a result over. What is here already stays as it is, claimed or not."""
        if payload_id not in self._stored:
            self._stored[payload_id] = data
            self._unclaimed_ns[payload_id] = self._clock.now_ns

    def claim(self, payload_id: bytes) -> None:
        """A call or function needs these bytes until they are dropped."""
        self._claims[payload_id] += 1
        self._unclaimed_ns.pop(payload_id, None)

    def drop(self, payload_id: bytes) -> None:
        """One less needs these bytes, or nobody who has claimed them."""
        if self._claims[payload_id] > 1:
            self._claims[payload_id] -= 1
            return
        del self._claims[payload_id]
        self._remove(payload_id)

    def _remove(self, payload_id: bytes) -> None:
        for records in (self._stored, self._arriving, self._unclaimed_ns):
            records.pop(payload_id, None)

    def expire(self) -> None:
        """Drop what nobody has claimed for too long."""
        if self._unclaimed_ns:
            limit_ns = self._clock.now_ns - UNCLAIMED_NS
            for payload_id in [each for each, touched_ns in self._unclaimed_ns.items() if touched_ns <= limit_ns]:
                self._remove(payload_id)

    def take(self, message: Message, *, is_wanted: bool) -> list[Message] | None:
        """Answer a message about payloads; None for any other, which is the core's.

        One that refers to bytes which are not here is not for the core yet, if it ``is_wanted`` at all.
        """
        kind = type(message)
        if kind is PayloadOffer:
            return [self._offered(message)]
        if kind is PayloadChunk:
            return self._arrived(message)
        if kind is PayloadCredit:
            data = self.get(message.payload_id)
            if data is None:
                return [_refusal(message.payload_id)]
            return [PayloadChunk(message.payload_id, message.received, data[message.received : message.limit])]
        field = _FIELDS.get(kind)
        payload = b"" if field is None else getattr(message, field)
        if type(payload) is not Reference:
            return None
        if self.get(payload.payload_id) is not None:
            return None
        return [PayloadCredit(payload.payload_id, 0, 0)] if is_wanted else None

    def _offered(self, offer: PayloadOffer) -> Message:
        if self.get(offer.payload_id) is not None:
            return PayloadStored(offer.payload_id)
        self._unclaimed_ns[offer.payload_id] = self._clock.now_ns
        _, data = self._arriving.setdefault(offer.payload_id, (offer, bytearray()))
        return PayloadCredit(offer.payload_id, len(data), offer.size)

    def _arrived(self, chunk: PayloadChunk) -> list[Message]:
        offer, data = self._arriving.get(chunk.payload_id, (None, bytearray()))
        if offer is None or chunk.offset != len(data):
            return []
        data += chunk.data
        self._unclaimed_ns[chunk.payload_id] = self._clock.now_ns
        if len(data) < offer.size:
            return []
        del self._arriving[chunk.payload_id]
        self._stored[chunk.payload_id] = bytes(data)
        return [PayloadStored(chunk.payload_id)]


def _refusal(payload_id: bytes) -> PayloadRefused:
    return PayloadRefused(payload_id, Failure("payload_refused", "The payload was not taken: it is not here."))
