"""The life of an attempt: fetched, given to the runner, run, stopped, settled.

Rules:
- Each dispatch ends in exactly one ``AttemptDone`` or one ``AttemptRefused``; refused only while nothing of it has run.
- Nothing reaches a runner before function and arguments are here and fit its Python.
- A status of *cancelled* or *timed out* is a verdict passed when the attempt was asked to stop: it holds unless the
  function returned after all.
- Output comes before the outcome, and is bounded per call.
"""

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_worker.core import events, failures, functions, instances, memory_kills
from keepwarm_worker.core.effects import CancelCall, LoadFunction, RecallCall, StartCall
from keepwarm_worker.core.failures import failure, seconds
from keepwarm_worker.core.outcomes import refuse, settle
from keepwarm_worker.core.state import AgentState, Attempt, Instance
from keepwarm_worker.core.transitions import ATTEMPT, INSTANCE, AttemptState, InstanceState, change

__all__ = [
    "AHEAD_MAX",
    "on_cancel_attempt",
    "on_cancel_due",
    "on_dispatch",
    "on_function_body",
    "on_payload_fetched",
    "on_payload_missing",
    "on_process_exited",
    "on_runner_output",
    "on_runner_result",
    "on_runner_setup_done",
    "on_runner_started",
    "on_timeout_due",
]

AHEAD_MAX = 128
"""So many calls an instance's runner is given besides the one that it runs."""

_NO_RESULT = b""
_WITH_RUNNER = (AttemptState.LOADING, AttemptState.RUNNING)


def on_dispatch(state: AgentState, command: wire.Dispatch) -> None:
    """Take a call on, if its instance is there and idle. One that is known already is not begun twice."""
    if command.attempt in state.attempts:
        return
    instance = state.instances.get(command.instance_id)
    if instance is not None and instance.state is InstanceState.BUSY and command.is_ahead and not state.stopping:
        _take_ahead(state, command, instance)
        return
    if instance is None or instance.state is not InstanceState.IDLE or state.stopping:
        reason = "gone" if instance is None else "stopping" if state.stopping else instance.state.value
        state.say(wire.AttemptRefused(command.attempt, command.instance_id, reason))
        return
    attempt = state.attempts[command.attempt] = Attempt(command, state.now_ns)
    change(instance, INSTANCE, InstanceState.BUSY)
    instance.attempt = attempt.token
    instance.stderr_tail = b""
    state.timers.cancel(("orphan", instance.instance_id))
    if isinstance(command.arguments, wire.Reference):
        functions.hold_payload(state, command.arguments, attempt.token)
    _proceed(state, attempt)


def _take_ahead(state: AgentState, command: wire.Dispatch, instance: Instance) -> None:
    """Give a busy instance's runner a call for later, if nothing is missing; else it goes back at once."""
    function = functions.find_function(state, command.version)
    is_ready = function is not None and function.available and not isinstance(command.arguments, wire.Reference)
    serving = state.attempts.get(instance.attempt)
    # Runners run in the order in which they are given calls: none may get past one that still waits for its bytes.
    is_fed = serving is not None and serving.state is not AttemptState.FETCHING and len(instance.ahead) < AHEAD_MAX
    if function is None:
        state.say(wire.NeedFunction(command.version))
    if function is None or not is_ready or not is_fed or _mismatch(function.message.codec, instance.command.python):
        state.say(wire.AttemptRefused(command.attempt, command.instance_id, wire.RECALLED))
        return
    attempt = state.attempts[command.attempt] = Attempt(command, state.now_ns)
    attempt.function_name = function.message.name
    instance.ahead.append(attempt.token)
    _give_to_runner(state, attempt, instance, function.message)


def on_function_body(state: AgentState, message: wire.FunctionBody) -> None:
    functions.add_function(state, message)
    _proceed_with_function(state, message.version)


def on_payload_fetched(state: AgentState, event: events.PayloadFetched) -> None:
    payload = state.payloads.get(event.payload_id)
    if payload is None:
        return
    payload.available = True
    for version in payload.versions:
        state.functions[version].available = True
    for version in payload.versions:
        _proceed_with_function(state, version)
    for token in list(payload.attempts):
        _proceed(state, state.attempts[token])


