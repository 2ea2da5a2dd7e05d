"""The few file-system operations the environment store is made of.

Rules: deletion never follows a link and never raises; what cannot be deleted now stays where the next sweep finds it.
Must know nothing of environments, uv or locks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .errors import DISK_FULL, INTERNAL, EnvironmentFailure

BLOCK_BYTES: Final = 512
"""The unit of st_blocks, whatever the file system's own."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_syncfs = ctypes.CDLL(None, use_errno=True).syncfs


def make_private(directory: Path) -> None:
    """Make `directory` (and its parents), readable by nobody else."""
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if stat.S_IMODE(directory.stat().st_mode) != 0o700:
            directory.chmod(0o700)


def children(directory: Path) -> list[Path]:
    """What is in `directory`, in order of name; nothing if it does not exist."""
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def delete_tree(directory: Path) -> None:
    """Delete a directory with all that is in it, read-only parts included. Absent is fine; never raises."""
    shutil.rmtree(directory, ignore_errors=True)
    if not os.path.lexists(directory):
        return
    for parent, _, _ in os.walk(directory):  # top down, and links are not followed
        with suppress(OSError):
            Path(parent).chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)
    if os.path.lexists(directory):
        with suppress(OSError):
            directory.unlink()


def empty(directory: Path) -> list[str]:
    """Delete everything in `directory`; the names of what is gone."""
    found = children(directory)
    for path in found:
        delete_tree(path)
    return [path.name for path in found if not os.path.lexists(path)]


def size_bytes(directory: Path) -> int:
    """What deleting `directory` would free: a file with several names counts in parts."""
    total = 0
    pending = [os.fspath(directory)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        total += status.st_blocks * BLOCK_BYTES
                    else:
                        total += status.st_blocks * BLOCK_BYTES // max(1, status.st_nlink)
    return total


def flush(directory: Path) -> None:
    """Bring everything written to the file system of `directory` to the disk: one call instead of one per file."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fspath(directory))
    finally:
        os.close(descriptor)


def flush_directory(directory: Path) -> None:
    """Bring the names in `directory` to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def failures_named(step: str) -> Iterator[None]:
    """Turn an OSError of the body into an EnvironmentFailure that says whether the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            message = f"The node ran out of disk space during {step}; free some, or lower the store's limit."
            raise EnvironmentFailure(DISK_FULL, message, str(error)) from error
        message = f"The node's disk failed during {step}: {error.strerror}."
        raise EnvironmentFailure(INTERNAL, message, str(error)) from error
