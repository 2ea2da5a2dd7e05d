"""Pools at work: calls wait in their pool's queue, idle instances take them, leases begin and end.

Only sending a call to a ready instance makes an attempt. Starting an instance is wanted by the pool, not by a
call: whichever instance is ready first takes the call at the head of the queue. The common path (a call comes, an
instance is idle; a call ends, the next one waits) looks at one pool and one node, whatever the cluster's size.
"""

from keepwarm_scheduler.core import lending, notices, saving
from keepwarm_scheduler.core.ahead import find_room, watch
from keepwarm_scheduler.core.at_most_once import send_dispatch
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import Decision, Reason, note
from keepwarm_scheduler.core.leases import UNKNOWN_TERM, Lease
from keepwarm_scheduler.core.placement import Claim
from keepwarm_scheduler.core.saving import claim, is_kept_from
from keepwarm_scheduler.core.state import Attempt, Call, Instance, Node, Pool
from keepwarm_scheduler.core.transitions import CALL, INSTANCE, CallState, InstanceState, change
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import DeclareFunction, Dispatch, FunctionBody, FunctionLease, StopInstance

__all__ = [
    "await_lease",
    "book",
    "close_node",
    "dispatch",
    "enqueue",
    "expire",
    "free_instance",
    "has_cpu",
    "hold_lease",
    "next_call",
    "open_node",
    "park",
    "promote",
    "rebuild_lease",
    "release_booking",
    "serve",
    "serve_at_once",
    "restart_lease",
    "send_stop",
    "serve_node",
    "stop",
    "take_off_idle",
    "put_on_idle",
]


_PARDONS, _PARDONS_MAX = 4, 40_000
"""Of a node, for each attempt and in all: its start, its end, and each of them once more."""


def enqueue(pool: Pool, call: Call, *, first: bool = False) -> None:
    """Add a queued call to its pool; ``first`` for one that is placed again."""
    call.reason = "capacity"
    pool.push(call, first=first)


def next_call(pool: Pool) -> Call | None:
    """The call at the head of the queue."""
    return pool.queue.head()


def serve(cluster: Cluster, pool: Pool) -> None:
    """Send waiting calls to idle instances until one or the other runs out, then some ahead to busy ones."""
    while pool.idle and (call := pool.queue.head()) is not None:
        instance = pool.idle.pop()
        if has_cpu(instance.node, pool) and not is_kept_from(cluster, instance.node, pool, call):
            dispatch(cluster, pool.take(), instance)
        else:
            park(instance)
            if cluster.loans:
                lending.wanted(cluster, pool, call)
    _send_ahead(cluster, pool)


def _send_ahead(cluster: Cluster, pool: Pool) -> None:
    """Send waiting calls to busy instances, while any has room."""
    while pool.roomy and (call := pool.queue.head()) is not None:
        busy = find_room(cluster, pool, call)
        if busy is None:
            return
        dispatch(cluster, pool.take(), busy)


def serve_at_once(cluster: Cluster, pool: Pool, call: Call) -> bool:
    """Send a call that has just come to an idle instance, past the queue, which is empty where one is idle.

    Where none is, it may be sent ahead to a busy one, if nothing waits that came before it.
    """
    while pool.idle:
        instance = pool.idle.pop()
        if has_cpu(instance.node, pool) and not is_kept_from(cluster, instance.node, pool, call):
            dispatch(cluster, call, instance)
            return True
        park(instance)
        note(call, Decision(Reason.NO_CPU, cluster.now_ns, instance.node.name, instance.instance_id))
    busy = find_room(cluster, pool, call) if pool.roomy and pool.queued == len(pool.loans) else None
    if busy is None:
        return False
    dispatch(cluster, call, busy)
    return True


def serve_node(cluster: Cluster, node: Node) -> None:
    """Cpu came free on a node: of its parked instances, those take a call whose pools' head calls deserve it most.

    An instance that nothing waits for goes back to where calls look first. Where a call that deserves it more needs
    more than there is, the node saves for it.
    """
    if node.is_closed or not (node.parked or node.saved_for):
        return
    starved = saving.starved_by(cluster, node)
    while True:
        waiting, short = _claims(cluster, node)
        if starved is not None and starved.queue:
            short.append((claim(cluster, starved), starved.key))
        if short and (not waiting or min(short) < min(waiting)):
            saving.begin(cluster, node, cluster.pools[min(short)[1]])
            return
        saving.end(cluster, node)
        if not waiting:
            return
        instance = _unpark(node, min(waiting)[1], -1)
        pool = instance.pool
        pool.idle.pop()
        dispatch(cluster, pool.take(), instance)
        _send_ahead(cluster, pool)