def on_payload_missing(state: AgentState, event: events.PayloadMissing) -> None:
    """The scheduler gave a reference to bytes that cannot be had: the calls that need them cannot run.

    Bytes that it does not hold any more it has held before it was started anew: nothing has run, and the call is placed
    again once its client has handed them over again. But where this node cannot store them the call fails: placed again
    it would come back here, where its environment is, for as long as the disk is full, and nobody would be told why.
    """
    payload = state.payloads.get(event.payload_id)
    if payload is None or payload.available:
        return
    tokens = list(payload.attempts)
    for version in list(payload.versions):
        tokens += [token for token in state.wanted_functions.get(version, ()) if token not in payload.attempts]
        functions.forget_function(state, version)
    for token in tokens:
        if event.failure.kind == "payload_refused":
            refuse(state, state.attempts[token])
        else:
            settle(state, state.attempts[token], wire.Status.FAILED, _NO_RESULT, event.failure)


def on_runner_started(state: AgentState, event: events.RunnerStarted) -> None:
    """The runner took the attempt. What comes first, setup or the run, decides which clock runs."""
    attempt = _attempt_of(state, event.instance_id, event.attempt)
    if attempt is None or attempt.began:
        return
    attempt.began = True
    attempt.was_ready = not event.setup
    state.say(wire.AttemptStarted(attempt.token))
    if not event.setup:
        _run_clock(state, attempt)


def on_runner_setup_done(state: AgentState, event: events.RunnerSetupDone) -> None:
    attempt = _attempt_of(state, event.instance_id, event.attempt)
    if attempt is not None and attempt.began:
        _run_clock(state, attempt)


def on_runner_output(state: AgentState, event: events.RunnerOutput) -> None:
    """Pass output on while its call may still print; what is over the limit is counted, not kept."""
    instance = state.instances.get(event.instance_id)
    if instance is None:
        return
    config = state.config
    if event.stream == 2:
        instance.stderr_tail = (instance.stderr_tail + event.data)[-config.stderr_tail_bytes :]
    attempt = state.attempts.get(event.attempt or instance.attempt)
    if attempt is None or attempt.state is AttemptState.FETCHING or attempt.outcome is not None:
        return
    kept = event.data[: config.output_bytes_max - attempt.output_bytes]
    attempt.output_bytes += len(kept)
    if len(kept) < len(event.data):
        attempt.dropped_bytes += len(event.data) - len(kept)
        attempt.dropped_stream = event.stream
    for start in range(0, len(kept), config.output_piece_bytes):
        piece = kept[start : start + config.output_piece_bytes]
        state.say(wire.AttemptOutput(attempt.token, event.stream, piece, 0))


def on_runner_result(state: AgentState, event: events.RunnerResult) -> None:
    """The runner is done with an attempt: its own account of it, or the verdict if it had been asked to stop."""
    attempt = _attempt_of(state, event.instance_id, event.attempt)
    if attempt is None:
        return
    if not attempt.began:
        attempt.was_ready = event.setup_us == 0  # its start need not have been told
    status = wire.Status.SUCCEEDED if event.failure is None else wire.Status.FAILED
    why = event.failure
    if why is not None and attempt.verdict is not None:
        status, verdict = attempt.verdict
        why = failure(verdict.kind, verdict.message, why.detail)
    settle(state, attempt, status, event.result, why, event.setup_us, event.run_us)


def on_cancel_attempt(state: AgentState, command: wire.CancelAttempt) -> None:
    attempt = state.attempts.get(command.attempt)
    if attempt is not None:
        why = failure(failures.CANCELLED, "The call was cancelled.")
        _ask_to_stop(state, attempt, wire.Status.CANCELLED, why, command.grace_us * 1000)


