"""The network client of this process: takes calls from any thread, and finishes their futures.

Exactly one thread at a time owns the *turn*: only it touches the socket and delivers outcomes. It is the I/O thread, or
a caller that waits for a result, which takes the turn and gives it back, so that a blocking call costs no switch of
threads. Rules: the lock guards the session and who owns the turn, and is never held while anything blocks, prints or
runs foreign code. A garbage collection or a signal handler that falls into a change under the lock changes nothing in
the middle of it: a cancellation is noted for the next turn, all else is refused. With nothing unanswered the I/O thread
is parked until the next beat. After a fork the child starts with a client of its own and never touches its parent's
socket.
"""

import atexit
import contextlib
import hashlib
import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from keepwarm import local
from keepwarm.call_future import CallFuture, explanation_of_unsent
from keepwarm.connection import Connection, Patience
from keepwarm.declaring import Declarations, Declared
from keepwarm.delivering import Deliverer
from keepwarm.detached_client import DetachedClient
from keepwarm.early_ends import sentence
from keepwarm.errors import CallCancelled, ClusterUnreachable, TooManyCalls
from keepwarm.explanation import Explanation, explanation_of
from keepwarm.function import IsolatedFunction
from keepwarm.futures import Future
from keepwarm.interruptions import Fall, interruption
from keepwarm.loan_timing import GLANCE_NS
from keepwarm.session import HELD_BYTES_MAX, HELD_CALLS_MAX, Session
from keepwarm.session_calls import Call, Function
from keepwarm.session_deliveries import Completion
from keepwarm.waking import DeferredInterrupt, Sleeper, Wakeup
from keepwarm_wire.fields import INLINE_BYTES_MAX

__all__ = ["Client", "get_client"]

SECOND_NS = 1_000_000_000
GLANCE_S = 0.05
"""How soon the I/O thread looks again while a caller owns the turn: calls in a row need not wake it. Without loans."""

CLOSE_WAIT_S = 2.0
EXPLAIN_AGAIN_S = 1.0
_LOG = logging.getLogger("keepwarm")
T = TypeVar("T")


