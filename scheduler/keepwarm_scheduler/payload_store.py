"""Large arguments, results and function bodies on their way: files in the scheduler's directory, moved in chunks.

The store never looks into a payload. Bytes arrive at credited offsets, are hashed as they come, and count as stored
only when the digest is right. The directory is emptied at start: clients and agents hold what they have sent until it
is answered, and send it again. What detached calls refer to is kept beside it, over restarts, whatever becomes of the
session that sent it. Files are 0600; their names are random ids.

How often each payload is claimed is counted: one may be a function's body and a call's arguments, and goes with the
last of them. So does a kept one that a session has claimed too, which may be the only copy: after a restart nobody
hands over again what is here.
"""

import hashlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from keepwarm_scheduler.journal_calls import KeptPayload
from keepwarm_scheduler.kept_payloads import CHECK_BYTES_PER_STEP, KeptPayloads, remove_file
from keepwarm_wire.fields import CHUNK_BYTES_MAX
from keepwarm_wire.messages import (
    Failure,
    Message,
    PayloadChunk,
    PayloadCredit,
    PayloadOffer,
    PayloadRefused,
    PayloadStored,
    Reference,
)

__all__ = ["PayloadStore"]

WINDOW_BYTES = 8 * CHUNK_BYTES_MAX
UNCLAIMED_NS = 120_000_000_000
"""What arrives and is then claimed for no call or function for so long was left by a peer that is gone."""

SEND_BYTES_PER_TURN = 4 * CHUNK_BYTES_MAX
"""A fetch is served in slices of a turn, so that no payload delays a heartbeat."""


SHARE = 2
"""Where there are several keys, one of them may take up half of the room."""

PAYLOADS_PER_OWNER_MAX = 50_000

EVERYBODY = ""
"""The owner where there is only one: it may have everything."""

log = logging.getLogger("keepwarm.scheduler")


