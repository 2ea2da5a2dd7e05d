"""What the client does about detached calls: has them accepted, awaits their outcomes, asks about them.

Rules: the session repeats what is unanswered, so nothing here does; an answer ends exactly one future. A future of an
outcome is a view of the call: cancelling the future stops waiting and nothing else. A wait that ends without an outcome
(an unreachable cluster) ends that future, and the next one asks again.
"""

import hashlib
import itertools
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keepwarm.errors import (
    CallCancelled,
    ClusterUnreachable,
    InternalError,
    KeepwarmError,
    KeyConflict,
    PayloadRefused,
    ResultExpired,
    SchedulerRefused,
    UnknownCall,
)
from keepwarm.failures import error_of
from keepwarm.function import IsolatedFunction
from keepwarm.futures import Future
from keepwarm.pickling import loads_result
from keepwarm.session import Session
from keepwarm.session_detached import Spawn, Told
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import INLINE_BYTES_MAX

if TYPE_CHECKING:
    from keepwarm.client import Client

__all__ = ["ANSWER_S", "DetachedClient", "OutcomeFuture", "SpawnFuture", "Terms"]

ANSWER_S: Final = 10.0
"""How long a question about a call waits for its answer."""

_REFUSALS: Final[dict[str, type[KeepwarmError]]] = {
    "key_conflict": KeyConflict,
    "id_conflict": InternalError,
    "payload_lost": PayloadRefused,
    "unknown": UnknownCall,
    "expired": ResultExpired,
}
"""The errors for the codes of ``DetachedRefused``; any other is a ``SchedulerRefused``: there is no room now."""


class Terms(NamedTuple):
    """What is said of one detached call beside its function: its key, and how long its outcome is kept."""

    key: str = ""
    result_ttl_us: int = 0


class SpawnFuture(Future[bytes]):
    """Ends with the id of the accepted call, which is an earlier one's if that has the same key."""

    __slots__ = ("spawn",)

    spawn: Spawn


class OutcomeFuture(Future[Any]):
    """The outcome of a detached call, as awaited by this program."""

    __slots__ = ("_id", "client", "function", "is_final")

    def __init__(self, client: "Client", call_id: bytes, function: str) -> None:
        super().__init__(client, function or f"detached call {call_id.hex()}")
        self._id = call_id
        self.client = client
        self.function = function
        """Its name, where this program knows it."""
        self.is_final = False
        """Whether what it ended with is what became of the call; another future would end the same way."""

    @property
    def call_id(self) -> str:
        """The detached call's id."""
        return self._id.hex()

    def belongs_to(self, detached: "DetachedClient") -> bool:
        """Whether this client awaits it; not so after a fork."""
        return self.client.detached is detached

    def cancel(self) -> bool:
        """Stop waiting for the outcome. The call goes on: ``DetachedCall.cancel`` stops it."""
        if self.done():
            return self.cancelled()
        call_id = self._id
        self.client.change(lambda session: session.detached.unfollow(time.monotonic_ns(), call_id, self))
        ended = self._fail(CallCancelled("this program no longer waits for the detached call, which goes on"))
        self.client.wake_sleepers(self)
        return ended or self.cancelled()


