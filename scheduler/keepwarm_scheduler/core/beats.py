"""Heartbeats: an agent's full state, compared with what the scheduler believes, and every difference repaired.

Only what was commanded at or before the beat's ``as_of`` may be judged missing: what was commanded later may still be
on its way. A beat older than the newest one is ignored.
"""

from keepwarm_scheduler.core.ahead import watch
from keepwarm_scheduler.core.calls import abandon, lose_attempt, send_cancel
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.dispatching import (
    book,
    hold_lease,
    promote,
    put_on_idle,
    rebuild_lease,
    send_stop,
    serve,
    serve_node,
    stop,
)
from keepwarm_scheduler.core.instances import end_instance, instance_ready, new_room
from keepwarm_scheduler.core.leases import UNSERVED
from keepwarm_scheduler.core.nodes import new_capacity, use_again
from keepwarm_scheduler.core.places import set_environments
from keepwarm_scheduler.core.pressure import relieve
from keepwarm_scheduler.core.recovery import claim, node_reported
from keepwarm_scheduler.core.starting import consider_starts, measure_memory, register_instance, resolve, unlock
from keepwarm_scheduler.core.state import Attempt, Instance, Node, Pool
from keepwarm_scheduler.core.transitions import INSTANCE, InstanceState, change
from keepwarm_wire.messages import AgentBeat, AgentBeatReply, InstanceReady, RunningAttempt, StopInstance
from keepwarm_wire.messages import InstanceState as ReportedInstance

__all__ = ["on_beat"]

_BEATS_PER_INTERVAL_MAX = 20
_BEAT_BLAME = 100
"""For a beat that comes much too soon: each costs as much as many messages."""

_COMMAND_MAX = 1 << 60
"""No scheduler gives so many commands."""

_INSTANCES_PER_NODE_MAX = 10_000
"""Beyond so many, an agent's word for more of them is not taken: it would cost this process memory without end."""


def on_beat(cluster: Cluster, node: Node, beat: AgentBeat) -> None:
    """Full state from an agent: repair whatever differs."""
    if beat.beat_number <= node.last_beat or beat.epoch not in (0, cluster.epoch):
        return
    if cluster.now_ns - node.beat_ns < cluster.config.beat_interval_ns // _BEATS_PER_INTERVAL_MAX:
        cluster.overstepped(node.peer, _BEAT_BLAME)
    node.beat_ns = cluster.now_ns
    was_first, node.has_reported = not node.has_reported, True
    node.last_beat, node.as_of = beat.beat_number, beat.as_of
    if was_first and beat.as_of < _COMMAND_MAX:
        node.last_command = max(node.last_command, beat.as_of)  # the node was forgotten here: its numbers go on
    node.load = (beat.load.cpu_permille, beat.load.memory_free_bytes, beat.load.disk_free_bytes)
    set_environments(cluster, node, {entry.environment_id: entry.size_bytes for entry in beat.environments})
    listed: dict[int, None] = {}
    attempts: dict[int, None] = {held.attempt: None for held in beat.held}
    # Busy ones first: what runs must be booked before idle ones are given more to run.
    for reported in sorted(beat.instances, key=lambda each: not each.attempts):
        listed[reported.instance_id] = None
        attempts.update((running.attempt, None) for running in reported.attempts)
        _sync_instance(cluster, node, reported)
    _end_missing(cluster, node, listed, attempts)
    _repair_locks(cluster, node, beat)
    if not (cluster.is_recovering and _hands_over(cluster, beat)):
        node_reported(cluster, node.name)
    cluster.send(node, AgentBeatReply(beat.beat_number, node.last_command, cluster.next_beat_us()))
    use_again(cluster, node)
    if was_first:
        new_capacity(cluster)
    serve_node(cluster, node)
    relieve(cluster, node)


def _hands_over(cluster: Cluster, beat: AgentBeat) -> bool:
    """Whether an outcome of an earlier epoch is still to come.

    It was said ahead of this beat, unless its result is large and on its way, or its process is just being killed.
    """
    dying = [attempt for each in beat.instances if each.state == "stopping" for attempt in each.attempts]
    for held in (*beat.held, *dying):
        key = (held.session_id, held.call_number)
        session = cluster.sessions.get(held.session_id)
        is_new = session is None or held.call_number not in session.seen
        if key in cluster.recovering or (is_new and key not in cluster.held):
            return True
    return False


def _end_missing(cluster: Cluster, node: Node, listed: dict[int, None], attempts: dict[int, None]) -> None:
    # Instances first: else the end of a lost attempt would make its lost instance look idle.
    for instance in list(node.instances.values()):
        if instance.command <= node.as_of and instance.instance_id not in listed:
            end_instance(cluster, instance)
            new_room(cluster, node)
            if instance.pool.queue:
                consider_starts(cluster, instance.pool)
    for attempt in list(node.attempts.values()):
        if attempt.command <= node.as_of and attempt.token not in attempts:
            lose_attempt(cluster, attempt, was_node_lost=False)
        elif 0 < attempt.cancel_command <= node.as_of:
            send_cancel(cluster, attempt)


def _repair_locks(cluster: Cluster, node: Node, beat: AgentBeat) -> None:
    for environment in list(cluster.locking.values()):
        is_missing = environment.locking_node is node and environment.locking_command <= beat.as_of
        if is_missing and environment.spec_key not in beat.locks_under_way:
            unlock(cluster, environment)
            if environment.waiting:
                resolve(cluster, environment)


