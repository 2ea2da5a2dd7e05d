"""The life of an instance: built, started, idle, asked to end, killed, reaped.

Rules:
- An instance ends exactly once, in ``end``, and only there is ``InstanceEnded`` said.
- A busy instance is never stopped here on the scheduler's word; what a call does to its instance is in ``attempts``.
- Ending goes up a ladder: asked, SIGTERM, SIGKILL of the tree; the record stays until the process is reaped.
"""

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_worker.core import events, failures, work
from keepwarm_worker.core.effects import AskToExit, KillTree, SpawnInstance, Terminate
from keepwarm_worker.core.failures import failure, seconds
from keepwarm_worker.core.state import AgentState, Attempt, Instance, Lease
from keepwarm_worker.core.transitions import INSTANCE, InstanceState, change

__all__ = [
    "become_idle",
    "describe",
    "describe_attempt",
    "end",
    "kill",
    "lease_end_ns",
    "on_build_finished",
    "on_build_phase",
    "on_build_problem",
    "on_environment_missing",
    "on_kill_due",
    "on_orphan_due",
    "on_runner_hello",
    "on_runner_lost",
    "on_spawn_problem",
    "on_start_instance",
    "on_startup_due",
    "on_stop_instance",
    "on_terminate_due",
    "stderr_of",
    "stop",
    "watch_orphan",
]

_TIMERS = ("startup", "terminate", "kill", "orphan")

NO_FUNCTION = ""
"""Name of the lease of an instance that has run nothing yet."""


def on_start_instance(state: AgentState, command: wire.StartInstance) -> None:
    """Take an instance on. One that is known already is not started twice."""
    if command.instance_id in state.instances:
        return
    if state.stopping:
        why = failure(failures.NODE_STOPPING, f"The node was told to stop: {state.stopping}.")
        state.say(wire.InstanceEnded(command.instance_id, "start_failed", why, True))
        return
    instance = state.instances[command.instance_id] = Instance(command, state.now_ns)
    if command.startup_timeout_us < FOREVER_US:
        state.timers.set(("startup", instance.instance_id), state.now_ns + command.startup_timeout_us * 1000)
    if command.environment_id in state.environments:
        _spawn(state, instance)
    else:
        work.join_build(state, command)


def on_build_phase(state: AgentState, event: events.BuildPhase) -> None:
    build = state.builds.get(event.environment_id)
    for instance_id in build.waiting if build else ():
        state.say(wire.InstanceProgress(instance_id, event.phase[:512], event.detail[:8192]))


def on_build_finished(state: AgentState, event: events.BuildFinished) -> None:
    state.environments[event.environment_id] = event.size_bytes
    for instance_id in work.end_build(state, event.environment_id, failed=False):
        instance = state.instances[instance_id]
        instance.was_built = event.was_built
        _spawn(state, instance)


def on_build_problem(state: AgentState, event: events.BuildProblem) -> None:
    for instance_id in work.end_build(state, event.environment_id, failed=True):
        end(state, state.instances[instance_id], "build_failed", event.failure, event.retryable)


def on_environment_missing(state: AgentState, event: events.EnvironmentMissing) -> None:
    instance = state.instances.get(event.instance_id)
    if instance is None:
        return
    state.environments.pop(instance.command.environment_id, None)
    if instance.state is InstanceState.STARTING:
        change(instance, INSTANCE, InstanceState.BUILDING)
        work.join_build(state, instance.command)
    elif instance.state is InstanceState.STOPPING:
        end(state, instance, instance.end_cause, instance.end_failure, instance.end_retryable)


def on_spawn_problem(state: AgentState, event: events.SpawnProblem) -> None:
    instance = state.instances.get(event.instance_id)
    if instance is not None and instance.state in (InstanceState.STARTING, InstanceState.STOPPING):
        cause = instance.end_cause or "start_failed"
        end(state, instance, cause, instance.end_failure or event.failure, event.retryable)


