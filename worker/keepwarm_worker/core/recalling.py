"""Giving back attempts that a busy instance's runner was given ahead and has not begun.

Rules: only the runner knows what it has begun, so it is asked, and its answer alone counts; what it has begun goes on
as if nobody had asked. An attempt that was cancelled meanwhile ends so, any other is refused and placed again.
"""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import events
from keepwarm_worker.core.effects import RecallCall
from keepwarm_worker.core.instances import become_idle
from keepwarm_worker.core.outcomes import promote, refuse, settle
from keepwarm_worker.core.state import AgentState, Attempt
from keepwarm_worker.core.transitions import AttemptState, InstanceState

__all__ = ["on_recall_attempts", "on_runner_recalled"]

_WITH_RUNNER = (AttemptState.LOADING, AttemptState.CANCELLING)


def on_recall_attempts(state: AgentState, command: wire.RecallAttempts) -> None:
    """The scheduler would rather have these run elsewhere."""
    for token in command.attempts:
        attempt = state.attempts.get(token)
        if attempt is not None and attempt.state in _WITH_RUNNER and not attempt.began:
            state.effects.append(RecallCall(attempt.command.instance_id, token))


def on_runner_recalled(state: AgentState, event: events.RunnerRecalled) -> None:
    """The runner says that it will not run an attempt. Of one that it has begun it cannot say that."""
    attempt = state.attempts.get(event.attempt)
    if attempt is None or attempt.began or not _is_given(state, event.instance_id, attempt):
        return
    _step_aside(state, attempt)
    if attempt.verdict is None:
        refuse(state, attempt, wire.RECALLED)
    else:
        status, why = attempt.verdict
        settle(state, attempt, status, b"", why)


def _is_given(state: AgentState, instance_id: int, attempt: Attempt) -> bool:
    instance = state.instances.get(instance_id)
    return (
        instance is not None
        and instance.state is InstanceState.BUSY
        and attempt.state in _WITH_RUNNER
        and (instance.attempt == attempt.token or attempt.token in instance.ahead)
    )


def _step_aside(state: AgentState, attempt: Attempt) -> None:
    """It has served nothing and leaves no trace on its instance, which runs the next one or is idle as before."""
    instance = state.instances[attempt.command.instance_id]
    if instance.attempt != attempt.token:
        instance.ahead.remove(attempt.token)
        return
    instance.attempt = 0
    if instance.ahead:
        promote(state, instance)
    else:
        become_idle(state, instance)