class Client:
    """A client of one cluster; programs use the one of ``get_client``.

    ``address`` is ``ipc://...``, or ``None`` for the local cluster, which is started when the first call needs it.
    """

    def __init__(self, address: str | None = None, patience: Patience | None = None) -> None:
        patience = patience or Patience.from_environment()
        self._process_id = os.getpid()
        self._lock = threading.RLock()
        self._is_amid: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]  # as Condition uses it
        """Whether this very thread is in the middle of a change: then this is a finalizer, or a signal handler."""
        self._wakeup = Wakeup()
        self._connection = Connection(address, patience, self._lock, self._wakeup)
        self._deliverer = Deliverer(self)
        self._progress = self._deliverer.progress
        self._declarations = Declarations()
        self._owner: int | None = None
        self._depth = 0
        self._owner_is_io = False
        self._sleepers: deque[Sleeper] = deque()
        self._late_cancels: deque[Future[Any]] = deque()
        self._io_call = threading.Condition(self._lock)
        self._io_thread: threading.Thread | None = None
        self._io_parked_until_ns: float = math.inf
        self._is_closing = False
        self.detached = DetachedClient(self)
        """What this client does about detached calls."""

    # ------------------------------------------------------------ for programs

    def submit(
        self, function: IsolatedFunction[Any, Any], arguments: bytes, *, wait_follows: bool = False
    ) -> Future[Any]:
        """Take a call and return its future at once. From any thread.

        With ``wait_follows`` the caller promises to ``wait`` for it next, and no other thread is woken for it.
        Raises ``FunctionNotSerializable`` and ``TooManyCalls``.
        """
        declared = self.declare(function)
        size = len(arguments)
        sha256 = hashlib.sha256(arguments).digest() if size > INLINE_BYTES_MAX else b""
        future = CallFuture(self, declared.description.name)
        with self._lock:
            session = self._room_for(size)
            future.session_id = session.session_id
            call = future.call = Call(self.known(declared), arguments, future, sha256, function.options.priority)
            session.submit(call)
            wake, start = self._rouse(wait_follows)
        if wake:
            self._wakeup.wake()
        elif start:
            self._start_io()
        return future

    def change(self, change: Callable[[Session], T], *, size: int | None = None, wait_follows: bool = False) -> T:
        """Tell the session what the program wants, and see that it is acted upon. ``change`` runs under the lock.

        What waits for an answer says its ``size`` in bytes. Raises ``TooManyCalls``, and ``ClusterUnreachable`` once
        the client is closed.
        """
        self._check()
        with self._lock:
            told = change(self._connection.session if size is None else self._room_for(size))
            wake, start = self._rouse(wait_follows)
        if wake:
            self._wakeup.wake()
        elif start:
            self._start_io()
        return told

    def _room_for(self, size: int) -> Session:
        """Under the lock: the session, if it has room for one more call of this size."""
        session = self._connection.session
        if not session.has_room(size):
            raise TooManyCalls(
                f"this program holds {session.waiting} unanswered calls with {session.held_bytes} bytes of "
                f"arguments; at most {HELD_CALLS_MAX} and {HELD_BYTES_MAX} are held"
            )
        return session

    def wait(self, future: Future[Any], timeout: float | None = None) -> None:
        """Return when the future is done or ``timeout`` seconds are over. Ctrl-C interrupts it; the call goes on."""
        if future.done():
            return
        self._check()
        end_s = math.inf if timeout is None else time.monotonic() + timeout
        depth = self._depth if self._owner == threading.get_ident() else 0
        interrupt = DeferredInterrupt(self._wakeup.wake)
        try:
            with interrupt:
                while not future.done():
                    interrupt.check()
                    if self._own(future, end_s, interrupt):
                        self._drive(future, end_s, interrupt)
                        self._disown()
                    if time.monotonic() >= end_s:
                        return
        except BaseException:
            interrupt.restore()
            self._give_back(depth)
            raise

    def cancel(self, future: Future[Any]) -> bool:
        """Ask for a call's end, whether it runs or not; False when it has ended already."""
        if self._is_amid():
            self._late_cancels.append(future)  # whoever takes the next turn does it
            return not future.done()
        self._check()
        if future.done() or not isinstance(future, CallFuture):
            return False
        call = future.call

        def cancel(session: Session) -> tuple[bool, list[Completion]]:
            possible = session.cancel(time.monotonic_ns(), call)
            ended_here = [end for end in session.deliveries if isinstance(end, Completion) and end.call is call]
            for completion in ended_here:
                session.deliveries.remove(completion)
            return possible, ended_here

        possible, ended_here = self.change(cancel)
        for completion in ended_here:
            self._deliverer.complete(completion)
        return possible

    def explain(self, future: CallFuture, timeout: float) -> Explanation:
        """Ask the scheduler about a call; again each second, for answers get lost. As ``Future.explain``."""
        end_s = time.monotonic() + timeout
        answer: Future[bytes] = Future(self, "an explanation")
        while not answer.done():
            self._check()
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                where = self._connection.where()
                raise ClusterUnreachable(f"the scheduler at {where} did not explain {future!r} within {timeout:g} s")
            with self._lock:
                session = self._connection.session
                if not future.call.number:
                    return explanation_of_unsent(future.call, future.call_id)
                if session.session_id != future.session_id:
                    raise ClusterUnreachable(f"the cluster that had {future!r} was given up; nothing is known of it")
                number = session.explain(future.call, answer)
                wake, _ = self._rouse(wait_follows=True)
            if wake:
                self._wakeup.wake()
            self.wait(answer, min(left_s, EXPLAIN_AGAIN_S))
            with self._lock:
                session.explaining.answer(number)
                broken = session.explaining.broken_before(future.call)
        return explanation_of(answer.result(), "" if broken is None else sentence(broken))

    def close(self) -> int:
        """End the session and close the connection: unanswered calls are cancelled. Returns how many there were."""
        if os.getpid() != self._process_id or self._is_closing:
            return 0
        self._check()
        with self._lock:
            self._is_closing = True
            self._io_call.notify()
        self._wakeup.wake()
        with DeferredInterrupt(self._wakeup.wake) as interrupt:
            owns = self._own(Future(), time.monotonic() + CLOSE_WAIT_S, interrupt)
            calls = [call.owner for call in self._connection.session.unanswered()]
            waiting = self._connection.session.detached.owners()
            if owns:
                self._connection.close("exit")
                self._deliver()
                self._deliverer.close()
                self._wakeup.close()
        for future in calls:
            if isinstance(future, Future) and future._fail(CallCancelled("the client was closed")):
                self.wake_sleepers(future)
        for owner in waiting:
            self.detached.drop(owner, ClusterUnreachable("the client was closed; detached calls that it made go on"))
        return len(calls)

    # ------------------------------------------------------------ functions

    def declare(self, function: IsolatedFunction[Any, Any]) -> Declared:
        """What this client keeps of a function, pickled now if it was not yet. Raises ``FunctionNotSerializable``."""
        self._check()
        return self._declarations.of(function)

    def known(self, declared: Declared) -> Function:
        """The session's own record of a function. Under the lock."""
        return self._declarations.known(declared, self._connection.session, self._connection.generation)

    def where(self) -> str:
        """The address, for people."""
        return self._connection.where()

    @property
    def session_id(self) -> bytes:
        """Of the session with the cluster."""
        return self._connection.session.session_id

    def _check(self) -> None:
        if os.getpid() != self._process_id:
            raise ClusterUnreachable("this future belongs to the process that forked this one. Wait for it there.")
        if self._is_closing:
            raise ClusterUnreachable("the client is closed: this program is ending. Make calls before that.")
        if self._is_amid():
            raise RuntimeError(
                "reentrant call: a signal handler has interrupted another call of this client in the middle of a "
                "change. Let the handler only take a note, and make the call outside of it."
            )

    # ------------------------------------------------------------ the turn

    def _rouse(self, wait_follows: bool) -> tuple[bool, bool]:
        """Under the lock, after a change: is the owner to be woken, or the I/O thread to be started?"""
        if self._owner is not None:
            wake = not self._connection.roused and self._owner != threading.get_ident()
            self._connection.roused = True
            return wake, False
        return False, not wait_follows and self._call_io(0)

    def _call_io(self, deadline_ns: int) -> bool:
        """Under the lock: have the I/O thread look by then, or a glance later. True when it must be started first."""
        if self._io_thread is None:
            return True
        if deadline_ns + GLANCE_NS < self._io_parked_until_ns:
            self._io_parked_until_ns = 0
            self._io_call.notify()
        return False

    def _own(self, future: Future[Any], end_s: float, interrupt: DeferredInterrupt) -> bool:
        """Get the turn, or wait until the future is done or the time is over. True with the turn."""
        me = threading.get_ident()
        with self._lock:
            if self._owner is None or self._owner == me:
                self._owner = me
                self._depth += 1
                return True
            sleeper = interrupt.sleeper = Sleeper(future, me)
            self._sleepers.append(sleeper)
            if future.done():  # asked only now: who ends it looks for sleepers only afterwards, without the lock
                self._sleepers.pop()
                interrupt.sleeper = None
                return False
            wake = (self._owner_is_io or self._is_closing) and not self._connection.roused
            self._connection.roused |= wake
        try:
            if wake:
                self._wakeup.wake()
            sleeper.sleep(None if end_s == math.inf else max(0.0, end_s - time.monotonic()))
        except BaseException:  # of a signal handler: this thread waits no more, and is not to be given the turn
            self._leave(sleeper, interrupt)
            raise
        return self._leave(sleeper, interrupt)

    def _leave(self, sleeper: Sleeper, interrupt: DeferredInterrupt) -> bool:
        """Wait in line no more. True when the turn was given to this thread."""
        interrupt.sleeper = None
        with self._lock:
            if not sleeper.given and sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
            return sleeper.given

    def _disown(self) -> None:
        """Hand the turn to a caller that waits, else to the I/O thread if anything is left to do."""
        with self._lock:
            self._depth -= 1
            if self._depth:
                return
            self._owner, self._owner_is_io = None, False
            start = self._hand_on()
        if start:
            self._start_io()

    def _give_back(self, depth: int) -> None:
        """After an exception, which may have fallen anywhere: have the turn no deeper than that."""
        with self._lock:
            if self._owner == threading.get_ident() and self._depth > depth:
                self._depth = depth
                if not depth:
                    self._owner, self._owner_is_io = None, False
            start = self._owner is None and self._hand_on()
        if start:
            self._start_io()

    def _hand_on(self) -> bool:
        """Under the lock, without an owner: find the next one. True when the I/O thread must be started for it."""
        while self._sleepers:
            sleeper = self._sleepers.popleft()
            if not sleeper.future.done():
                self._owner, self._depth, sleeper.given = sleeper.thread_id, 1, True
                sleeper.wake()
                return False
            sleeper.wake()
        deadline_ns = self._housekeeping_ns()
        return deadline_ns is not None and self._call_io(deadline_ns)

    def _housekeeping_ns(self) -> int | None:
        """Under the lock: when somebody must take a turn; 0 for at once, ``None`` for never."""
        connection = self._connection
        if connection.session.waiting or connection.deliveries or connection.session.deliveries:
            return 0
        if not connection.session.is_open or (due_ns := connection.session.next_deadline()) is None:
            return None
        return min(due_ns, connection.session.loans.look_ns or due_ns)

    def _drive(self, future: Future[Any], end_s: float, interrupt: DeferredInterrupt) -> None:
        while not future.done():
            remaining_s = None if end_s == math.inf else max(0.0, end_s - time.monotonic())
            self._take_turn(remaining_s)
            interrupt.check()
            if self._is_closing or (remaining_s is not None and time.monotonic() >= end_s):
                return

    def _take_turn(self, timeout_s: float | None) -> None:
        due_ns = self._progress.next_deadline()
        if due_ns is not None:
            due_s = max(0, due_ns - time.monotonic_ns()) / SECOND_NS
            timeout_s = due_s if timeout_s is None else min(timeout_s, due_s)
        try:
            if self._late_cancels:
                self._cancel_late()
            self._connection.turn(timeout_s)
        except BaseException as error:  # also of a second Ctrl-C
            fall = interruption(error)
            if fall is not Fall.INTO_A_WAIT:  # the session may be half changed
                self._fail_all(error)
            if fall is not Fall.NOT_OF_A_HANDLER or not isinstance(error, Exception):
                raise
        self._deliver()
        if due_ns is not None:
            self._progress.tick(time.monotonic_ns())

    def _cancel_late(self) -> None:
        with contextlib.suppress(ClusterUnreachable):  # the client is being closed, which cancels them all
            while self._late_cancels:
                self.cancel(self._late_cancels.popleft())

    def _fail_all(self, error: BaseException) -> None:
        _LOG.exception("the connection failed; every unanswered call fails with it")
        self._connection.fail_internally(error)
        self._deliver()

    def _deliver(self) -> None:
        self._deliverer.deliver(self._connection.deliveries)

    # ------------------------------------------------------------ the I/O thread

    def _start_io(self) -> None:
        with self._lock:
            if self._io_thread is not None or self._is_closing:
                return
            thread = self._io_thread = threading.Thread(target=self._run_io, name="keepwarm-io", daemon=True)
        thread.start()

    def _run_io(self) -> None:
        while self._await_io_turn():
            try:
                self._connection.collect()
                self._deliver()
                while self._io_goes_on():
                    self._take_turn(0 if self._only_looks() else None)
            except Exception as error:
                _LOG.exception("the I/O thread failed; every unanswered call fails with it")
                self._connection.fail_internally(error)
            finally:
                self._disown()

    def _await_io_turn(self) -> bool:
        """Park until there is something to do and nobody else does it. False when the client closes."""
        with self._lock:
            while not self._is_closing:
                now_ns = time.monotonic_ns()
                looks_ns = GLANCE_NS if self._connection.session.loans.look_ns else GLANCE_S * SECOND_NS
                deadline_ns: float | None = now_ns + looks_ns
                if self._owner is None:
                    deadline_ns = self._housekeeping_ns()
                    if deadline_ns is not None and deadline_ns <= now_ns:
                        self._owner, self._depth, self._owner_is_io = threading.get_ident(), 1, True
                        return True
                self._io_parked_until_ns = math.inf if deadline_ns is None else deadline_ns
                self._io_call.wait(None if deadline_ns is None else (deadline_ns - now_ns) / SECOND_NS)
            return False

    def _io_goes_on(self) -> bool:
        with self._lock:
            if self._sleepers or self._is_closing:
                return False
            deadline_ns = self._housekeeping_ns()
            return deadline_ns is not None and deadline_ns <= time.monotonic_ns()

    def _only_looks(self) -> bool:
        """Whether the turn is only to see whether a loan is wanted back: a caller that comes is not to wait for it."""
        session = self._connection.session
        with self._lock:
            return session.loans.look_ns is not None and not session.waiting and session.next_deadline() != 0

    def wake_sleepers(self, future: Future[Any]) -> None:
        """The future is done: whoever sleeps for it is to look."""
        if not self._sleepers:
            return  # who adds itself looks at the future afterwards
        with self._lock:
            for sleeper in self._sleepers:
                if sleeper.future is future:
                    sleeper.wake()


# ---------------------------------------------------------------- the client of this process

_client: Client | None = None
_client_lock = threading.Lock()
_of_parents: list[Client] = []
"""Clients made before a fork: kept, so that nothing here ever closes a socket that the parent still uses."""


def get_client() -> Client:
    """The client of this process, made at the first use: of ``KEEPWARM_ADDRESS``, else of the local cluster."""
    global _client
    client = _client
    if client is not None:
        return client
    with _client_lock:
        if _client is None:
            _client = Client(local.address_from_environment())
            atexit.register(_close_at_exit)
        return _client


def _close_at_exit() -> None:
    client = _client
    if client is None:
        return
    unfinished = client.close()
    if unfinished:
        calls = "1 call was" if unfinished == 1 else f"{unfinished} calls were"
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"keepwarm: {calls} unfinished when the program ended, and cancelled\n")


def _forget_in_child() -> None:
    global _client, _client_lock
    _client_lock = threading.Lock()
    if _client is not None:
        _of_parents.append(_client)
        _client = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