class DetachedClient:
    """The detached calls of one client. Every method may be called from any thread."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._requests = itertools.count(1)

    # ------------------------------------------------------------ starting calls

    def start(
        self, function: IsolatedFunction[Any, Any], arguments: bytes, terms: Terms, *, wait_follows: bool = False
    ) -> SpawnFuture:
        """Send a call and return the future of its acceptance. Raises ``FunctionNotSerializable``, ``TooManyCalls``."""
        client = self._client
        declared = client.declare(function)
        sha256 = hashlib.sha256(arguments).digest() if len(arguments) > INLINE_BYTES_MAX else b""
        future = SpawnFuture(client, f"the acceptance of {declared.description.name}")
        call_id, priority = secrets.token_bytes(16), function.options.priority

        def spawn(session: Session) -> None:
            future.spawn = Spawn(
                call_id,
                client.known(declared),
                arguments,
                future,
                key=terms.key,
                result_ttl_us=terms.result_ttl_us,
                priority=priority,
                sha256=sha256,
            )
            session.detached.spawning.spawn(future.spawn)

        client.change(spawn, size=len(arguments), wait_follows=wait_follows)
        return future

    def accepted(self, future: SpawnFuture) -> bytes:
        """Wait until a call is accepted; its id. Raises what refuses it. Ctrl-C stops the call, if it came to be."""
        try:
            self.await_acceptance(future)
        except KeyboardInterrupt:
            self.withdraw(future)
            raise
        return future.result()

    def await_acceptance(self, future: SpawnFuture) -> None:
        """Wait until a call is accepted or refused."""
        self._client.wait(future, None)

    def withdraw(self, future: SpawnFuture) -> None:
        """Nobody wants this call any more: it is not sent, or stopped. One that had its key before goes on."""
        spawn = future.spawn
        call_id = spawn.call_id
        stop = future.done() and future.exception() is None and future.result() == call_id

        def withdraw(session: Session) -> None:
            if stop:
                session.detached.ask(("cancel", call_id), wire.CancelDetached(call_id), None)
            else:
                session.detached.withdraw(time.monotonic_ns(), spawn)

        self._client.change(withdraw)

    # ------------------------------------------------------------ awaiting and asking

    def future(self, call_id: bytes, function: str = "") -> OutcomeFuture:
        """Await a call's outcome. Raises ``TooManyCalls``."""
        future = OutcomeFuture(self._client, call_id, function)
        self._client.change(lambda session: session.detached.follow(call_id, future), size=0)
        return future

    def show(self, call_id: bytes) -> wire.DetachedEntry:
        """What is known of a call. Raises ``UnknownCall``, ``ResultExpired`` and ``ClusterUnreachable``."""
        answer = self._ask(("show", call_id), wire.ShowDetached(next(self._requests), call_id))
        assert isinstance(answer, wire.DetachedShown)
        return answer.entry

    def cancel(self, call_id: bytes) -> str:
        """Stop a call; *stopping*, or the status in which it had ended. Raises as ``show`` does."""
        answer = self._ask(("cancel", call_id), wire.CancelDetached(call_id))
        assert isinstance(answer, wire.DetachedCancelled)
        return answer.state

    def forget(self, call_id: bytes) -> bool:
        """Drop a call's outcome. False if the call is unfinished. Raises ``UnknownCall``, ``ClusterUnreachable``."""
        answer = self._ask(("forget", call_id), wire.ForgetDetached((call_id,)))
        assert isinstance(answer, wire.DetachedForgotten)
        if call_id in answer.call_ids:
            return True
        try:
            self.show(call_id)
        except ResultExpired:
            return True
        return False

    def page(
        self, *, after: bytes = b"", state: str = "", namespace: str = "", limit: int = 0
    ) -> tuple[tuple[wire.DetachedEntry, ...], bool]:
        """A page of calls, the newest first, and whether it is the last. Raises ``ClusterUnreachable``."""
        number = next(self._requests)
        answer = self._ask(("list", number), wire.ListDetached(number, after, state, namespace, limit))
        assert isinstance(answer, wire.DetachedListed)
        return answer.entries, answer.is_last

    def _ask(self, key: tuple[object, ...], question: wire.Message) -> wire.Message:
        client = self._client
        answer: Future[Any] = Future(client, "an answer about a detached call")
        client.change(lambda session: session.detached.ask(key, question, answer), size=0, wait_follows=True)
        try:
            client.wait(answer, ANSWER_S)
        finally:
            if not answer.done():
                client.change(lambda session: session.detached.drop_question(key, answer), wait_follows=True)
        if not answer.done():
            raise ClusterUnreachable(f"the scheduler at {client.where()} did not answer within {ANSWER_S:g} s")
        told = answer.result()
        if isinstance(told, wire.DetachedRefused):
            raise refusal_of(told)
        return told

    # ------------------------------------------------------------ what comes of it, from the thread that has the turn

    def deliver(self, told: Told) -> None:
        """An answer of the scheduler."""
        future, message = told.owner, told.message
        if isinstance(future, OutcomeFuture):
            self._end(future, message, told.result)
        elif not isinstance(future, SpawnFuture):
            assert isinstance(future, Future)
            future._finish(lambda: message)
        elif isinstance(message, wire.DetachedAccepted):
            future._finish(lambda: message.accepted_id)
        elif isinstance(message, wire.DetachedRefused):
            future._fail(refusal_of(message))
        else:
            assert isinstance(message, wire.PayloadRefused)
            future._fail(PayloadRefused(message.failure.message, detail=message.failure.detail))
        self._client.wake_sleepers(future)

    def drop(self, owner: object, error: KeepwarmError) -> None:
        """There will be no answer over this connection."""
        assert isinstance(owner, Future)
        owner._fail(error)
        self._client.wake_sleepers(owner)

    @staticmethod
    def _end(future: OutcomeFuture, message: wire.Message, result: bytes | None) -> None:
        future.is_final = True
        if isinstance(message, wire.DetachedRefused):
            future._fail(refusal_of(message))
            return
        assert isinstance(message, wire.DetachedOutcome)
        if result is None:
            future._fail(error_of(message, future.function, future.call_id), message.report)
        else:
            future._finish(_decoding(result), message.report)


def refusal_of(message: wire.DetachedRefused) -> KeepwarmError:
    """The error for what the scheduler will not do."""
    call_id = message.call_id.hex()
    kind = _REFUSALS.get(message.code)
    if kind is None:
        return SchedulerRefused(f"the scheduler does not accept the call: {message.reason}")
    if kind in (UnknownCall, ResultExpired):
        return kind(f"detached call {call_id}: {message.reason}")
    return kind(f"the scheduler does not accept the call: {message.reason}")


def _decoding(result: bytes) -> Callable[[], Any]:
    return lambda: loads_result(result)
