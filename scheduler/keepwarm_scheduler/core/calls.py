"""Attempts and their ends: what counts as an outcome, what is run again, how a call is stopped.

Only the current attempt of a call can end it. Every other report about a call (a stale attempt's outcome, a second
copy of the right one) is answered by *final*, so that the node may forget it, and otherwise ignored.
"""

from keepwarm_scheduler.core import notices
from keepwarm_scheduler.core.at_most_once import forget_doubt
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import Decision, Reason, note
from keepwarm_scheduler.core.detached_ends import tried
from keepwarm_scheduler.core.dispatching import (
    await_lease,
    free_instance,
    hold_lease,
    restart_lease,
    serve,
    serve_node,
    stop,
)
from keepwarm_scheduler.core.instances import end_instance, new_room, suspend
from keepwarm_scheduler.core.outcomes import end_in_doubt, fail, record, report_of
from keepwarm_scheduler.core.pressure import offer
from keepwarm_scheduler.core.starting import admit, consider_starts
from keepwarm_scheduler.core.state import Attempt, Call, Instance, Node
from keepwarm_scheduler.core.transitions import CALL, CallState, InstanceState, change
from keepwarm_wire.identifiers import epoch_of
from keepwarm_wire.messages import RECALLED, AttemptDone, AttemptRefused, AttemptStarted, CancelAttempt, Failure, Status

__all__ = [
    "abandon",
    "attempt_done",
    "attempt_refused",
    "attempt_started",
    "cancel",
    "give_up_held",
    "lose_attempt",
    "place_again",
    "retry_due",
    "send_cancel",
    "submit",
    "take_held",
    "time_out",
]

_CRASH_KINDS = frozenset({"process_died", "out_of_memory"})
_GIVEN_UP_MAX = 10_000
_HELD_PER_NODE_MAX = 10_000
"""Outcomes of an earlier epoch that are kept for clients who may come back: more than a node can have run at once."""
_TOLD_MAX = 8_000
"""Of an agent's own words, where some are added to them: together they still fit into a message."""
_RETRY_BASE_NS = 500_000_000
_RETRY_MAX_NS = 30_000_000_000


# ---------------------------------------------------------------- the way in


def submit(cluster: Cluster, call: Call) -> None:
    """A new call: to an idle instance at once, or into the queue."""
    pool = admit(cluster, call)
    if pool is not None and call.state is CallState.QUEUED:
        consider_starts(cluster, pool, call)


def place_again(cluster: Cluster, call: Call, *, has_run: bool = False) -> None:
    """A call whose attempt was lost or refused goes back to the head of its queue.

    One that no process had goes on waiting: what is left of its queue timeout is all that it still has.
    """
    change(call, CALL, CallState.QUEUED)
    call.attempt = None
    if call.cancel_reason:
        fail(cluster, call, Status.CANCELLED, "cancelled", f"Cancelled: {call.cancel_reason}.")
        return
    if call.queue_end_ns and not has_run:
        if call.queue_end_ns <= cluster.now_ns:
            call.reason = "capacity"
            time_out(cluster, call, "queue")
            return
        cluster.timer("queue", call.key, call.queue_end_ns - cluster.now_ns)
    pool = admit(cluster, call, first=True)
    if pool is not None and call.state is CallState.QUEUED:
        consider_starts(cluster, pool, call)


def retry_due(cluster: Cluster, call: Call) -> None:
    """The delay before another attempt is over."""
    if call.state is CallState.QUEUED and call.reason == "not before":
        submit(cluster, call)


# ---------------------------------------------------------------- what agents say of attempts


def attempt_started(cluster: Cluster, node: Node, message: AttemptStarted) -> None:
    """The runner runs it: from here on the call is to blame for what happens to the process."""
    attempt = node.attempts.get(message.attempt)
    if attempt is None:
        cluster.astonished(node)
        return
    attempt.is_running = True
    if attempt.call is not None and attempt.call.state is CallState.DISPATCHED:
        change(attempt.call, CALL, CallState.RUNNING)


