"""How an attempt is settled, and how its outcome is kept until the scheduler says that it is final.

Rules:
- ``settle`` and ``refuse`` are the only ways out of an attempt, each attempt takes one of them, once.
- Either way its instance is free for the next call in the same step, and the leases on it start anew.
- A large result is handed over before the outcome that refers to it is said.
"""

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_worker.core import events, functions, instances
from keepwarm_worker.core.effects import DropResult, UploadResult
from keepwarm_worker.core.state import AgentState, Attempt, Instance, Lease
from keepwarm_worker.core.transitions import ATTEMPT, AttemptState, InstanceState, change

__all__ = [
    "describe_held",
    "hand_over_again",
    "on_final",
    "on_result_refused",
    "on_result_stored",
    "promote",
    "refuse",
    "repeat",
    "settle",
]


def settle(
    state: AgentState,
    attempt: Attempt,
    status: int,
    result: bytes | events.SpooledResult,
    why: wire.Failure | None,
    setup_us: int = 0,
    run_us: int = 0,
) -> None:
    """An attempt is over: free its instance, and say how it went."""
    sequence = _leave_instance(state, attempt)
    if attempt.dropped_bytes:
        state.say(wire.AttemptOutput(attempt.token, attempt.dropped_stream, b"", attempt.dropped_bytes))
    command = attempt.command
    attempt.outcome = wire.AttemptDone(
        attempt.token,
        command.session_id,
        command.call_number,
        command.instance_id,
        sequence,
        status,
        result if isinstance(result, bytes) else b"",
        why,
        setup_us,
        run_us,
        attempt.was_ready,
    )
    if isinstance(result, bytes):
        change(attempt, ATTEMPT, AttemptState.DONE)
        _say(state, attempt)
    else:
        change(attempt, ATTEMPT, AttemptState.STORING)
        attempt.has_file = attempt.uploading = True
        state.effects.append(UploadResult(attempt.token))


def refuse(state: AgentState, attempt: Attempt, reason: str = "ended") -> None:
    """An attempt's instance ended before the attempt began, or the agent leaves: the call is to be placed again."""
    _leave_instance(state, attempt)
    if attempt.began:
        # The agent leaves: its Goodbye says that the call is lost here, and the caller's retries decide. Until then its
        # beats tell of it: else the scheduler takes it for one that never came here.
        state.dropped.append(instances.describe_attempt(state, attempt))
        change(attempt, ATTEMPT, AttemptState.DROPPED)
    else:
        change(attempt, ATTEMPT, AttemptState.REFUSED)
        state.say(wire.AttemptRefused(attempt.token, attempt.command.instance_id, reason))
    del state.attempts[attempt.token]


def on_result_stored(state: AgentState, event: events.ResultStored) -> None:
    attempt = state.attempts.get(event.attempt)
    if attempt is not None and attempt.uploading and attempt.outcome is not None:
        _complete(state, attempt, attempt.outcome._replace(result=event.reference))


def on_result_refused(state: AgentState, event: events.ResultRefused) -> None:
    attempt = state.attempts.get(event.attempt)
    if attempt is not None and attempt.uploading and attempt.outcome is not None:
        outcome = attempt.outcome._replace(status=wire.Status.FAILED, result=b"", failure=event.failure)
        _complete(state, attempt, outcome)
        _drop_result(state, attempt)


def on_final(state: AgentState, message: wire.Final) -> None:
    """Forget outcomes that are settled. An attempt that is not over is not forgotten, whatever the scheduler says."""
    for token in message.attempts:
        attempt = state.attempts.get(token)
        if attempt is not None and attempt.outcome is not None:
            del state.attempts[token]
            _drop_result(state, attempt)


def repeat(state: AgentState, *, older_than_ns: int) -> None:
    """Say every outcome once more that is not final, and was said so long ago that it should be by now."""
    for attempt in state.attempts.values():
        is_done = attempt.state is AttemptState.DONE and not attempt.uploading
        if is_done and state.now_ns - attempt.said_ns >= older_than_ns:
            _say(state, attempt)


def hand_over_again(state: AgentState) -> None:
    """A scheduler that started anew may have no large results: offer them again before their outcomes are repeated."""
    for attempt in state.attempts.values():
        if attempt.outcome is not None and attempt.has_file:
            attempt.uploading = True
            state.effects.append(UploadResult(attempt.token))


def describe_held(state: AgentState) -> tuple[wire.RunningAttempt, ...]:
    """The attempts that have ended, as a heartbeat tells of them."""
    ended = [attempt for attempt in state.attempts.values() if attempt.outcome is not None]
    return (*(instances.describe_attempt(state, attempt) for attempt in ended), *state.dropped)


def _complete(state: AgentState, attempt: Attempt, outcome: wire.AttemptDone) -> None:
    if attempt.state is AttemptState.STORING:
        change(attempt, ATTEMPT, AttemptState.DONE)
    attempt.uploading = False
    attempt.outcome = outcome
    _say(state, attempt)


def _say(state: AgentState, attempt: Attempt) -> None:
    attempt.said_ns = state.now_ns
    state.say(attempt.outcome)


def _drop_result(state: AgentState, attempt: Attempt) -> None:
    if attempt.has_file:
        state.effects.append(DropResult(attempt.token))
        attempt.has_file = False


def _leave_instance(state: AgentState, attempt: Attempt) -> int:
    """Free the instance of an attempt and start its leases anew; the instance's sequence from now on.

    An attempt that only waited there has served nothing: it leaves no trace.
    """
    command = attempt.command
    for timer in ("timeout", "cancel"):
        state.timers.cancel((timer, attempt.token))
    functions.stop_wanting(state, command.version, attempt.token)
    if isinstance(command.arguments, wire.Reference):
        functions.release_payload(state, command.arguments.payload_id, attempt=attempt.token)
    instance = state.instances[command.instance_id]
    if instance.attempt != attempt.token:
        if attempt.token in instance.ahead:
            instance.ahead.remove(attempt.token)
        return instance.sequence
    instance.attempt = 0
    instance.sequence += 1
    instance.leases.pop(instances.NO_FUNCTION, None)
    instance.leases[attempt.function_name or command.version.hex()] = Lease(command.keep_alive_us, state.now_ns)
    if instance.state is not InstanceState.BUSY:
        return instance.sequence
    if instance.ahead:
        promote(state, instance)
    else:
        instances.become_idle(state, instance)
    return instance.sequence


def promote(state: AgentState, instance: Instance) -> None:
    """The runner goes on with the next of the attempts that it was given."""
    attempt = state.attempts[instance.ahead.popleft()]
    instance.attempt = attempt.token
    instance.stderr_tail = b""
    timeout_us = attempt.command.startup_timeout_us
    if timeout_us < FOREVER_US and attempt.state is AttemptState.LOADING:
        state.timers.set(("timeout", attempt.token), state.now_ns + timeout_us * 1000)
