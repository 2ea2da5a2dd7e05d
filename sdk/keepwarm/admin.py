"""Questions and orders of an operator to a running scheduler: status, keys, why a call ran where it did, its end.

One question at a time, each with a deadline. Rules: nothing is started here, and a cluster that does not answer is an
error that says so, never a silence.
"""

import json
import time
from types import TracebackType
from typing import Any, TypeVar

from keepwarm import logins
from keepwarm.connection import not_let_in
from keepwarm.enrolment import new_key_pair
from keepwarm.errors import ClusterUnreachable, InternalError, ProtocolMismatch, SchedulerRefused
from keepwarm.transport import Transport
from keepwarm.waking import Wakeup
from keepwarm_wire.credentials import Token
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    AdminHello,
    BackUp,
    BackUpDone,
    BackUpRefused,
    CordonNode,
    ExplainReply,
    ExplainRequest,
    Goodbye,
    KeyEntry,
    KeyRefused,
    KeyRevoked,
    KeyRotated,
    KeysListed,
    ListKeys,
    Message,
    NewToken,
    NodeChanged,
    NodeRefused,
    Refused,
    RevokeKey,
    RotateKey,
    ShowNode,
    StatusReply,
    StatusRequest,
    StopCluster,
    StopRefused,
    TokenMade,
    Welcome,
)
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE

__all__ = ["AdminClient"]

REPEAT_S = 1.0
_NAME_MAX = 512

_Answer = TypeVar("_Answer")