def _sync_instance(cluster: Cluster, node: Node, reported: ReportedInstance) -> None:
    instance = node.instances.get(reported.instance_id)
    if instance is None:
        if reported.instance_id in node.ended or reported.state == "ended":
            _stop_unknown(cluster, node, reported)
            return
        if not _is_adoptable(cluster, node, reported.instance_id):
            return
        instance = _adopt_instance(cluster, node, reported)
    instance.process_id = reported.process_id
    if reported.sequence:
        measure_memory(instance.pool, node, reported.memory_bytes)
    if instance.state is InstanceState.SUSPENDED:
        _resume(cluster, instance, reported)
    elif instance.state is InstanceState.STARTING and reported.state in ("idle", "busy"):
        instance_ready(cluster, node, InstanceReady(instance.instance_id, reported.process_id, True, 0, 0))
    elif instance.state is InstanceState.STOPPING and reported.state == "idle":
        if instance.stop_command <= node.as_of:
            send_stop(cluster, instance)
    elif instance.state is InstanceState.BUSY and instance.attempt is None and reported.state == "idle":
        instance.pool.busy -= 1
        change(instance, INSTANCE, InstanceState.IDLE)
        put_on_idle(instance)
        _idle_again(cluster, instance, reported)
    elif instance.state is InstanceState.IDLE and instance.is_lease_unknown and reported.state == "idle":
        _learn_lease(cluster, instance, reported)
    for running in reported.attempts:
        _sync_attempt(cluster, instance, running)


def _is_adoptable(cluster: Cluster, node: Node, instance_id: int) -> bool:
    """Whether an unknown instance may be what its agent says. Another node's, or one that never was, is not."""
    is_free = instance_id not in cluster.instances and cluster.was_given(instance_id)
    return is_free and len(node.instances) < _INSTANCES_PER_NODE_MAX


def _stop_unknown(cluster: Cluster, node: Node, reported: ReportedInstance) -> None:
    """An instance that had ended for us: gone by now, or started by a latecomer of a command and nobody's."""
    if reported.state == "idle":
        command = cluster.next_command(node)
        cluster.send(node, StopInstance(command, reported.instance_id, reported.sequence, "stopped"))


def _learn_lease(cluster: Cluster, instance: Instance, reported: ReportedInstance) -> None:
    """The lease that only the agent knows; a beat from before the end that left it unknown does not tell it."""
    if reported.sequence >= instance.sequence:
        instance.sequence = reported.sequence
        rebuild_lease(cluster, instance, reported.leases)
        hold_lease(cluster, instance)


def _adopt_instance(cluster: Cluster, node: Node, reported: ReportedInstance) -> Instance:
    """An instance of an earlier scheduler: its lease is rebuilt from the idle times that the agent measured."""
    pool = cluster.pools.get(reported.pool)
    if pool is None:
        # No client has declared a function for it yet: the pool is known by its key alone, until one does.
        pool = cluster.add_pool(Pool(reported.pool, reported.environment_id, node.platform))
    instance = Instance(
        reported.instance_id, pool, node, reported.memory_bytes, None, 0, cluster.now_ns, InstanceState.SUSPENDED
    )
    if pool.python and not pool.measures_memory:
        instance.memory_bytes = pool.shape.memory_bytes
    instance.ready_ns = 1
    register_instance(cluster, instance)
    if not pool.python:
        instance.gpu = reported.gpu
        node.free["gpu"] -= reported.gpu
    return instance


def _resume(cluster: Cluster, instance: Instance, reported: ReportedInstance) -> None:
    instance.sequence = reported.sequence
    rebuild_lease(cluster, instance, reported.leases)
    if reported.state in ("building", "starting"):
        terms = {lease.function: lease.keep_alive_us for lease in reported.leases}
        instance.keep_alive_us = terms.get(UNSERVED)  # None from an agent of an earlier version
        change(instance, INSTANCE, InstanceState.STARTING)
        instance.pool.starting += 1
    elif reported.state == "stopping":
        change(instance, INSTANCE, InstanceState.STOPPING)
    elif reported.state == "busy":
        change(instance, INSTANCE, InstanceState.BUSY)
        instance.pool.busy += 1
        if instance.ahead:
            promote(cluster, instance)
    else:
        change(instance, INSTANCE, InstanceState.IDLE)
        instance.ready_ns = instance.ready_ns or cluster.now_ns
        put_on_idle(instance)
        _idle_again(cluster, instance, reported)


def _idle_again(cluster: Cluster, instance: Instance, reported: ReportedInstance) -> None:
    """An instance turned out to be idle: it may serve, unless it was for one call only and has served that."""
    if instance.pool.is_private and reported.sequence:
        stop(cluster, instance, "released")
        return
    rebuild_lease(cluster, instance, reported.leases)
    hold_lease(cluster, instance)
    serve(cluster, instance.pool)


def _sync_attempt(cluster: Cluster, instance: Instance, running: RunningAttempt) -> None:
    """An attempt runs on a node. If it is unknown it is from an earlier scheduler, or superseded."""
    if running.attempt in cluster.attempts or not cluster.was_given(running.attempt):
        return
    if instance.state is not InstanceState.BUSY:
        return
    is_ahead = instance.attempt is not None
    attempt = Attempt(
        running.attempt,
        None,
        (running.session_id, running.call_number),
        instance,
        0,
        cluster.now_ns - running.elapsed_us * 1_000,
        is_running=not is_ahead,
        is_ahead=is_ahead,
    )
    cluster.attempts[attempt.token] = instance.node.attempts[attempt.token] = attempt
    if is_ahead:
        instance.ahead.append(attempt)
        watch(cluster, instance)
    else:
        instance.attempt = attempt
        book(attempt)
    if not claim(cluster, attempt):
        abandon(cluster, attempt)
