"""The future of an attached call: it knows its call, and so the call's id and whom to ask about it."""

from typing import Any, Protocol, cast

from keepwarm.borrowing import report_of
from keepwarm.explanation import Explanation, given_directly, not_sent
from keepwarm.futures import Future
from keepwarm.session_calls import Call, CallState
from keepwarm_wire.messages import CallReport

__all__ = ["CallFuture", "call_id_of", "explanation_of_unsent"]


class _Explainer(Protocol):
    def explain(self, future: "CallFuture", timeout: float) -> Explanation: ...


class CallFuture(Future[Any]):
    """A future that knows its call."""

    __slots__ = ("call", "session_id")

    call: Call
    session_id: bytes

    @property
    def report(self) -> CallReport | None:
        """As in ``Future``."""
        report = self._report
        if isinstance(report, int):
            loan = self.call.loan
            return None if loan is None else report_of(loan, report)
        return report

    @property
    def call_id(self) -> str:
        """As in ``Future``."""
        return call_id_of(self.session_id, self.call)

    def explain(self, timeout: float = 5.0) -> Explanation:
        """As in ``Future``."""
        return cast("_Explainer", self._driver).explain(self, timeout)


def call_id_of(session_id: bytes, call: Call) -> str:
    """A call's id for people, empty before it was sent: ``1f2e3d4c-17``; of a loan's calls ``1f2e3d4c-5.12``."""
    session = session_id.hex()[:8]
    if not call.number and call.loan is not None:
        return f"{session}-{call.loan.call.number}.{call.lent_number}"
    return f"{session}-{call.number}" if call.number else ""


def explanation_of_unsent(call: Call, call_id: str) -> Explanation:
    """Why a call ran where it did that the scheduler was not sent, or not yet."""
    if call.loan is None:
        return not_sent(call.function.name)
    is_done = call.state is CallState.DONE
    return given_directly(call_id, call.function.name, report_of(call.loan, 0), is_done=is_done)
