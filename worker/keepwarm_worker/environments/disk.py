"""The few file-system operations the environment store is made of.

Rules: deletion never follows a link, never raises, and copes with any depth; what cannot be deleted now stays where
the next sweep finds it.
Must know nothing of environments, uv or locks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .errors import DISK_FULL, INTERNAL, EnvironmentFailure

BLOCK_BYTES: Final = 512
"""The unit of st_blocks, whatever the file system's own."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""The node is out of something that is not on its disk."""

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
    with suppress(OSError):
        if directory.is_symlink() or not directory.is_dir():
            directory.unlink()
            return
        root = _open_directory(os.fspath(directory))
        try:
            _delete_inside(root)
        finally:
            os.close(root)
        directory.rmdir()


def _delete_inside(root: int) -> None:
    """Delete what is in a directory, level by level: what lies deeper is moved up into it first.

    So depth costs neither stack nor descriptors nor length of paths, and no name but the last is ever looked up.
    """
    pending = _delete_files(root, root)
    while pending:
        name = pending.pop()
        with suppress(OSError):
            descriptor = _open_directory(name, root)
            try:
                pending += _delete_files(descriptor, root)
            finally:
                os.close(descriptor)
            os.rmdir(name, dir_fd=root)


def _delete_files(directory: int, root: int) -> list[str]:
    """Delete all but the directories in a directory, and move those up; their names in the root."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    moved = []
    for name, is_directory in found:
        with suppress(OSError):
            if not is_directory:
                os.unlink(name, dir_fd=directory)
            elif directory == root:
                moved.append(name)
            else:
                moved.append(_move_up(name, directory, root))
    return moved


def _move_up(name: str, directory: int, root: int) -> str:
    up = os.urandom(16).hex()
    try:
        os.rename(name, up, src_dir_fd=directory, dst_dir_fd=root)
    except PermissionError:  # moving a directory changes it
        os.chmod(name, 0o700, dir_fd=directory)
        os.rename(name, up, src_dir_fd=directory, dst_dir_fd=root)
    return up


def _open_directory(name: str, parent: int | None = None) -> int:
    """A descriptor of a directory, no link, that lets its owner do everything."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, flags, dir_fd=parent)
    with suppress(OSError):  # somebody else's, perhaps with rights enough
        os.fchmod(descriptor, 0o700)
    return descriptor


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
    """Turn an OSError of the body into an EnvironmentFailure that says what the node is out of.

    Whatever it is, it is a fault of this node at this moment: later, or elsewhere, may go better.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            message = f"The node ran out of disk space during {step}; free some."
            raise EnvironmentFailure(DISK_FULL, message, str(error)) from error
        if error.errno in _SHORTAGES:
            message = f"The node is short of something that {step} needs: {error.strerror}."
        else:
            message = f"The node's disk failed during {step}: {error.strerror}."
        raise EnvironmentFailure(INTERNAL, message, str(error), retryable=True) from error
