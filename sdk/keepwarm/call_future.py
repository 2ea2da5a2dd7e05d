"""The future of an attached call: it knows its call, and so the call's id and whom to ask about it."""

from typing import Any, Protocol, cast

from keepwarm.explanation import Explanation
from keepwarm.futures import Future
from keepwarm.session_calls import Call

__all__ = ["CallFuture", "call_id_of"]


class _Explainer(Protocol):
    def explain(self, future: "CallFuture", timeout: float) -> Explanation: ...


class CallFuture(Future[Any]):
    """A future that knows its call."""

    __slots__ = ("call", "session_id")

    call: Call
    session_id: bytes

    @property
    def call_id(self) -> str:
        """As in ``Future``."""
        return call_id_of(self.session_id, self.call)

    def explain(self, timeout: float = 5.0) -> Explanation:
        """As in ``Future``."""
        return cast("_Explainer", self._driver).explain(self, timeout)


def call_id_of(session_id: bytes, call: Call) -> str:
    """A call's id for people; empty before it was sent."""
    return f"{session_id.hex()[:8]}-{call.number}" if call.number else ""