class AdminClient:
    """A connection for one operator's command; use it in a ``with`` block.

    ``timeout_s`` bounds every question (default 5). Raises ``ClusterUnreachable`` for an address that cannot be used.

    >>> with AdminClient("ipc:///run/user/1000/keepwarm/scheduler.sock") as admin:
    ...     print(admin.status()["nodes"])
    """

    def __init__(self, address: str, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self._wakeup = Wakeup()
        addresses = logins.parse(address)
        self._transport = Transport(addresses[0], self._wakeup, logins.key_for(addresses))
        self._is_welcome = False

    def status(self) -> dict[str, Any]:
        """The scheduler's description of the cluster. Raises ``ClusterUnreachable`` when it does not answer in time."""
        return _document("status", self._ask(StatusRequest(1), StatusReply).document)

    def explain(self, call: str) -> dict[str, Any]:
        """Why a call ran where it ran. ``call`` is its id, ``1f2e3d4c-17``, or as few of its first digits as tell it.

        A detached call has an id of 32 digits: all of them are needed.

        A document with ``error`` says why there is no answer. Raises ``ClusterUnreachable``.
        """
        return _document("explanation", self._ask(ExplainRequest(1, call[:_NAME_MAX]), ExplainReply).document)

    def stop(self, *, force: bool) -> int | None:
        """Stop the cluster. ``None`` when it stops; else how many unfinished calls kept it from stopping.

        With ``force`` it stops whatever it does, and unfinished calls are lost. Raises ``ClusterUnreachable``.
        """
        reply = self._ask(StopCluster(force), Goodbye, StopRefused)
        return reply.calls if isinstance(reply, StopRefused) else None

    def order_node(self, node: str, mode: str, *, max_wait_s: float = 0.0, stop: bool = False) -> NodeChanged:
        """Take a node out of use, or back; how it stands then.

        Args:
            node: its name.
            mode: ``cordon`` (nothing new comes to it), ``drain`` (its idle processes are ended besides), or
                ``uncordon`` (undoes both).
            max_wait_s: of a drain: leases that have an end are waited for so long, in seconds.
            stop: of a drain: the agent is to leave when nothing is left.

        Raises:
            SchedulerRefused: there is no such node.
            ClusterUnreachable: no answer came.

        Example:
            >>> admin.order_node("node-3", "drain", max_wait_s=600).state
            'draining'
        """
        wait_us = min(round(max_wait_s * 1e6), FOREVER_US) if max_wait_s < FOREVER_US / 1e6 else FOREVER_US
        return self._ask_about_node(CordonNode(1, node[:_NAME_MAX], mode, wait_us, stop))

    def node(self, node: str) -> NodeChanged:
        """How a node stands. Raises ``SchedulerRefused`` if there is none, ``ClusterUnreachable``."""
        return self._ask_about_node(ShowNode(1, node[:_NAME_MAX]))

    def _ask_about_node(self, question: Message) -> NodeChanged:
        reply = self._ask(question, NodeChanged, NodeRefused)
        if isinstance(reply, NodeRefused):
            raise SchedulerRefused(f"the scheduler at {self._transport.address} refuses: {reply.reason}")
        assert isinstance(reply, NodeChanged)
        return reply

    def new_token(
        self, role: str, *, namespace: str = "", name: str = "", uses: int = 1, lifetime_s: float = 3600.0
    ) -> tuple[Token, TokenMade]:
        """Make a join token; its secret is made here, and nowhere else. Raises ``SchedulerRefused``."""
        pair = new_key_pair()
        wanted = NewToken(1, pair.public, role, namespace, name, uses, round(lifetime_s * 1e6))
        made = self._ask_about_keys(wanted, TokenMade)
        key = self._transport.key
        assert key is not None, "the answer came over a connection with a key"
        return Token(made.role, key.server, pair.secret), made

    def keys(self) -> list[KeyEntry]:
        """Every key and token that the scheduler knows, in the order of their public keys."""
        entries: list[KeyEntry] = []
        while True:
            after = entries[-1].public_key if entries else b""
            page = self._ask_about_keys(ListKeys(1, after), KeysListed)
            entries += page.entries
            if page.is_last or not page.entries:
                return entries

    def revoke(self, key: str) -> KeyRevoked:
        """Let a key or token, by name or fingerprint, in no more. Raises ``SchedulerRefused``."""
        return self._ask_about_keys(RevokeKey(1, key[:_NAME_MAX]), KeyRevoked)

    def back_up(self, directory: str) -> BackUpDone:
        """Write a copy of the scheduler's state into a new directory on its machine. Raises ``SchedulerRefused``."""
        reply = self._ask(BackUp(1, directory[:_NAME_MAX]), BackUpDone, BackUpRefused)
        if isinstance(reply, BackUpRefused):
            raise SchedulerRefused(f"the scheduler at {self._transport.address} has made no backup: {reply.reason}")
        assert isinstance(reply, BackUpDone)
        return reply

    def rotate(self, new_public_key: bytes) -> None:
        """Put another key in the place of the one that this connection was made with. Raises ``SchedulerRefused``."""
        self._is_welcome = True  # every key may ask for this: an administrator's hello would be refused
        self._ask_about_keys(RotateKey(1, new_public_key), KeyRotated)

    def _ask_about_keys(self, question: Message, answer: type[_Answer]) -> _Answer:
        if self._transport.key is None:
            raise SchedulerRefused(
                f"the scheduler at {self._transport.address} has no keys: it serves its own user on its own machine. "
                "Stop it, run `keepwarm init`, and start it again."
            )
        reply = self._ask(question, answer, KeyRefused)
        if isinstance(reply, KeyRefused):
            raise SchedulerRefused(f"the scheduler at {self._transport.address} refuses: {reply.reason}")
        assert isinstance(reply, answer)
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._transport.close(linger_s=0.2)
        self._wakeup.close()

    def _ask(self, question: Message, *answers: type[Any]) -> Any:
        """Say hello until welcomed, ask, and return the first message of one of the types ``answers``."""
        end_s = time.monotonic() + self._timeout_s
        say_again_s = 0.0
        while (now_s := time.monotonic()) < end_s:
            if now_s >= say_again_s:
                say_again_s = now_s + REPEAT_S
                self._say(question)
            arrivals = self._transport.receive(min(end_s, say_again_s) - now_s)
            if arrivals.refusal:
                raise SchedulerRefused(not_let_in(self._transport.address, arrivals.refusal))
            if arrivals.lost:
                if self._is_welcome and isinstance(question, StopCluster):
                    return Goodbye("it closed the connection")
                self._is_welcome = False
            for message in arrivals.messages:
                if isinstance(message, answers):
                    return message
                if isinstance(message, Welcome) and not self._is_welcome:
                    self._is_welcome = True
                    self._transport.send([question])
                elif isinstance(message, Refused):
                    self._on_refused(message)
        raise ClusterUnreachable(
            f"the scheduler at {self._transport.address} did not answer within {self._timeout_s:g} s."
        )

    def _say(self, question: Message) -> None:
        if not self._transport.is_congested:
            hello = AdminHello(PROTOCOL_MIN, PROTOCOL_MAX, SOFTWARE)
            self._transport.send([question if self._is_welcome else hello])

    def _on_refused(self, message: Refused) -> None:
        if message.code == "hello_first":
            self._is_welcome = False
            return
        kind = ProtocolMismatch if message.code in ("protocol", "version") else SchedulerRefused
        raise kind(f"the scheduler at {self._transport.address} refuses this: {message.reason}")

    def __enter__(self) -> "AdminClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _document(what: str, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InternalError(f"the scheduler's {what} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InternalError(f"the scheduler's {what} is a {type(document).__name__}, not an object")
    return document
