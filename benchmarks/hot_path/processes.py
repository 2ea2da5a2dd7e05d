"""What the kernel says of a tree of processes: who they are, their processor time, their memory. Linux only.

Rules: it reads ``/proc`` and never changes a process but in ``end_descendants``, which ends those of this process by
their number. Processor time is the scheduler's own account in nanoseconds (``schedstat``), not its ticks of 10 ms.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Process",
    "adopt_orphans",
    "busy_s",
    "cpu_ns",
    "end_descendants",
    "part_of",
    "pss_bytes",
    "rss_bytes",
    "tree",
    "use_processors",
]

PROC = Path("/proc")
_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS = (3, 4)  # of a line of /proc/stat: idle, and waiting for a disk
_BUSY_FIELDS = 8
"""The fields after these count guests once more."""

_PARENT, _UTIME, _STIME, _RSS = 1, 11, 12, 21
"""Fields of /proc/PID/stat, counted after the name of the program."""


class Process(NamedTuple):
    """A living process of a tree: its number, its parent's, and what it is called here."""

    pid: int
    parent: int
    part: str


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own, so that daemons stay in the tree."""
    ctypes.CDLL(None, use_errno=True).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)


def use_processors(count: int) -> tuple[int, ...]:
    """Confine this process and all that it will start to the first few processors that it may use; says which."""
    chosen = tuple(sorted(os.sched_getaffinity(0))[:count])
    os.sched_setaffinity(0, chosen)
    return chosen


def _fields(pid: int) -> list[str]:
    """What /proc/PID/stat says after the name; empty for a process that has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _words(pid: int, file: str, separator: str = "\0") -> list[str]:
    try:
        return (PROC / str(pid) / file).read_text(errors="replace").split(separator)
    except OSError:
        return []


def _pids(root: int) -> dict[int, int]:
    """The numbers of ``root`` and its descendants, each with its parent's, parents first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (fields := _fields(int(entry.name))) and fields[0] not in "ZX":
            children.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
    found, waiting = {root: 0}, [root]
    while waiting:
        parent = waiting.pop()
        for pid in children.get(parent, ()):
            found[pid] = parent
            waiting.append(pid)
    return found


def tree(root: int) -> list[Process]:
    """``root`` and its living descendants, each with the part that it plays."""
    parents = _pids(root)
    return [Process(pid, parent, part_of(pid, parent, root)) for pid, parent in parents.items()]


def part_of(pid: int, parent: int, root: int) -> str:
    """Client, scheduler, agent, guardian, instance, worker (of a pool), or the name of the program."""
    if pid == root:
        return "client"
    words = _words(pid, "cmdline")
    if _words(pid, "comm", "\n")[:1] == ["keepwarm-guard"]:
        return "guardian"
    if any(word.startswith("KEEPWARM_INSTANCE=") for word in _words(pid, "environ")):
        return "instance"
    if "keepwarm_scheduler" in words or (words[-1:] and "scheduler" in words and "keepwarm" in words):
        return "scheduler"
    if "keepwarm_worker" in words or ("agent" in words and "keepwarm" in words):
        return "agent"
    if words == _words(parent, "cmdline"):
        return "worker"  # forked, so that it looks like its parent
    if "benchmarks.hot_path.client" in words:
        return "client"
    return (_words(pid, "comm", "\n") or ["?"])[0]


def cpu_ns(pid: int) -> int:
    """Nanoseconds of processor time that a living process has used; of this process exactly, of others at rest too."""
    if pid == os.getpid():
        return time.process_time_ns()
    try:
        tasks = list((PROC / str(pid) / "task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    except FileNotFoundError:  # a thread that has just ended, or a kernel without this account
        fields = _fields(pid)
        ticks = int(fields[_UTIME]) + int(fields[_STIME]) if fields else 0
        return ticks * 1_000_000_000 // _TICKS_PER_S
    except OSError:
        return 0


def rss_bytes(pid: int) -> int:
    """Resident memory; 0 for a process that has ended."""
    fields = _fields(pid)
    return int(fields[_RSS]) * _PAGE_BYTES if fields else 0


def pss_bytes(pid: int) -> int:
    """Resident memory, pages that several processes share divided among them; 0 for a process that has ended."""
    for line in _words(pid, "smaps_rollup", "\n"):
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def busy_s(processors: Iterable[int]) -> float:
    """Seconds for which these processors were not idle, whoever used them, the host of a virtual machine included."""
    names = {f"cpu{number}" for number in processors}
    ticks = 0
    for line in (PROC / "stat").read_text().splitlines():
        name, *values = line.split()
        if name in names:
            counts = list(map(int, values[:_BUSY_FIELDS]))
            ticks += sum(counts) - sum(counts[field] for field in _IDLE_FIELDS)
    return ticks / _TICKS_PER_S


def end_descendants(within_s: float = 10.0) -> None:
    """Kill every descendant of this process and collect them, orphans that arrive meanwhile too.

    Nothing that it measures is worth an orderly end. Raises ``RuntimeError`` if some are there after ``within_s``.
    """
    deadline_s = time.monotonic() + within_s
    while left := [process.pid for process in tree(os.getpid()) if process.pid != os.getpid()]:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"processes that do not end: {left}")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        _collect()
    _collect()


def _collect() -> None:
    """Take note of children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
