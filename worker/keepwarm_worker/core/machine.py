"""The agent's brain: one event and the time in, a list of effects out. Nothing else goes in, nothing else comes out.

Rules: no clock, I/O, randomness, logging or configuration is read in this package; sets are never iterated, so that a
run replays bit by bit; an event or a message that no longer means anything is ignored. What happens is decided in the
modules named in the three tables; this one only leads there.
"""

from collections.abc import Callable
from typing import Any

from keepwarm_wire import messages as wire
from keepwarm_worker.core import attempts, events, instances, leaving, link, outcomes, recalling, work
from keepwarm_worker.core.effects import Effect
from keepwarm_worker.core.state import AgentState, CoreConfig

__all__ = ["AgentCore"]


def _on_measured(state: AgentState, event: events.Measured) -> None:
    state.load = event.load
    for instance_id, memory_bytes in event.instances:
        instance = state.instances.get(instance_id)
        if instance is not None:
            instance.memory_bytes = memory_bytes


def _on_environments(state: AgentState, event: events.EnvironmentsOnDisk) -> None:
    state.environments = {each.environment_id: each.size_bytes for each in event.environments}


def _on_received(state: AgentState, event: events.Received) -> None:
    message = event.message
    kind = type(message)
    if kind is wire.Refused:
        link.on_refused(state, message)
        return
    link.note_heard(state)
    command = _COMMANDS.get(kind)
    if command is not None:
        if link.is_new_command(state, message.command):
            command(state, message)
        return
    handler = _MESSAGES.get(kind)
    if handler is not None:
        handler(state, message)


_EVENTS: dict[type[Any], Callable[[AgentState, Any], None]] = {
    events.Received: _on_received,
    events.Connected: link.on_connected,
    events.Tick: lambda _state, _event: None,
    events.StopRequested: lambda state, event: leaving.begin_to_leave(state, event.reason),
    events.Measured: _on_measured,
    events.EnvironmentsOnDisk: _on_environments,
    events.LockFinished: work.on_lock_finished,
    events.LockProblem: work.on_lock_problem,
    events.LockPhase: work.on_lock_phase,
    events.BuildFinished: instances.on_build_finished,
    events.BuildProblem: instances.on_build_problem,
    events.BuildPhase: instances.on_build_phase,
    events.EnvironmentMissing: instances.on_environment_missing,
    events.SpawnProblem: instances.on_spawn_problem,
    events.RunnerHello: instances.on_runner_hello,
    events.RunnerStarted: attempts.on_runner_started,
    events.RunnerSetupDone: attempts.on_runner_setup_done,
    events.RunnerResult: attempts.on_runner_result,
    events.RunnerRecalled: recalling.on_runner_recalled,
    events.RunnerOutput: attempts.on_runner_output,
    events.RunnerLost: instances.on_runner_lost,
    events.ProcessExited: attempts.on_process_exited,
    events.PayloadFetched: attempts.on_payload_fetched,
    events.PayloadMissing: attempts.on_payload_missing,
    events.ResultStored: outcomes.on_result_stored,
    events.ResultRefused: outcomes.on_result_refused,
}

_COMMANDS: dict[type[Any], Callable[[AgentState, Any], None]] = {
    wire.MakeLock: work.on_make_lock,
    wire.StartInstance: instances.on_start_instance,
    wire.StopInstance: instances.on_stop_instance,
    wire.Dispatch: attempts.on_dispatch,
    wire.CancelAttempt: attempts.on_cancel_attempt,
    wire.RecallAttempts: recalling.on_recall_attempts,
}

_MESSAGES: dict[type[Any], Callable[[AgentState, Any], None]] = {
    wire.Welcome: link.on_welcome,
    wire.Goodbye: lambda state, message: leaving.begin_to_leave(state, f"the scheduler says: {message.reason}"),
    wire.FunctionBody: attempts.on_function_body,
    wire.Final: outcomes.on_final,
    wire.AgentBeatReply: link.on_beat_reply,
}

_TIMERS: dict[str, Callable[[AgentState, int], None]] = {
    "hello": link.on_hello_due,
    "beat": link.on_beat_due,
    "silence": link.on_silence_due,
    "startup": instances.on_startup_due,
    "terminate": instances.on_terminate_due,
    "kill": instances.on_kill_due,
    "orphan": instances.on_orphan_due,
    "timeout": attempts.on_timeout_due,
    "cancel": attempts.on_cancel_due,
    "leave": leaving.on_leave_due,
}


def _do_what_is_due(state: AgentState) -> None:
    while (key := state.timers.pop_due(state.now_ns)) is not None:
        name, number = key
        _TIMERS[name](state, number)


class AgentCore:
    """An agent as a state machine.

    core = AgentCore(config)
    effects = core.handle(now_ns, events.Tick())     # the first one says hello
    deadline_ns = core.next_deadline()
    """

    def __init__(self, config: CoreConfig) -> None:
        self.state = AgentState(config)
        self.state.timers.set(("hello", 0), 0)

    def handle(self, now_ns: int, event: events.Event) -> list[Effect]:
        """Take one event at ``now_ns`` (nanoseconds of a monotonic clock), then do whatever is due.

        Messages come before deadlines that fall on the same instant. Returns what is to be done, in order.
        """
        state = self.state
        if state.exited:
            return []
        state.now_ns = max(now_ns, state.now_ns)
        state.effects = []
        _EVENTS[type(event)](state, event)
        _do_what_is_due(state)
        leaving.leave_if_empty(state)
        return state.effects

    def next_deadline(self) -> int | None:
        """When ``handle`` must be called again at the latest, in nanoseconds; None for never."""
        return None if self.state.exited else self.state.timers.next()
