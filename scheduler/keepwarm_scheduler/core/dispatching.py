"""Pools at work: calls wait in their pool's queue, idle instances take them, leases begin and end.

Only sending a call to a ready instance makes an attempt. Starting an instance is wanted by the pool, not by a
call: whichever instance is ready first takes the call at the head of the queue. The common path (a call comes, an
instance is idle; a call ends, the next one waits) looks at one pool and one node, whatever the cluster's size.
"""

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.leases import Lease
from keepwarm_scheduler.core.state import Attempt, Call, Instance, Node, Pool
from keepwarm_scheduler.core.transitions import CALL, INSTANCE, CallState, InstanceState, change
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import Dispatch, FunctionBody, FunctionLease, StopInstance

__all__ = [
    "await_lease",
    "book",
    "dispatch",
    "enqueue",
    "expire",
    "free_instance",
    "hold_lease",
    "next_call",
    "rebuild_lease",
    "release_booking",
    "serve",
    "restart_lease",
    "send_stop",
    "serve_node",
    "stop",
    "take_off_idle",
    "put_on_idle",
]


_UNKNOWN_TERM = "?"
"""No function's name: unlike the term that an instance was started for, this one does not end with the next call."""


def enqueue(pool: Pool, call: Call, *, first: bool = False) -> None:
    """Add a queued call to its pool; ``first`` for one that is placed again."""
    call.reason = "capacity"
    pool.queued += 1
    if first:
        pool.queue.appendleft(call)
    else:
        pool.queue.append(call)


def next_call(pool: Pool) -> Call | None:
    """The call at the head of the queue, without those that ended while they waited."""
    queue = pool.queue
    while queue:
        call = queue[0]
        if call.state is CallState.QUEUED and call.reason == "capacity":
            return call
        queue.popleft()
    return None


def serve(cluster: Cluster, pool: Pool) -> None:
    """Send waiting calls to idle instances until one or the other runs out."""
    while pool.idle:
        call = next_call(pool)
        if call is None:
            return
        instance = pool.idle.pop()
        if not _has_cpu(instance.node, pool):
            _park(instance)
            continue
        pool.queue.popleft()
        dispatch(cluster, call, instance)


def serve_node(cluster: Cluster, node: Node) -> None:
    """Cpu came free on a node: the pool whose head call came first takes its parked instances back."""
    while node.parked:
        waiting: list[tuple[int, bytes, int, Pool]] = []
        for instances in node.parked.values():
            pool = instances[0].pool
            call = next_call(pool)
            if call is not None and _has_cpu(node, pool):
                waiting.append((call.submitted_ns, call.session.session_id, call.number, pool))
        if not waiting:
            return
        pool = min(waiting, key=lambda entry: entry[:3])[3]
        _unpark(node, pool)
        serve(cluster, pool)


def _has_cpu(node: Node, pool: Pool) -> bool:
    free = node.free
    if free.get("cpu", 0) < pool.shape.cpu:
        return False
    return all(free.get(quantity.name, 0) >= quantity.amount for quantity in pool.shape.custom)


def _park(instance: Instance) -> None:
    """An idle instance on a node without free cpu is set aside until cpu frees there."""
    instance.is_parked = True
    instance.node.parked.setdefault(instance.pool.key, []).append(instance)


def _unpark(node: Node, pool: Pool) -> None:
    for instance in node.parked.pop(pool.key):
        instance.is_parked = False
        pool.idle.append(instance)


def take_off_idle(instance: Instance) -> None:
    """Remove an idle instance from where it waits: its pool's stack, or the node's parking."""
    if not instance.is_parked:
        instance.pool.idle.remove(instance)
        return
    parked = instance.node.parked[instance.pool.key]
    parked.remove(instance)
    if not parked:
        del instance.node.parked[instance.pool.key]
    instance.is_parked = False


def put_on_idle(instance: Instance) -> None:
    """An instance that just served, or just became ready, is used next."""
    instance.pool.idle.append(instance)


# ---------------------------------------------------------------- attempts


def book(attempt: Attempt) -> None:
    """Take the call's cpu and custom amounts from the node, at the moment of the decision."""
    shape, free = attempt.instance.pool.shape, attempt.instance.node.free
    attempt.cpu, attempt.custom = shape.cpu, shape.custom
    free["cpu"] = free.get("cpu", 0) - shape.cpu
    for quantity in shape.custom:
        free[quantity.name] = free.get(quantity.name, 0) - quantity.amount


def release_booking(attempt: Attempt) -> None:
    """Give the node back what the attempt had booked; once."""
    free = attempt.instance.node.free
    free["cpu"] = free.get("cpu", 0) + attempt.cpu
    for quantity in attempt.custom:
        free[quantity.name] = free.get(quantity.name, 0) + quantity.amount
    attempt.cpu, attempt.custom = 0, ()


