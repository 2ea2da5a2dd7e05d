"""The agent's directory: who owns it, what lies where, and what an earlier agent left in it.

    <home>/agent.lock      flock: held by the one agent that uses this home
    <home>/incarnation     the incarnation of the latest agent: the mark of its processes
    <home>/store/          environments
    <home>/runner/         the runner's files
    <home>/spool/          payloads and results of calls under way; emptied at each start
    <home>/uv-cache/       uv's cache

Rules: private to the user (0700); whatever an earlier agent's instances still run is killed before anything starts.
"""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Self

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
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeError(
                f"{self.path} cannot be an agent's home: {error.strerror}. Choose another --home."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise HomeError(
                f"{self.path} is used by another agent (process {owner}). Stop that one, or give this one a --home of "
                "its own."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor
        self._end_earlier_agent(incarnation)
        shutil.rmtree(self.spool, ignore_errors=True)
        for directory in (self.runner, self.spool):
            directory.mkdir(mode=0o700, exist_ok=True)
        return self

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _end_earlier_agent(self, incarnation: bytes) -> None:
        """Its guardian does this as well, unless both were killed."""
        file = self.path / "incarnation"
        earlier = ""
        with suppress(OSError):
            earlier = file.read_text(encoding="ascii", errors="replace").strip()
        if len(earlier) == 2 * len(incarnation) and earlier != incarnation.hex():
            kill_marked(f"{earlier}:")
        file.write_text(incarnation.hex() + "\n", encoding="ascii")
