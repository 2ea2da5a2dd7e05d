"""What the scheduler keeps on disk: cluster id, epoch, locks, nodes that may hold attempts, keys, detached calls.

One SQLite file, one connection, used by one thread at a time (``journal_writer`` says by which). The file is opened
with an exclusive lock, so that a second scheduler on the same state refuses to start. Everything saved in one turn of
the loop is in one transaction, on disk (``synchronous=FULL``) when ``commit`` returns; effects marked *after sync* are
performed only then. ``put`` fills the transaction, in memory; ``commit`` waits for the disk. A full disk is no harm:
nothing was written, and it may be tried again, first in the room that is kept for that. Any other error of the disk
ends the process, and nothing is tried again: what follows a failed fsync cannot be trusted.
"""

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from keepwarm_scheduler import backups, journal_calls
from keepwarm_scheduler.ballast import Ballast
from keepwarm_scheduler.core.effects import ForgetCordon, ForgetNode, SaveCordon, Saved, SaveLock, SaveNode
from keepwarm_scheduler.core.events import Restored, SavedCordon, SavedLock
from keepwarm_scheduler.journal_calls import KeptPayload, Statement
from keepwarm_scheduler.migrations import NewerSchemaError, migrate
from keepwarm_scheduler.security.records import ForgetCredential, KeyRecord, Record, TokenRecord
from keepwarm_wire.messages import DetachedOutcome

__all__ = ["Journal", "JournalError", "JournalFullError", "Journaled", "Opened"]

Journaled = Saved | Record
"""What can be written: effects of the core, and changes of the registry of keys."""


class JournalError(Exception):
    """The state on disk cannot be used. The message says why and what to do."""


class JournalFullError(JournalError):
    """The disk is full, and the room that was kept for that is used up. Nothing was written; try again later."""


class Opened(NamedTuple):
    """What ``Journal.begin_epoch`` found: the identity of this start, and what an earlier one left."""

    cluster_id: bytes
    epoch: int
    restored: Restored
    keys: tuple[KeyRecord, ...] = ()
    tokens: tuple[TokenRecord, ...] = ()
    payloads: tuple[KeptPayload, ...] = ()
    """The files beside the journal that have to be there."""


def wall_clock_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1_000


