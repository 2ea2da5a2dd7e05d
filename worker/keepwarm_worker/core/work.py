"""Builds and locks: each environment is built once however many instances wait, at most ``builds_max`` at a time.

Owns ``state.builds``, ``state.locks`` and the queue of both. What becomes of the instances that wait for a build is
decided in ``instances``.
"""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import events
from keepwarm_worker.core.effects import CancelBuild, RunBuild, RunLock
from keepwarm_worker.core.state import AgentState, Build, Lock

__all__ = [
    "end_build",
    "join_build",
    "leave_build",
    "on_lock_finished",
    "on_lock_phase",
    "on_lock_problem",
    "on_make_lock",
]


def on_make_lock(state: AgentState, command: wire.MakeLock) -> None:
    """Resolve a spec, unless that is under way."""
    if command.spec_key not in state.locks:
        lock = state.locks[command.spec_key] = Lock(command, state.now_ns)
        state.work.append(lock)
        _work_on(state)


def on_lock_phase(state: AgentState, event: events.LockPhase) -> None:
    if event.spec_key in state.locks:
        state.say(wire.LockProgress(event.spec_key, event.phase[:512], event.detail[:8192]))


def on_lock_finished(state: AgentState, event: events.LockFinished) -> None:
    lock = _end_lock(state, event.spec_key)
    if lock is not None:
        duration_us = (state.now_ns - lock.accepted_ns) // 1000
        state.report(wire.LockMade(event.spec_key, event.platform, event.lock, duration_us))


def on_lock_problem(state: AgentState, event: events.LockProblem) -> None:
    if _end_lock(state, event.spec_key) is not None:
        state.report(wire.LockFailed(event.spec_key, event.failure, event.retryable))


def join_build(state: AgentState, command: wire.StartInstance) -> None:
    """Let an instance wait for its environment; the first one to wait has it built."""
    build = state.builds.get(command.environment_id)
    if build is None:
        build = Build(command.environment_id, command.lock, command.python)
        state.builds[command.environment_id] = build
        state.work.append(build)
    build.waiting[command.instance_id] = None
    _work_on(state)


def leave_build(state: AgentState, command: wire.StartInstance, took_too_long: bool) -> None:
    """An instance no longer waits. A build that nobody waits for is not begun; one that has begun goes on, for the
    next instance to find, unless it took too long: it might hang."""
    build = state.builds.get(command.environment_id)
    if build is None:
        return
    build.waiting.pop(command.instance_id, None)
    if build.waiting:
        return
    if not build.running:
        state.work.remove(build)
        del state.builds[build.environment_id]
    elif took_too_long and not build.cancelled:
        build.cancelled = True
        state.effects.append(CancelBuild(build.environment_id))


def end_build(state: AgentState, environment_id: str, failed: bool) -> tuple[int, ...]:
    """A build is over: the instances that waited for it. None for one that we cancelled: it is begun anew for them."""
    build = state.builds.get(environment_id)
    if build is None or not build.running:
        return ()
    state.working -= 1
    build.running = False
    if failed and build.cancelled and build.waiting:
        build.cancelled = False
        state.work.append(build)
        _work_on(state)
        return ()
    del state.builds[environment_id]
    _work_on(state)
    return tuple(build.waiting)


def _end_lock(state: AgentState, spec_key: bytes) -> Lock | None:
    lock = state.locks.get(spec_key)
    if lock is None or not lock.running:
        return None
    del state.locks[spec_key]
    state.working -= 1
    _work_on(state)
    return lock


def _work_on(state: AgentState) -> None:
    while state.work and state.working < state.config.builds_max:
        job = state.work.popleft()
        job.running = True
        state.working += 1
        if isinstance(job, Build):
            state.effects.append(RunBuild(job.environment_id, job.lock, job.python))
        else:
            state.effects.append(RunLock(job.command.spec_key, job.command.spec))
