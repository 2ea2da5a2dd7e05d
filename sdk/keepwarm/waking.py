"""Ways to reach a thread that waits: the wake-up pipe of a poll, sleepers in line for the turn, and Ctrl-C held back.

Rules: a wake-up is never lost (it stays in the pipe, or the lock stays open) and may be spurious. While a
``DeferredInterrupt`` is entered in the main thread, SIGINT raises nothing there: it is noted and wakes the thread,
which looks at safe points. So no exception falls between two halves of a change.
"""

import contextlib
import signal
import socket as sockets
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import zmq

from keepwarm.futures import Future
from keepwarm.interruptions import waits

__all__ = ["DeferredInterrupt", "Sleeper", "Wakeup"]

_signal: Any = sys.modules.get("_signal", signal)
"""What ``signal`` wraps to return enums, which costs each wait several times what it does. Else ``signal`` itself."""


class Wakeup:
    """A pair of sockets: ``wake`` from any thread makes a poll on ``fileno`` return."""

    def __init__(self) -> None:
        self._reader, self._writer = sockets.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the poll under way, or the next one, return at once."""
        with contextlib.suppress(OSError):  # full of wake-ups already, or closed
            self._writer.send(b"\0")

    @waits
    def await_wake(self, timeout_s: float) -> None:
        """Wait for a wake-up, which stays for the next poll."""
        zmq.zmq_poll([(self._reader.fileno(), zmq.POLLIN)], int(timeout_s * 1000))

    def clear(self) -> None:
        """Forget the wake-ups so far."""
        with contextlib.suppress(OSError):
            self._reader.recv(65536)

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()


class Sleeper:
    """A thread that waits for its future, or for the turn. ``given`` is set by whoever hands it the turn."""

    __slots__ = ("_lock", "future", "given", "thread_id")

    def __init__(self, future: Future[Any], thread_id: int) -> None:
        self.future = future
        self.thread_id = thread_id
        self.given = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self, timeout_s: float | None) -> None:
        """Wait for ``wake``; returns at once if it came before."""
        self._lock.acquire(timeout=-1 if timeout_s is None else min(timeout_s, threading.TIMEOUT_MAX))

    def wake(self) -> None:
        """End the sleep. Also safe from a signal handler."""
        with contextlib.suppress(RuntimeError):  # woken already
            self._lock.release()


class DeferredInterrupt:
    """A ``with`` block in which Ctrl-C waits for ``check``, or for the end of the block.

    Does nothing outside the main thread, or where SIGINT has no Python handler. A second Ctrl-C is not held back.
    """

    __slots__ = ("_is_active", "_pending", "_previous", "_wake", "sleeper")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._is_active = False
        self._pending: tuple[int, FrameType | None] | None = None
        self._previous: Callable[[int, FrameType | None], Any] | None = None
        self.sleeper: Sleeper | None = None

    def __enter__(self) -> "DeferredInterrupt":
        if threading.get_ident() == threading.main_thread().ident:
            previous = _signal.getsignal(signal.SIGINT)
            if callable(previous):
                self._previous = previous
                _signal.signal(signal.SIGINT, self._note)
                self._is_active = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_active:
            self._is_active = False
            _signal.signal(signal.SIGINT, self._previous)
            if error is None:
                self.check()

    def restore(self) -> None:
        """See that SIGINT is handled as before, wherever an exception has cut the block off. May be said again."""
        if self._previous is not None and getattr(_signal.getsignal(signal.SIGINT), "__self__", None) is self:
            _signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Let a noted Ctrl-C take effect here: the program's own handler decides what that is."""
        if self._pending is None:
            return
        (number, frame), self._pending = self._pending, None
        previous = self._previous
        if isinstance(getattr(previous, "__self__", None), DeferredInterrupt):
            raise KeyboardInterrupt  # a wait inside a wait, in a callback: the outer one need not end for this
        if previous is not None:
            previous(number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._pending is not None and self._previous is not None:
            self._pending = None
            self._previous(number, frame)
            return
        self._pending = (number, frame)
        self._wake()
        if self.sleeper is not None:
            self.sleeper.wake()
