"""Payloads that outlive the process: files that the journal refers to, in a directory of their own.

A file is linked here from the payloads of sessions, whole and with the right digest. It is on disk, its name included,
once ``sync_file`` was called for what ``keep`` returns, which any thread may do. At a start, files that the journal
does not name are swept away; the others are read through once before they are first sent, in pieces, so that what a
disk has lost or changed is refused and never handed on.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepwarm_scheduler.journal_calls import KeptPayload

__all__ = ["CHECK_BYTES_PER_STEP", "KeptPayloads", "sync_file"]

CHECK_BYTES_PER_STEP = 4 << 20

log = logging.getLogger("keepwarm.scheduler")


def sync_file(path: Path) -> None:
    """Have a file, or the names in a directory, on disk. Raises ``OSError``."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(slots=True)
class _File:
    """A payload on disk. ``digest`` is there while it is read through; ``is_checked`` once that went well."""

    path: Path
    size: int
    sha256: bytes
    is_checked: bool
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
        for payload_id, size, sha256 in named:
            self._adopt(payload_id, size, sha256)
        known = {file.path.name for file in self._files.values()}
        for path in directory.iterdir():
            if path.name not in known:
                path.unlink()

    def _adopt(self, payload_id: bytes, size: int, sha256: bytes) -> None:
        path = self._directory / payload_id.hex()
        if path.is_file() and path.stat().st_size == size:
            self._files[payload_id] = _File(path, size, sha256, is_checked=False)
        else:
            log.error("payload %s of a detached call is missing or cut short", payload_id.hex())

    def __contains__(self, payload_id: bytes) -> bool:
        return payload_id in self._files

    @property
    def total_bytes(self) -> int:
        """What lies here."""
        return sum(file.size for file in self._files.values())

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
        self._files[payload_id] = _File(path, size, sha256, is_checked=True)
        return path, self._directory

    def release(self, payload_id: bytes) -> int:
        """Nothing in the journal refers to the payload any more. Returns how many bytes that frees."""
        file = self._files.pop(payload_id, None)
        if file is None:
            return 0
        file.path.unlink(missing_ok=True)
        return file.size

    def find(self, payload_id: bytes) -> tuple[Path, int] | None:
        """Where a payload lies and its size."""
        file = self._files.get(payload_id)
        return None if file is None else (file.path, file.size)

    def check(self, payload_id: bytes) -> bool:
        """Read a piece of a payload that an earlier process has left. True once all of it is known to be right.

        A damaged one is forgotten; ``find`` does not find it then.
        """
        file = self._files.get(payload_id)
        if file is None or file.is_checked:
            return file is not None
        with file.path.open("rb", buffering=0) as source:
            source.seek(file.position)
            data = source.read(CHECK_BYTES_PER_STEP)
        file.digest.update(data)
        file.position += len(data)
        if data and file.position < file.size:
            return False
        file.is_checked = file.digest.digest() == file.sha256
        if not file.is_checked:
            log.error("payload %s of a detached call is damaged: it is not handed on", payload_id.hex())
            del self._files[payload_id]
        return file.is_checked
