"""The agent's hold on its instances: starting them, talking to them, ending them, reaping them.

Rules:
- Nothing here blocks: descriptors are non-blocking, `reap` returns at once. Waiting is the daemon's business, with the
  `pidfd`, `data` and output descriptors in its poller.
- An instance starts with an environment that is built up, not inherited: an agent's credentials must not leak into it.
- What an instance sends is a claim of user code: frames are decoded strictly, and file names are opened only inside
  the instance's own spool directory.
- A pid is signalled only while it is known to be the process meant.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from keepwarm_worker.descriptors import lower_limit_of
from keepwarm_worker.guardian import MARKER_VARIABLE, kill_one_marked, marked_processes
from keepwarm_worker.runner import frames
from keepwarm_worker.runner.running import BOARD_BYTES, RunningBoard

__all__ = [
    "ExitReason",
    "FrameReader",
    "FrameWriter",
    "InstanceProcess",
    "NodeFault",
    "SpawnError",
    "become_subreaper",
    "exit_reason",
    "instance_environment",
    "kill_tree",
    "open_result",
    "reap_strays",
    "spawn_instance",
]

_PR_SET_CHILD_SUBREAPER = 36
_READ_BYTES = 256 * 1024
_WRITE_BYTES = 128 * 1024
_READS_PER_TURN = 4
MAX_PENDING_BYTES = 16 * 1024 * 1024

_NODE_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})
"""Nothing that user code does to the file of a result makes opening it fail so."""

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER_NAMES = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
_TRUST_NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
_INHERITED_NAMES = frozenset((*_USER_NAMES, *_TRUST_NAMES, *_PROXY_NAMES, *map(str.lower, _PROXY_NAMES)))


_log = logging.getLogger(__name__)


class NodeFault(Exception):  # noqa: N818
    """What an instance has left cannot be read, and that is not its fault: the node is out of something, or broken."""


class SpawnError(Exception):
    """An instance could not be started: its interpreter is missing, or the node is out of something. Not the call's."""


class ExitReason(NamedTuple):
    """How a process ended: by its exit code or by a signal; exactly one of them is set."""

    exit_code: int | None
    signal_number: int | None


@dataclass(slots=True, eq=False)
class InstanceProcess:
    """A started instance. The descriptors are its owner's: watch them, and `close` when it is reaped.

    `data` carries `Load`, `Call`, `Exit` and all answers; `control` carries `Cancel` and `Timeout`, and its end kills
    the instance. When a `Result` has been read, first drain `stdout_fd` and `stderr_fd`: the call's output is there.
    """

    pid: int
    pidfd: int
    marker: str
    data: socket.socket
    control: socket.socket
    board: RunningBoard
    stdout_fd: int
    stderr_fd: int
    _popen: subprocess.Popen[bytes]
    _reason: ExitReason | None = None

    def reap(self) -> ExitReason | None:
        """How the process ended, or None while it lives (its `pidfd` is readable once it has ended)."""
        if self._reason is None:
            status = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            if status is not None:
                self._reason = exit_reason(status)
                code, number = self._reason
                self._popen.returncode = code if number is None else -number  # subprocess must not wait for it too
        return self._reason

    def has_died_of(self, signal_number: int) -> bool:
        """Whether a signal has ended the process, which is left to be reaped."""
        status = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return status is not None and exit_reason(status).signal_number == signal_number

    def send_signal(self, signal_number: int) -> None:
        """Signal the process itself; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal_number)

    def kill_tree(self, signal_number: int = signal.SIGKILL) -> set[int]:
        """Signal the process and everything it started; after it was reaped, whatever still carries its marker."""
        return kill_tree(self.pid if self._reason is None else None, signal_number, self.marker)

    def close(self) -> None:
        """Close the descriptors. A process that still lives is killed by this."""
        self.board.close()
        self.data.close()
        self.control.close()
        for name in ("stdout_fd", "stderr_fd", "pidfd"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)


def instance_environment(
    python: Path, marker: str, variables: Mapping[str, str], inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment variables of an instance: a few of the agent's, the environment's own, the user's, the marker.

    The user's win over all but the marker. Nothing else of the agent's is passed on: not its credentials, and not
    `PYTHON*` or `LD_*`, which would reach into the interpreter.
    """
    prefix = python.parent.parent
    own_programs = str(Path(sys.executable).parent)
    search = [path for path in inherited.get("PATH", _SYSTEM_PATH).split(os.pathsep) if path and path != own_programs]
    environment = {name: value for name, value in inherited.items() if name in _INHERITED_NAMES}
    environment.setdefault("LANG", "C.UTF-8")
    environment["PATH"] = os.pathsep.join([str(python.parent), *search])
    if (prefix / "pyvenv.cfg").exists():
        environment["VIRTUAL_ENV"] = str(prefix)
    if (prefix / "conda-meta").is_dir():
        environment["CONDA_PREFIX"] = str(prefix)
    environment.update(variables)
    environment[MARKER_VARIABLE] = marker
    return environment


