"""The future of a call: a `concurrent.futures.Future` that is cheap to hold by the hundred thousand, and awaitable.

Owns a call's state as its caller sees it. It works with concurrent.futures.wait and as_completed, add_done_callback,
asyncio.wrap_future and `await`.

Rules:
- The stock Condition (with its lock and queue, most of a stock future) is made only when somebody asks for it. Until
  then one lock of this module guards every future; a future that has a Condition is guarded by that for ever after.
- Never is the module's lock held while a Condition is taken, a callback runs or a result is decoded. It is reentrant,
  because garbage collection may run a finalizer that cancels another future while it is held.
- The client ends a future with `_finish` (the result still undecoded) or `_fail`, from any thread; the first counts,
  the others are ignored. The result is decoded when first looked at, once, in the thread that looks.
- Waiting lets the client drive its connection in the caller's thread: see `Driver`.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, LOGGER, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeVar

from keepwarm.errors import CallCancelled
from keepwarm.interruptions import is_the_programs

if TYPE_CHECKING:
    from keepwarm.explanation import Explanation
    from keepwarm_wire.messages import CallReport

__all__ = ["Driver", "Future"]

T = TypeVar("T")

_LOCK = threading.RLock()
_ENDED: Final = frozenset({FINISHED, CANCELLED_AND_NOTIFIED})


class Driver(Protocol):
    """What a future needs of the client that made it."""

    def wait(self, future: Future[Any], timeout: float | None) -> None:
        """Return when the future is done or `timeout` seconds are over (None: never)."""

    def cancel(self, future: Future[Any]) -> bool:
        """Ask for the call to be cancelled, running or not; return whether that was still possible."""


class Future(concurrent.futures.Future[T]):
    """The result, or error, that a call will have.

    `future.result(timeout=None)` waits for it, `await future` does so in asyncio; `cancel()` works for running calls
    too.

    >>> future = Future()
    >>> future._finish(lambda: 42)
    True
    >>> future.result()
    42
    """

    __slots__ = (
        "_callbacks",
        "_decode",
        "_driver",
        "_exception",
        "_installed",
        "_name",
        "_own_condition",
        "_report",
        "_result",
        "_state",
    )

    def __init__(self, driver: Driver | None = None, name: str = "") -> None:
        # The stock __init__ is left out on purpose: it makes what this class makes late.
        self._driver = driver
        self._name = name
        self._state: str = PENDING
        self._result: Any = None  # what `_decode` takes, while there is one
        self._exception: BaseException | None = None
        self._decode: Callable[[Any], Any] | None = None
        self._report: CallReport | int | None = None
        self._own_condition: threading.Condition | None = None
        self._callbacks: list[Callable[[Any], object]] | None = None
        self._installed: list[Any] | None = None

    # ------------------------------------------------------------ what callers see

    def result(self, timeout: float | None = None) -> T:
        """Wait up to `timeout` seconds (None: without limit) and return the result, or raise what the call failed with.

        Raises TimeoutError when the time is over; the call goes on. Raises CallCancelled when it was cancelled.
        """
        exception = self._outcome(timeout)
        if exception is None:
            return self._result  # type: ignore[no-any-return]
        try:
            raise exception
        finally:
            del self, exception  # or the traceback would keep both alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `result` does and return what the call failed with, None if it succeeded."""
        exception = self._outcome(timeout)
        if exception is not None and self._state == CANCELLED_AND_NOTIFIED:
            raise exception
        return exception

    def cancel(self) -> bool:
        """Cancel the call, also while it runs; return False when it is too late.

        True means that the request is under way: a call that ends first keeps its result.
        """
        if self._state in _ENDED:
            return self._state == CANCELLED_AND_NOTIFIED
        if self._driver is None:
            return self._fail(CallCancelled("the call was cancelled before it was sent"))
        return self._driver.cancel(self)

    def cancelled(self) -> bool:
        """Return whether the call ended by being cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Return whether the call is known to run right now."""
        return self._state == RUNNING

    def done(self) -> bool:
        """Return whether the call has ended, in whatever way."""
        return self._state in _ENDED

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(self)` when the call has ended: at once if it has, else in the thread that learns of it."""
        with _LOCK:
            condition = self._own_condition
            if condition is None and self._state not in _ENDED:
                self._done_callbacks.append(fn)
                return
        if condition is not None:
            with condition:
                if self._state not in _ENDED:
                    self._done_callbacks.append(fn)
                    return
        self._call(fn)

    @property
    def report(self) -> CallReport | None:
        """Where the call ran and how warm that was; None before it has ended, and when it never ran."""
        return None if isinstance(self._report, int) else self._report

    @property
    def call_id(self) -> str:
        """The call's id as ``keepwarm status`` and errors show it; empty before it has been sent."""
        return ""

    def explain(self, timeout: float = 5.0) -> Explanation:
        """Ask the scheduler why the call ran where it ran and how warm that was, or what it still waits for.

        ``timeout`` is in seconds. Raises ClusterUnreachable when the scheduler does not answer in time; it remembers
        the last 10,000 calls that have ended, and an older one has the state ``unknown``.

        >>> future = get_response.submit("https://www.example.com")
        >>> print(future.explain())
        """
        raise NotImplementedError("only the futures of calls have something to explain")

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def __repr__(self) -> str:
        outcome = f" {type(self._exception).__name__}" if self._exception is not None else ""
        name = f" of {self._name}" if self._name else ""
        return f"<Future{name}: {_STATE_NAMES.get(self._state, self._state)}{outcome}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Future cannot be sent or stored; use its result()")

    # ------------------------------------------------------------ what the client calls

    def _finish(self, decode: Callable[[], T], report: CallReport | None = None) -> bool:
        """End the call with a result that `decode()` returns; return False if it had ended already."""
        return self._settle(FINISHED, _decoded, decode, None, report)

    def _finish_with(self, decode: Callable[[Any], T], encoded: object, report: CallReport | int | None = None) -> bool:
        """The same with a result that `decode(encoded)` returns: for calls by the hundred thousand.

        For a report may stand how long the call ran, in microseconds, where the rest of it is known elsewhere.
        """
        return self._settle(FINISHED, decode, encoded, None, report)

    def _fail(self, error: BaseException, report: CallReport | None = None) -> bool:
        """End the call with an error, CallCancelled for a cancelled one; return False if it had ended already."""
        state = CANCELLED_AND_NOTIFIED if isinstance(error, CallCancelled) else FINISHED
        return self._settle(state, None, None, error, report)

    def _block(self, timeout: float | None) -> bool:
        """Wait without driving anything, for another thread to end the call; return whether it has ended."""
        with self._condition:
            return self._condition.wait_for(self.done, timeout)

    # ------------------------------------------------------------ what the stock module reaches for

    # Properties at run time; checkers must see the plain attributes that typeshed's as_completed() wants.
    if TYPE_CHECKING:
        _condition: threading.Condition
        _waiters: list[Any]
        _done_callbacks: list[Callable[[Any], object]]
    else:

        @property
        def _condition(self) -> threading.Condition:
            condition = self._own_condition
            if condition is None:
                with _LOCK:
                    condition = self._own_condition
                    if condition is None:
                        condition = self._own_condition = threading.Condition()
            return condition

        @property
        def _waiters(self) -> list[Any]:
            if self._installed is None:
                self._installed = []
            return self._installed

        @property
        def _done_callbacks(self) -> list[Callable[[Any], object]]:
            if self._callbacks is None:
                self._callbacks = []
            return self._callbacks

    # ------------------------------------------------------------ inside

    def _settle(
        self,
        state: str,
        decode: Callable[[Any], Any] | None,
        encoded: object,
        error: BaseException | None,
        report: CallReport | int | None,
    ) -> bool:
        with _LOCK:
            condition = self._own_condition
            first = condition is None and self._store(state, decode, encoded, error, report)
        if condition is not None:
            with condition:
                first = self._store(state, decode, encoded, error, report)
                if first:
                    self._tell_waiters()
                    condition.notify_all()
        if first and self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                self._call(callback)
        return first

    def _store(
        self,
        state: str,
        decode: Callable[[Any], Any] | None,
        encoded: object,
        error: BaseException | None,
        report: CallReport | int | None,
    ) -> bool:
        if self._state in _ENDED:
            return False
        self._decode, self._result, self._exception, self._report = decode, encoded, error, report
        self._state = state
        return True

    def _tell_waiters(self) -> None:
        # Waiters are installed under the Condition, so without one there are none.
        for waiter in self._installed or ():
            if self._state == CANCELLED_AND_NOTIFIED:
                waiter.add_cancelled(self)
            elif self._exception is not None:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)

    def _call(self, callback: Callable[[Any], object]) -> None:
        try:
            callback(self)
        except Exception:
            LOGGER.exception("exception calling callback for %r", self)

    def _outcome(self, timeout: float | None) -> BaseException | None:
        """Wait, decode, and return the error if there is one."""
        if self._state not in _ENDED:
            if self._driver is None:
                self._block(timeout)
            else:
                self._driver.wait(self, timeout)
            if self._state not in _ENDED:
                raise TimeoutError(f"{self!r} is not done after {timeout} seconds; the call goes on")
        if self._decode is not None:
            self._decode_once()
        return self._exception

    def _decode_once(self) -> None:
        with _LOCK:
            decode = self._decode
            if decode is not None:
                self._decode = _under_way
        if decode is None:
            return
        if decode is _under_way:
            with self._condition:
                self._condition.wait_for(lambda: self._decode is not _under_way)
            self._decode_once()  # the other thread may have been interrupted
            return
        encoded = self._result
        try:
            value = decode(encoded)
        except BaseException as error:
            if not isinstance(error, Exception) or is_the_programs(error):
                self._end_decoding(encoded, None, decode)  # Ctrl-C, or another handler: the next look tries again
                raise
            self._end_decoding(None, error, None)
        else:
            self._end_decoding(value, None, None)

    def _end_decoding(self, value: Any, error: BaseException | None, decode: Callable[[Any], Any] | None) -> None:
        with _LOCK:
            self._result, self._exception, self._decode = value, error, decode
            condition = self._own_condition
        if condition is not None:
            with condition:
                condition.notify_all()


def _renew_lock_in_child() -> None:
    """After a fork: a thread that held the lock is not here to release it. The futures it was at are the parent's."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_in_child)


def _decoded(decode: Callable[[], Any]) -> Any:
    """Decode where all that is needed is in the decoder itself."""
    return decode()


def _under_way(_: object) -> NoReturn:
    """Stand in `_decode` while a thread decodes."""
    raise AssertionError("a marker is not called")


_STATE_NAMES: Final = {CANCELLED_AND_NOTIFIED: "cancelled", FINISHED: "done", PENDING: "pending", RUNNING: "running"}