class Journal:
    """The scheduler's state file, ``state.sqlite3`` in its directory (made 0700).

    Args:
        directory: where the file lies.
        wall_us: the wall clock; only for what has to be right over a restart.

    Raises:
        JournalError: another scheduler uses the state, or the file is damaged or from a newer release.
    """

    def __init__(self, directory: Path, wall_us: Callable[[], int] = wall_clock_us) -> None:
        self._wall_us = wall_us
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / "state.sqlite3"
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=0, check_same_thread=False)
        except sqlite3.Error as error:
            raise JournalError(f"Cannot open {self.path}: {error}.") from error
        try:
            self._open()
        except NewerSchemaError as error:
            self._database.close()
            raise JournalError(
                f"{self.path} was written by a newer release ({error}). Upgrade keepwarm, or choose another --state."
            ) from None
        except (sqlite3.OperationalError, OSError) as error:
            self._database.close()
            if "locked" in str(error):
                raise JournalError(
                    f"Another scheduler is using the state in {directory}. Stop it, or choose another --state."
                ) from None
            raise JournalError(f"Cannot open {self.path}: {error}.") from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise self._damaged(error) from error
        self._ballast = Ballast(directory)

    @property
    def is_low(self) -> bool:
        """Whether the disk has no room but for what is promised already: nothing new is to be accepted."""
        return not self._ballast.is_held

    def _damaged(self, error: sqlite3.DatabaseError) -> JournalError:
        return JournalError(
            f"{self.path} is damaged: {error}. Move it away to start with an empty state; locks are made anew, "
            f"detached calls are lost, and agents and clients of other machines have to join again."
        )

    def _open(self) -> None:
        execute = self._database.execute
        execute("PRAGMA locking_mode=EXCLUSIVE")
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=FULL")
        # The lock is taken here, and kept until the connection is closed.
        execute("BEGIN IMMEDIATE")
        execute("COMMIT")
        self.path.chmod(0o600)
        migrate(self._database, self.path, {"cluster_id": secrets.token_bytes(16), "epoch": b"0"})

    def _meta(self, name: str) -> bytes:
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f"{name} is missing")
        return bytes(row[0])

    def begin_epoch(self) -> Opened:
        """Count this start, durably, and read back what an earlier one left.

        Raises:
            JournalError: something of it cannot be read.
        """
        try:
            return self._begin_epoch()
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _begin_epoch(self) -> Opened:
        execute = self._database.execute
        epoch = int(self._meta("epoch")) + 1
        locks = tuple(
            SavedLock(namespace, bytes(key), platform, python, bytes(lock))
            for namespace, key, platform, python, lock in execute(
                "SELECT namespace, spec_key, platform, python, lock FROM locks ORDER BY namespace, spec_key, platform"
            )
        )
        nodes = tuple(str(row[0]) for row in execute("SELECT name FROM nodes ORDER BY name"))
        keys = tuple(KeyRecord(*row) for row in execute("SELECT * FROM keys ORDER BY public_key"))
        tokens = tuple(TokenRecord(*row) for row in execute("SELECT * FROM tokens ORDER BY public_key"))
        rows = execute("SELECT node, is_drain, max_wait_us, stop FROM cordons ORDER BY node")
        cordons = tuple(SavedCordon(node, bool(drain), wait_us, bool(stop)) for node, drain, wait_us, stop in rows)
        detached = journal_calls.read_detached(self._database, self._wall_us())
        payloads = journal_calls.kept_payloads(self._database, detached)
        # The nodes stay until they are known to hold nothing: this start may end before they have reported.
        self._write(lambda: execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (str(epoch).encode(),)))
        self._ballast.hold()
        return Opened(
            self._meta("cluster_id"), epoch, Restored(locks, nodes, detached, cordons), keys, tokens, payloads
        )

    def statements(self, records: Iterable[Journaled], epoch: int) -> list[Statement]:
        """How records of this epoch are written, in their order. Times count from now."""
        statements: list[Statement] = []
        wall_us = self._wall_us()
        for record in records:
            of_calls = _OF_CALLS.get(type(record))
            statements += _STATEMENTS[type(record)](record, epoch) if of_calls is None else of_calls(record, wall_us)
        return statements

    def put(self, statements: list[Statement]) -> None:
        """Fill a transaction with them, which is not on disk before ``commit`` is called with the same ones.

        Raises:
            JournalError: the disk fails.
        """
        try:
            self._fill(statements)
        except sqlite3.OperationalError as error:
            self._undo_if_full(error)
        except sqlite3.Error:
            self._database.execute("ROLLBACK")
            raise

    def commit(self, statements: list[Statement]) -> None:
        """Have on disk what was ``put``: all of it, or none; then it may be tried again.

        Raises:
            JournalFullError: none of it, for want of room.
            JournalError: the disk fails.
        """

        def write() -> None:
            if not self._database.in_transaction:
                self._fill(statements)
            self._database.execute("COMMIT")

        self._write(write)
        self._ballast.hold()

    def sync(self, records: Iterable[Journaled], epoch: int) -> None:
        """Write records, in order, and return when they are on disk: all of them, or none.

        Raises:
            JournalFullError: none of them, for want of room.
            JournalError: the disk fails.
        """
        statements = self.statements(records, epoch)
        self.put(statements)
        self.commit(statements)

    def _fill(self, statements: list[Statement]) -> None:
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        for statement, values in statements:
            execute(statement, values)

    def _write(self, write: Callable[[], Any]) -> None:
        """Write, on a full disk into the room that is kept for that."""
        while True:
            try:
                write()
            except sqlite3.OperationalError as error:
                self._undo_if_full(error)
                if not self._ballast.give_up():
                    raise JournalFullError(f"The disk of {self.path} is full. Make room there.") from None
            else:
                return

    def _undo_if_full(self, error: sqlite3.OperationalError) -> None:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise JournalError(f"{self.path} cannot be written: {error}. Look after the disk.") from error
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def arguments(self, number: int) -> bytes | None:
        """The inline arguments of an unfinished detached call; None if it has ended."""
        return journal_calls.read_arguments(self._database, number)

    def outcome(self, number: int) -> DetachedOutcome | None:
        """The outcome of a finished detached call; None if it has expired."""
        return journal_calls.read_outcome(self._database, number)

    def back_up(self, target: Path) -> backups.Summary:
        """Write a copy of the state beside which this file lies. Raises ``BackupError``."""
        return backups.write(self._database, self.path.parent, target)

    def close(self) -> None:
        """Close the file; its lock goes with it."""
        self._database.close()


def _replace(table: str, width: int) -> Callable[[Any, int], list[Statement]]:
    """How a record whose fields are the table's columns, in their order, is written."""
    statement = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * width)})"  # noqa: S608 - the names are ours
    return lambda record, _: [(statement, tuple(record))]


_STATEMENTS: dict[type, Callable[[Any, int], list[Statement]]] = {
    SaveLock: _replace("locks", len(SaveLock._fields)),
    SaveNode: lambda record, epoch: [("INSERT OR REPLACE INTO nodes VALUES (?, ?)", (record.name, epoch))],
    ForgetNode: lambda record, _: [("DELETE FROM nodes WHERE name = ?", (record.name,))],
    SaveCordon: _replace("cordons", len(SaveCordon._fields)),
    ForgetCordon: lambda record, _: [("DELETE FROM cordons WHERE node = ?", tuple(record))],
    KeyRecord: _replace("keys", len(KeyRecord._fields)),
    TokenRecord: _replace("tokens", len(TokenRecord._fields)),
    ForgetCredential: lambda record, _: [
        ("DELETE FROM keys WHERE public_key = ?", (record.public_key,)),
        ("DELETE FROM tokens WHERE public_key = ?", (record.public_key,)),
    ],
}

_OF_CALLS = journal_calls.STATEMENTS