def on_timeout_due(state: AgentState, token: int) -> None:
    """Loading and setup, or the run, took longer than the function allows."""
    attempt = state.attempts[token]
    if attempt.state is AttemptState.RUNNING:
        limit = seconds(attempt.command.run_timeout_us)
        why = failure(failures.RUN_TIMEOUT, f"The call ran longer than its timeout of {limit}.")
    else:
        limit = seconds(attempt.command.startup_timeout_us)
        why = failure(
            failures.STARTUP_TIMEOUT, f"Loading and setting up took longer than the startup timeout of {limit}."
        )
    _ask_to_stop(state, attempt, wire.Status.TIMED_OUT, why, state.config.cancel_grace_ns)


def on_cancel_due(state: AgentState, token: int) -> None:
    """The attempt did not end when asked to: its process must, whoever else holds a lease on it."""
    instance = state.instances[state.attempts[token].command.instance_id]
    if instance.attempt != token:
        # Its process runs another call, which has done nothing wrong: what comes of this one is known after that.
        state.timers.set(("cancel", token), state.now_ns + state.config.cancel_grace_ns)
    elif instance.state is InstanceState.BUSY:
        change(instance, INSTANCE, InstanceState.STOPPING)
        instance.end_cause = "killed"
        instances.on_terminate_due(state, instance.instance_id)


def on_process_exited(state: AgentState, event: events.ProcessExited) -> None:
    """The process is reaped: settle what it ran, then end the instance, once."""
    instance = state.instances.get(event.instance_id)
    if instance is None or instance.state is InstanceState.BUILDING:
        return
    why = _why_died(instance, event)
    attempt, fatal = state.attempts.get(instance.attempt), 0
    ahead = [state.attempts[token] for token in instance.ahead]
    instance.ahead.clear()
    if attempt is not None:
        fatal = attempt.token if attempt.began or attempt.verdict is not None else 0
        _settle_dead(state, attempt, why, event)
    for waiting in ahead:
        _settle_dead(state, waiting, why, event)
    if instance.state is InstanceState.STOPPING:
        instances.end(state, instance, instance.end_cause, instance.end_failure, instance.end_retryable, fatal)
    elif instance.state is InstanceState.STARTING:
        why = failure(failures.START_FAILED, f"{why.message[:-1]} before it was ready.", why.detail)
        instances.end(state, instance, "start_failed", why, bool(event.signal_name))
    else:
        instances.end(state, instance, "died", why, False, fatal)


def _proceed_with_function(state: AgentState, version: bytes) -> None:
    for token in list(state.wanted_functions.get(version, ())):
        _proceed(state, state.attempts[token])


def _proceed(state: AgentState, attempt: Attempt) -> None:
    """Give an attempt to its runner if nothing is missing any more."""
    command = attempt.command
    instance = state.instances.get(command.instance_id)
    if attempt.state is not AttemptState.FETCHING or instance is None or instance.state is not InstanceState.BUSY:
        return
    function = functions.find_function(state, command.version)
    if function is None or not function.available:
        functions.want_function(state, command.version, attempt.token)
    else:
        functions.stop_wanting(state, command.version, attempt.token)
    if function is None:
        return
    attempt.function_name = function.message.name
    why = _mismatch(function.message.codec, instance.command.python)
    if why is not None:
        settle(state, attempt, wire.Status.FAILED, _NO_RESULT, why)
    elif function.available and functions.is_here(state, command.arguments):
        _give_to_runner(state, attempt, instance, function.message)


def _give_to_runner(state: AgentState, attempt: Attempt, instance: Instance, function: wire.FunctionBody) -> None:
    change(attempt, ATTEMPT, AttemptState.LOADING)
    command = attempt.command
    if instance.loaded.get(function.name) != function.version:
        instance.loaded[function.name] = function.version
        state.effects.append(
            LoadFunction(
                instance.instance_id,
                function.version,
                function.name,
                function.codec,
                function.has_setup,
                function.body,
            )
        )
    is_timed = command.run_timeout_us < FOREVER_US
    state.effects.append(
        StartCall(
            instance.instance_id,
            attempt.token,
            function.name,
            function.version,
            command.arguments,
            is_timed,
            command.is_loan,
        )
    )
    if instance.attempt == attempt.token:
        _set_timeout(state, attempt, command.startup_timeout_us)


