"""The thread that waits for the disk, and what waits with it: batches of records and the messages that follow them.

The loop puts a batch into a transaction, which needs no disk, and goes on; this thread commits it, which does. What is
handed over meanwhile becomes the next batch, of one transaction again. Once a batch is on disk the loop is woken, and
releases what the batch held.

The connection to the journal has one user at a time: this thread from the moment a batch is under way, until it is
done; else the loop. So the loop reads only while nothing is under way, which is when something is released, or when
nothing is held at all. Why the loop fills the transaction: each statement would have the two threads pass Python's lock
to and fro, and a commit does so once.

Rules: there are at most two batches, one under way and one that grows; what is held leaves in the order in which it was
handed over, never before everything handed over earlier is on disk. A batch that has grown too large makes the loop
wait. On a full disk the thread waits until there is room; any other error is raised in the loop, which then ends the
process at once. Where nothing is saved and nothing is under way, nothing here is touched.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from keepwarm_scheduler.core.effects import SaveCall, SaveFunction, SaveLock, SaveOutcome, Send, SendOutcome, SendStored
from keepwarm_scheduler.journal import Journal, Journaled, JournalError, JournalFullError
from keepwarm_scheduler.journal_calls import Statement
from keepwarm_scheduler.kept_payloads import sync_file
from keepwarm_wire.messages import DetachedListed, Reference

__all__ = ["BYTES_MAX", "ENTRIES_MAX", "Batch", "Held", "JournalWriter", "with_room"]

ENTRIES_MAX = 20_000
"""Records and messages handed over while a batch is under way; with more of them the loop waits for the disk."""

BYTES_MAX = 32 << 20
"""Of arguments, results and locks among them."""

_FULL_PAUSE_S = 0.2

Held = Send | SendStored | SendOutcome
"""What waits for the disk."""

_T = TypeVar("_T")

log = logging.getLogger("keepwarm.scheduler")


def with_room(write: Callable[[], _T], on_full: Callable[[], None] = lambda: None) -> _T:
    """Write; on a full disk whose reserve is used up again and again, until there is room. It is called each time."""
    is_told = False
    while True:
        try:
            return write()
        except JournalFullError as error:
            on_full()
            if not is_told:
                log.error("%s What has to be on it waits until there is some", error)  # noqa: TRY400
                is_told = True
            time.sleep(_FULL_PAUSE_S)


@dataclass(slots=True, eq=False)
class Batch:
    """What becomes one transaction, and what is done once it is on disk."""

    statements: list[Statement] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """To be on disk, their names included, before what refers to them."""
    held: list[Held] = field(default_factory=list)
    peers: dict[bytes, None] = field(default_factory=dict)
    """Whom something is held for."""
    ordered: dict[bytes, None] = field(default_factory=dict)
    """For whom that is something that later messages must not overtake."""
    released: dict[bytes, None] = field(default_factory=dict)
    """Payloads that nothing on disk refers to afterwards."""
    entries: int = 0
    """Records and messages that were handed over while it grew."""
    size_bytes: int = 0
    """Of arguments, results and locks among them."""

    @property
    def is_to_be_written(self) -> bool:
        """Whether it needs the disk."""
        return bool(self.statements or self.files)

    @property
    def is_too_large(self) -> bool:
        """Whether nothing is to be added before it is on its way."""
        return self.entries > ENTRIES_MAX or self.size_bytes > BYTES_MAX


class JournalWriter:
    """The journal's thread.

    Args:
        journal: opened, its epoch begun.
        epoch: that epoch.
        release: called in the loop with each batch that is on disk, in order; the journal may be read then.
        wake: called in the thread when a batch is done: the loop is to call ``settle``.
        is_ending: whether a signal has asked the process to end; then nobody waits for room on a full disk.
    """

    def __init__(
        self,
        journal: Journal,
        epoch: int,
        release: Callable[[Batch], None],
        wake: Callable[[], None],
        is_ending: Callable[[], bool],
    ) -> None:
        self._journal, self._epoch = journal, epoch
        self._release, self._wake, self._is_ending = release, wake, is_ending
        self.is_busy = False
        """Whether something is on its way to the disk, or was and is not released yet."""
        self.is_done = False
        """Whether ``settle`` has something to do."""
        self._under_way = Batch()
        self._next = Batch()
        self._is_full = False
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._requests: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ in the loop

    def hand_over(
        self,
        records: Sequence[Journaled],
        files: Iterable[Path] = (),
        held: Sequence[Held] = (),
        released: Iterable[bytes] = (),
        ordered: frozenset[type] = frozenset(),
    ) -> None:
        """Have records written, in order, and then what is held done. Returns at once, unless too much is waiting.

        Args:
            records: of one turn.
            files: to be on disk before them.
            held: leaves after them, and after everything handed over earlier.
            released: payloads to release then.
            ordered: kinds of messages that later ones to the same peer must not overtake.

        Raises:
            JournalError: the disk fails.
        """
        batch = self._next
        batch.statements += self._journal.statements(records, self._epoch)
        batch.files += files
        batch.size_bytes += sum(map(_size_of, records))
        batch.entries += len(records)
        batch.released.update(dict.fromkeys(released))
        # Without anything of their own to wait for they wait for what is under way, and for no more than that.
        place = batch if batch.is_to_be_written or not self.is_busy else self._under_way
        for effect in held:
            self._hold(place, effect, ordered)
        if not self.is_busy:
            self._begin()
        while self.is_busy and self._next.is_too_large:
            self._wait()
            self.settle()

    def _hold(self, batch: Batch, effect: Held, ordered: frozenset[type]) -> None:
        batch.held.append(effect)
        self._next.entries += 1  # wherever it is held: what counts is how much has come since the last one began
        batch.peers[effect.peer] = None
        if isinstance(effect, SendOutcome):
            return
        message = effect.message
        if type(message) in ordered:
            batch.ordered[effect.peer] = None
        elif type(message) is DetachedListed:
            self._next.entries += len(message.entries)

    def follow(self, effect: Send, ordered: frozenset[type]) -> bool:
        """Hold an ordinary message too if it must not overtake one that is held. Whether it did so."""
        for batch in (self._next, self._under_way):
            if effect.peer in batch.ordered:
                self._hold(batch, effect, ordered)
                return True
        return False

    def keep(self, payload_id: bytes) -> None:
        """Something refers to the payload again: it is not to be released after all."""
        self._under_way.released.pop(payload_id, None)
        self._next.released.pop(payload_id, None)

    def forget(self, peer: bytes) -> None:
        """A connection is gone: its id may be another's soon, who must not hear what was held for it."""
        for batch in (self._under_way, self._next):
            if peer in batch.peers:
                batch.held = [effect for effect in batch.held if effect.peer != peer]
                del batch.peers[peer]
                batch.ordered.pop(peer, None)

    def settle(self) -> None:
        """Release what is on disk by now, and have what came meanwhile written.

        Raises:
            JournalError: the disk fails.
        """
        while self.is_busy and self.is_done:
            if self._error is not None:
                raise self._error
            batch, self._under_way = self._under_way, Batch()
            self.is_busy = self.is_done = False
            self._release(batch)
            self._begin()

    def flush(self) -> None:
        """Wait until everything is on disk, and release it. The journal may be used afterwards.

        Raises:
            JournalError: the disk fails, or it is full and the process is to end.
        """
        while self.is_busy:
            self._wait()
            self.settle()

    def close(self) -> None:
        """End the thread. What has not been flushed may be written or not."""
        self._requests.put(None)
        self._thread.join()

    def _begin(self) -> None:
        """Write the batch that has grown, if there is anything in it."""
        batch, self._next = self._next, Batch()
        if not batch.is_to_be_written:
            if batch.held or batch.released:
                self._release(batch)
            return
        self._journal.put(batch.statements)
        self._under_way, self.is_busy = batch, True
        self._done.clear()
        self._requests.put(batch)

    def _wait(self) -> None:
        while not self._done.wait(_FULL_PAUSE_S):
            if self._is_full and self._is_ending():
                raise JournalFullError("The disk is full, and the scheduler is to end. Not all could be written.")

    # ------------------------------------------------------------ in the thread

    def _serve(self) -> None:
        while (batch := self._requests.get()) is not None:
            try:
                self._write(batch)
            except BaseException as error:  # whatever it is, the loop raises it
                self._error = error
            self._done.set()  # before the loop may begin another batch, which clears it
            self.is_done = True
            self._wake()

    def _write(self, batch: Batch) -> None:
        for file in dict.fromkeys(batch.files):
            try:
                sync_file(file)
            except OSError as error:
                raise JournalError(f"{file} cannot be written: {error}. Look after the disk.") from error
        with_room(lambda: self._journal.commit(batch.statements), self._note_full)
        self._is_full = False

    def _note_full(self) -> None:
        self._is_full = True


def _size_of(record: Journaled) -> int:
    """Bytes of a record that may be large."""
    if isinstance(record, SaveOutcome):
        # A result beside the journal has no failure with it.
        return 0 if isinstance(record.outcome.result, Reference) else record.result_bytes
    if isinstance(record, SaveCall):
        payload: object = record.arguments
    elif isinstance(record, SaveFunction):
        payload = record.declaration.body
    else:
        payload = record.lock if isinstance(record, SaveLock) else b""
    return len(payload) if isinstance(payload, bytes) else 0
