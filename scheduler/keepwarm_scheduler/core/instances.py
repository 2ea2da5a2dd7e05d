"""Instances from their starts to their ends, as the agents report them.

An instance ends exactly once: ``end_instance`` takes it out of every index and remembers its id, so that a late
report about it finds nothing. The outcome of the call that it may have been serving is another matter: the agent
repeats that until it is final, and it alone decides what becomes of the call.
"""

from itertools import islice

from keepwarm_scheduler.core import notices
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import CAUSES, Coldness, Ending
from keepwarm_scheduler.core.dispatching import (
    await_lease,
    put_on_idle,
    restart_lease,
    serve,
    stop,
    take_off_idle,
)
from keepwarm_scheduler.core.leases import UNSERVED
from keepwarm_scheduler.core.placement import Claim
from keepwarm_scheduler.core.places import has_room, set_environments
from keepwarm_scheduler.core.saving import claim
from keepwarm_scheduler.core.starting import consider_starts, fail_waiting, started
from keepwarm_scheduler.core.state import Instance, Node, Pool
from keepwarm_scheduler.core.transitions import INSTANCE, InstanceState, change
from keepwarm_wire.messages import Failure, InstanceBusy, InstanceEnded, InstanceProgress, InstanceReady, Progress

__all__ = [
    "end_instance",
    "instance_busy",
    "instance_ended",
    "instance_progress",
    "instance_ready",
    "new_room",
    "suspend",
]

_ENDED_REMEMBERED = 1_000
_TOLD_MAX = 1_000
"""So many sessions are told how a start goes."""
_START_CAUSES = ("build_failed", "start_failed")
"""Ends of instances that could not be made; one that was ready may die too before we have heard that it was."""
_NODE_STOPPING = "node_stopping"
"""What an agent that has been told to stop says to every start: nobody's failure, but no place for another start."""


def instance_ready(cluster: Cluster, node: Node, message: InstanceReady) -> None:
    """A process waits for calls. Its lease begins, with the keep_alive it was started for."""
    instance = node.instances.get(message.instance_id)
    if instance is None or instance.state is not InstanceState.STARTING:
        cluster.astonished(node)
        return
    pool = instance.pool
    instance.process_id, instance.was_built = message.process_id, message.was_built
    instance.build_us, instance.start_us = message.build_us, message.start_us
    instance.ready_ns = cluster.now_ns
    started(cluster, instance)
    pool.start_failures = 0
    pool.starting -= 1
    change(instance, INSTANCE, InstanceState.IDLE)
    put_on_idle(instance)
    if pool.environment_id not in node.environments:
        set_environments(cluster, node, {**node.environments, pool.environment_id: 0})
    _begin_lease(cluster, instance)
    serve(cluster, pool)
    if pool.is_private and (instance in pool.idle or (node.is_closed and instance.is_parked)):
        stop(cluster, instance, "released")


def _begin_lease(cluster: Cluster, instance: Instance) -> None:
    if instance.keep_alive_us is None:
        await_lease(cluster, instance)
    else:
        restart_lease(cluster, instance, UNSERVED, instance.keep_alive_us)


def instance_progress(cluster: Cluster, node: Node, message: InstanceProgress) -> None:
    """Tell the sessions whose calls wait in this pool, of their next call's function."""
    instance = node.instances.get(message.instance_id)
    if instance is None:
        cluster.astonished(node)
        return
    instance.phase = message.phase
    elapsed_us = (cluster.now_ns - instance.wanted_ns) // 1_000
    told: dict[tuple[bytes, int], None] = {}
    for call in islice(instance.pool.queue.heads(), _TOLD_MAX):
        session, number = call.session, call.function.declaration.function_number
        if (session.session_id, number) not in told:
            told[(session.session_id, number)] = None
            cluster.send(session, Progress(number, node.name, message.phase, message.detail, elapsed_us))


def instance_busy(cluster: Cluster, node: Node, message: InstanceBusy) -> None:
    """The node refused a stop: it knows of a later call. Its next beat tells of which, and until when it lives."""
    instance = node.instances.get(message.instance_id)
    if instance is None or instance.state is not InstanceState.STOPPING or message.sequence < instance.sequence:
        cluster.astonished(node)
        return  # gone, not being stopped, or an answer to an earlier stop that was overtaken
    instance.sequence = message.sequence
    change(instance, INSTANCE, InstanceState.IDLE)
    put_on_idle(instance)
    await_lease(cluster, instance)
    serve(cluster, instance.pool)


