"""Questions and orders of an operator to a running scheduler: its status, why a call ran where it did, and its end.

One question at a time, each with a deadline. Rules: nothing is started here, and a cluster that does not answer is an
error that says so, never a silence.
"""

import json
import time
from types import TracebackType
from typing import Any

from keepwarm.errors import ClusterUnreachable, InternalError, ProtocolMismatch, SchedulerRefused
from keepwarm.transport import Transport
from keepwarm.waking import Wakeup
from keepwarm_wire.messages import (
    AdminHello,
    ExplainReply,
    ExplainRequest,
    Goodbye,
    Message,
    Refused,
    StatusReply,
    StatusRequest,
    StopCluster,
    StopRefused,
    Welcome,
)
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE

__all__ = ["AdminClient"]

REPEAT_S = 1.0
_NAME_MAX = 512


class AdminClient:
    """A connection for one operator's command; use it in a ``with`` block.

    ``timeout_s`` bounds every question (default 5). Raises ``ClusterUnreachable`` for an address that cannot be used.

    >>> with AdminClient("ipc:///run/user/1000/keepwarm/scheduler.sock") as admin:
    ...     print(admin.status()["nodes"])
    """

    def __init__(self, address: str, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self._wakeup = Wakeup()
        self._transport = Transport(address, self._wakeup)
        self._is_welcome = False

    def status(self) -> dict[str, Any]:
        """The scheduler's description of the cluster. Raises ``ClusterUnreachable`` when it does not answer in time."""
        return _document("status", self._ask(StatusRequest(1), StatusReply).document)

    def explain(self, call: str) -> dict[str, Any]:
        """Why a call ran where it ran. ``call`` is its id, ``1f2e3d4c-17``, or as few of its first digits as tell it.

        A document with ``error`` says why there is no answer. Raises ``ClusterUnreachable``.
        """
        return _document("explanation", self._ask(ExplainRequest(1, call[:_NAME_MAX]), ExplainReply).document)

    def stop(self, *, force: bool) -> int | None:
        """Stop the cluster. ``None`` when it stops; else how many unfinished calls kept it from stopping.

        With ``force`` it stops whatever it does, and unfinished calls are lost. Raises ``ClusterUnreachable``.
        """
        reply = self._ask(StopCluster(force), Goodbye, StopRefused)
        return reply.calls if isinstance(reply, StopRefused) else None

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
            f"the scheduler at {self._transport.address} did not answer within {self._timeout_s:g} s. "
            "Check the address and that it runs; its log says more."
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