def dispatch(cluster: Cluster, call: Call, instance: Instance) -> None:
    """Make an attempt: the instance is pinned, has no deadline any more, and the node is told."""
    pool, node, function = instance.pool, instance.node, call.function
    declaration = function.declaration
    change(call, CALL, CallState.DISPATCHED)
    change(instance, INSTANCE, InstanceState.BUSY)
    call.reason = ""
    pool.queued -= 1
    pool.busy += 1
    cluster.cancel_timer("queue", call.key)
    if declaration.version not in node.functions_sent:
        node.functions_sent[declaration.version] = None
        cluster.send(
            node,
            FunctionBody(
                declaration.version, declaration.name, declaration.codec, declaration.has_setup, declaration.body
            ),
        )
    attempt = Attempt(cluster.next_attempt(), call, call.key, instance, cluster.next_command(node), cluster.now_ns)
    attempt.function, attempt.keep_alive_us = declaration.name, declaration.options.keep_alive_us
    call.attempt = instance.attempt = attempt
    instance.uses += 1
    cluster.attempts[attempt.token] = node.attempts[attempt.token] = attempt
    book(attempt)
    options = function.options
    cluster.send(
        node,
        Dispatch(
            attempt.command,
            instance.instance_id,
            attempt.token,
            call.session.session_id,
            call.number,
            declaration.version,
            options.keep_alive_us,
            options.startup_timeout_us,
            options.run_timeout_us,
            call.arguments,
        ),
    )


def free_instance(cluster: Cluster, attempt: Attempt) -> None:
    """An attempt is over: its booking is released and its instance, if it lives, is idle again."""
    instance = attempt.instance
    cluster.attempts.pop(attempt.token, None)
    if cluster.unclaimed.get(attempt.key) is attempt:
        del cluster.unclaimed[attempt.key]
        cluster.cancel_timer("unclaimed", attempt.token)
    instance.node.attempts.pop(attempt.token, None)
    release_booking(attempt)
    if instance.attempt is not attempt:
        return
    instance.attempt = None
    if instance.state is InstanceState.BUSY:
        instance.pool.busy -= 1
        change(instance, INSTANCE, InstanceState.IDLE)
        put_on_idle(instance)


# ---------------------------------------------------------------- leases


def hold_lease(cluster: Cluster, instance: Instance) -> None:
    """Put an idle instance's deadline into the wheel; an endless lease is in no wheel."""
    if instance.lease.is_infinite:
        cluster.leases.cancel(instance.instance_id)
    else:
        cluster.leases.schedule(instance.instance_id, instance.lease.deadline_ns)


def expire(cluster: Cluster, instance_id: int) -> None:
    """The wheel says that a lease is over. A pinned instance has none: its entry was left from before the call."""
    instance = cluster.instances.get(instance_id)
    if instance is None or instance.state is not InstanceState.IDLE:
        return
    if instance.lease.deadline_ns > cluster.now_ns:
        hold_lease(cluster, instance)
        return
    stop(cluster, instance, "expired")


def stop(cluster: Cluster, instance: Instance, cause: str) -> None:
    """End an idle or starting instance; the node may still refuse, if it knows better."""
    pool = instance.pool
    if instance.state is InstanceState.IDLE:
        take_off_idle(instance)
    elif instance.state is InstanceState.STARTING:
        pool.starting -= 1
    else:
        return
    cluster.leases.cancel(instance.instance_id)
    change(instance, INSTANCE, InstanceState.STOPPING)
    instance.stop_cause = cause
    send_stop(cluster, instance)


def send_stop(cluster: Cluster, instance: Instance) -> None:
    """Tell the node to stop an instance; again if an earlier order was lost."""
    instance.stop_command = cluster.next_command(instance.node)
    cluster.send(
        instance.node,
        StopInstance(instance.stop_command, instance.instance_id, instance.sequence, instance.stop_cause),
    )


def restart_lease(cluster: Cluster, instance: Instance, function: str, keep_alive_us: int) -> None:
    """A call ended or an instance became ready: the term begins anew, now."""
    instance.lease.restart(function, cluster.now_ns, min(keep_alive_us, FOREVER_US))
    hold_lease(cluster, instance)


def await_lease(cluster: Cluster, instance: Instance) -> None:
    """Something ended on the instance whose term only the agent knows: no deadline until its next beat tells."""
    instance.is_lease_unknown = True
    restart_lease(cluster, instance, _UNKNOWN_TERM, FOREVER_US)


def rebuild_lease(cluster: Cluster, instance: Instance, leases: tuple[FunctionLease, ...]) -> None:
    """The agent tells what it measured: terms and the times since their functions' last ends."""
    instance.lease, instance.is_lease_unknown = Lease(), False
    for lease in leases:
        instance.lease.restart(lease.function, cluster.now_ns - lease.idle_us * 1_000, lease.keep_alive_us)
