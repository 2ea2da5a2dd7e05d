"""After a restart of the scheduler: nothing is run again that a node may still be running.

Clients send their unanswered calls again; agents report what runs and what has finished. A call sent again waits
until every node of the last epoch has reported, or the grace is over, and then takes the first of: the attempt
that runs, the outcome that a node held, a new attempt.
"""

from keepwarm_scheduler.core.at_most_once import is_in_doubt
from keepwarm_scheduler.core.calls import abandon, send_cancel, submit, take_held
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import Decision, Reason, note
from keepwarm_scheduler.core.effects import ForgetNode
from keepwarm_scheduler.core.outcomes import end_in_doubt, fail, leave_queue
from keepwarm_scheduler.core.starting import admit, consider_starts
from keepwarm_scheduler.core.state import Attempt, Call, Pool
from keepwarm_scheduler.core.transitions import CALL, CallState, change
from keepwarm_wire.messages import Status

__all__ = ["begin", "claim", "end", "hold_back", "node_reported", "release"]


def begin(cluster: Cluster, nodes: tuple[str, ...]) -> None:
    """The last epoch had these nodes: wait for them, for a while."""
    cluster.waiting_nodes = dict.fromkeys(nodes)
    cluster.is_recovering = bool(nodes)
    if nodes:
        cluster.timer("recovery", "", cluster.config.recovery_grace_ns)


def node_reported(cluster: Cluster, name: str) -> None:
    """A node of the last epoch has told what it runs, or is known to be gone."""
    if cluster.is_recovering:
        cluster.waiting_nodes.pop(name, None)
        if not cluster.waiting_nodes:
            end(cluster)


def hold_back(cluster: Cluster, call: Call) -> None:
    """A call sent again: it may have run, or be running, somewhere."""
    attempt, held = cluster.unclaimed.get(call.key), cluster.take_held(call.key)
    if held is not None:
        cluster.cancel_timer("held", call.key)
        take_held(cluster, call, *held)
    elif attempt is not None:
        _adopt(cluster, call, attempt)
    elif cluster.is_recovering:
        call.reason = "recovering"
        note(call, Decision(Reason.RECOVERING, cluster.now_ns))
        cluster.recovering[call.key] = call
    elif is_in_doubt(cluster, call):
        end_in_doubt(cluster, call, _NOT_REPORTED)
    else:
        submit(cluster, call)


def claim(cluster: Cluster, attempt: Attempt) -> bool:
    """Find whose call a running attempt is. False if it is nobody's: superseded, or its call is settled."""
    session = cluster.sessions.get(attempt.key[0])
    if session is None or attempt.key[1] not in session.seen:
        other = cluster.unclaimed.get(attempt.key)
        if other is not None:
            older, attempt = sorted((other, attempt), key=lambda one: one.token)
            abandon(cluster, older)
        cluster.unclaimed[attempt.key] = attempt
        cluster.timer("unclaimed", attempt.token, cluster.config.session_lost_ns)
        return True
    call = session.calls.get(attempt.key[1])
    if call is None or call.state is not CallState.QUEUED or call.is_loan:
        return False  # a loan's client has another process in mind by now
    _adopt(cluster, call, attempt)
    return True


def _adopt(cluster: Cluster, call: Call, attempt: Attempt) -> None:
    """The call goes on where it runs already."""
    cluster.unclaimed.pop(call.key, None)
    cluster.cancel_timer("unclaimed", attempt.token)
    cluster.cancel_timer("queue", call.key)
    leave_queue(cluster, call)
    attempt.call, call.attempt = call, attempt
    attempt.function, attempt.keep_alive_us = call.function.name, call.function.options.keep_alive_us
    call.reason = ""
    attempt.run_times = call.function.run_times
    note(call, Decision(Reason.FOUND, cluster.now_ns, attempt.instance.node.name, attempt.instance.instance_id))
    change(call, CALL, CallState.RUNNING)
    if call.cancel_reason:
        send_cancel(cluster, attempt)


def end(cluster: Cluster) -> None:
    """Every node has reported, or the grace is over: what nobody runs is run now."""
    if not cluster.is_recovering:
        return
    cluster.is_recovering = False
    cluster.cancel_timer("recovery", "")
    for name in cluster.waiting_nodes:
        cluster.effects.append(ForgetNode(name))
    cluster.waiting_nodes = {}
    release(cluster)


def release(cluster: Cluster) -> None:
    """The calls that waited are run now, unless that is forbidden; pools think of starts once for all of theirs."""
    recovering, cluster.recovering = cluster.recovering, {}
    pools: dict[bytes, Pool] = {}
    for call in recovering.values():
        if is_in_doubt(cluster, call):
            end_in_doubt(cluster, call, _NOT_REPORTED)
        elif call.cancel_reason:
            fail(cluster, call, Status.CANCELLED, "cancelled", f"Cancelled: {call.cancel_reason}.")
        else:
            pool = admit(cluster, call)
            if pool is not None and call.state is CallState.QUEUED:
                pools[pool.key] = pool
    for pool in pools.values():
        if pool.queue:
            consider_starts(cluster, pool)


_NOT_REPORTED = "It had been sent to a node by an earlier scheduler, and no node has told how it ended."