def _mismatch(codec: str, python: str) -> wire.Failure | None:
    """Why a by-value function cannot be loaded in a Python: unpickling it in another minor version may crash it."""
    wanted = codec.partition(":")[2]
    if not wanted:
        return None
    minor = ".".join(python.split(".")[:2])
    if wanted == "cp" + minor.replace(".", ""):
        return None
    name = f"Python {wanted[2]}.{wanted[3:]}" if wanted[:2] == "cp" and wanted[2:].isdigit() else wanted
    return failure(
        failures.PYTHON_MISMATCH,
        f"The function was sent from {name}, its environment runs Python {minor}: a function can only be loaded by the "
        "Python version that sent it. Call it from that version, or ask for an environment with yours.",
    )


def _run_clock(state: AgentState, attempt: Attempt) -> None:
    if attempt.state is AttemptState.LOADING:
        change(attempt, ATTEMPT, AttemptState.RUNNING)
        _set_timeout(state, attempt, attempt.command.run_timeout_us)


def _set_timeout(state: AgentState, attempt: Attempt, timeout_us: int) -> None:
    if timeout_us < FOREVER_US:
        state.timers.set(("timeout", attempt.token), state.now_ns + timeout_us * 1000)
    else:
        state.timers.cancel(("timeout", attempt.token))


def _ask_to_stop(state: AgentState, attempt: Attempt, status: int, why: wire.Failure, grace_ns: int) -> None:
    if attempt.state is AttemptState.FETCHING:
        settle(state, attempt, status, _NO_RESULT, why)
    elif attempt.state in _WITH_RUNNER:
        change(attempt, ATTEMPT, AttemptState.CANCELLING)
        attempt.verdict = (status, why)
        timed_out = status == wire.Status.TIMED_OUT
        state.timers.cancel(("timeout", attempt.token))
        if state.instances[attempt.command.instance_id].attempt != attempt.token:
            state.effects.append(RecallCall(attempt.command.instance_id, attempt.token))
        state.effects.append(CancelCall(attempt.command.instance_id, attempt.token, timed_out))
        state.timers.set(("cancel", attempt.token), state.now_ns + grace_ns)


def _attempt_of(state: AgentState, instance_id: int, token: int) -> Attempt | None:
    """The attempt that a runner speaks of, if it is the one that this runner was given; a runner can say anything."""
    instance = state.instances.get(instance_id)
    attempt = state.attempts.get(token)
    if instance is None or attempt is None or instance.attempt != token or attempt.state is AttemptState.FETCHING:
        return None
    return attempt


def _settle_dead(state: AgentState, attempt: Attempt, why: wire.Failure, event: events.ProcessExited) -> None:
    if attempt.verdict is not None:
        status, verdict = attempt.verdict
        settle(state, attempt, status, _NO_RESULT, failure(verdict.kind, verdict.message, why.detail))
    elif not attempt.began or state.stopping:
        refuse(state, attempt)
    else:
        settle(state, attempt, wire.Status.FAILED, _NO_RESULT, _for_programs(why, event))


def _why_died(instance: Instance, event: events.ProcessExited) -> wire.Failure:
    detail = instances.stderr_of(instance)
    if instance.end_failure is not None:
        return instance.end_failure
    if event.out_of_memory and not instance.killed:
        why = memory_kills.sentence(event.out_of_memory, instance.memory_bytes, instance.command.memory_bytes)
        return failure(failures.OUT_OF_MEMORY, why, detail)
    how = f"was killed by {event.signal_name}" if event.signal_name else f"ended with exit code {event.exit_code}"
    return failure(failures.PROCESS_DIED, f"The process {how}.", detail)


def _for_programs(why: wire.Failure, event: events.ProcessExited) -> wire.Failure:
    """The same with a first line of detail that programs can read: the caller's error has it as a number."""
    if why.kind not in (failures.PROCESS_DIED, failures.OUT_OF_MEMORY):
        return why
    told = f"signal={event.signal_name}" if event.signal_name else f"exit_code={event.exit_code}"
    return why._replace(detail=f"{told}\n{why.detail}")
