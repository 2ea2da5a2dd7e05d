"""Detached calls as programs see them: handles that outlive the program, and how to come back to one.

Rules: a handle is its call's id and little else, so that it can be kept anywhere; whatever it does goes through this
process's client, made at the first use. Nothing heavy is imported here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

from keepwarm.errors import OptionError, ResultExpired, TooManyCalls, UnknownCall
from keepwarm.resources import real_number
from keepwarm_wire.fields import FOREVER_US

if TYPE_CHECKING:
    from keepwarm.detached_client import DetachedClient, OutcomeFuture, SpawnFuture, Terms
    from keepwarm.function import IsolatedFunction
    from keepwarm.futures import Future
    from keepwarm_wire.messages import DetachedEntry

__all__ = ["CallStatus", "DetachedCall", "DetachedFunction", "attach"]

P = ParamSpec("P")
R = TypeVar("R")

KEY_MAX: Final = 512  # what the wire can carry
UNACCEPTED_MAX: Final = 4_000
"""How many calls ``spawn_map`` sends before it waits for the first of them to be accepted."""

_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class CallStatus:
    """What the cluster knows of a detached call.

    Attributes:
        id: 32 hexadecimal digits.
        function: ``module:qualname``.
        state: ``queued``, ``dispatched``, ``running``, or how it ended: ``succeeded``, ``failed``, ``cancelled``,
            ``timed out``, ``lost``, ``poisoned``.
        reason: what it waits for, or the kind of its failure.
        key: the key it was given, if any.
        label: the program that made it.
        namespace: whose it is.
        node: where it runs or ran last.
        attempts: how often it was sent to a node.
        age_s: seconds since it was accepted.
        ended_s: seconds since it ended; None while it is unfinished.
        left_s: seconds until its outcome expires; None while it is unfinished.
        result_bytes: the size of its pickled result.
    """

    id: str
    function: str
    state: str
    reason: str
    key: str
    label: str
    namespace: str
    node: str
    attempts: int
    age_s: float
    ended_s: float | None
    left_s: float | None
    result_bytes: int

    @property
    def is_done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.ended_s is not None


class DetachedCall(Generic[R]):
    """A call that goes on without this program. Made by ``spawn``, or by ``attach`` from its id.

    Equal handles are of the same call. A handle can be pickled: it becomes the call's id, to be used by any program of
    the same namespace.

    >>> call = train.spawn("s3://bucket/data")
    >>> call.id
    '8f14e45fceea167a5a36dedd4bea2543'
    >>> call.result(timeout=60)
    """

    __slots__ = ("_function", "_future", "_id", "was_known")

    def __init__(self, call_id: bytes, function: str = "", *, was_known: bool = False) -> None:
        self._id = call_id
        self._function = function
        self._future: OutcomeFuture | None = None
        self.was_known = was_known
        """Whether ``spawn`` found an earlier call with the same key, and this is that one."""

    @property
    def id(self) -> str:
        """The call's id: 32 hexadecimal digits, for ``attach`` and ``keepwarm calls``."""
        return self._id.hex()

    def result(self, timeout: float | None = None) -> R:
        """Wait up to ``timeout`` seconds (None: without limit) for the result; raise what the call failed with.

        Raises TimeoutError when the time is over, ResultExpired when the outcome is no longer kept, UnknownCall, and
        ClusterUnreachable; after that last one it can be asked again. Ctrl-C stops waiting; the call goes on.
        """
        result: R = self.future().result(timeout)
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as ``result`` does and return what it would raise, None if the call succeeded."""
        return self.future().exception(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to ``timeout`` seconds (None: without limit) for the call's end; whether it has ended.

        Raises UnknownCall and ClusterUnreachable.
        """
        future = self._followed()
        future.client.wait(future, timeout)
        if future.done() and (not future.is_final or isinstance(future._exception, UnknownCall)):
            future.result()
        return future.done()

    def done(self) -> bool:
        """Whether the call has ended, in whatever way. Asks the cluster. Raises UnknownCall, ClusterUnreachable."""
        future = self._future
        if future is not None and future.is_final and not isinstance(future._exception, UnknownCall):
            return True
        try:
            return self.status().is_done
        except ResultExpired:
            return True

    def status(self) -> CallStatus:
        """Ask the cluster about the call. Raises UnknownCall, ResultExpired and ClusterUnreachable."""
        return status_of(_client().show(self._id))

    def cancel(self) -> bool:
        """Stop the call, also while it runs. False if it had ended in another way.

        When this returns, the wish is on disk: no new attempt begins. Raises UnknownCall and ClusterUnreachable.
        """
        try:
            return _client().cancel(self._id) in ("stopping", "cancelled")
        except ResultExpired:
            return False

    def forget(self) -> bool:
        """Drop the call's outcome before its time. False if the call is unfinished: then nothing happens.

        Raises UnknownCall and ClusterUnreachable.
        """
        return _client().forget(self._id)

    def future(self) -> Future[R]:
        """The outcome as a Future: for ``concurrent.futures.wait`` and ``as_completed``, callbacks, and ``await``.

        Cancelling it only stops this program's waiting; ``cancel`` of this handle stops the call.
        """
        return self._followed()

    def _followed(self) -> OutcomeFuture:
        future = self._future
        client = _client()
        if future is None or not future.belongs_to(client) or (future.done() and not future.is_final):
            future = self._future = client.future(self._id, self._function)
        return future

    def __await__(self) -> Generator[Any, None, R]:
        return self.future().__await__()

    def __repr__(self) -> str:
        name = f" of {self._function}" if self._function else ""
        return f"<DetachedCall {self.id}{name}>"

    def __eq__(self, other: object) -> bool:
        return self._id == other._id if isinstance(other, DetachedCall) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._id)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return attach, (self.id,)


