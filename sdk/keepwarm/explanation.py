"""Why a call ran where it ran: the scheduler's account of its decisions, as ``Future.explain`` returns it."""

import json
from dataclasses import dataclass, field
from typing import Any

from keepwarm.errors import InternalError
from keepwarm_wire.messages import CallReport

__all__ = ["Explanation", "Step", "explanation_of", "given_directly", "not_sent"]

_NOT_KEPT = ("evicted", "died")
"""The ``cold_code`` of a call before which a lease was not kept."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision about a call.

    Attributes:
        after_s: when it was taken, in seconds after the scheduler got the call; negative for a start that was already
            under way then.
        code: what was decided, for programs: ``idle``, ``start``, ``wait``, ``no_room``, ...
        text: the same in words, with the numbers that it rested on.
        node: the node that was chosen, if one was.
        details: those numbers by name, and the nodes that were compared.
    """

    after_s: float
    code: str
    text: str
    node: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a call ran where it ran, or still waits. ``print`` it.

    Attributes:
        call: the call's id, as ``keepwarm status`` and errors show it.
        function: ``module:qualname``.
        state: ``held`` (not sent yet), ``queued``, ``dispatched``, ``running``, ``done`` or ``unknown``.
        summary: the answer in a sentence or two.
        cold: why no warm process took it; None if one did, or if nothing has been started for it.
        cold_code: the same for programs: ``never_built``, ``expired``, ``evicted``, ``all_busy``, ...
        early_end: of a call that was cold because a lease was not kept: what this program had been told of that, as it
            was logged; empty otherwise.
        node: where it ran; empty before it has ended.
        temperature: how warm it found that: ``cold``, ``built``, ``warm`` or ``ready``.
        phases_s: how long each phase of its way took, in seconds.
        steps: the last decisions about it, in order.
    """

    call: str
    function: str
    state: str
    summary: str
    cold: str | None = None
    cold_code: str | None = None
    node: str = ""
    temperature: str = ""
    phases_s: dict[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    early_end: str = ""

    def __str__(self) -> str:
        title = f"{self.function} ({self.call}): {self.summary}" if self.function else self.summary
        lines = [title, *(f"  {_after(step.after_s):>10}  {step.text}" for step in self.steps)]
        if self.early_end:
            lines.insert(1, f"  {self.early_end}")
        if self.phases_s:
            lines.append("  took " + ", ".join(f"{name} {_length(s)}" for name, s in self.phases_s.items()))
        return "\n".join(lines)


def explanation_of(document: bytes, early_end: str = "") -> Explanation:
    """Read the scheduler's document. Raises ``InternalError`` for one that is none.

    ``early_end`` is the last early end that this program was told of before the call; it is of use if it was the cause.
    """
    try:
        told = json.loads(document)
        return Explanation(
            call=told["call"],
            function=told.get("function", ""),
            state=told.get("state", "unknown"),
            summary=told["summary"],
            cold=told.get("cold"),
            cold_code=told.get("cold_code"),
            node=told.get("node", ""),
            temperature=told.get("temperature", ""),
            phases_s={name: ms / 1e3 for name, ms in told.get("phases", {}).items()},
            steps=tuple(_step(step) for step in told["steps"]),
            early_end=early_end if told.get("cold_code") in _NOT_KEPT else "",
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InternalError(f"the scheduler's explanation cannot be read: {error!r}") from error


def not_sent(function: str) -> Explanation:
    """A call that this program still holds."""
    why = "It has not been sent yet: the scheduler takes only so many unanswered calls at a time, or is not reached."
    return Explanation("", function, "held", why)


def given_directly(call_id: str, function: str, report: CallReport | None, *, is_done: bool) -> Explanation:
    """A call that this program gave to a process itself: of it the scheduler knows nothing, but of the loan it does."""
    place = "" if report is None else f" on node {report.node}"
    loan = call_id.partition(".")[0]
    summary = (
        f"This program gave it to a ready process{place} itself, without the scheduler, which had lent that to it: "
        f"`keepwarm explain {loan}` tells about the loan."
    )
    phases_s = {} if report is None else {phase.name: phase.duration_us / 1e6 for phase in report.phases}
    state = "done" if is_done else "dispatched"
    node = "" if report is None else report.node
    return Explanation(call_id, function, state, summary, node=node, temperature="ready", phases_s=phases_s)


def _step(told: dict[str, Any]) -> Step:
    own = ("after_ms", "code", "text", "node")
    details = {name: value for name, value in told.items() if name not in own}
    return Step(told["after_ms"] / 1e3, told["code"], told["text"], told.get("node", ""), details)


def _after(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{_length(abs(seconds))}"


def _length(seconds: float) -> str:
    return (
        f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    )
