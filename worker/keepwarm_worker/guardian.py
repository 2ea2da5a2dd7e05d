"""Making sure that no instance outlives its agent, however the agent ends.

The guardian is a process that the agent forks as the very first thing, before it has threads or sockets. It holds the
read end of a pipe whose write end only the agent has. When the pipe ends, after `kill -9` as after a clean exit, the
guardian kills every process that carries the agent's marker in its environment, and ends.

Rules: imports nothing that starts threads or takes memory; never signals itself, the agent or a process without the
marker; works without limit of time only while the agent lives, then at most `KILL_WITHIN_S`.

A marker is the environment variable `KEEPWARM_INSTANCE=<node incarnation>:<instance id>`. Descendants inherit it, also
those that left the session. One that clears its environment, or runs as a user whose /proc we may not read, escapes.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from pathlib import Path

__all__ = ["MARKER_VARIABLE", "kill_marked", "kill_one_marked", "marked_processes", "start_guardian"]

MARKER_VARIABLE = "KEEPWARM_INSTANCE"
KILL_WITHIN_S = 10.0
_DEATH_WITHIN_S = 0.5
_CLEAN_SCANS = 3
_EXEC_WITHIN_S = 0.1
_EXEC_LOOK_S = 0.001
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD of the kernel's sched.h
_PROCESS_NAME = "keepwarm-guard"  # at most 15 characters, the kernel's limit
_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def start_guardian(marker_prefix: str) -> int:
    """Fork the guardian of all processes whose marker begins with `marker_prefix`.

    Returns the descriptor that keeps it waiting: hold it open, and close it to have everything killed. It is not
    inherited by programs that the agent starts. The guardian is a child of the caller, in a session of its own.

    Call it before any thread exists, and from a process that does not itself carry the marker.

    Example:
        `lifeline_fd = start_guardian("7c1f09d2:")`
    """
    _require_prefix(marker_prefix)
    read_fd, write_fd = (_above_standard(descriptor) for descriptor in os.pipe())
    if os.fork() == 0:
        try:
            os.close(write_fd)
            _guard(read_fd, marker_prefix)
        finally:
            os._exit(0)
    os.close(read_fd)
    return write_fd


def marked_processes(marker_prefix: str) -> list[int]:
    """The living processes whose marker begins with `marker_prefix`, this one excepted."""
    _require_prefix(marker_prefix)
    needle = _needle(marker_prefix)
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208 - a scan of thousands
    own = os.getpid()
    return [pid for pid in pids if pid != own and needle in _environment(pid)]


def kill_one_marked(pid: int, marker_prefix: str, signal_number: int) -> bool:
    """Signal this process if it is, now, one with the marker: a reused pid is not touched."""
    descriptor = _signal_marked(pid, marker_prefix, signal_number)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def kill_marked(marker_prefix: str, within_s: float = KILL_WITHIN_S) -> list[int]:
    """Kill every process with the marker until none is left; return the pids that were signalled, in order.

    An agent calls it at its start with the prefix of its previous incarnation. It waits for those it killed to end and
    looks again; it returns when several scans in a row found nothing (a process may fork while it is looked for), and
    gives up after `within_s`.
    """
    killed: dict[int, None] = {}
    clean_scans = 0
    deadline_s = time.monotonic() + within_s
    while clean_scans < _CLEAN_SCANS and time.monotonic() < deadline_s:
        found = marked_processes(marker_prefix)
        descriptors = {pid: _signal_marked(pid, marker_prefix, signal.SIGKILL) for pid in found}
        dying = {pid: descriptor for pid, descriptor in descriptors.items() if descriptor is not None}
        killed.update(dict.fromkeys(dying))
        _wait_for_end(list(dying.values()), deadline_s)
        clean_scans = 0 if found else clean_scans + 1
    return list(killed)


def _signal_marked(pid: int, marker_prefix: str, signal_number: int) -> int | None:
    """Signal a marked process; its pidfd, or None if it is not one or may not be signalled."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        if _needle(marker_prefix) in _environment(pid):
            signal.pidfd_send_signal(descriptor, signal_number)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _wait_for_end(pidfds: list[int], deadline_s: float) -> None:
    """Wait until these processes have ended, then close their descriptors. A stuck one holds up nobody for long."""
    poller = select.poll()
    for descriptor in pidfds:
        poller.register(descriptor, select.POLLIN)
    waiting = set(pidfds)
    deadline_s = min(deadline_s, time.monotonic() + _DEATH_WITHIN_S)
    while waiting and (rest_s := deadline_s - time.monotonic()) > 0:
        for descriptor, _ in poller.poll(rest_s * 1000):
            poller.unregister(descriptor)
            waiting.discard(descriptor)
    for descriptor in pidfds:
        os.close(descriptor)


def _require_prefix(marker_prefix: str) -> None:
    if not marker_prefix:
        raise ValueError("an empty marker prefix would match the instances of every agent on this machine")


def _needle(marker_prefix: str) -> bytes:
    return b"\0" + os.fsencode(f"{MARKER_VARIABLE}={marker_prefix}")


def _environment(pid: int) -> bytes:
    """The initial environment of a process, each entry after a zero byte; empty if it is a zombie or not ours.

    In the midst of an exec a process has none for a moment: that is waited for, lest one that is marked be missed.
    """
    deadline_s = time.monotonic() + _EXEC_WITHIN_S
    path = Path(f"/proc/{pid}/environ")
    try:
        while not (entries := path.read_bytes()):
            if _has_none(pid) or time.monotonic() > deadline_s:
                entries = path.read_bytes()  # it may have got one since
                break
            time.sleep(_EXEC_LOOK_S)
    except (OSError, IndexError):  # it is gone, or not ours; or this kernel tells less of it
        return b""
    return b"\0" + entries


def _has_none(pid: int) -> bool:
    """Whether a process has an empty environment for good. Of proc(5): fields 3, 9, 50 and 51 of `stat`."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    state, flags, start, end = fields[0], int(fields[6]), int(fields[47]), int(fields[48])
    return state in (b"Z", b"X") or bool(flags & _KERNEL_THREAD) or (start == end != 0)


def _guard(read_fd: int, marker_prefix: str) -> None:
    os.setsid()
    os.chdir("/")
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    _hold_only(read_fd)
    Path("/proc/self/comm").write_bytes(_PROCESS_NAME.encode())
    while os.read(read_fd, 64):
        pass  # nothing is ever written: only the end of the pipe counts
    kill_marked(marker_prefix)


def _above_standard(descriptor: int) -> int:
    """The same file, close-on-exec, at 3 or above: a daemon may have been started with 0, 1 or 2 closed."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _hold_only(descriptor: int) -> None:
    """Close everything else: a held copy of the agent's sockets or output would keep others waiting for their end."""
    null_fd = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null_fd, standard)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))