def attempt_refused(cluster: Cluster, node: Node, message: AttemptRefused) -> None:
    """The instance was gone or busy: the call lost a race and is placed again."""
    attempt = node.attempts.get(message.attempt)
    if attempt is None:
        cluster.astonished(node)
        return
    instance = attempt.instance
    reason = Reason.RECALLED if message.reason == RECALLED else Reason.REFUSED
    if message.reason == "gone":
        end_instance(cluster, instance)
        new_room(cluster, node)
    elif message.reason == RECALLED or attempt.is_ahead:
        # It is not sent there again before the call that runs there has ended, if that ends well.
        instance.pool.roomy.pop(instance.instance_id, None)
    else:
        # Out of use before it could be given another call: what it does instead, the next beat tells.
        suspend(cluster, instance)
    _end_attempt(cluster, attempt)
    if attempt.call is not None:
        forget_doubt(cluster, attempt.key)  # it was not run
        note(attempt.call, Decision(reason, cluster.now_ns, node.name, instance.instance_id))
        place_again(cluster, attempt.call)


def lose_attempt(cluster: Cluster, attempt: Attempt, *, was_node_lost: bool) -> None:
    """An attempt is known to be gone without an outcome: a lost message, or a lost node."""
    call = attempt.call
    _end_attempt(cluster, attempt)
    if call is None:
        return
    call.lost_nodes += was_node_lost
    instance = attempt.instance
    note(
        call,
        Decision(Reason.LOST, cluster.now_ns, instance.node.name, instance.instance_id, (call.lost_nodes,)),
    )
    if not was_node_lost:
        forget_doubt(cluster, attempt.key)  # the node never had it
        place_again(cluster, call)
        return
    if call.function.options.at_most_once:
        end_in_doubt(cluster, call, f"Node {instance.node.name}, to which the call had been sent, was lost.")
        return
    if call.session.is_keeper:
        tried(cluster, call)
    limit = 0 if call.is_loan else call.function.options.retries.lost_node
    if call.lost_nodes > limit and not call.cancel_reason:
        node = attempt.instance.node.name
        message = f"Node {node} was lost while it ran the call"
        if not call.is_loan:  # its client knows how often that is
            message += f", for the {call.lost_nodes}. time; retries allow {limit}"
        message += "."
        fail(cluster, call, Status.LOST, "node_lost", message)
        return
    place_again(cluster, call, has_run=attempt.is_running)


def attempt_done(cluster: Cluster, node: Node, message: AttemptDone) -> None:
    """An attempt has an outcome. It counts if it is the current attempt of a call that has none yet."""
    if message.status >= len(Status.NAMES):
        reason = f"Node {node.name} ended the call with status {message.status}, which means nothing."
        message = message._replace(status=Status.FAILED, failure=Failure("bad_outcome", reason))
    attempt = node.attempts.get(message.attempt)
    if attempt is None:
        _stale_outcome(cluster, node, message)
        return
    instance, call = attempt.instance, attempt.call
    has_run = not attempt.is_ahead or message.sequence > instance.sequence
    instance.sequence = max(instance.sequence, message.sequence)
    if message.failure is not None:
        notices.blame(cluster, attempt, message.failure.kind)
    free_instance(cluster, attempt)
    # An earlier scheduler gave the attempt up for its own reasons; the call's client is here and wants the call.
    is_given_up = call is not None and message.status == Status.CANCELLED and not call.cancel_reason
    if call is None:
        _stale_outcome(cluster, node, message)
    elif is_given_up:
        cluster.settle(node, message.attempt)
    else:
        if has_run and attempt.run_times is not None:
            attempt.run_times.add(message.run_us * 1_000)
        _end_call(cluster, node, call, attempt, message)
    if has_run:
        _after_use(cluster, instance, attempt)
    if call is not None and is_given_up:
        _resume(cluster, call, attempt)
    serve_node(cluster, node)


def _resume(cluster: Cluster, call: Call, attempt: Attempt) -> None:
    if call.function.options.at_most_once:
        attempt.call = call.attempt = None
        place = attempt.instance.node.name
        end_in_doubt(cluster, call, f"An earlier scheduler stopped the call while it ran on node {place}.")
    else:
        place_again(cluster, call, has_run=True)


