"""How calls end that a process was given directly, where more is to be said than a result. Part of ``loans``."""

from keepwarm.loan_frames import Outcome as Ended
from keepwarm.session_calls import Call
from keepwarm_wire.fields import CHUNK_BYTES_MAX, TEXT_LONG_MAX
from keepwarm_wire.messages import CallReport, Failure, Outcome, Status

__all__ = ["FORGOTTEN", "SENTENCE_MAX", "cancelled", "end_with_loan", "failed"]

SENTENCE_MAX = 8192
"""What is kept of a failure's sentence, as by an agent."""

FORGOTTEN = Outcome(0, Status.LOST, b"", None, None)
"""Of a loan whose outcome nobody will tell: its scheduler has ended."""

_CANCELLED = Failure("cancelled", "The call was cancelled.")

_OWN_KINDS = ("", "user_exception", "setup_failed")
_DEATHS = ("process_died", "out_of_memory", "result_not_stored")


def failed(frame: Ended, payload: bytes, report: CallReport | None) -> Outcome:
    """The outcome of a call that did not return, from what its process says of it."""
    text = f"{frame.type_name}: {frame.message}" if frame.type_name and frame.kind in _OWN_KINDS else frame.message
    detail, exception = frame.traceback[-TEXT_LONG_MAX:], payload if len(payload) <= CHUNK_BYTES_MAX else b""
    failure = Failure(frame.kind or "user_exception", text[:SENTENCE_MAX], detail, exception)
    status = frame.status if frame.status < len(Status.NAMES) else Status.FAILED
    return Outcome(0, status, b"", failure, report)


def cancelled(report: CallReport | None = None) -> Outcome:
    """The outcome of a call that its caller has cancelled, and that has not returned."""
    return Outcome(0, Status.CANCELLED, b"", _CANCELLED, report)


def end_with_loan(call: Call, ended: Outcome) -> Outcome | None:
    """The outcome of a call that had begun when its loan ended so; None if it is to be submitted.

    A node that was lost is counted among the call's.
    """
    outcome, failure = ended._replace(call_number=0), ended.failure
    if ended.status == Status.FAILED:
        return outcome if failure is not None and failure.kind in _DEATHS else None
    if ended.status != Status.LOST or ended is FORGOTTEN:
        return None
    call.lost_nodes += 1
    limit = call.function.options.retries.lost_node
    if call.lost_nodes <= limit:
        return None
    if failure is not None:
        how_often = f", for the {call.lost_nodes}. time; retries allow {limit}."
        outcome = outcome._replace(failure=failure._replace(message=failure.message.removesuffix(".") + how_often))
    return outcome