class _Incoming:
    """A payload that is arriving. Its file is open only while something is written: thousands may arrive at once."""

    def __init__(self, offer: PayloadOffer, owner: str, path: Path) -> None:
        self.offer, self.owner, self.path = offer, owner, path
        with path.open("xb"):
            path.chmod(0o600)
        self.received = 0
        self.credited = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Append; how much was written. Raises ``OSError``."""
        with self.path.open("ab", buffering=0) as file:
            return file.write(data)


class _Stored(NamedTuple):
    """A payload that is here."""

    path: Path
    size: int
    sha256: bytes
    owner: str


class PayloadStore:
    """Payloads by id.

    Args:
        directory: emptied and made anew (0700); what is kept lies in a directory beside it, of the name with -kept.
        payload_bytes_max: the largest payload that is taken.
        total_bytes_max: what may lie here at once; more is refused until something is dropped.
        named: what the journal refers to, left by an earlier process.
    """

    def __init__(
        self, directory: Path, payload_bytes_max: int, total_bytes_max: int, named: Iterable[KeptPayload] = ()
    ) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700, parents=True)
        self._directory = directory
        self._payload_bytes_max = payload_bytes_max
        self._total_bytes_max = total_bytes_max
        self._kept = KeptPayloads(directory.with_name(f"{directory.name}-kept"), named)
        self._session_bytes = 0
        self._incoming: dict[bytes, _Incoming] = {}
        self._stored: dict[bytes, _Stored] = {}
        self._bytes_of: Counter[str] = Counter()
        self._count_of: Counter[str] = Counter()
        self._sending: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        self._unclaimed_ns: dict[bytes, int] = {}
        self._claims: dict[bytes, int] = {}
        """How many calls and functions of sessions need each payload."""
        self._released: dict[bytes, None] = {}
        """Kept ones that no detached call needs any more, and a session still does."""

    def __contains__(self, payload_id: bytes) -> bool:
        return payload_id in self._stored or payload_id in self._kept

    def is_as_said(self, reference: Reference) -> bool:
        """Whether a payload that is here has the size and the digest that a message says it has."""
        found = self._find(reference.payload_id)
        return found is not None and found[1:] == (reference.size, reference.sha256)

    @property
    def _total_bytes(self) -> int:
        return self._session_bytes + self._kept.total_bytes

    @property
    def is_sending(self) -> bool:
        """Whether ``send_some`` has something to do."""
        return bool(self._sending)

    # ------------------------------------------------------------ arriving

    def offered(self, offer: PayloadOffer, owner: str = EVERYBODY) -> Message:
        """A peer would like to hand over a payload: credit, or a refusal, or the news that it is here.

        ``owner`` is the peer's key: only with that one the payload can be handed over, and its share is used up.
        """
        if offer.payload_id in self:
            return PayloadStored(offer.payload_id)
        incoming = self._incoming.get(offer.payload_id)
        if incoming is None:
            refused = self._no_room(offer, owner)
            if refused:
                return self._refuse(offer.payload_id, refused)
            try:
                incoming = _Incoming(offer, owner, self._directory / offer.payload_id.hex())
            except OSError as error:
                return self._refuse(offer.payload_id, f"the scheduler's disk: {error.strerror}")
            self._incoming[offer.payload_id] = incoming
            self._unclaimed_ns[offer.payload_id] = time.monotonic_ns()
            self._count(owner, offer.size)
        elif incoming.owner != owner:
            return self._refuse(offer.payload_id, "somebody else is handing over another one with its id")
        return self._credit(incoming)

    def _no_room(self, offer: PayloadOffer, owner: str) -> str:
        if offer.size > self._payload_bytes_max:
            return f"{offer.size} bytes; at most {self._payload_bytes_max} are taken"
        if self._total_bytes + offer.size > self._total_bytes_max:
            return f"the scheduler holds {self._total_bytes} bytes and is full"
        has_all = owner == EVERYBODY or self._bytes_of[owner] + offer.size <= self._total_bytes_max // SHARE
        if not has_all:
            return f"the scheduler holds {self._bytes_of[owner]} bytes of this key, which is its share"
        if self._count_of[owner] >= PAYLOADS_PER_OWNER_MAX:
            return f"the scheduler holds {self._count_of[owner]} payloads of this key"
        return ""

    def _count(self, owner: str, size: int, change: int = 1) -> None:
        """A payload of so many bytes has come, or with -1 gone."""
        self._session_bytes += change * size
        self._bytes_of[owner] += change * size
        self._count_of[owner] += change
        if not self._count_of[owner]:
            del self._bytes_of[owner], self._count_of[owner]

    def arrived(self, chunk: PayloadChunk, owner: str = EVERYBODY) -> Message | None:
        """Bytes came in: more credit, or the news that all is here, or nothing to say yet."""
        incoming = self._incoming.get(chunk.payload_id)
        if incoming is None or chunk.offset != incoming.received or incoming.owner != owner:
            return None
        offer = incoming.offer
        if incoming.received + len(chunk.data) > offer.size:
            return self._fail(incoming, "more bytes than were offered")
        try:
            written = incoming.write(chunk.data)
        except OSError as error:
            return self._fail(incoming, f"the scheduler's disk: {error.strerror}")
        if written != len(chunk.data):
            return self._fail(incoming, "the scheduler's disk is full")
        incoming.digest.update(chunk.data)
        incoming.received += len(chunk.data)
        self._unclaimed_ns.pop(offer.payload_id, None)
        self._unclaimed_ns[offer.payload_id] = time.monotonic_ns()  # last in the order of the dictionary
        if incoming.received < offer.size:
            return self._credit(incoming) if incoming.credited - incoming.received <= WINDOW_BYTES // 2 else None
        if incoming.digest.digest() != offer.sha256:
            return self._fail(incoming, "its digest is not the one that was offered")
        del self._incoming[offer.payload_id]
        self._stored[offer.payload_id] = _Stored(incoming.path, offer.size, offer.sha256, incoming.owner)
        if offer.payload_id in self._claims:  # it was lost, and handed over again to who needs it
            self._unclaimed_ns.pop(offer.payload_id, None)
        return PayloadStored(offer.payload_id)

    def claim(self, payload_id: bytes) -> None:
        """One more call or function refers to the payload: from now on it stays until it is dropped as often."""
        self._claims[payload_id] = self._claims.get(payload_id, 0) + 1
        self._unclaimed_ns.pop(payload_id, None)

    def drop(self, payload_id: bytes) -> None:
        """One less needs the payload, or nobody who has claimed it."""
        claims = self._claims.pop(payload_id, 0)
        if claims > 1:
            self._claims[payload_id] = claims - 1
            return
        self._remove(payload_id)
        if payload_id in self._released:
            del self._released[payload_id]
            self._kept.release(payload_id)

    def keep(self, payload_id: bytes, size: int, sha256: bytes) -> tuple[Path, ...]:
        """Have a stored payload survive the process, until ``release``.

        One that is not here (any more) is lost, which whoever asks for it is told: what refers to it ends like that.

        Returns what is to be synced (``kept_payloads.sync_file``) before anything that refers to it is written.

        Raises:
            OSError: the disk refuses.
        """
        self._released.pop(payload_id, None)
        if payload_id in self._kept:
            return ()
        stored = self._stored.get(payload_id)
        if stored is not None:
            try:
                return self._kept.keep(payload_id, size, sha256, stored.path)
            except FileNotFoundError:
                if stored.path.exists():  # then it is where it is to go that is missing
                    raise
        log.error("payload %s, which a detached call refers to, is not here", payload_id.hex())
        return ()

    def release(self, payload_id: bytes) -> None:
        """Nothing in the journal refers to the payload any more."""
        if payload_id in self._claims and payload_id not in self._stored and payload_id in self._kept:
            self._released[payload_id] = None
        else:
            self._kept.release(payload_id)

    def expire(self, now_ns: int) -> None:
        """Drop what nobody has claimed for too long. Cheap: the one unclaimed longest is looked at first."""
        while self._unclaimed_ns:
            payload_id, touched_ns = next(iter(self._unclaimed_ns.items()))
            if now_ns - touched_ns < UNCLAIMED_NS:
                return
            self._remove(payload_id)

    def _credit(self, incoming: _Incoming) -> PayloadCredit:
        incoming.credited = min(incoming.offer.size, incoming.received + WINDOW_BYTES)
        return PayloadCredit(incoming.offer.payload_id, incoming.received, incoming.credited)

    def _fail(self, incoming: _Incoming, reason: str) -> PayloadRefused:
        remove_file(incoming.path)
        self._count(incoming.owner, incoming.offer.size, -1)
        del self._incoming[incoming.offer.payload_id]
        self._unclaimed_ns.pop(incoming.offer.payload_id, None)
        return self._refuse(incoming.offer.payload_id, reason)

    @staticmethod
    def _refuse(payload_id: bytes, reason: str) -> PayloadRefused:
        return PayloadRefused(payload_id, Failure("payload_refused", f"The payload was not taken: {reason}."))

    # ------------------------------------------------------------ leaving

    def wanted(self, peer: bytes, credit: PayloadCredit) -> PayloadRefused | None:
        """A peer takes bytes from ``received`` up to ``limit``."""
        stored = self._find(credit.payload_id)
        if stored is None:
            return self._refuse(credit.payload_id, "it is not here (any more)")
        limit, key = min(credit.limit, stored[1]), (peer, credit.payload_id)
        position = max(credit.received, self._sending.get(key, (0, 0))[0])
        if position < limit:  # else what is under way is more than that
            self._sending[key] = (position, limit)
        return None

    def send_some(self) -> list[tuple[bytes, PayloadChunk]]:
        """The next chunks, fairly over all fetches, at most a turn's share."""
        chunks: list[tuple[bytes, PayloadChunk]] = []
        budget = SEND_BYTES_PER_TURN
        for key in list(self._sending):
            if budget <= 0:
                break
            peer, payload_id = key
            position, limit = self._sending.pop(key)
            if payload_id not in self._stored and not (is_right := self._kept.check(payload_id)):
                budget -= CHECK_BYTES_PER_STEP
                if is_right is None:
                    self._sending[key] = (position, limit)  # not read through yet
                continue
            data = self._read(payload_id, position, min(CHUNK_BYTES_MAX, limit - position))
            if not data:
                continue  # who wants it asks again, and is refused if it is not here any more
            chunks.append((peer, PayloadChunk(payload_id, position, data)))
            budget -= len(data)
            if position + len(data) < limit:
                self._sending[key] = (position + len(data), limit)
        return chunks

    def _read(self, payload_id: bytes, position: int, size: int) -> bytes:
        """A piece of a payload; empty if it cannot be read."""
        found = self._find(payload_id)
        if found is None:
            return b""
        reason: OSError | str = "its file is cut short"
        try:
            with found[0].open("rb", buffering=0) as file:
                file.seek(position)
                data = file.read(size)
        except OSError as error:
            data, reason = b"", error
        if not data and payload_id not in self._stored:
            self._kept.lose(payload_id, reason)
        return data

    def _find(self, payload_id: bytes) -> tuple[Path, int, bytes] | None:
        """Where a payload lies, its size and its digest."""
        stored = self._stored.get(payload_id)
        return self._kept.find(payload_id) if stored is None else stored[:3]

    def _remove(self, payload_id: bytes) -> None:
        """What sessions have handed over of it, whole or not."""
        self._unclaimed_ns.pop(payload_id, None)
        stored = self._stored.pop(payload_id, None)
        if stored is not None:
            remove_file(stored.path)
            self._count(stored.owner, stored.size, -1)
        incoming = self._incoming.get(payload_id)
        if incoming is not None:
            self._fail(incoming, "dropped")

    def forget_peer(self, peer: bytes) -> None:
        """A connection is gone: nothing is sent to it any more."""
        for key in [key for key in self._sending if key[0] == peer]:
            del self._sending[key]

    def close(self) -> None:
        """Remove the directory; what is kept stays."""
        shutil.rmtree(self._directory, ignore_errors=True)