def _end_call(cluster: Cluster, node: Node, call: Call, attempt: Attempt, message: AttemptDone) -> None:
    if message.status == Status.FAILED and _is_retried(cluster, call, message.failure):
        cluster.settle(node, message.attempt)
        cluster.discard(message.result)
        return
    status, failure = message.status, message.failure
    if call.crashes >= cluster.config.crashes_max and failure is not None and failure.kind in _CRASH_KINDS:
        status = Status.POISONED
        message_text = f"{failure.message[:_TOLD_MAX]} It did so {call.crashes} times."
        failure = failure._replace(kind="poisoned", message=message_text)
    report = report_of(attempt, call, message)
    record(cluster, call, status, message.result, failure, report, (node, message.attempt))


def _after_use(cluster: Cluster, instance: Instance, attempt: Attempt) -> None:
    """The attempt's end begins the lease anew; a private instance has served its one call."""
    if instance.state is InstanceState.BUSY:
        _go_on(cluster, instance, attempt)
        return
    if instance.state is not InstanceState.IDLE:
        return
    if instance.pool.is_private or attempt.keep_alive_us == 0:
        stop(cluster, instance, "released")
        return
    if attempt.keep_alive_us is not None:
        restart_lease(cluster, instance, attempt.function, attempt.keep_alive_us)
    else:
        await_lease(cluster, instance)
    offer(cluster, instance)


def _go_on(cluster: Cluster, instance: Instance, attempt: Attempt) -> None:
    """The instance runs the next call already: the term begins anew beneath its pin, and there is room for another."""
    if attempt.keep_alive_us is not None:
        instance.lease.restart(attempt.function, cluster.now_ns, attempt.keep_alive_us)
    else:
        await_lease(cluster, instance)
    instance.pool.roomy[instance.instance_id] = instance
    serve(cluster, instance.pool)


def _stale_outcome(cluster: Cluster, node: Node, message: AttemptDone) -> None:
    """Not a current attempt of this node: an old one, or one of an earlier scheduler whose client is to come back."""
    key = (message.session_id, message.call_number)
    session = cluster.sessions.get(message.session_id)
    call = None if session is None else session.calls.get(message.call_number)
    if call is not None and call.settled_attempt == (node, message.attempt):
        return  # repeated, as it has to be until the client has it
    if message.status == Status.CANCELLED:
        # By a scheduler for its own reasons (a client gone silent): who wants the call cancelled will ask again.
        cluster.astonished(node)
        cluster.settle(node, message.attempt)
    elif message.attempt in cluster.given_up:
        cluster.astonished(node)
        cluster.settle(node, message.attempt)  # again: the first word of that was lost
        cluster.discard(message.result)
    elif epoch_of(message.attempt) < cluster.epoch and (session is None or message.call_number not in session.seen):
        _hold(cluster, node, key, message)
    elif call is not None and call.key in cluster.recovering:
        take_held(cluster, call, node, message)
    else:
        cluster.astonished(node)
        cluster.settle(node, message.attempt)
        cluster.discard(message.result)


def _hold(cluster: Cluster, node: Node, key: tuple[bytes, int], message: AttemptDone) -> None:
    if key in cluster.held:
        return
    if cluster.held_of[node.name] >= _HELD_PER_NODE_MAX:
        cluster.astonished(node)
        _give_up(cluster, node, message)
        return
    cluster.held[key] = (node, message)
    cluster.claim(message.result)
    cluster.held_of[node.name] += 1
    cluster.timer("held", key, cluster.config.session_lost_ns)


def take_held(cluster: Cluster, call: Call, node: Node, message: AttemptDone) -> None:
    """An outcome that a node kept while the scheduler was away is the call's outcome, unless its retries cover it."""
    if message.status == Status.FAILED and _is_retried(cluster, call, message.failure):
        cluster.recovering.pop(call.key, None)
        cluster.settle(node, message.attempt)
        cluster.discard(message.result)
        return
    record(cluster, call, message.status, message.result, message.failure, None, (node, message.attempt))


def give_up_held(cluster: Cluster, key: tuple[bytes, int]) -> None:
    """The client of a kept outcome did not come back: the node may forget it."""
    held = cluster.take_held(key)
    if held is not None:
        _give_up(cluster, *held)


def _give_up(cluster: Cluster, node: Node, message: AttemptDone) -> None:
    cluster.given_up[message.attempt] = None
    if len(cluster.given_up) > _GIVEN_UP_MAX:
        cluster.given_up.popitem(last=False)
    cluster.settle(node, message.attempt)
    cluster.discard(message.result)