def on_runner_hello(state: AgentState, event: events.RunnerHello) -> None:
    instance = state.instances.get(event.instance_id)
    if instance is None or instance.state is not InstanceState.STARTING:
        return
    instance.process_id = event.process_id
    instance.leases[NO_FUNCTION] = Lease(instance.command.keep_alive_us, state.now_ns)
    state.timers.cancel(("startup", instance.instance_id))
    become_idle(state, instance)
    build_us = (instance.spawned_ns - instance.accepted_ns) // 1000
    start_us = (state.now_ns - instance.spawned_ns) // 1000
    state.say(wire.InstanceReady(instance.instance_id, event.process_id, instance.was_built, build_us, start_us))


def on_runner_lost(state: AgentState, event: events.RunnerLost) -> None:
    """A runner that cannot be spoken with any more is of no use: it is killed, and what it ran has died with it."""
    instance = state.instances.get(event.instance_id)
    if instance is None or instance.state in (InstanceState.BUILDING, InstanceState.STOPPING):
        return
    starting = instance.state is InstanceState.STARTING
    why = failure(failures.START_FAILED if starting else failures.PROCESS_DIED, event.reason, stderr_of(instance))
    kill(state, instance, "start_failed" if starting else "died", why)


def on_stop_instance(state: AgentState, command: wire.StopInstance) -> None:
    """End an instance if it is idle and has served nothing since the scheduler decided this."""
    instance = state.instances.get(command.instance_id)
    if instance is None or instance.state is InstanceState.STOPPING:
        return
    if instance.state is InstanceState.BUSY or instance.sequence != command.sequence:
        state.say(wire.InstanceBusy(instance.instance_id, instance.sequence))
    else:
        stop(state, instance, command.cause, state.config.exit_grace_ns)


def on_startup_due(state: AgentState, instance_id: int) -> None:
    instance = state.instances[instance_id]
    limit = seconds(instance.command.startup_timeout_us)
    if instance.state is InstanceState.BUILDING:
        why = f"The environment was not built within the startup timeout of {limit}."
        work.leave_build(state, instance.command, took_too_long=True)
        end(state, instance, "build_failed", failure(failures.STARTUP_TIMEOUT, why), False)
    elif instance.state is InstanceState.STARTING:
        why = f"The process did not start within the startup timeout of {limit}."
        kill(state, instance, "start_failed", failure(failures.STARTUP_TIMEOUT, why, stderr_of(instance)))


def stop(state: AgentState, instance: Instance, cause: str, grace_ns: int) -> None:
    """Begin to end an instance that serves no call."""
    if instance.state is InstanceState.BUILDING:
        work.leave_build(state, instance.command, took_too_long=False)
        end(state, instance, cause, None, False)
    elif instance.state is InstanceState.STARTING:
        kill(state, instance, cause, None)
    else:
        change(instance, INSTANCE, InstanceState.STOPPING)
        instance.end_cause = cause
        state.timers.cancel(("orphan", instance.instance_id))
        state.effects.append(AskToExit(instance.instance_id))
        state.timers.set(("terminate", instance.instance_id), state.now_ns + grace_ns)


def kill(state: AgentState, instance: Instance, cause: str, why: wire.Failure | None) -> None:
    """End the process now, with all that it started."""
    change(instance, INSTANCE, InstanceState.STOPPING)
    instance.end_cause, instance.end_failure = cause, why
    on_kill_due(state, instance.instance_id)


def on_terminate_due(state: AgentState, instance_id: int) -> None:
    grace_ns = state.config.shutdown_step_ns if state.stopping else state.config.terminate_grace_ns
    state.effects.append(Terminate(instance_id))
    state.timers.set(("kill", instance_id), state.now_ns + grace_ns)


def on_kill_due(state: AgentState, instance_id: int) -> None:
    state.instances[instance_id].killed = True
    state.effects.append(KillTree(instance_id))


def become_idle(state: AgentState, instance: Instance) -> None:
    change(instance, INSTANCE, InstanceState.IDLE)
    instance.idle_since_ns = state.now_ns
    if not state.link.welcomed:
        watch_orphan(state, instance)


def lease_end_ns(instance: Instance) -> int | None:
    """When the last of the leases on an idle instance ends; None for never."""
    if any(lease.keep_alive_us >= FOREVER_US for lease in instance.leases.values()):
        return None
    return max(lease.ended_ns + lease.keep_alive_us * 1000 for lease in instance.leases.values())


