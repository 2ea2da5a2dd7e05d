"""How a call ends: the one place that records an outcome, and the phases it reports.

A call ends once. Whatever comes later for it (a second outcome, a cancel, a timeout) finds it DONE and changes
nothing. The record stays until the client has received it; a detached call's goes to disk, and is forgotten here.
"""

from keepwarm_scheduler.core import detached_ends
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import Finished
from keepwarm_scheduler.core.placement import Temperature
from keepwarm_scheduler.core.state import Attempt, Call, Node
from keepwarm_scheduler.core.transitions import CALL, CallState, change
from keepwarm_wire.identifiers import number_of
from keepwarm_wire.messages import AttemptDone, CallReport, Failure, Outcome, Payload, Phase, Status

__all__ = ["end_in_doubt", "end_unrun", "fail", "forget", "leave_queue", "record", "report_of"]

_NAMES = {temperature: temperature.name.lower() for temperature in Temperature}
_TIMERS = ("queue", "overall", "retry", "infeasible")


def record(
    cluster: Cluster,
    call: Call,
    status: int,
    result: Payload,
    failure: Failure | None,
    report: CallReport | None,
    settled: tuple[Node, int] | None = None,
) -> None:
    """Record the outcome of a call and tell its client. ``settled`` is the attempt whose outcome it is, if any."""
    if call.state is CallState.DONE:
        return
    if call.state is CallState.QUEUED:
        leave_queue(cluster, call)
    change(call, CALL, CallState.DONE)
    if call.timed:
        for kind in _TIMERS:
            cluster.cancel_timer(kind, call.key)
    arguments, call.arguments = call.arguments, b""
    call.outcome = Outcome(call.number, status, result, failure, report)
    call.outcome_ns = call.said_ns = cluster.now_ns
    call.settled_attempt = settled
    if call.session.is_keeper:
        detached_ends.ended(cluster, call, arguments)
        forget(cluster, call)
    else:
        cluster.drop(arguments)
        cluster.claim(result)
        cluster.send(call.session, call.outcome)


def fail(cluster: Cluster, call: Call, status: int, kind: str, message: str, detail: str = "") -> None:
    """End a call with a failure of our own making."""
    report = None if call.attempt is None else report_of(call.attempt, call, None)
    record(cluster, call, status, b"", Failure(kind, message[:8000], detail), report)


def end_in_doubt(cluster: Cluster, call: Call, why: str) -> None:
    """Nobody will ever know: the call ends *lost*."""
    message = f"{why} It may have run, and its function says at_most_once: it is not run again."
    fail(cluster, call, Status.LOST, "in_doubt", message)


def forget(cluster: Cluster, call: Call) -> None:
    """The client has the outcome, or the disk: nothing of the call remains but its number in the seen set."""
    if call.state is not CallState.DONE:
        return
    call.session.calls.pop(call.number, None)
    call.attempt = None  # an attempt knows its call: else the two would wait for the garbage collector
    outcome = call.outcome
    if outcome is not None:
        cluster.drop(outcome.result)
        failure = "" if outcome.failure is None else outcome.failure.kind
        cluster.history.finished(
            call.key,
            Finished(
                call.function.declaration.name,
                outcome.status,
                failure,
                call.submitted_ns,
                call.outcome_ns,
                outcome.report,
                call.decisions,
            ),
        )
    if call.settled_attempt is not None:
        cluster.settle(*call.settled_attempt)


def end_unrun(cluster: Cluster, call: Call, failure: Failure, node: str, environment_id: str) -> None:
    """End a call that never ran, because its environment or process could not be made on ``node``."""
    report = CallReport(
        node, environment_id, 0, 0, "cold", 0, (Phase("waiting", _us(cluster.now_ns - call.submitted_ns)),)
    )
    record(cluster, call, Status.FAILED, b"", failure, report)


def leave_queue(cluster: Cluster, call: Call) -> None:
    """Take a queued call out of where it waits."""
    cluster.recovering.pop(call.key, None)
    pool = call.function.pool
    if pool is not None and call.reason == "capacity":
        pool.remove(call)
    elif call.reason == "lock":
        call.function.environment.waiting.pop(call, None)


def report_of(attempt: Attempt, call: Call, done: AttemptDone | None) -> CallReport:
    """Where and how warm a call ran, and how long each phase of its way took."""
    instance = attempt.instance
    was_alive = 0 < instance.ready_ns <= call.submitted_ns
    if was_alive:
        temperature = Temperature.READY if done is not None and done.was_ready else Temperature.WARM
    else:
        temperature = Temperature.BUILT if instance.was_built else Temperature.COLD
    environment = call.function.environment
    lock_us = environment.lock_us if environment.locked_ns > call.submitted_ns else 0
    build_us, start_us = (0, 0) if was_alive else (instance.build_us, instance.start_us)
    waited_us = _us(attempt.dispatched_ns - call.submitted_ns)
    phases = []
    for name, duration_us in (
        ("waiting", waited_us - lock_us - build_us - start_us),
        ("lock", lock_us),
        ("build", build_us),
        ("start", start_us),
        ("setup", 0 if done is None else done.setup_us),
        ("run", 0 if done is None else done.run_us),
    ):
        if duration_us > 0:
            phases.append(Phase(name, duration_us))
    return CallReport(
        instance.node.name,
        instance.pool.environment_id,
        instance.instance_id,
        instance.process_id,
        _NAMES[temperature],
        number_of(attempt.token),
        tuple(phases),
    )


def _us(duration_ns: int) -> int:
    return max(0, duration_ns) // 1_000
