"""The layout of the scheduler's state file, as the numbered steps that lead to it.

A new file takes every step from nothing; a file of an earlier release takes those that it lacks. The steps of one
opening are one transaction: after a crash the file is as it was, or as it should be. Before an old file is changed, a
copy of it is put beside it, ``state.sqlite3.schema-N``, for whoever has to go back to the release that wrote it. A file
from a newer release is never touched. Steps are append-only: one that has been released is never edited.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["MIGRATIONS", "NewerSchemaError", "Step", "copy_of", "migrate"]

Step = tuple[str, ...]
"""The statements that lead from one schema version to the next."""

MIGRATIONS: tuple[Step, ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT",
        """CREATE TABLE locks (
            namespace TEXT NOT NULL, spec_key BLOB NOT NULL, platform TEXT NOT NULL, python TEXT NOT NULL,
            lock BLOB NOT NULL, PRIMARY KEY (namespace, spec_key, platform)
        ) STRICT""",
        "CREATE TABLE nodes (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT",
    ),
    (
        """CREATE TABLE keys (
            public_key BLOB PRIMARY KEY CHECK (length(public_key) = 32), role TEXT NOT NULL, namespace TEXT NOT NULL,
            name TEXT NOT NULL, created_s INTEGER NOT NULL, last_seen_s INTEGER NOT NULL, revoked_s INTEGER NOT NULL,
            successor BLOB NOT NULL, made_by BLOB NOT NULL, origin TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE tokens (
            public_key BLOB PRIMARY KEY CHECK (length(public_key) = 32), role TEXT NOT NULL, namespace TEXT NOT NULL,
            name TEXT NOT NULL, uses INTEGER NOT NULL, uses_left INTEGER NOT NULL CHECK (uses_left >= 0),
            created_s INTEGER NOT NULL, expires_s INTEGER NOT NULL, server_key BLOB NOT NULL,
            revoked_s INTEGER NOT NULL
        ) STRICT""",
    ),
    (
        # Detached calls: unfinished ones in calls, with their inline arguments apart so that a start reads past them.
        """CREATE TABLE functions (
            function_id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, declaration BLOB NOT NULL
        ) STRICT""",
        """CREATE TABLE calls (
            number INTEGER PRIMARY KEY, call_id BLOB NOT NULL CHECK (length(call_id) = 16), namespace TEXT NOT NULL,
            function_id INTEGER NOT NULL, function TEXT NOT NULL, priority INTEGER NOT NULL, key TEXT NOT NULL,
            label TEXT NOT NULL, result_ttl_us INTEGER NOT NULL, accepted_us INTEGER NOT NULL,
            queue_us INTEGER NOT NULL, overall_us INTEGER NOT NULL, cancel_reason TEXT NOT NULL,
            attempts INTEGER NOT NULL, lost_nodes INTEGER NOT NULL, exceptions INTEGER NOT NULL,
            crashes INTEGER NOT NULL, out_of_memory INTEGER NOT NULL, arguments_bytes INTEGER NOT NULL,
            payload_id BLOB, payload_sha256 BLOB
        ) STRICT""",
        "CREATE TABLE arguments (number INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT",
        """CREATE TABLE outcomes (
            number INTEGER PRIMARY KEY, call_id BLOB NOT NULL, namespace TEXT NOT NULL, function TEXT NOT NULL,
            key TEXT NOT NULL, label TEXT NOT NULL, accepted_us INTEGER NOT NULL, attempts INTEGER NOT NULL,
            status INTEGER NOT NULL, kind TEXT NOT NULL, node TEXT NOT NULL, ended_us INTEGER NOT NULL,
            kept_us INTEGER NOT NULL, result_bytes INTEGER NOT NULL, payload_id BLOB, payload_sha256 BLOB,
            outcome BLOB NOT NULL
        ) STRICT""",
        """CREATE TABLE call_keys (
            namespace TEXT NOT NULL, key TEXT NOT NULL, call_id BLOB NOT NULL, digest BLOB NOT NULL,
            saved_us INTEGER NOT NULL, kept_us INTEGER NOT NULL, PRIMARY KEY (namespace, key)
        ) STRICT""",
        """CREATE TABLE tombstones (
            call_id BLOB PRIMARY KEY, namespace TEXT NOT NULL, saved_us INTEGER NOT NULL, kept_us INTEGER NOT NULL
        ) STRICT""",
        """CREATE TABLE dispatches (
            session_id BLOB NOT NULL, number INTEGER NOT NULL, saved_us INTEGER NOT NULL, kept_us INTEGER NOT NULL,
            PRIMARY KEY (session_id, number)
        ) STRICT""",
    ),
    (
        """CREATE TABLE cordons (
            node TEXT PRIMARY KEY, is_drain INTEGER NOT NULL, max_wait_us INTEGER NOT NULL, stop INTEGER NOT NULL
        ) STRICT""",
    ),
)
"""Step *n*, counted from 1, leads to schema version *n*."""


class NewerSchemaError(Exception):
    """The file is of a release that is newer than this one."""


def migrate(
    database: sqlite3.Connection, path: Path, identity: Mapping[str, bytes], steps: Sequence[Step] = MIGRATIONS
) -> None:
    """Bring a file to the newest version. Nothing has changed when this raises.

    The connection has to be in autocommit mode and to hold the file's lock for good.

    Args:
        database: the connection.
        path: the file; the copy of an old one is put beside it.
        identity: what a new file says about itself from the start, as rows of ``meta``.
        steps: those of this release.

    Raises:
        NewerSchemaError: the file is from a newer release.
        sqlite3.Error: the file is damaged, or the disk is full.
        OSError: the copy could not be put beside it.
    """
    version = _version_of(database)
    if version > len(steps):
        raise NewerSchemaError(f"schema version {version}, this release reads up to {len(steps)}")
    if version == len(steps):
        return
    if version:
        _copy(database, path, version)
    database.execute("BEGIN IMMEDIATE")
    try:
        for step in steps[version:]:
            for statement in step:
                database.execute(statement)
        about = {**({} if version else identity), "schema": str(len(steps)).encode()}
        database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", about.items())
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def copy_of(path: Path, version: int) -> Path:
    """Where the file as it was with this schema version is kept."""
    return path.with_name(f"{path.name}.schema-{version}")


def _version_of(database: sqlite3.Connection) -> int:
    """The schema version, 0 for a file without tables."""
    if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return 0
    row = database.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    if row is None or not bytes(row[0]).isdigit():
        raise sqlite3.DatabaseError("its schema version is missing")
    return int(row[0])


def _copy(database: sqlite3.Connection, path: Path, version: int) -> None:
    """Copy the file through its one connection, whole and on disk, or not at all."""
    copy = copy_of(path, version)
    draft = copy.with_name(f"{copy.name}.draft")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        target = sqlite3.connect(draft, isolation_level=None)
        try:
            database.backup(target)
        finally:
            target.close()
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.replace(copy)
    directory = os.open(copy.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