def _claims(cluster: Cluster, node: Node) -> tuple[list[tuple[Claim, bytes]], list[tuple[Claim, bytes]]]:
    """Of the pools with instances parked on a node: whose call could run, and who has waited too long for more cpu."""
    waiting: list[tuple[Claim, bytes]] = []
    short: list[tuple[Claim, bytes]] = []
    for key, instances in list(node.parked.items()):
        pool = instances[0].pool
        if not has_cpu(node, pool):
            is_short = node.free["cpu"] < pool.shape.cpu and saving.is_impatient(cluster, pool)
            if is_short and saving.may_save(cluster, node, pool):
                short.append((claim(cluster, pool), key))
        elif pool.queue:
            waiting.append((claim(cluster, pool), key))
        else:
            while key in node.parked:
                _unpark(node, key, 0)
    return waiting, short


def has_cpu(node: Node, pool: Pool) -> bool:
    """Whether a call of the pool could run on the node now."""
    free, shape = node.free, pool.shape
    if free["cpu"] < shape.cpu:
        return False
    return not shape.custom or all(free.get(quantity.name, 0) >= quantity.amount for quantity in shape.custom)


def park(instance: Instance) -> None:
    """An idle instance, off the stack, on a node without free cpu is set aside until cpu frees there."""
    instance.is_parked, instance.pool.wanted_at = True, None
    instance.node.parked.setdefault(instance.pool.key, []).append(instance)


def _unpark(node: Node, key: bytes, which: int) -> Instance:
    instances = node.parked[key]
    instance = instances.pop(which)
    if not instances:
        del node.parked[key]
    instance.is_parked = False
    instance.pool.idle.append(instance)
    return instance


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
    """An instance that just served, or just became ready, is used next, unless its node is to be given nothing new."""
    if instance.node.is_closed:
        park(instance)
    else:
        instance.pool.idle.append(instance)


def close_node(node: Node) -> None:
    """From now on no call is sent to the node: its idle instances are set aside. What runs goes on."""
    if not node.is_closed:
        node.is_closed, node.saved_for = True, None
        for instance in node.instances.values():
            if instance.state is InstanceState.IDLE and not instance.is_parked:
                instance.pool.idle.remove(instance)
                park(instance)


def open_node(cluster: Cluster, node: Node) -> None:
    """Calls are sent to the node again: its idle instances take those that wait."""
    node.is_closed = False
    serve_node(cluster, node)


# ---------------------------------------------------------------- attempts


def book(attempt: Attempt) -> None:
    """Take the call's cpu and custom amounts from the node, at the moment of the decision."""
    pool, node = attempt.instance.pool, attempt.instance.node
    shape, free = pool.shape, node.free
    pool.attempts[attempt.token] = attempt
    node.unfiled[node.name] = node
    attempt.cpu, attempt.custom = shape.cpu, shape.custom
    free["cpu"] -= shape.cpu
    for quantity in shape.custom:
        free[quantity.name] = free.get(quantity.name, 0) - quantity.amount


def release_booking(attempt: Attempt) -> None:
    """Give the node back what the attempt had booked; once."""
    node = attempt.instance.node
    free = node.free
    attempt.instance.pool.attempts.pop(attempt.token, None)
    node.unfiled[node.name] = node
    free["cpu"] += attempt.cpu
    for quantity in attempt.custom:
        free[quantity.name] = free.get(quantity.name, 0) + quantity.amount
    attempt.cpu, attempt.custom = 0, ()


def dispatch(cluster: Cluster, call: Call, instance: Instance) -> None:
    """Make an attempt and tell the node: on an idle instance, which is pinned by it and has no deadline any more.

    On a busy one it is run ahead: next, and without another word, once those before it have ended.
    """
    pool, node, function, session = instance.pool, instance.node, call.function, call.session
    declaration = function.declaration
    is_ahead = instance.state is InstanceState.BUSY
    change(call, CALL, CallState.DISPATCHED)
    call.reason = ""
    _send_function(cluster, node, declaration)
    attempt = Attempt(cluster.next_attempt(), call, call.key, instance, cluster.next_command(node), cluster.now_ns)
    attempt.function, attempt.keep_alive_us = declaration.name, declaration.options.keep_alive_us
    attempt.run_times, attempt.is_ahead = function.run_times, is_ahead
    call.attempt = attempt
    _note_dispatch(cluster, call, instance)
    session.turn = cluster.namespace_turns[pool.namespace] = attempt.token
    pool.served_ns = cluster.now_ns
    instance.clock, instance.used_ns, instance.score = cluster.clock, cluster.now_ns, None
    instance.uses += 1
    pool.worth.called(cluster.clock, cluster.start_cost_ns(pool), instance.memory_bytes)
    cluster.attempts[attempt.token] = node.attempts[attempt.token] = attempt
    if node.pardons < _PARDONS_MAX:
        node.pardons += _PARDONS
    if is_ahead:
        instance.ahead.append(attempt)
        watch(cluster, instance)
    else:
        change(instance, INSTANCE, InstanceState.BUSY)
        pool.busy += 1
        instance.busy_ns = cluster.now_ns
        pool.roomy[instance.instance_id] = instance
        _take_place(cluster, instance, attempt)
    if call.is_loan:
        lending.lent(cluster, call, attempt)
    options = declaration.options
    message = Dispatch(
        attempt.command,
        instance.instance_id,
        attempt.token,
        session.session_id,
        call.number,
        declaration.version,
        options.keep_alive_us,
        options.startup_timeout_us,
        options.run_timeout_us,
        call.arguments,
        is_ahead,
        call.is_loan,
    )
    if session.is_keeper or options.at_most_once:
        send_dispatch(cluster, node, call, message)
    else:
        cluster.send(node, message)


