"""Copies of the scheduler's state: taken by the scheduler itself while it runs, put back while it does not.

A copy is a directory like the state itself: ``state.sqlite3`` and the files of payloads that it names. It is written
under another name and renamed when all of it is on disk, so a directory that is there is whole. Only the scheduler may
open its live state; ``python -m keepwarm_scheduler.backups`` puts a copy in the place of a state that nobody uses.

What is put back is older than what the nodes know. So that no attempt token is ever used twice, the restored epoch is
moved far beyond every epoch that can have been used since.
"""

import argparse
import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from typing import NamedTuple

from keepwarm_scheduler.config import default_state

__all__ = ["BackupError", "Summary", "main", "restore", "write"]

STATE_FILE = "state.sqlite3"
KEPT_PAYLOADS = "payloads-kept"
EPOCH_LEAP = 10_000
"""How many starts since the copy was taken are allowed for."""


class BackupError(Exception):
    """There is no copy, or it was not put back. The message says why and what to do."""


class Summary(NamedTuple):
    """What a copy holds, and how long it took."""

    size_bytes: int
    duration_s: float


def write(database: sqlite3.Connection, state: Path, target: Path) -> Summary:
    """Copy the state that this connection has open.

    Args:
        database: the one connection to the live file; no transaction is under way.
        state: the directory of the state.
        target: a directory that is not there yet; its parent is.

    Raises:
        BackupError: the target is there, its parent is not, or the disk is full.
    """
    begun_s = time.monotonic()
    if not target.is_absolute():
        raise BackupError(f"{target} is no absolute path: it is meant on the scheduler's machine.")
    if target.exists():
        raise BackupError(f"{target} exists already and is left as it is. Choose another name.")
    draft = target.with_name(f".{target.name}.unfinished")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        copy = sqlite3.connect(draft / STATE_FILE, isolation_level=None)
        try:
            database.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, that can be read where nothing can be written
        finally:
            copy.close()
        (draft / STATE_FILE).chmod(0o600)
        if (state / KEPT_PAYLOADS).is_dir():
            shutil.copytree(state / KEPT_PAYLOADS, draft / KEPT_PAYLOADS)
            (draft / KEPT_PAYLOADS).chmod(0o700)
        files = [path for path in draft.rglob("*") if path.is_file()]
        for path in [*files, *{path.parent for path in files}]:
            _sync(path)
        draft.rename(target)
        _sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise BackupError(f"{target} cannot be written: {error}.") from error
    return Summary(sum(path.stat().st_size for path in target.rglob("*")), time.monotonic() - begun_s)


def restore(backup: Path, state: Path, *, replace: bool = False) -> Path | None:
    """Put a copy in the place of a state that no scheduler uses. Returns where the old one is now, if there was one.

    Raises:
        BackupError: the copy is damaged, the state is in use, or it is there and ``replace`` is false.
    """
    _check(backup / STATE_FILE)
    aside: Path | None = None
    if (state / STATE_FILE).exists():
        _require_unused(state)
        if not replace:
            raise BackupError(f"There is a state in {state}. With --replace it is moved aside.")
        aside = state.with_name(f"{state.name}.before-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
    used_epoch = _epoch_of(state / STATE_FILE)
    draft = state.with_name(f".{state.name}.unfinished")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copytree(backup, draft)
        draft.chmod(0o700)
        _leap(draft / STATE_FILE, used_epoch)
        for path in [*draft.rglob("*"), draft]:
            _sync(path)
        if aside is not None:
            state.rename(aside)
        elif state.exists():
            shutil.rmtree(state)
        draft.rename(state)
        _sync(state.parent)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"{state} cannot be written: {error}.") from error
    return aside


def _check(file: Path) -> None:
    if not file.is_file():
        raise BackupError(f"{file.parent} is no backup: there is no {file.name} in it.")
    try:
        database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        try:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            database.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0]
        finally:
            database.close()
    except (sqlite3.Error, TypeError) as error:
        raise BackupError(f"{file} is damaged: {error}. Use another backup.") from error
    if found != "ok":
        raise BackupError(f"{file} is damaged: {found}. Use another backup.")


def _require_unused(state: Path) -> None:
    try:
        database = sqlite3.connect(state / STATE_FILE, isolation_level=None, timeout=0)
        try:
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        finally:
            database.close()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise BackupError(f"A scheduler is using the state in {state}. Stop it first.") from None
    except sqlite3.DatabaseError:
        return  # damaged, which is why a copy is being put back


def _epoch_of(file: Path) -> int:
    try:
        database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        try:
            return int(database.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0])
        finally:
            database.close()
    except (sqlite3.Error, TypeError, ValueError):
        return 0


def _leap(file: Path, used_epoch: int) -> None:
    database = sqlite3.connect(file)
    try:
        epoch = max(_epoch_of(file), used_epoch) + EPOCH_LEAP
        database.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (str(epoch).encode(),))
        database.commit()
    finally:
        database.close()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main(arguments: list[str] | None = None) -> int:
    """``keepwarm restore``. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="keepwarm restore", description="Put a backup in the place of the state of a scheduler that does not run."
    )
    parser.add_argument("backup", type=Path, metavar="DIR", help="what `keepwarm backup` wrote")
    parser.add_argument(
        "--state", type=Path, default=default_state(), metavar="DIR", help="the state to replace (default: %(default)s)"
    )
    parser.add_argument("--replace", action="store_true", help="move a state that is there aside")
    options = parser.parse_args(arguments)
    try:
        aside = restore(options.backup.absolute(), options.state.absolute(), replace=options.replace)
    except BackupError as error:
        sys.stderr.write(f"keepwarm restore: {error}\n")
        return 1
    sys.stdout.write(f"Restored {options.state} from {options.backup}.\n")
    if aside is not None:
        sys.stdout.write(f"The state that was there is now {aside}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
