"""The agent's directory: who owns it, what lies where, and what an earlier agent left in it.

    <home>/agent.lock      flock: held by the one agent that uses this home
    <home>/incarnation     the incarnation of the latest agent: the mark of its processes
    <home>/store/          environments
    <home>/runner/         the runner's files
    <home>/spool/          payloads and results of calls under way, and what is to be deleted; emptied at each start
    <home>/uv-cache/       uv's cache

Rules: private to the user (0700); whatever an earlier agent's processes still run is killed before anything starts;
nothing is written before the spool is empty, which may be what has filled the disk.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from keepwarm_worker.environments import disk
from keepwarm_worker.guardian import kill_marked

__all__ = ["HomeError", "NodeHome"]


class HomeError(RuntimeError):
    """A directory that cannot be an agent's home: another agent uses it, or it cannot be written."""


class NodeHome:
    """An agent's home, locked from ``open`` to ``close``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = path / "store"
        self.runner = path / "runner"
        self.spool = path / "spool"
        self.uv_cache = path / "uv-cache"
        self.interpreters = path / "interpreters.json"
        self._lock = -1

    def open(self, incarnation: bytes) -> Self:
        """Take the home over. Raises ``HomeError`` while another agent has it, or if it cannot be written."""
        with self.failures_named():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._end_earlier_agent(incarnation)
            # One that its owner has put elsewhere by a link stays there.
            (disk.empty if self.spool.is_symlink() else disk.delete_tree)(self.spool)
            self._note_incarnation(incarnation)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
            for directory in (self.runner, self.spool):
                directory.mkdir(mode=0o700, exist_ok=True)
        return self

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def failures_named(self) -> Iterator[None]:
        """Turn an OSError of the body into a ``HomeError``, and give the home up again."""
        try:
            yield
        except OSError as error:
            self.close()
            why = f"{self.path} cannot be an agent's home: {error.strerror or error}."
            raise HomeError(f"{why} Mend that, or choose another --home.") from error

    def _take_lock(self) -> None:
        descriptor = os.open(self.path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise HomeError(
                f"{self.path} is used by another agent (process {owner}). Stop that one, or give this one a --home of "
                "its own."
            ) from None
        self._lock = descriptor
        os.ftruncate(descriptor, 0)

    def _end_earlier_agent(self, incarnation: bytes) -> None:
        """Its guardian does this as well, unless both were killed."""
        earlier = ""
        with suppress(FileNotFoundError):
            earlier = (self.path / "incarnation").read_text(encoding="ascii", errors="replace").strip()
        if len(earlier) == 2 * len(incarnation) and earlier != incarnation.hex():
            kill_marked(f"{earlier}:")

    def _note_incarnation(self, incarnation: bytes) -> None:
        """In one step: half of it would tell the next agent nothing, nor would the rest of an earlier one's."""
        file = self.path / "incarnation"
        new = file.with_suffix(".new")
        new.write_text(incarnation.hex() + "\n", encoding="ascii")
        new.replace(file)