def instance_ended(cluster: Cluster, node: Node, message: InstanceEnded) -> None:
    """A process is gone, whatever the cause."""
    instance = node.instances.get(message.instance_id)
    if instance is None:
        cluster.astonished(node)
        return
    never_ready = instance.ready_ns == 0
    pool = instance.pool
    end_instance(cluster, instance, message.cause, message)
    if message.failure is not None and message.failure.kind == _NODE_STOPPING:
        node.is_leaving = True
    elif never_ready and message.failure is not None and message.cause in _START_CAUSES:
        _start_failed(cluster, pool, node, message.failure, retryable=message.retryable)
    new_room(cluster, node)
    if pool.queue:
        consider_starts(cluster, pool)


def _start_failed(cluster: Cluster, pool: Pool, node: Node, failure: Failure, *, retryable: bool) -> None:
    pool.start_failures += 1
    if not retryable or pool.start_failures >= cluster.config.start_attempts_max:
        pool.start_failures = 0
        fail_waiting(cluster, pool, failure, node.name)


def end_instance(cluster: Cluster, instance: Instance, cause: str = "", message: InstanceEnded | None = None) -> None:
    """Take an instance out of every index; its memory and GPUs are free again. Exactly once.

    Without a ``cause`` it is the one for which it was told to stop, if it was. ``message`` is the agent's word of it.
    """
    pool, node = instance.pool, instance.node
    if instance.state is InstanceState.ENDED:
        return
    cause = cause or instance.stop_cause
    notices.instance_ended(cluster, instance, cause, message)
    _leave_state(instance)
    change(instance, INSTANCE, InstanceState.ENDED)
    cluster.leases.cancel(instance.instance_id)
    if instance.is_recall_timed:
        instance.is_recall_timed = False
        cluster.cancel_timer("recall", instance.instance_id)
    for index in (cluster.instances, pool.instances, node.instances):
        index.pop(instance.instance_id, None)
    cluster.forget_unused(pool)
    pool.per_node[node.name] -= 1
    if not pool.per_node[node.name]:
        del pool.per_node[node.name]
    node.free["memory"] += instance.memory_bytes
    node.free["gpu"] += instance.gpu
    node.unfiled[node.name] = node
    if instance.ready_ns:
        coldness = CAUSES.get(cause, Coldness.DIED)
        cluster.history.ended(pool.key, Ending(coldness, cluster.now_ns, node.name))
    node.ended[instance.instance_id] = None
    if len(node.ended) > _ENDED_REMEMBERED:
        node.ended.pop(next(iter(node.ended)))


def _leave_state(instance: Instance) -> None:
    if instance.state is InstanceState.IDLE:
        take_off_idle(instance)
    elif instance.state is InstanceState.STARTING:
        instance.pool.starting -= 1
    elif instance.state is InstanceState.BUSY:
        instance.pool.busy -= 1
        instance.pool.roomy.pop(instance.instance_id, None)


def suspend(cluster: Cluster, instance: Instance) -> None:
    """The instance's node is out of reach: nothing is sent to it, and it has no deadline here."""
    if instance.state in (InstanceState.SUSPENDED, InstanceState.ENDED):
        return
    _leave_state(instance)
    change(instance, INSTANCE, InstanceState.SUSPENDED)
    cluster.leases.cancel(instance.instance_id)


def new_room(cluster: Cluster, node: Node) -> None:
    """Memory came free on a node: of the pools that found no room, those that have some now look again.

    The one whose head call deserves it most goes first. The others remain blocked: nothing else has changed.
    """
    before = cluster.capacity_version
    cluster.capacity_version += 1
    able: list[tuple[Claim, bytes]] = []
    for pool in list(cluster.blocked.values()):
        if not pool.queue:
            del cluster.blocked[pool.key]
        elif pool.blocked_at != before or has_room(node, pool):
            able.append((claim(cluster, pool), pool.key))
        else:
            pool.blocked_at = cluster.capacity_version
    for _, key in sorted(able):
        blocked = cluster.blocked.pop(key, None)
        if blocked is not None:
            consider_starts(cluster, blocked)