def spawn_instance(
    python: Path,
    runner: Path,
    spool: Path,
    environment: Mapping[str, str],
    working_directory: Path,
    marker: str,
) -> InstanceProcess:
    """Start the runner with an environment's interpreter, as the leader of a session of its own.

    Args:
        python: the interpreter in the user's environment, by its own name there (symlinks are not resolved).
        runner: the `main.py` that `install_runner` returned.
        spool: an existing directory for large results, private to this instance.
        environment: the user's variables and those that the agent assigns, such as devices.
        working_directory: an existing directory; not on `sys.path`.
        marker: "<node incarnation>:<instance id>", by which the guardian and `kill_tree` find descendants.

    Raises:
        SpawnError: the process could not be started.
        ValueError: a variable's name holds "=" or a zero byte.

    Example:
        `spawn_instance(env / "bin/python", main, spool, {"MODE": "fast"}, home, "7c1f09d2:41")`
    """
    with contextlib.ExitStack() as undo:
        data, data_child = socket.socketpair()
        control, control_child = socket.socketpair()
        for end in (data, control):
            end.setblocking(False)
            undo.callback(end.close)
        board_fd = os.memfd_create("keepwarm-board")
        undo.callback(os.close, board_fd)
        os.ftruncate(board_fd, BOARD_BYTES)
        board = RunningBoard(board_fd)
        undo.callback(board.close)
        given = [data_child.fileno(), control_child.fileno(), board_fd]
        command = [str(python), "-I", str(runner), str(given[0]), str(given[1]), str(spool), str(board_fd)]
        with data_child, control_child:
            try:
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    cwd=working_directory,
                    env=instance_environment(python, marker, environment, os.environ),
                    pass_fds=given,
                    start_new_session=True,
                )
            except OSError as error:
                raise SpawnError(f"cannot start an instance with {python} in {working_directory}: {error}") from error
        lower_limit_of(popen.pid)
        process = _adopt(popen, marker, data, control, board)
        undo.pop_all()
        os.close(board_fd)
        return process


def _adopt(
    popen: subprocess.Popen[bytes], marker: str, data: socket.socket, control: socket.socket, board: RunningBoard
) -> InstanceProcess:
    assert popen.stdout is not None
    assert popen.stderr is not None
    with contextlib.ExitStack() as undo:
        undo.callback(popen.kill)  # whoever makes the next process reaps it
        # Not reaped yet, so the pid is still this child's, even if it has died already.
        pidfd = os.pidfd_open(popen.pid)
        undo.callback(os.close, pidfd)
        stdout_fd = _take_over(popen.stdout)
        undo.callback(os.close, stdout_fd)
        stderr_fd = _take_over(popen.stderr)
        undo.pop_all()
    return InstanceProcess(popen.pid, pidfd, marker, data, control, board, stdout_fd, stderr_fd, popen)


def _take_over(pipe: IO[bytes]) -> int:
    """The pipe as a plain non-blocking descriptor, without the file object that would close it."""
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    os.set_blocking(descriptor, False)
    return descriptor


