"""What a session has for its client to deliver. Records only."""

from typing import NamedTuple

from keepwarm.session_calls import Call
from keepwarm.session_detached import Told
from keepwarm_wire.messages import LeaseBroken, Outcome, Output, Progress

__all__ = ["Completion", "Delivery", "Explained", "LoanEnded", "Printed", "Progressed", "Returned"]


class Completion(NamedTuple):
    """The one end of a call. ``result`` is its bytes when ``outcome.status`` is ``SUCCEEDED``."""

    call: Call
    outcome: Outcome
    result: bytes | None


class Returned(NamedTuple):
    """The end of a call that a lent process has run, and that returned ``result``: it ran for ``run_us``."""

    call: Call
    result: bytes
    run_us: int


class LoanEnded(NamedTuple):
    """A loan's own call has ended, after everything that was printed under it."""

    call: Call


class Printed(NamedTuple):
    """A piece of what a call printed."""

    call: Call
    output: Output


class Progressed(NamedTuple):
    """What a function's calls are waiting for."""

    function_name: str
    progress: Progress


class Explained(NamedTuple):
    """The scheduler's answer to ``explain``, for whom asked."""

    owner: object
    document: bytes


Delivery = Completion | Returned | LoanEnded | Printed | Progressed | Explained | LeaseBroken | Told
