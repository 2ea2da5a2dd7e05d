"""Cancelling and timing out the running call, and dying with the agent.

One helper thread blocks on the control socket. A `Cancel` or `Timeout` for an attempt is noted, then the main thread is
signalled; the signal's handler runs in the main thread between two bytecodes and raises there.

Rules:
- The exception is raised exactly if that attempt is inside `Interrupts.guard`, at most once per guarded region, and
  never in the runner's own code: not while a frame is written, not between two calls.
- An attempt that is asked back either begins or is given back, never both: one lock decides.
- A request that comes before its attempt began is kept and raised as the attempt begins: the two sockets are not
  ordered. One that comes after is forgotten.
- What ends a loan also ends the call that runs under it (`lending`).
- When the control socket ends the agent is gone: the whole process group is killed at once, whatever user code does.
"""

from __future__ import annotations

import _thread
import os
import signal

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Callable, Dict, Optional, Tuple, Type, TypeVar

    T = TypeVar("T")

__all__ = ["CallCancelled", "CallTimeout", "Interrupts", "die_with_agent", "obey", "watch"]

_INTERRUPT_SIGNAL = signal.SIGRTMIN + 3 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
_READ_BYTES = 4096
_REMEMBERED_REQUESTS = 1024
_EXIT_AGENT_GONE = 70


class CallCancelled(BaseException):
    """The caller cancelled this call. Not an `Exception`: only code that means to catch everything catches it."""


class CallTimeout(BaseException):
    """This call ran out of its time. Not an `Exception`: only code that means to catch everything catches it."""


CallCancelled.__module__ = CallTimeout.__module__ = "keepwarm"  # what a traceback shows is the name users know

_REQUESTS: Dict[type, Type[BaseException]] = {frames.Cancel: CallCancelled, frames.Timeout: CallTimeout}


class Interrupts:
    """Which attempt may be interrupted now, and which attempts are asked to end. Made in the main thread."""

    def __init__(self) -> None:
        self._interruptible: Optional[int] = None
        self._requests: Dict[int, Type[BaseException]] = {}
        self._main_thread = _thread.get_ident()
        self.delivered: Optional[Type[BaseException]] = None
        self._lock = _thread.allocate_lock()
        self._begun = 0
        self._recalled: Dict[int, None] = {}
        self._loan: Optional[int] = None
        signal.signal(_INTERRUPT_SIGNAL, self._on_signal)

    def request(self, attempt: int, error: Type[BaseException]) -> None:
        """From the helper thread: ask that the attempt end with this exception."""
        while len(self._requests) >= _REMEMBERED_REQUESTS:
            self._requests.pop(next(iter(self._requests)), None)
        self._requests[attempt] = error
        # Noted first, looked at second; `guard` does the reverse. So whichever comes last sees the other.
        running = self._interruptible
        if running is not None and attempt in (running, self._loan):
            try:  # noqa: SIM105 - contextlib would be one more import at start
                signal.pthread_kill(self._main_thread, _INTERRUPT_SIGNAL)
            except BlockingIOError:
                pass  # the queue of real-time signals is full: one of ours is in it, or the agent goes on to SIGTERM

    def begin(self, attempt: int) -> bool:
        """A new attempt: nothing has been delivered to it. False if it was asked back: it must not run.

        Attempts come in the order of their numbers.
        """
        with self._lock:
            self._begun = attempt
            if self._recalled and self._recalled.pop(attempt, 0) is None:
                return False
        self.delivered = None
        return True

    def recall(self, attempt: int) -> bool:
        """From the helper thread: see that an attempt does not begin. False if it is too late, or seen to already."""
        with self._lock:
            if attempt <= self._begun or attempt in self._recalled:
                return False
            self._recalled[attempt] = None
            return True

    def end(self, attempt: int) -> None:
        """The attempt has its outcome: a later request for it means nothing."""
        self._requests.pop(attempt, None)

    def begin_loan(self, attempt: int) -> None:
        """From now on calls of another run under this attempt, each under a number that is only theirs meanwhile."""
        with self._lock:
            self._loan, self._begun = attempt, 0  # their numbers begin anew

    def end_loan(self) -> None:
        """Those numbers mean nothing any more: nobody who knows them speaks from here on."""
        with self._lock:
            loan, self._loan = self._loan, None
            if loan is not None:
                self._begun = loan
            self._requests = {attempt: error for attempt, error in self._requests.items() if attempt == loan}
            self._recalled.clear()

    def is_requested(self, attempt: int) -> bool:
        """Whether an attempt is asked to end, and has not been told so."""
        return attempt in self._requests

    def guard(self, attempt: int, action: Callable[[], T]) -> Tuple[Optional[T], Optional[BaseException]]:
        """Run user code. Returns its value, or the exception that ended it, the interrupting one included.

        The outer `try` is for a signal that arrives while the inner one is being left. A second cannot follow: the
        handler ends the guarded region before it raises.
        """
        try:
            try:
                self._interruptible = attempt
                if self._requests:
                    self._raise_if_requested()
                value = action()
                self._interruptible = None
                return value, None
            except BaseException as error:
                self._interruptible = None
                return None, error
        except BaseException as error:
            self._interruptible = None
            return None, error

    def abandon(self) -> None:
        """In a forked child: no attempt is ours to interrupt."""
        self._interruptible = None
        self._requests.clear()

    def _raise_if_requested(self) -> None:
        attempt = self._interruptible
        if attempt is None:
            return
        error = self._requests.pop(attempt, None)
        if error is None and self._loan is not None:
            error = self._requests.get(self._loan)
        if error is not None:
            self._interruptible = None
            self.delivered = error
            raise error

    def _on_signal(self, _signum: int, _frame: Optional[FrameType]) -> None:
        self._raise_if_requested()


def watch(control_fd: int, interrupts: Interrupts) -> None:
    """Start the helper thread. A bare `_thread`: `threading` would be an import, and would be waited for at exit."""
    _thread.start_new_thread(_watch, (control_fd, interrupts))


def _watch(control_fd: int, interrupts: Interrupts) -> None:
    decoder = frames.FrameDecoder()
    try:
        while True:
            data = os.read(control_fd, _READ_BYTES)
            if not data:
                break
            for frame in decoder.feed(data):
                obey(frame, control_fd, interrupts)
    except (OSError, frames.FrameError) as error:
        _complain(error)
    die_with_agent()


def obey(frame: frames.Frame, control_fd: int, interrupts: Interrupts) -> None:
    """Do what a frame on a control socket asks for."""
    if type(frame) is frames.Recall:
        if interrupts.recall(frame.attempt):
            os.write(control_fd, frames.encode(frames.Recalled(frame.attempt)))
        return
    error = _REQUESTS.get(type(frame))
    if error is not None:
        interrupts.request(frame.attempt, error)  # type: ignore[union-attr]  # the table holds only these


def _complain(error: Exception) -> None:
    try:  # noqa: SIM105 - contextlib would be one more import at start
        os.write(2, ("keepwarm runner: the control socket failed: %r\n" % (error,)).encode("utf-8", "replace"))
    except OSError:
        pass


def die_with_agent() -> None:
    """Kill this process and its group: without an agent nobody can be answered. Does not return."""
    if os.getpgrp() == os.getpid():  # our own group, not one that we were started in by hand
        os.killpg(0, signal.SIGKILL)
    os._exit(_EXIT_AGENT_GONE)
