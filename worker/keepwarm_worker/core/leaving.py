"""How an agent ends: idle instances are asked, busy ones terminated, all of them reaped before the last word.

``Goodbye`` is said when nothing is left and every large result is handed over, so that a call which ends in time still
has its outcome recorded. The whole takes at most ``LEAVE_STEPS`` steps of ``shutdown_step_ns``; then whatever is left
is killed and the agent leaves.
"""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import instances
from keepwarm_worker.core.effects import Exit, KillTree
from keepwarm_worker.core.state import AgentState
from keepwarm_worker.core.transitions import INSTANCE, InstanceState, change

__all__ = ["LEAVE_STEPS", "begin_to_leave", "leave_if_empty", "on_leave_due"]

LEAVE_STEPS = 3
"""Asked to exit, SIGTERM, SIGKILL."""


def begin_to_leave(state: AgentState, reason: str) -> None:
    """End every instance. Nothing new is taken on from here on."""
    if state.stopping:
        return
    state.stopping = reason or "no reason given"
    for instance in list(state.instances.values()):
        if instance.state is InstanceState.BUSY:
            change(instance, INSTANCE, InstanceState.STOPPING)
            instance.end_cause = "stopped"
            instances.on_terminate_due(state, instance.instance_id)
        elif instance.state is InstanceState.STOPPING:
            # Already asked, or terminated: the next steps come sooner now.
            if not instance.killed:
                instances.on_terminate_due(state, instance.instance_id)
        else:
            instances.stop(state, instance, "stopped", state.config.shutdown_step_ns)
    state.timers.set(("leave", 0), state.now_ns + LEAVE_STEPS * state.config.shutdown_step_ns)
    leave_if_empty(state)


def on_leave_due(state: AgentState, _: int = 0) -> None:
    """Time is up: what is left is killed, reaped or not."""
    for instance_id in state.instances:
        state.effects.append(KillTree(instance_id))
    if not state.exited:
        _leave(state)


def leave_if_empty(state: AgentState) -> None:
    if state.stopping and not state.instances and not state.exited and not _hands_over(state):
        _leave(state)


def _hands_over(state: AgentState) -> bool:
    """Whether the scheduler is still to be given results of calls that have ended; without one nobody takes them."""
    return state.link.welcomed and any(attempt.uploading for attempt in state.attempts.values())


def _leave(state: AgentState) -> None:
    state.say(wire.Goodbye(state.stopping[:512]))
    state.effects.append(Exit(state.stopping))
    state.exited = True
