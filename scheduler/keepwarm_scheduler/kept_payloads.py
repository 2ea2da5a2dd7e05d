"""Payloads that outlive the process: files that the journal refers to, in a directory of their own.

A file is linked here from the payloads of sessions, whole and with the right digest. It is on disk, its name included,
once ``sync_file`` was called for what ``keep`` returns, which any thread may do. At a start, files that the journal
does not name are swept away; the others are read through once before they are first sent, in pieces. What a disk has
lost or changed is logged, and from then on it is not there for whoever asks: a disk that is damaged in one place is no
reason to stop everything else.
"""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepwarm_scheduler.journal_calls import KeptPayload

__all__ = ["CHECK_BYTES_PER_STEP", "KeptPayloads", "remove_file", "sync_file"]

CHECK_BYTES_PER_STEP = 4 << 20

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})
"""Errors that say nothing about the file: it may be read later."""

log = logging.getLogger("keepwarm.scheduler")


def sync_file(path: Path) -> None:
    """Have a file, or the names in a directory, on disk. Raises ``OSError``."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_file(path: Path) -> None:
    """Remove a file of ours, if it is there. What the disk will not remove is left behind, and swept at a start."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.error("%s cannot be removed: %s", path, error)  # noqa: TRY400


@dataclass(slots=True)
class _File:
    """A payload on disk. ``digest`` is there while it is read through; ``is_checked`` once that went well.

    ``is_lost``: it cannot be read, or is another than it was. It only waits to be removed then.
    """

    path: Path
    size: int
    sha256: bytes
    is_checked: bool
    is_lost: bool = False
    position: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class KeptPayloads:
    """Payloads by id.

    Args:
        directory: made (0700) if it is not there.
        named: what the journal refers to; all else in the directory is removed.
    """

    def __init__(self, directory: Path, named: Iterable[KeptPayload] = ()) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._files: dict[bytes, _File] = {}
        self.total_bytes = 0
        """What lies here."""
        for payload_id, size, sha256 in named:
            self._adopt(payload_id, size, sha256)
        known = {file.path.name for file in self._files.values()}
        for path in directory.iterdir():
            if path.name not in known:
                remove_file(path)

    def _adopt(self, payload_id: bytes, size: int, sha256: bytes) -> None:
        if payload_id in self._files:  # more than one call may refer to it
            return
        path = self._directory / payload_id.hex()
        try:
            is_whole = path.is_file() and path.stat().st_size == size
        except OSError as error:
            log.error("payload %s of a detached call cannot be read: %s", payload_id.hex(), error)  # noqa: TRY400
            return
        if is_whole:
            self._add(payload_id, _File(path, size, sha256, is_checked=False))
        else:
            log.error("payload %s of a detached call is missing or cut short", payload_id.hex())

    def _add(self, payload_id: bytes, file: _File) -> None:
        before = self._files.get(payload_id)
        self.total_bytes += file.size - (0 if before is None else before.size)
        self._files[payload_id] = file

    def __contains__(self, payload_id: bytes) -> bool:
        return self._there(payload_id) is not None

    def _there(self, payload_id: bytes) -> _File | None:
        file = self._files.get(payload_id)
        return None if file is None or file.is_lost else file

    def keep(self, payload_id: bytes, size: int, sha256: bytes, source: Path) -> tuple[Path, ...]:
        """Have these bytes survive. Returns what is to be on disk before anything that refers to the payload is.

        Raises:
            OSError: the disk refuses. Nothing that refers to the payload may be written then.
        """
        path = self._directory / payload_id.hex()
        path.unlink(missing_ok=True)
        try:
            os.link(source, path)
        except OSError:  # a file system without links
            shutil.copyfile(source, path)
            path.chmod(0o600)
        self._add(payload_id, _File(path, size, sha256, is_checked=True))
        return path, self._directory

    def release(self, payload_id: bytes) -> None:
        """Nothing in the journal refers to the payload any more."""
        file = self._files.pop(payload_id, None)
        if file is not None:
            self.total_bytes -= file.size
            remove_file(file.path)

    def find(self, payload_id: bytes) -> tuple[Path, int, bytes] | None:
        """Where a payload lies, its size and its digest."""
        file = self._there(payload_id)
        return None if file is None else (file.path, file.size, file.sha256)

    def lose(self, payload_id: bytes, reason: OSError | str) -> None:
        """A payload cannot be read, or not as it was written: it is handed on no more.

        An error that says nothing about the file itself changes nothing: whoever wants the payload asks again.
        """
        file = self._there(payload_id)
        if file is not None and not (isinstance(reason, OSError) and reason.errno in _PASSING):
            log.error("payload %s of a detached call is lost: %s", payload_id.hex(), reason)
            file.is_lost = True

    def check(self, payload_id: bytes) -> bool | None:
        """Read a piece of a payload that an earlier process has left. True once all of it is known to be right.

        None if there is more to be read. False if it cannot be read, now or at all: one that is damaged is not there
        any more afterwards.
        """
        file = self._there(payload_id)
        if file is None or file.is_checked:
            return file is not None
        try:
            with file.path.open("rb", buffering=0) as source:
                source.seek(file.position)
                data = source.read(CHECK_BYTES_PER_STEP)
        except OSError as error:
            self.lose(payload_id, error)
            return False
        file.digest.update(data)
        file.position += len(data)
        if data and file.position < file.size:
            return None
        file.is_checked = file.digest.digest() == file.sha256
        if not file.is_checked:
            self.lose(payload_id, "its bytes are not those that were written")
        return file.is_checked
