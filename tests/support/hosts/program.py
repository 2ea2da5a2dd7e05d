"""One program on a host, as its test holds it: signals, its end, and the files in which it left what it said."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

__all__ = ["Program"]

_KILL_S = 10.0
_TAIL_BYTES = 3000


class Program:
    """A process in a group and session of its own. It is collected when it is waited for, or its host is closed.

    Signals go to the program alone, as they do when a real one is killed: what becomes of its children is its own
    affair, and often what a test is about. ``group=True`` means all that did not leave its process group.
    """

    def __init__(self, name: str, command: list[str], environment: dict[str, str], cwd: Path, logs: Path) -> None:
        self.name = name
        self.out = logs.with_name(f"{logs.name}.out")
        self.err = logs.with_name(f"{logs.name}.err")
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._popen = subprocess.Popen(
                command,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id: what it is started with replaces itself by it."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Its exit code, a negative signal number, or None while it runs."""
        return self._popen.poll()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended; a stopped program has not."""
        return self._popen.poll() is None

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal; to one that has ended it is no error."""
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.pid, number)
            else:
                self._popen.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end: SIGTERM."""
        self.send(signal.SIGTERM)

    def kill(self, *, group: bool = False) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL, group=group)
        self._popen.wait(_KILL_S)

    def stop(self) -> None:
        """SIGSTOP: it stands still, its connections stay open."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)

    def wait(self, limit_s: float = 30) -> int:
        """Its exit code. Raises ``AssertionError`` with what it said if it does not end in time."""
        try:
            return self._popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {limit_s} s.\n{self.said()}") from None

    def said(self) -> str:
        """The ends of its output and its errors, for the message of a failed test."""
        return f"--- {self.name} ({self.code})\n{_tail(self.out)}{_tail(self.err)}"


def _tail(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace")