def watch_orphan(state: AgentState, instance: Instance) -> None:
    """Without a scheduler, an idle instance ends a while after its lease, an unlimited one after ``orphan_ttl``."""
    lease_end = lease_end_ns(instance)
    if lease_end is None:
        deadline_ns = max(instance.idle_since_ns, state.link.heard_ns) + state.config.orphan_ttl_ns
    else:
        deadline_ns = lease_end + state.config.orphan_grace_ns
    state.timers.set(("orphan", instance.instance_id), max(deadline_ns, state.now_ns))


def on_orphan_due(state: AgentState, instance_id: int) -> None:
    instance = state.instances[instance_id]
    if instance.state is InstanceState.IDLE and not state.link.welcomed:
        stop(state, instance, "orphan", state.config.exit_grace_ns)


def end(
    state: AgentState, instance: Instance, cause: str, why: wire.Failure | None, retryable: bool, attempt: int = 0
) -> None:
    """The instance is gone: forget it and say so. ``attempt`` is the one that took it along."""
    change(instance, INSTANCE, InstanceState.ENDED)
    del state.instances[instance.instance_id]
    state.devices.give_back(instance.instance_id)
    for timer in _TIMERS:
        state.timers.cancel((timer, instance.instance_id))
    state.report(wire.InstanceEnded(instance.instance_id, cause, why, retryable, attempt))


def describe(state: AgentState, instance: Instance) -> wire.InstanceState:
    """The instance as a heartbeat tells of it."""
    now_ns = state.now_ns
    idle = instance.state is InstanceState.IDLE
    # Before it is ready: the term that it is started for, which a scheduler that is new knows from nowhere else.
    leases = instance.leases or {NO_FUNCTION: Lease(instance.command.keep_alive_us, now_ns)}
    tokens = (instance.attempt, *instance.ahead) if instance.attempt else tuple(instance.ahead)
    running = tuple(describe_attempt(state, state.attempts[token]) for token in tokens)
    command = instance.command
    return wire.InstanceState(
        instance.instance_id,
        command.pool,
        command.environment_id,
        instance.state.value,
        instance.sequence,
        instance.process_id,
        # Not less than what was booked for it: a scheduler that does not know it yet books this much.
        max(instance.memory_bytes, command.memory_bytes),
        (now_ns - instance.idle_since_ns) // 1000 if idle else 0,
        tuple(
            wire.FunctionLease(name, lease.keep_alive_us, (now_ns - lease.ended_ns) // 1000)
            for name, lease in leases.items()
        ),
        running,
        gpu_of(command),
    )


def describe_attempt(state: AgentState, attempt: Attempt) -> wire.RunningAttempt:
    """An attempt as a heartbeat tells of it."""
    command = attempt.command
    elapsed_us = (state.now_ns - attempt.accepted_ns) // 1000
    return wire.RunningAttempt(attempt.token, command.session_id, command.call_number, elapsed_us)


def stderr_of(instance: Instance) -> str:
    return instance.stderr_tail.decode("utf-8", "replace")


def _spawn(state: AgentState, instance: Instance) -> None:
    if instance.state is InstanceState.BUILDING:
        change(instance, INSTANCE, InstanceState.STARTING)
    instance.spawned_ns = state.now_ns
    command = instance.command
    devices = state.devices.take(instance.instance_id, gpu_of(command))
    if devices is None:
        free = ", ".join(f"{name}: {amount / 1000:g}" for name, amount in state.devices.free.items()) or "none"
        why = f"The node has not {gpu_of(command) / 1000:g} GPUs free as it was thought to have (free: {free})."
        end(state, instance, "start_failed", failure(failures.START_FAILED, why), True)
        return
    state.say(wire.InstanceProgress(instance.instance_id, "start", ""))
    state.effects.append(
        SpawnInstance(
            instance.instance_id,
            command.environment_id,
            command.python,
            command.env_vars,
            command.memory_bytes,
            gpu_of(command) // 1000,
            devices if state.config.gpus else None,
        )
    )


def gpu_of(command: wire.StartInstance) -> int:
    """Thousandths of GPUs; an older scheduler tells whole ones only."""
    return command.gpu or command.gpus * 1000
