"""What the scheduler keeps on disk: cluster id, epoch, locks, the nodes that may hold attempts.

One SQLite file, one connection, one thread. The file is opened with an exclusive lock, so that a second scheduler on
the same state refuses to start. Everything saved in one turn of the loop is one transaction, on disk
(``synchronous=FULL``) when ``sync`` returns; effects marked *after sync* are performed only then. An error of the disk
ends the process: what follows a failed fsync cannot be trusted.
"""

import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from keepwarm_scheduler.core.effects import ForgetNode, SaveLock, SaveNode
from keepwarm_scheduler.core.events import Restored, SavedLock

__all__ = ["Journal", "JournalError", "Opened"]

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE locks (
    namespace TEXT NOT NULL, spec_key BLOB NOT NULL, platform TEXT NOT NULL, python TEXT NOT NULL, lock BLOB NOT NULL,
    PRIMARY KEY (namespace, spec_key, platform)
) STRICT;
CREATE TABLE nodes (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;
"""


class JournalError(Exception):
    """The state on disk cannot be used. The message says why and what to do."""


class Opened(NamedTuple):
    """What ``Journal.begin_epoch`` found: the identity of this start, and what an earlier one left."""

    cluster_id: bytes
    epoch: int
    restored: Restored


class Journal:
    """The scheduler's state file, ``state.sqlite3`` in its directory (made 0700).

    Raises:
        JournalError: another scheduler uses the state, or the file is damaged or from a newer release.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / "state.sqlite3"
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=0)
        except sqlite3.Error as error:
            raise JournalError(f"Cannot open {self.path}: {error}.") from error
        try:
            self._open()
        except sqlite3.OperationalError as error:
            self._database.close()
            if "locked" in str(error):
                raise JournalError(
                    f"Another scheduler is using the state in {directory}. Stop it, or choose another --state."
                ) from None
            raise JournalError(f"Cannot open {self.path}: {error}.") from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise JournalError(
                f"{self.path} is damaged: {error}. Move it away to start with an empty state; locks are made anew."
            ) from error

    def _open(self) -> None:
        execute = self._database.execute
        execute("PRAGMA locking_mode=EXCLUSIVE")
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=FULL")
        execute("BEGIN IMMEDIATE")
        tables = {row[0] for row in execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "meta" not in tables:
            for statement in _SCHEMA.split(";"):
                execute(statement)
            execute("INSERT INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION).encode(),))
            execute("INSERT INTO meta VALUES ('cluster_id', ?)", (secrets.token_bytes(16),))
            execute("INSERT INTO meta VALUES ('epoch', ?)", (b"0",))
        execute("COMMIT")
        self.path.chmod(0o600)
        schema = int(self._meta("schema"))
        if schema != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"schema version {schema}, this release reads {SCHEMA_VERSION}")

    def _meta(self, name: str) -> bytes:
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f"{name} is missing")
        return bytes(row[0])

    def begin_epoch(self) -> Opened:
        """Count this start, durably, and read back what an earlier one left."""
        execute = self._database.execute
        epoch = int(self._meta("epoch")) + 1
        locks = tuple(
            SavedLock(namespace, bytes(key), platform, python, bytes(lock))
            for namespace, key, platform, python, lock in execute(
                "SELECT namespace, spec_key, platform, python, lock FROM locks ORDER BY namespace, spec_key, platform"
            )
        )
        nodes = tuple(str(row[0]) for row in execute("SELECT name FROM nodes ORDER BY name"))
        # The nodes stay until they are known to hold nothing: this start may end before they have reported.
        execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (str(epoch).encode(),))
        return Opened(self._meta("cluster_id"), epoch, Restored(locks, nodes))

    def sync(self, records: Iterable[SaveLock | SaveNode | ForgetNode], epoch: int) -> None:
        """Write the records of one turn and return when they are on disk."""
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        for record in records:
            if isinstance(record, SaveLock):
                execute(
                    "INSERT OR REPLACE INTO locks VALUES (?, ?, ?, ?, ?)",
                    (record.namespace, record.spec_key, record.platform, record.python, record.lock),
                )
            elif isinstance(record, SaveNode):
                execute("INSERT OR REPLACE INTO nodes VALUES (?, ?)", (record.name, epoch))
            else:
                execute("DELETE FROM nodes WHERE name = ?", (record.name,))
        execute("COMMIT")

    def close(self) -> None:
        """Close the file; its lock goes with it."""
        self._database.close()