def _send_function(cluster: Cluster, node: Node, declaration: DeclareFunction) -> None:
    """The function's bytes, unless the node has them."""
    version = declaration.version
    if version not in node.functions_sent:
        node.functions_sent[version] = None
        cluster.send(
            node,
            FunctionBody(version, declaration.name, declaration.codec, declaration.has_setup, declaration.body),
        )


def _take_place(cluster: Cluster, instance: Instance, attempt: Attempt) -> None:
    """From now on the attempt is the one that its instance runs."""
    instance.attempt = attempt
    book(attempt)
    call = attempt.call
    if call is not None and call.timed:
        cluster.cancel_timer("queue", call.key)


def promote(cluster: Cluster, instance: Instance) -> None:
    """The instance runs the first of the calls that were sent ahead to it."""
    attempt = instance.ahead.popleft()
    attempt.is_ahead, attempt.dispatched_ns = False, cluster.now_ns
    _take_place(cluster, instance, attempt)


def _note_dispatch(cluster: Cluster, call: Call, instance: Instance) -> None:
    """To which instance, and for one that was started for it or while it waited, why that was."""
    start = instance.start
    is_its_first = instance.uses == 0 and instance.ready_ns > call.submitted_ns
    if start is not None and is_its_first and start not in call.decisions:
        note(call, start)
    if instance.state is InstanceState.BUSY:
        reason, numbers = Reason.AHEAD, (len(instance.ahead) + 1, instance.uses)
    else:
        reason, numbers = Reason.IDLE, (len(instance.pool.idle), instance.uses)
    note(call, Decision(reason, cluster.now_ns, instance.node.name, instance.instance_id, numbers))


def free_instance(cluster: Cluster, attempt: Attempt) -> None:
    """An attempt is over: its booking is released and its instance, if it lives, runs the next one or is idle again."""
    instance = attempt.instance
    cluster.attempts.pop(attempt.token, None)
    if cluster.loans:
        lending.returned(cluster, attempt)
    if cluster.unclaimed.get(attempt.key) is attempt:
        del cluster.unclaimed[attempt.key]
        cluster.cancel_timer("unclaimed", attempt.token)
    instance.node.attempts.pop(attempt.token, None)
    if attempt.is_ahead:
        instance.ahead.remove(attempt)
        return
    release_booking(attempt)
    if instance.attempt is not attempt:
        return
    instance.attempt = None
    if instance.state is not InstanceState.BUSY:
        return
    if instance.ahead:
        promote(cluster, instance)
        return
    instance.pool.busy -= 1
    instance.pool.roomy.pop(instance.instance_id, None)
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
    stop(cluster, instance, "released" if instance.pool.is_private else "expired")


def stop(cluster: Cluster, instance: Instance, cause: str, call: Call | None = None) -> None:
    """End an idle or starting instance, ``call`` being for what; the node may still refuse, if it knows better."""
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
    if cause.startswith("evicted"):
        notices.evicted(cluster, instance, call)
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
    """Something ended on the instance whose term only the agent knows: no deadline until its next idle beat tells."""
    instance.is_lease_unknown = True
    instance.lease.restart(UNKNOWN_TERM, cluster.now_ns, FOREVER_US)
    if instance.state is InstanceState.IDLE:
        hold_lease(cluster, instance)


def rebuild_lease(cluster: Cluster, instance: Instance, leases: tuple[FunctionLease, ...]) -> None:
    """The agent tells what it measured: terms and the times since their functions' last ends."""
    instance.lease, instance.is_lease_unknown = Lease(), False
    for lease in leases:
        instance.lease.restart(lease.function, cluster.now_ns - lease.idle_us * 1_000, lease.keep_alive_us)
