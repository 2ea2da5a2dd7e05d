"""Clusters that tests start: where they live, which processes belong to them, and how they are ended.

A cluster is known by its ``KEEPWARM_HOME``. Its processes are detached from the test that started them, so they are
found by what they carry: the home in their environment or on their command line, or such a process as an ancestor.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

__all__ = ["HOME_VARIABLE", "children", "leftovers", "processes_of", "stop_processes", "temporary_home"]

HOME_VARIABLE = "KEEPWARM_HOME"

HOME_BYTES_MAX = 40
"""A unix socket's path holds about 100 bytes: short homes leave room for the names inside."""

ASK_S = 5.0
"""How long processes that were asked to end may take before they are killed."""

KILL_S = 10.0
"""How long killed processes may take to be gone; a machine under load needs a while to collect them."""

LEFTOVER_S = 3.0
"""How long a test's own children may take to end and be collected after it."""

POLL_S = 0.02


def _belongs(process: psutil.Process, home: str) -> bool:
    """Whether a process carries the home. One that may not be read, or has just ended, does not."""
    inside = f"{home}/"
    try:
        if any(part == home or inside in part or part.endswith(f"={home}") for part in process.cmdline()):
            return True
        return bool(process.environ().get(HOME_VARIABLE) == home)
    except (psutil.Error, OSError):
        return False


def processes_of(home: Path) -> list[psutil.Process]:
    """The living processes of the cluster in ``home``, descendants included; never the test's own process."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid not in spared and _belongs(process, str(home)):
            found[process.pid] = process
            try:
                found.update({child.pid: child for child in process.children(recursive=True)})
            except psutil.Error:
                continue
    return [process for pid, process in sorted(found.items()) if pid not in spared and _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _end(home: Path, within_s: float, kill: bool) -> list[psutil.Process]:
    """Signal whatever lives in ``home``, newcomers too, until none does or the time is over; returns the rest."""
    deadline_s = time.monotonic() + within_s
    signalled: set[psutil.Process] = set()
    while (living := processes_of(home)) and time.monotonic() < deadline_s:
        for process in living:
            try:
                if kill:
                    process.kill()
                elif process not in signalled:
                    process.terminate()
                signalled.add(process)
            except psutil.Error:
                continue
        time.sleep(POLL_S)
    return living


def stop_processes(home: Path) -> None:
    """End every process of the cluster in ``home``: asked first, then killed. Raises ``RuntimeError`` if one stays."""
    if _end(home, ASK_S, kill=False):
        stubborn = _end(home, KILL_S, kill=True)
        if stubborn:
            raise RuntimeError(f"processes of {home} do not end: {stubborn}")


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A new ``KEEPWARM_HOME`` with a short path. Afterwards its cluster is stopped and it is deleted.

    >>> with temporary_home() as home:
    ...     home.is_dir()
    True
    """
    home = Path(tempfile.mkdtemp(prefix="kw-", dir="/tmp"))  # not the system's choice: its paths may be long
    assert len(os.fsencode(home)) <= HOME_BYTES_MAX
    try:
        yield home
    finally:
        try:
            stop_processes(home)
        finally:
            shutil.rmtree(home, ignore_errors=True)


def children() -> set[psutil.Process]:
    """All descendants of this process, zombies included."""
    return set(psutil.Process().children(recursive=True))


def leftovers(before: set[psutil.Process], within_s: float = LEFTOVER_S) -> list[str]:
    """Descriptions of children that were not there before and are still there after a moment. Collects none itself."""
    deadline_s = time.monotonic() + within_s
    while (left := children() - before) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return sorted(_describe(process) for process in left)


def _describe(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return f"{process.pid} zombie: {process.name()}"  # it has no command line any more
        return f"{process.pid} {process.status()}: {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{process.pid}: just ended"
