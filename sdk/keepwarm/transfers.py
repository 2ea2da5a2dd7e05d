"""Payloads on their way between this client and the scheduler: uploads and downloads, in credited chunks.

Pure: no socket, no clock (``now_ns`` is an argument). An upload never copies its bytes: chunks are slices of a
memoryview. Lost messages are repaired by time: an upload or download without progress for ``STALL_NS`` says its
offer or credit again. Chunks are handed out a few at a time, in rotation, so that no payload holds back another
or the small messages between them.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, Protocol, TypeVar

from keepwarm_wire.fields import CHUNK_BYTES_MAX
from keepwarm_wire.messages import DetachedOutcome, Outcome, PayloadChunk, PayloadCredit, PayloadOffer, Reference

__all__ = ["ACTIVE_MAX", "WINDOW_BYTES", "Download", "Transfers", "Upload"]

WINDOW_BYTES = 8 * 1024 * 1024
"""How far a download's credit reaches beyond what has arrived."""

STALL_NS = 1_000_000_000
ACTIVE_MAX = 4
"""Transfers under way at once in each direction; the others wait their turn."""

DIGEST_ATTEMPTS_MAX = 3

Owner = TypeVar("Owner")


class Upload(Generic[Owner]):
    """Bytes that the scheduler is to have, and the call or function that waits for them."""

    __slots__ = ("_data", "_limit", "_moved_ns", "_rewind", "_sent", "owner", "payload_id", "sha256", "size")

    def __init__(self, payload_id: bytes, data: bytes, sha256: bytes, owner: Owner) -> None:
        self.payload_id = payload_id
        self.size = len(data)
        self.sha256 = sha256
        self.owner = owner
        self._data = memoryview(data)
        self._sent = 0
        self._limit = 0
        self._rewind = True
        self._moved_ns = 0

    def begin(self, now_ns: int) -> PayloadOffer:
        """Offer the payload, for the first time or again; the next credit says from where to send."""
        self._limit = 0
        self._rewind = True
        self._moved_ns = now_ns
        return PayloadOffer(self.payload_id, self.size, self.sha256)

    def credit(self, now_ns: int, received: int, limit: int) -> None:
        """The scheduler's window. Only the first one after an offer moves back: others may cross chunks in flight."""
        if self._rewind or received > self._sent:
            self._sent = min(received, self.size)
            self._rewind = False
        if limit > self._limit:
            self._limit = min(limit, self.size)
            self._moved_ns = now_ns

    def next_chunk(self, now_ns: int) -> PayloadChunk | None:
        """The next piece that the window allows, or ``None``."""
        start, end = self._sent, min(self._sent + CHUNK_BYTES_MAX, self._limit)
        if self._rewind or end <= start:
            return None
        self._sent = end
        self._moved_ns = now_ns
        # The codec packs any buffer; a slice of the view is no copy.
        return PayloadChunk(self.payload_id, start, self._data[start:end])  # type: ignore[arg-type]

    @property
    def sendable(self) -> bool:
        """Whether ``next_chunk`` would give one."""
        return not self._rewind and self._sent < self._limit

    @property
    def stalled_at_ns(self) -> int:
        """When to offer again if nothing moves before."""
        return self._moved_ns + STALL_NS


