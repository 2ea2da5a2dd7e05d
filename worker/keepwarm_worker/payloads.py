"""Payloads between the scheduler and files of this node, in credited chunks. Their bytes never pass through the core.

Owns the files ``payload-<id>`` in the spool, and the descriptors of results until they are settled.

Rules:
- Fetching: we ask by credit and move the window; a chunk at an unexpected offset is dropped; after a second without
  progress the credit is repeated. The digest is checked before anyone may use the file.
- Uploading: we offer and send what credit allows; after a second without progress we offer again, and go back to where
  the scheduler then says it is. A credit of nothing says that it has lost what it was given: that is offered again.
- No file is read or written but at the moment of a message: nothing here blocks for longer than one chunk's I/O times
  the chunks that one credit allows.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from keepwarm_wire import messages as wire
from keepwarm_worker.core import events

__all__ = ["CHUNK_BYTES", "STALL_NS", "WINDOW_BYTES", "Step", "Transfers"]

CHUNK_BYTES = 1024 * 1024
WINDOW_BYTES = 8 * CHUNK_BYTES
STALL_NS = 1_000_000_000


class Step(NamedTuple):
    """What a call of ``Transfers`` leads to: messages for the scheduler, events for the core."""

    messages: list[wire.Message]
    events: list[events.Event]


@dataclass(slots=True)
class _Fetch:
    reference: wire.Reference
    descriptor: int
    received: int = 0
    limit: int = 0
    stalled_ns: int = 0
    digest: Any = field(default_factory=sha256)


@dataclass(slots=True)
class _Upload:
    attempt: int
    reference: wire.Reference
    descriptor: int
    under_way: bool = False
    sent: int = 0
    acknowledged: int = -1
    stalled_ns: int = 0


class Transfers:
    """All payloads that this agent fetches or hands over. Time is an argument, in monotonic nanoseconds."""

    def __init__(self, spool: Path, window_bytes: int = WINDOW_BYTES) -> None:
        self._spool = spool
        self._window_bytes = window_bytes
        self._fetches: dict[bytes, _Fetch] = {}
        self._uploads: dict[bytes, _Upload] = {}
        self._payload_of: dict[int, bytes] = {}
        self._handlers: dict[type[Any], Callable[[int, Any], Step]] = {
            wire.PayloadChunk: self._on_chunk,
            wire.PayloadCredit: self._on_credit,
            wire.PayloadStored: self._on_stored,
            wire.PayloadRefused: self._on_refused,
        }

    def path_of(self, payload_id: bytes) -> Path:
        """Where a fetched payload is."""
        return self._spool / f"payload-{payload_id.hex()}"

    def fetch(self, now_ns: int, reference: wire.Reference) -> Step:
        """Begin to fetch a payload to a file: ``PayloadFetched`` or ``PayloadMissing`` follows."""
        try:
            descriptor = os.open(
                self._part(reference.payload_id), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            return Step([], [_unstorable(reference.payload_id, error)])
        fetch = self._fetches[reference.payload_id] = _Fetch(reference, descriptor)
        if reference.size == 0:
            return Step([], [self._complete(fetch)])
        return Step([self._ask(now_ns, fetch)], [])

    def drop(self, payload_id: bytes) -> None:
        """Give up a fetch and delete the payload's file."""
        fetch = self._fetches.pop(payload_id, None)
        if fetch is not None:
            os.close(fetch.descriptor)
        for path in (self._part(payload_id), self.path_of(payload_id)):
            with suppress(OSError):  # it is not there, or stays until the spool is emptied
                path.unlink()

    def hold_result(self, attempt: int, reference: wire.Reference, descriptor: int) -> None:
        """Keep the open file of a result, from now on ours, until ``drop_result``."""
        self.drop_result(attempt)
        self._payload_of[attempt] = reference.payload_id
        self._uploads[reference.payload_id] = _Upload(attempt, reference, descriptor)

    def upload(self, now_ns: int, attempt: int) -> Step:
        """Hand a held result over: ``ResultStored`` or ``ResultRefused`` follows."""
        upload = self._uploads.get(self._payload_of.get(attempt, b""))
        if upload is None:
            return Step([], [])
        upload.under_way = True
        return Step([self._offer(now_ns, upload)], [])

    def drop_result(self, attempt: int) -> None:
        """Give up an upload and forget its file."""
        upload = self._uploads.pop(self._payload_of.pop(attempt, b""), None)
        if upload is not None:
            os.close(upload.descriptor)

    def is_payload_message(self, message: wire.Message) -> bool:
        return type(message) in self._handlers

    def handle(self, now_ns: int, message: wire.Message) -> Step:
        """Take a payload message of the scheduler. One about a payload that is not under way is ignored."""
        return self._handlers[type(message)](now_ns, message)

    def tick(self, now_ns: int) -> Step:
        """Repeat whatever has stalled."""
        asks = [self._ask(now_ns, fetch) for fetch in self._fetches.values() if fetch.stalled_ns <= now_ns]
        offers = [self._offer(now_ns, upload) for upload in self._under_way() if upload.stalled_ns <= now_ns]
        return Step([*asks, *offers], [])

    def next_deadline(self) -> int | None:
        """When ``tick`` has something to do, in nanoseconds; None for never."""
        if not (self._fetches or self._uploads):
            return None
        stalls = [fetch.stalled_ns for fetch in self._fetches.values()]
        stalls += [upload.stalled_ns for upload in self._under_way()]
        return min(stalls, default=None)

    def close(self) -> None:
        for payload_id in list(self._fetches):
            self.drop(payload_id)
        for attempt in list(self._payload_of):
            self.drop_result(attempt)

    def _under_way(self) -> Iterable[_Upload]:
        return (upload for upload in self._uploads.values() if upload.under_way)

    def _part(self, payload_id: bytes) -> Path:
        return self._spool / f"payload-{payload_id.hex()}.part"

    def _ask(self, now_ns: int, fetch: _Fetch) -> wire.PayloadCredit:
        fetch.limit = min(fetch.reference.size, fetch.received + self._window_bytes)
        fetch.stalled_ns = now_ns + STALL_NS
        return wire.PayloadCredit(fetch.reference.payload_id, fetch.received, fetch.limit)

    def _offer(self, now_ns: int, upload: _Upload) -> wire.PayloadOffer:
        upload.stalled_ns = now_ns + STALL_NS
        upload.acknowledged = -1
        return wire.PayloadOffer(upload.reference.payload_id, upload.reference.size, upload.reference.sha256)

    def _on_chunk(self, now_ns: int, chunk: wire.PayloadChunk) -> Step:
        fetch = self._fetches.get(chunk.payload_id)
        if fetch is None or chunk.offset != fetch.received or not chunk.data:
            return Step([], [])
        if fetch.received + len(chunk.data) > fetch.reference.size:
            return Step([], [self._fail(fetch, "payload_damaged", "The scheduler sent more bytes than it had said.")])
        try:
            _write_all(fetch.descriptor, chunk.data, fetch.received)
        except OSError as error:
            self.drop(chunk.payload_id)
            return Step([], [_unstorable(chunk.payload_id, error)])
        fetch.digest.update(chunk.data)
        fetch.received += len(chunk.data)
        fetch.stalled_ns = now_ns + STALL_NS
        if fetch.received == fetch.reference.size:
            return Step([], [self._complete(fetch)])
        if fetch.limit < fetch.reference.size and fetch.limit - fetch.received <= self._window_bytes // 2:
            return Step([self._ask(now_ns, fetch)], [])
        return Step([], [])

    def _complete(self, fetch: _Fetch) -> events.Event:
        payload_id = fetch.reference.payload_id
        if fetch.digest.digest() != fetch.reference.sha256:
            return self._fail(fetch, "payload_damaged", "The bytes do not have the digest that was announced.")
        try:
            self._part(payload_id).rename(self.path_of(payload_id))
        except OSError as error:
            self.drop(payload_id)
            return _unstorable(payload_id, error)
        del self._fetches[payload_id]
        os.close(fetch.descriptor)
        return events.PayloadFetched(payload_id)

    def _fail(self, fetch: _Fetch, kind: str, why: str) -> events.PayloadMissing:
        self.drop(fetch.reference.payload_id)
        return events.PayloadMissing(fetch.reference.payload_id, wire.Failure(kind, f"A payload cannot be used. {why}"))

    def _on_credit(self, now_ns: int, credit: wire.PayloadCredit) -> Step:
        upload = self._uploads.get(credit.payload_id)
        if upload is None or not (upload.under_way or credit.limit == 0):
            return Step([], [])
        if not upload.under_way:
            return self.upload(now_ns, upload.attempt)
        size = upload.reference.size
        if credit.received <= upload.acknowledged or upload.acknowledged < 0 or credit.received > upload.sent:
            # The first credit after an offer, or one that repeats itself: what we sent beyond it was lost.
            upload.sent = min(credit.received, size)
        upload.acknowledged = credit.received
        upload.stalled_ns = now_ns + STALL_NS
        messages: list[wire.Message] = []
        limit = min(credit.limit, size, credit.received + self._window_bytes)
        while upload.sent < limit:
            try:
                data = os.pread(upload.descriptor, min(CHUNK_BYTES, limit - upload.sent), upload.sent)
            except OSError as error:
                return _unreadable(upload, f"The file of the result cannot be read on the node: {error.strerror}.")
            if not data:
                return _unreadable(upload, "The file of the result was cut short while it was handed over.")
            messages.append(wire.PayloadChunk(credit.payload_id, upload.sent, data))
            upload.sent += len(data)
        return Step(messages, [])

    def _on_stored(self, _now_ns: int, stored: wire.PayloadStored) -> Step:
        upload = self._uploads.get(stored.payload_id)
        if upload is None or not upload.under_way:
            return Step([], [])
        upload.under_way = False
        return Step([], [events.ResultStored(upload.attempt, upload.reference)])

    def _on_refused(self, _now_ns: int, refused: wire.PayloadRefused) -> Step:
        fetch = self._fetches.get(refused.payload_id)
        if fetch is not None:
            self.drop(refused.payload_id)
            return Step([], [events.PayloadMissing(refused.payload_id, refused.failure)])
        upload = self._uploads.get(refused.payload_id)
        if upload is None or not upload.under_way:
            return Step([], [])
        upload.under_way = False
        return Step([], [events.ResultRefused(upload.attempt, refused.failure)])


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of it: on a disk that is nearly full one write may take a part, and only the next one says why."""
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:] if written else data, offset + written)


def _unreadable(upload: _Upload, why: str) -> Step:
    upload.under_way = False
    return Step([], [events.ResultRefused(upload.attempt, wire.Failure("result_not_stored", why))])


def _unstorable(payload_id: bytes, error: OSError) -> events.PayloadMissing:
    why = f"The node cannot store a payload: {error.strerror}."
    return events.PayloadMissing(payload_id, wire.Failure("payload_not_stored", why))