class FrameReader:
    """Reads frames from a non-blocking socket. `closed` once the other end is gone."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._decoder = frames.FrameDecoder()
        self.closed = False

    def receive(self) -> list[frames.Frame]:
        """The frames that are complete by now; a bounded share of them, so call again while the socket is readable.

        Raises:
            FrameError: what came is not a frame. Kill the instance: user code has written to its socket.
        """
        received: list[frames.Frame] = []
        for _ in range(_READS_PER_TURN):
            try:
                data = self._source.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError:  # a reset: it died with frames unread; what it had sent before came first
                data = b""
            if not data:
                self.closed = True
                break
            received += self._decoder.feed(data)
            if len(data) < _READ_BYTES:
                break  # that was all, most likely
        return received


@dataclass(slots=True)
class FrameWriter:
    """Writes frames to a non-blocking socket, in order, keeping what does not fit. `closed` once the reader is gone."""

    _target: socket.socket
    closed: bool = False
    pending_bytes: int = 0
    _queue: list[bytes] = field(default_factory=list)

    def queue(self, frame: frames.Frame) -> None:
        """Add a frame; `flush` sends it.

        Raises:
            FrameError: the frame cannot be encoded, or `MAX_PENDING_BYTES` wait already: the instance reads nothing.
        """
        data = frames.encode(frame)
        if self.pending_bytes + len(data) > MAX_PENDING_BYTES:
            raise frames.FrameError(f"{self.pending_bytes} bytes wait for an instance that does not read")
        self._queue.append(data)
        self.pending_bytes += len(data)

    def flush(self) -> bool:
        """Send what the socket takes now. True if more is pending: call again when the socket is writable."""
        while self._queue:
            taken, size = self._next_batch()
            batch = self._queue[0] if taken == 1 else b"".join(self._queue[:taken])
            try:
                sent = self._target.send(batch)
            except BlockingIOError:
                return True
            except OSError:
                self.closed = True
                self._queue.clear()
                self.pending_bytes = 0
                return False
            self.pending_bytes -= sent
            self._queue[:taken] = [batch[sent:]] if sent < size else []
        return False

    def _next_batch(self) -> tuple[int, int]:
        """How many of the frames go out in one piece, and how long that is."""
        taken = size = 0
        for data in self._queue:
            if taken and size + len(data) > _WRITE_BYTES:
                break
            taken += 1
            size += len(data)
        return taken, size


def open_result(spool: Path, stored: frames.Stored) -> int:
    """A descriptor of the file that holds a result: a regular file in the spool itself, of the size that was said.

    The runner's word is not trusted: a name with a slash, a link or another size means that user code forged it.

    Raises:
        FrameError: it is not such a file.
        NodeFault: that cannot be known.
    """
    if "/" in stored.path or "\0" in stored.path or stored.path in ("", ".", ".."):
        raise frames.FrameError(f"a result's file must be a bare name, not {stored.path!r}")
    try:
        descriptor = os.open(spool / stored.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NODE_FAULTS:
            raise NodeFault(f"the file of a result cannot be opened: {error.strerror}") from error
        raise frames.FrameError(f"the file of a result cannot be opened: {error}") from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_size != stored.size:
        os.close(descriptor)
        raise frames.FrameError(f"{stored.path} is not a regular file of {stored.size} bytes of its own")
    return descriptor


def exit_reason(status: os.waitid_result) -> ExitReason:
    """(exit code, None) or (None, signal) from what `os.waitid` returned for an ended process."""
    if status.si_code == os.CLD_EXITED:
        return ExitReason(status.si_status, None)
    return ExitReason(None, status.si_status)


def kill_tree(pid: int | None, signal_number: int, marker: str) -> set[int]:
    """Signal a process, its group, its descendants and everything that carries its marker, in one pass.

    `pid` must be a child that is not reaped, else None: a free pid may be another process by now. A tree that is busy
    forking may need more than one pass: repeat until nothing is returned.

    Returns the descendants and the marked processes that were signalled.
    """
    descendants = _descendants(pid) if pid is not None else []  # found before the root dies and the tree falls apart
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send = os.killpg if os.getpgid(pid) == pid else os.kill
            send(pid, signal_number)
    signalled = set()
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(signal_number)  # psutil compares the start time first
            signalled.add(process.pid)
    exact = marker + "\0"  # without its end, instance 4 would match instance 41
    try:
        marked = marked_processes(exact)
    except OSError as error:
        _log.warning("what instance %s has started cannot be looked for: %s", marker, error)
        marked = []
    return signalled | {found for found in marked if kill_one_marked(found, exact, signal_number)}


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return found
    except (psutil.Error, OSError):  # it is gone, or the agent is out of descriptors: then the marker is all there is
        return []


def become_subreaper() -> None:
    """Make orphaned descendants this process's children, so that they can be found and reaped. Linux; else nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_strays(keep: Collection[int]) -> list[int]:
    """Reap the children that have ended and that nobody waits for: orphans of instances. Returns their pids.

    `keep` names every child that someone else will wait for (instances, builds, the guardian): their status must not
    be taken away.
    """
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return []
    except ChildProcessError:
        return []
    reaped = []
    try:
        children = psutil.Process().children()
    except (psutil.Error, OSError):  # they stay until the next time
        return []
    for child in children:
        with contextlib.suppress(ChildProcessError):
            if child.pid not in keep and os.waitpid(child.pid, os.WNOHANG)[0] == child.pid:
                reaped.append(child.pid)
    return reaped