def _end_attempt(cluster: Cluster, attempt: Attempt) -> None:
    """Nothing was run: the instance, if it is still of use, is idle as before, and so is its lease."""
    instance = attempt.instance
    free_instance(cluster, attempt)
    if instance.state is InstanceState.IDLE:
        hold_lease(cluster, instance)
        offer(cluster, instance)
    serve_node(cluster, instance.node)


def _is_retried(cluster: Cluster, call: Call, failure: Failure | None) -> bool:
    """Count the failure by its class and, if the function's retries cover it, arrange another attempt."""
    if call.is_loan:
        return False  # its client knows what was under way
    kind = "" if failure is None else failure.kind
    limits = call.function.options.retries
    if kind in _CRASH_KINDS:
        call.crashes += 1
        call.out_of_memory += kind == "out_of_memory"
        is_memory = kind == "out_of_memory"
        used = call.out_of_memory if is_memory else call.crashes - call.out_of_memory
        limit = limits.out_of_memory if is_memory else limits.crash
        allowed = used <= limit and call.crashes < cluster.config.crashes_max
    elif kind in ("user_exception", "setup_failed"):
        call.exceptions += 1
        used = call.exceptions
        allowed = used <= limits.exceptions
    else:
        return False
    if not allowed or call.cancel_reason or call.function.options.at_most_once:
        return False
    if call.session.is_keeper:
        tried(cluster, call)
    if call.state is CallState.DISPATCHED:
        change(call, CALL, CallState.RUNNING)
    if call.state is CallState.RUNNING:  # else a node kept the failure over a restart of the scheduler
        change(call, CALL, CallState.QUEUED)
    call.attempt, call.reason = None, "not before"
    call.timed = True
    delay_ns = min(_RETRY_BASE_NS << (used - 1), _RETRY_MAX_NS)
    cluster.timer("retry", call.key, delay_ns)
    note(call, Decision(Reason.RETRY, cluster.now_ns, numbers=(used, delay_ns // 1_000)))
    return True


# ---------------------------------------------------------------- stopping a call


def cancel(cluster: Cluster, call: Call, reason: str) -> None:
    """Stop a call: at once if it waits, through its node if it runs. Repeating it is harmless."""
    if call.state is CallState.DONE:
        return
    call.cancel_reason = call.cancel_reason or reason
    if call.attempt is None:
        fail(cluster, call, Status.CANCELLED, "cancelled", f"Cancelled: {reason}.")
    else:
        send_cancel(cluster, call.attempt)


def send_cancel(cluster: Cluster, attempt: Attempt) -> None:
    """Order a node to stop an attempt; why that is has to be on disk first, if the call is."""
    node = attempt.instance.node
    attempt.cancel_command = cluster.next_command(node)
    message = CancelAttempt(attempt.cancel_command, attempt.token, cluster.config.cancel_grace_us)
    cluster.send(node, message, after_sync=True)


def time_out(cluster: Cluster, call: Call, which: str) -> None:
    """The queue timeout or the overall timeout is over."""
    if call.state is CallState.DONE or (which == "queue" and call.state is CallState.RUNNING):
        return
    options = call.function.options
    limit_us = options.queue_timeout_us if which == "queue" else options.overall_timeout_us
    is_ahead = call.attempt is not None and call.attempt.is_ahead
    waits_for = "another call of its process" if is_ahead else call.reason
    doing = f"it was waiting: {waits_for}" if waits_for else "it was running"
    message = f"The call did not {'start' if which == 'queue' else 'end'} within {limit_us / 1e6:g} s ({doing})."
    attempt = call.attempt
    fail(cluster, call, Status.TIMED_OUT, f"{which}_timeout", message)
    if attempt is not None:
        attempt.is_overdue = True
        abandon(cluster, attempt)


def abandon(cluster: Cluster, attempt: Attempt) -> None:
    """Nobody waits for this attempt any more: stop it; its outcome will not count."""
    if attempt.call is not None:
        attempt.call.attempt = None
    attempt.call = None
    if cluster.unclaimed.get(attempt.key) is attempt:
        # A client that comes back later must not take a cancelled attempt for its call's.
        del cluster.unclaimed[attempt.key]
        cluster.cancel_timer("unclaimed", attempt.token)
    send_cancel(cluster, attempt)