def attach(call_id: str) -> DetachedCall[Any]:
    """A handle for a detached call, by its id, from any program of the namespace, after any restart.

    Nothing is asked of the cluster before the handle is used. Raises UnknownCall for what cannot be an id.

    >>> keepwarm.attach("8f14e45fceea167a5a36dedd4bea2543").result()
    """
    return DetachedCall(parse_id(call_id))


def parse_id(text: object) -> bytes:
    """The 16 bytes of an id as people write it. Raises UnknownCall."""
    digits = text.strip().lower().replace("-", "") if isinstance(text, str) else ""
    if not _ID.fullmatch(digits):
        raise UnknownCall(f"{text!r} is no id of a detached call: those are 32 hexadecimal digits")
    return bytes.fromhex(digits)


class DetachedFunction(Generic[P, R]):
    """A function whose calls are made detached, on these terms; see ``IsolatedFunction.detached``."""

    __slots__ = ("_function", "_key", "_ttl_us")

    def __init__(self, function: IsolatedFunction[P, R], key: object, result_ttl: object) -> None:
        if key is not None and (not isinstance(key, str) or not 0 < len(key) <= KEY_MAX):
            raise OptionError(f"key={key!r}: this is text of 1 to {KEY_MAX} characters")
        seconds = None if result_ttl is None else real_number(result_ttl)
        if result_ttl is not None and (seconds is None or not seconds > 0):
            raise OptionError(
                f"result_ttl={result_ttl!r}: allowed are seconds above zero, or None for the cluster's own"
            )
        self._function = function
        self._key: str | None = key
        self._ttl_us = 0 if seconds is None else max(1, round(min(seconds * 1e6, FOREVER_US - 1)))

    def spawn(self, /, *args: P.args, **kwargs: P.kwargs) -> DetachedCall[R]:
        """As ``IsolatedFunction.spawn``. With a key, the call that already has it is returned.

        Raises KeyConflict if that is another call.
        """
        client, function = _client(), self._function
        future = client.start(function, function._dumps(args, kwargs), self._terms(), wait_follows=True)
        return _handle(client.accepted(future), future, function)

    def spawn_map(self, *iterables: Iterable[Any]) -> list[DetachedCall[R]]:
        """As ``IsolatedFunction.spawn_map``. With a key, the n-th call has the key ``KEY/n``, counted from 0."""
        if not iterables:
            raise TypeError("spawn_map() needs at least one iterable")
        client, function = _client(), self._function
        pending: deque[SpawnFuture] = deque()
        calls: list[DetachedCall[R]] = []
        try:
            for number, row in enumerate(zip(*iterables, strict=False)):
                arguments, terms = function._dumps(row, {}), self._terms(number)
                while (future := _started(client, function, arguments, terms, is_last=not pending)) is None:
                    _collect(client, function, pending, calls, len(pending) - 1)
                pending.append(future)
                if len(pending) == UNACCEPTED_MAX:
                    _collect(client, function, pending, calls, UNACCEPTED_MAX // 2)
            _collect(client, function, pending, calls, 0)
        finally:
            for future in pending:
                client.withdraw(future)
        return calls

    def _terms(self, number: int | None = None) -> Terms:
        from keepwarm.detached_client import Terms

        if self._key is None:
            return Terms("", self._ttl_us)
        key = self._key if number is None else f"{self._key}/{number}"
        if len(key) > KEY_MAX:
            raise OptionError(f"key={key[:80]!r}...: a key is at most {KEY_MAX} characters")
        return Terms(key, self._ttl_us)

    def __repr__(self) -> str:
        key = f" with key {self._key!r}" if self._key is not None else ""
        return f"<detached {self._function.name}{key}>"


def status_of(entry: DetachedEntry) -> CallStatus:
    """What the wire says of a call, for people."""
    return CallStatus(
        id=entry.call_id.hex(),
        function=entry.function,
        state=entry.state,
        reason=entry.reason,
        key=entry.key,
        label=entry.label,
        namespace=entry.namespace,
        node=entry.node,
        attempts=entry.attempts,
        age_s=entry.age_us / 1e6,
        ended_s=_known_s(entry.ended_us),
        left_s=_known_s(entry.left_us),
        result_bytes=entry.result_bytes,
    )


def _known_s(duration_us: int) -> float | None:
    return None if duration_us >= FOREVER_US else duration_us / 1e6


def _started(
    client: DetachedClient, function: IsolatedFunction[Any, Any], arguments: bytes, terms: Terms, *, is_last: bool
) -> SpawnFuture | None:
    """Send a call; None where there is no room before another one is accepted, if there is another one."""
    try:
        return client.start(function, arguments, terms)
    except TooManyCalls:
        if is_last:
            raise
        return None


def _collect(
    client: DetachedClient,
    function: IsolatedFunction[Any, R],
    pending: deque[SpawnFuture],
    calls: list[DetachedCall[R]],
    left: int,
) -> None:
    """Wait for acceptances until no more than ``left`` are pending. One that fails is taken out and raised."""
    while len(pending) > left:
        future = pending[0]
        client.await_acceptance(future)
        pending.popleft()
        calls.append(_handle(future.result(), future, function))


def _handle(accepted_id: bytes, future: SpawnFuture, function: IsolatedFunction[Any, R]) -> DetachedCall[R]:
    return DetachedCall(accepted_id, function.name, was_known=accepted_id != future.spawn.call_id)


def _client() -> DetachedClient:
    from keepwarm.client import get_client

    return get_client().detached
