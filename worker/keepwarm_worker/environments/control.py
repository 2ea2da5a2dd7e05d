"""One build's off switch, and the one way in which this package runs a child process.

Owns: `BuildControl`, which any thread may use to cancel a build, and `run`, which runs one process to its end.

Rules:
- Every process leads a process group of its own, and whatever is left of the group is killed when the leader has
  ended, run out of time, or been cancelled. The leader is reaped only afterwards: until then it is a zombie whose
  number cannot be reused, so the signal cannot hit a stranger.
- Output goes to memory files, not pipes: a grandchild that keeps one open cannot make `run` wait, and a full disk
  cannot swallow the message that says the disk is full.
- Must never be called from an event loop: everything here blocks.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from keepwarm_worker.descriptors import lower_limit_of

from .disk import failures_named
from .errors import CANCELLED, INTERNAL, TIMED_OUT, EnvironmentFailure

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
"""Of standard output and of standard error: far above any lock, far below a node's memory."""


class Completed(NamedTuple):
    """How a process ended: its exit status (minus the signal's number if one killed it) and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class BuildControl:
    """Lets another thread stop a build: `cancel()` kills what is running now and keeps anything else from starting.

    control = BuildControl()
    threading.Timer(5, control.cancel).start()
    store.build(environment_id, lock_text, interpreter, uv, on_phase, control)    # raises EnvironmentFailure(cancelled)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._groups: set[int] = set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the build. Returns at once; safe from any thread, any number of times, before and after the build too."""
        with self._lock:
            self._cancelled.set()
            for group in self._groups:
                _kill_group(group)

    def wait(self, timeout_s: float) -> bool:
        """Sleep for up to `timeout_s`; true as soon as the build is cancelled."""
        return self._cancelled.wait(timeout_s)

    def check(self) -> None:
        """Raise EnvironmentFailure(cancelled) if the build was cancelled."""
        if self.cancelled:
            raise EnvironmentFailure(CANCELLED, "The build was cancelled.")

    def _adopt(self, group: int) -> None:
        with self._lock:
            self._groups.add(group)
            if self._cancelled.is_set():
                _kill_group(group)

    def _end(self, group: int) -> None:
        """Kill what is left of the group and forget it; its leader must not have been reaped yet."""
        with self._lock:
            _kill_group(group)
            self._groups.discard(group)


def run(
    command: Sequence[str],
    *,
    step: str,
    environment: Mapping[str, str],
    directory: Path,
    stdin_text: str,
    control: BuildControl,
    timeout_s: float,
) -> Completed:
    """Run `command` to its end with exactly this environment, in `directory`.

    Raises EnvironmentFailure: cancelled, timed_out, or internal when it cannot be started, which may go better later.
    """
    control.check()
    with failures_named(step), ExitStack() as stack:
        stdin, stdout, stderr = (_memory_file(stack, name) for name in ("stdin", "stdout", "stderr"))
        _write_all(stdin, stdin_text.encode())
        try:
            process = subprocess.Popen(
                list(command),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        except OSError as error:
            message = f"The node cannot start {command[0]} for {step}: {error.strerror}."
            raise EnvironmentFailure(INTERNAL, message, str(error), retryable=True) from error
        lower_limit_of(process.pid)
        ended, status = _wait_and_end_group(process, control, timeout_s)
        control.check()
        output, complaints = _text(stdout), _text(stderr)
    if not ended:
        raise EnvironmentFailure(TIMED_OUT, f"The {step} step took longer than {timeout_s:g} s.", complaints)
    if status is None:
        message = f"The outcome of the {step} step was lost: another part of the agent reaped its process."
        raise EnvironmentFailure(INTERNAL, message, complaints, retryable=True)
    return Completed(status, output, complaints)


def _wait_and_end_group(
    process: subprocess.Popen[bytes], control: BuildControl, timeout_s: float
) -> tuple[bool, int | None]:
    """Wait for the leader, kill the group, reap the leader: whether it ended in time, and its exit status."""
    control._adopt(process.pid)
    status: int | None = None
    try:
        ended = _has_ended(process.pid, timeout_s)
    finally:
        control._end(process.pid)
        status = _reap(process.pid)
        process.returncode = 0 if status is None else status  # or Popen complains that the process still runs
    return ended, status


def _reap(pid: int) -> int | None:
    """The exit status of our child, minus the signal's number if one killed it. None if someone else has taken it.

    `Popen.wait` would report a stolen status as 0, and a failed installation as a success.
    """
    try:
        status = os.waitid(os.P_PID, pid, os.WEXITED)
    except ChildProcessError:
        return None
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status


def _has_ended(pid: int, timeout_s: float) -> bool:
    """Wait until our unreaped child `pid` is a zombie, without reaping it. False on a timeout."""
    deadline_s = time.monotonic() + timeout_s
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:  # someone else has reaped it already
        return True
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(max(0.0, deadline_s - time.monotonic()) * 1000))
    finally:
        os.close(descriptor)


def _kill_group(group: int) -> None:
    # A group whose only member is an unreaped leader still exists; one that is gone, or not ours any more, is no error.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _memory_file(stack: ExitStack, name: str) -> int:
    descriptor = os.memfd_create(f"keepwarm-{name}")
    stack.callback(os.close, descriptor)
    return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, to be read from the beginning."""
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], written)


def _text(descriptor: int) -> str:
    return os.pread(descriptor, MAX_OUTPUT_BYTES, 0).decode("utf-8", "replace")