class Download(Generic[Owner]):
    """A result on its way here, with the call that waits for it and the outcome that announced it."""

    __slots__ = (
        "_attempts",
        "_hash",
        "_limit",
        "_moved_ns",
        "_pieces",
        "outcome",
        "owner",
        "payload_id",
        "received",
        "reference",
        "was_refused",
    )

    def __init__(self, reference: Reference, owner: Owner, outcome: Outcome | DetachedOutcome) -> None:
        self.payload_id = reference.payload_id
        self.reference = reference
        self.owner = owner
        self.outcome = outcome
        self.received = 0
        self.was_refused = False
        """Whether the scheduler has said that it has no such payload."""
        self._pieces: list[bytes] = []
        self._hash = hashlib.sha256()
        self._limit = 0
        self._attempts = 1
        self._moved_ns = 0

    def begin(self, now_ns: int) -> PayloadCredit:
        """Ask for the payload from where it stands, for the first time or again."""
        self._moved_ns = now_ns
        self._limit = min(self.received + WINDOW_BYTES, self.reference.size)
        return PayloadCredit(self.payload_id, self.received, self._limit)

    def take(self, now_ns: int, chunk: PayloadChunk) -> PayloadCredit | None:
        """Add a piece; pieces out of place are dropped. Returns the credit to send, if it is time for one."""
        end = chunk.offset + len(chunk.data)
        if chunk.offset != self.received or not chunk.data or end > self.reference.size:
            return None
        self._pieces.append(chunk.data)
        self.received = end
        self._hash.update(chunk.data)
        self._moved_ns = now_ns
        if end < self.reference.size and self._limit < self.reference.size and self._limit - end <= WINDOW_BYTES // 2:
            return self.begin(now_ns)
        return None

    @property
    def is_complete(self) -> bool:
        """Whether every byte is here (right or not)."""
        return self.received == self.reference.size

    def data(self) -> bytes:
        """The bytes that are here."""
        return b"".join(self._pieces)

    @property
    def is_correct(self) -> bool:
        """Whether the bytes that are here have the digest that was announced."""
        return self._hash.digest() == self.reference.sha256

    def start_over(self) -> bool:
        """Drop what arrived damaged. False once that has happened ``DIGEST_ATTEMPTS_MAX`` times."""
        self._attempts += 1
        self.received = 0
        self._pieces = []
        self._hash = hashlib.sha256()
        return self._attempts <= DIGEST_ATTEMPTS_MAX

    @property
    def stalled_at_ns(self) -> int:
        """When to ask again if nothing arrives before."""
        return self._moved_ns + STALL_NS


class _Transfer(Protocol):
    payload_id: bytes

    def begin(self, now_ns: int) -> PayloadOffer | PayloadCredit: ...

    @property
    def stalled_at_ns(self) -> int: ...


T = TypeVar("T", bound=_Transfer)


class Transfers(Generic[T]):
    """Transfers of one direction: at most ``ACTIVE_MAX`` under way, the rest in the order they came."""

    def __init__(self) -> None:
        self._active: dict[bytes, T] = {}
        self._waiting: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._active) + len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether any is under way."""
        return bool(self._active)

    def active(self) -> Iterator[T]:
        """Those under way, the least recently rotated first."""
        return iter(self._active.values())

    def everything(self) -> Iterator[T]:
        """Those under way and those that wait."""
        return chain(self._active.values(), self._waiting)

    def get(self, payload_id: bytes) -> T | None:
        """The transfer under way of this payload."""
        return self._active.get(payload_id)

    def add(self, now_ns: int, transfer: T) -> list[PayloadOffer | PayloadCredit]:
        """Begin a transfer, or queue it. Returns what to send."""
        self._waiting.append(transfer)
        return self._fill(now_ns)

    def remove(self, now_ns: int, payload_id: bytes) -> list[PayloadOffer | PayloadCredit]:
        """Forget a transfer, finished or given up; the next in line begins. Returns what to send."""
        if self._active.pop(payload_id, None) is None:
            self._waiting = deque(waiting for waiting in self._waiting if waiting.payload_id != payload_id)
        return self._fill(now_ns)

    def clear(self) -> None:
        """Forget all."""
        self._active.clear()
        self._waiting.clear()

    def begin_again(self, now_ns: int) -> list[PayloadOffer | PayloadCredit]:
        """Offers or credits of everything under way, for a new connection."""
        return [transfer.begin(now_ns) for transfer in self._active.values()]

    def tick(self, now_ns: int) -> list[PayloadOffer | PayloadCredit]:
        """Offers or credits to repeat because nothing moved."""
        if not self._active:
            return []
        return [transfer.begin(now_ns) for transfer in self._active.values() if transfer.stalled_at_ns <= now_ns]

    def next_deadline(self) -> int | None:
        """When ``tick`` is next due."""
        return min(transfer.stalled_at_ns for transfer in self._active.values()) if self._active else None

    def rotate(self, payload_id: bytes) -> None:
        """Put a transfer behind the others."""
        self._active[payload_id] = self._active.pop(payload_id)

    def _fill(self, now_ns: int) -> list[PayloadOffer | PayloadCredit]:
        begun = []
        while self._waiting and len(self._active) < ACTIVE_MAX:
            transfer = self._waiting.popleft()
            self._active[transfer.payload_id] = transfer
            begun.append(transfer.begin(now_ns))
        return begun
