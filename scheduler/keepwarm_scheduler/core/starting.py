"""How pools get instances: resolving a spec into a lock, deciding whether to start, choosing a node, starting.

A search for a node happens only when a pool wants a start, and after one that found no room not again until some node
has gained room (``Cluster.capacity_version``). So a saturated cluster costs nothing per message.
"""

import hashlib
from dataclasses import replace
from itertools import islice

from keepwarm_scheduler.core import lending
from keepwarm_scheduler.core.ahead import called
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.coldness import coldness
from keepwarm_scheduler.core.decisions import Decision, Reason, note
from keepwarm_scheduler.core.dispatching import (
    book,
    enqueue,
    has_cpu,
    next_call,
    release_booking,
    serve,
    serve_at_once,
    serve_node,
    stop,
)
from keepwarm_scheduler.core.effects import SaveLock
from keepwarm_scheduler.core.estimates import RunTimes, StartCosts
from keepwarm_scheduler.core.outcomes import end_unrun
from keepwarm_scheduler.core.placement import Candidate, Demand, Temperature, choose, starts_wanted
from keepwarm_scheduler.core.places import could_ever, find, is_usable, load_permille, nodes_by_load
from keepwarm_scheduler.core.pressure import make_room, watch_infeasible
from keepwarm_scheduler.core.state import Call, Environment, Function, Instance, Node, Pool, Shape
from keepwarm_wire.messages import Failure, MakeLock, StartInstance
from keepwarm_wire.spec import environment_id

__all__ = [
    "adopt_lock",
    "admit",
    "consider_starts",
    "fail_waiting",
    "lock_failed",
    "measure_memory",
    "recheck",
    "register_instance",
    "resolve",
    "start",
    "started",
    "unlock",
]

_LOCKERS_COMPARED = 32
_RESIDUALS_LOOKED_AT = 8
"""Of so many busy instances, the oldest, it is asked how much longer they are expected to be."""
_JUDGED_ALWAYS, _JUDGED_EACH = 64, 32
"""Of the calls that come in one instant, beyond so many that wait, one in so many has the pool think about starts."""
_VERSIONS_REMEMBERED = 1_000
"""Function versions per pool whose run times are shared by new sessions."""


# ---------------------------------------------------------------- from a call to a pool


def admit(cluster: Cluster, call: Call, *, first: bool = False) -> Pool | None:
    """Put a queued call where it has to wait: in its pool's queue, or for its environment's lock."""
    if call.is_loan and lending.is_refused(cluster, call):
        return None
    function = call.function
    environment = function.environment
    if function.pool is None and environment.lock is not None:
        function.pool = _pool_of(cluster, function)
        function.pool.join(call.session, function.name)
    pool = function.pool
    if pool is not None:
        called(cluster, pool, call.session.session_id)
    if pool is None:
        call.reason = "lock"
        note(call, Decision(Reason.LOCK, cluster.now_ns))
        environment.waiting[call] = None
        resolve(cluster, environment)
    elif not (pool.idle or pool.roomy) or not serve_at_once(cluster, pool, call):
        enqueue(pool, call, first=first)
        if cluster.loans or call.is_loan:
            lending.wait(cluster, pool, call)
    return pool


def resolve(cluster: Cluster, environment: Environment) -> None:
    """See to it that the environment gets a lock, if a node that can make one is there."""
    if environment.lock is not None or environment.locking_node is not None:
        return
    if environment.blocked_at == cluster.capacity_version:
        watch_infeasible(cluster, next(reversed(environment.waiting)))
        return
    able = (node for node in nodes_by_load(cluster) if is_usable(node) and environment.python in node.pythons)
    nodes = list(islice(able, _LOCKERS_COMPARED))
    if not nodes:
        environment.blocked_at = cluster.capacity_version
        for call in environment.waiting:
            watch_infeasible(cluster, call)
        return
    if environment.is_empty:
        adopt_lock(cluster, environment, nodes[0].platform, b"", 0)
        return
    chosen = choose(
        environment.spec_key,
        (Candidate(node.name, Temperature.COLD, load_permille(node), len(node.instances)) for node in nodes),
    )
    assert chosen is not None
    node = cluster.nodes[chosen.node]
    environment.locking_node = node
    cluster.locking[(environment.namespace, environment.spec_key)] = environment
    environment.locking_command = cluster.next_command(node)
    cluster.send(node, MakeLock(environment.locking_command, environment.spec_key, environment.spec))


def adopt_lock(cluster: Cluster, environment: Environment, platform: str, lock: bytes, duration_us: int) -> None:
    """The environment is resolved: its waiting calls go to their pools."""
    environment.platform, environment.lock, environment.lock_us = platform, lock, duration_us
    environment.locks[platform] = lock
    unlock(cluster, environment)
    environment.locked_ns = cluster.now_ns
    environment.environment_id = environment_id(lock.decode(), environment.python, platform)
    if lock:
        cluster.effects.append(
            SaveLock(environment.namespace, environment.spec_key, platform, environment.python, lock)
        )
    waiting, pools = list(environment.waiting), dict[bytes, Pool]()
    environment.waiting.clear()
    for call in waiting:
        cluster.cancel_timer("infeasible", call.key)
        pool = admit(cluster, call)
        if pool is not None:
            pools[pool.key] = pool
    for pool in pools.values():
        serve(cluster, pool)
        consider_starts(cluster, pool)


def unlock(cluster: Cluster, environment: Environment) -> None:
    """No node is making this lock any more."""
    environment.locking_node = None
    cluster.locking.pop((environment.namespace, environment.spec_key), None)


def lock_failed(cluster: Cluster, environment: Environment, failure: Failure) -> None:
    """The spec cannot be resolved: every call that waits for it ends now; a later call tries anew."""
    node = environment.locking_node
    unlock(cluster, environment)
    waiting = list(environment.waiting)
    environment.waiting.clear()
    for call in waiting:
        end_unrun(cluster, call, failure, "" if node is None else node.name, environment.spec_key.hex())


def _pool_of(cluster: Cluster, function: Function) -> Pool:
    environment, options, version = function.environment, function.options, function.declaration.version
    shape = Shape(options.cpu, options.memory_bytes, options.gpu, options.custom, options.labels)
    is_private = options.keep_alive_us == 0
    identity = (environment.namespace, environment.environment_id, options.env_vars, shape, is_private)
    if is_private:
        # A private instance serves one call of one function: no other function may take it.
        identity += (function.name, version)  # type: ignore[assignment]
    key = hashlib.sha256(repr(identity).encode()).digest()
    assert environment.lock is not None
    pool = cluster.pools.get(key) or cluster.add_pool(Pool(key, environment.environment_id, environment.platform))
    if not pool.python:
        pool.namespace, pool.python, pool.lock = environment.namespace, environment.python, environment.lock
        pool.env_vars, pool.is_private, pool.family = options.env_vars, is_private, environment.family
        pool.measures_memory = not options.memory_bytes
        if pool.measures_memory:
            shape = replace(shape, memory_bytes=cluster.config.undeclared_memory_bytes)
        _book_anew(cluster, pool, shape)
    function.run_times = pool.run_times.setdefault(version, RunTimes())
    if len(pool.run_times) > _VERSIONS_REMEMBERED:
        del pool.run_times[next(iter(pool.run_times))]
    return pool


def _book_anew(cluster: Cluster, pool: Pool, shape: Shape) -> None:
    """A pool met first in an agent's beat was known by its key alone: now it is known what its instances hold."""
    pool.shape = shape
    nodes: dict[str, Node] = {}
    for instance in list(pool.instances.values()):
        node = nodes[instance.node.name] = instance.node
        node.unfiled[node.name] = node
        if not pool.measures_memory:  # else what its agent booked for it is as good
            node.free["memory"] += instance.memory_bytes - shape.memory_bytes
            instance.memory_bytes = shape.memory_bytes
        node.free["gpu"] += instance.gpu - shape.gpu
        instance.gpu = shape.gpu
        if instance.attempt is not None:
            release_booking(instance.attempt)
            book(instance.attempt)
        if pool.is_private and instance.sequence:
            stop(cluster, instance, "released")  # it has served its one call; a busy one is released after it
    for node in nodes.values():
        serve_node(cluster, node)


def measure_memory(pool: Pool, node: Node, memory_bytes: int) -> None:
    """An instance that has served was seen to use so much: book that for further ones, if nothing was asked for."""
    if pool.measures_memory and memory_bytes > pool.peak_bytes:
        pool.peak_bytes = memory_bytes
        # It ran on this node: what is more than the node offers was not all its own.
        memory_bytes = min(memory_bytes, node.capacity["memory"])
        pool.shape = replace(pool.shape, memory_bytes=memory_bytes)


# ---------------------------------------------------------------- starting instances


def consider_starts(cluster: Cluster, pool: Pool, call: Call | None = None) -> None:
    """Start as many instances as the policy wants and the nodes have room for.

    ``call`` is the one that has just come, else the head of the queue is told why.
    """
    head = next_call(pool)
    if head is None or pool.idle:
        return
    has_come = call is not None  # else the cluster has changed, and what was decided a moment ago may be wrong by now
    call = call or head
    is_one_of_many = pool.considered_ns == cluster.now_ns and pool.queued > _JUDGED_ALWAYS
    if has_come and is_one_of_many and pool.queued % _JUDGED_EACH:
        assert pool.considered is not None
        note(call, pool.considered)
        return
    demand, cold_ns = _demand(pool), expected_cold_ns(cluster, pool)
    ages = (
        times.residual_ns(cluster.now_ns - attempt.dispatched_ns)
        for attempt in islice(pool.attempts.values(), _RESIDUALS_LOOKED_AT)
        if (times := attempt.run_times) is not None
    )
    verdict = starts_wanted(demand, cold_ns, ages)
    numbers = (demand.queued, demand.busy, demand.starting, verdict.wait_ns // 1_000, cold_ns // 1_000)
    if verdict.starts == 0:
        reason = Reason.UNDER_WAY if pool.starting else Reason.WAIT
        decision = Decision(reason, cluster.now_ns, numbers=numbers)
        note(call, decision)
        pool.considered_ns, pool.considered = cluster.now_ns, decision
        if pool.starting == 0 and pool.busy:
            # A promise to look again: run times are estimates, and this wait may turn out long.
            _look_again(cluster, pool, min(cold_ns, cluster.config.patience_ns))
        return
    for _ in range(verdict.starts):
        if not _start_one(cluster, pool, head, call, numbers):
            return


def _demand(pool: Pool) -> Demand:
    unmeasured = work_ns = 0
    for times, count in pool.waiting.items():
        if times.is_measured:
            work_ns += count * times.mean_ns
        else:
            unmeasured += count
    return Demand(pool.queued, unmeasured, work_ns, pool.busy, pool.starting, pool.is_private)


def expected_cold_ns(cluster: Cluster, pool: Pool) -> int:
    """What a cold start of the pool is expected to cost where the environment is hottest."""
    costs = cluster.costs.get(pool.environment_id, cluster.typical_costs)
    return costs.expected_ns(is_built=pool.environment_id in cluster.built_on)


def started(cluster: Cluster, instance: Instance) -> None:
    """An instance became ready: learn from how long it took."""
    elapsed_ns = cluster.now_ns - instance.wanted_ns
    build_ns = 0 if instance.was_built else instance.build_us * 1_000
    key = instance.pool.environment_id
    costs = cluster.costs.get(key)
    if costs is None:
        costs = cluster.costs[key] = StartCosts(cluster.typical_costs)
    costs.add(elapsed_ns, build_ns)
    cluster.typical_costs.add(elapsed_ns, build_ns)


def _look_again(cluster: Cluster, pool: Pool, delay_ns: int) -> None:
    """Set the recheck timer unless it is set: calls that keep coming must not put it off."""
    if ("recheck", pool.key) not in cluster.timers:
        cluster.timer("recheck", pool.key, delay_ns)


def recheck(cluster: Cluster, pool: Pool) -> None:
    """A wait has become long: start one instance if none is under way, or make room for one."""
    call = next_call(pool)
    if call is None or pool.idle or pool.starting:
        return
    if call.is_loan and not any(has_cpu(node, pool) for node in cluster.nodes.values()):
        _wait_on(cluster, pool, call)  # it is one of many for the same calls
        return
    demand, cold_ns = _demand(pool), expected_cold_ns(cluster, pool)
    waited_ns = cluster.now_ns - call.submitted_ns
    numbers = (demand.queued, demand.busy, demand.starting, waited_ns // 1_000, cold_ns // 1_000)
    if _start_one(cluster, pool, call, call, numbers):
        return
    if waited_ns >= cluster.config.patience_ns and not call.is_loan:
        make_room(cluster, pool, call)
    _wait_on(cluster, pool, call)


def _wait_on(cluster: Cluster, pool: Pool, call: Call) -> None:
    if cluster.loans:
        lending.wanted(cluster, pool, call)
    _look_again(cluster, pool, cluster.config.patience_ns)


def _start_one(cluster: Cluster, pool: Pool, head: Call, call: Call, numbers: tuple[int, ...]) -> bool:
    """Start an instance with the head call's limits, and tell ``call`` why, or why not."""
    if pool.blocked_at != cluster.capacity_version:
        chosen, count = find(cluster, pool)
        if chosen:
            name = chosen[0].node
            why, ended_us, where = coldness(cluster, pool)
            instance = start(
                cluster, pool, cluster.nodes[name], head.function.options.startup_timeout_us, head.function
            )
            instance.start = Decision(
                Reason.START,
                cluster.now_ns,
                name,
                instance.instance_id,
                (*numbers, count),
                why,
                ended_us,
                where,
                tuple(chosen),
            )
            note(call, instance.start)
            cluster.starved.pop(pool.key, None)
            return True
        pool.blocked_at = cluster.capacity_version
        pool.is_impossible = not any(could_ever(node, pool) for node in cluster.nodes.values())
        if pool.is_impossible:
            pool.nodes_seen = sum(is_usable(node) for node in cluster.nodes.values())
        cluster.blocked[pool.key] = pool
    if pool.is_impossible:
        note(call, Decision(Reason.IMPOSSIBLE, cluster.now_ns, numbers=(pool.nodes_seen,)))
        watch_infeasible(cluster, head)
        if head.session.is_keeper and not call.session.is_keeper:
            watch_infeasible(cluster, call)  # it does not have the patience of a detached one
    else:
        decision = Decision(Reason.NO_ROOM, cluster.now_ns, numbers=numbers[:3])
        note(call, decision)
        pool.considered_ns, pool.considered = cluster.now_ns, decision
    # Also when it is impossible: the call that is watched may end first, and the next one has to be watched then.
    _look_again(cluster, pool, cluster.config.patience_ns)
    return False


def start(cluster: Cluster, pool: Pool, node: Node, startup_timeout_us: int, function: Function) -> Instance:
    """Book the memory and GPUs, and tell the node to build if need be and to start a process."""
    instance = Instance(
        cluster.next_instance(),
        pool,
        node,
        pool.shape.memory_bytes,
        function.options.keep_alive_us,
        cluster.next_command(node),
        cluster.now_ns,
    )
    instance.started_for = function.name
    register_instance(cluster, instance)
    pool.starting += 1
    instance.clock = cluster.clock
    pool.worth.started(cluster.clock, cluster.start_cost_ns(pool), instance.memory_bytes)
    cluster.send(
        node,
        StartInstance(
            instance.command,
            instance.instance_id,
            pool.key,
            pool.environment_id,
            pool.python,
            pool.lock,
            pool.env_vars,
            pool.shape.memory_bytes,
            pool.shape.gpu // 1000,
            startup_timeout_us,
            function.options.keep_alive_us,
            pool.shape.gpu,
        ),
    )
    return instance


def register_instance(cluster: Cluster, instance: Instance) -> None:
    """Enter an instance into every index, with its memory and GPUs taken from the node."""
    pool, node = instance.pool, instance.node
    cluster.instances[instance.instance_id] = pool.instances[instance.instance_id] = instance
    node.instances[instance.instance_id] = instance
    pool.per_node[node.name] = pool.per_node.get(node.name, 0) + 1
    node.free["memory"] -= instance.memory_bytes
    node.unfiled[node.name] = node
    instance.gpu = pool.shape.gpu
    node.free["gpu"] -= instance.gpu


def fail_waiting(cluster: Cluster, pool: Pool, failure: Failure, node: str) -> None:
    """An instance could not be made, and trying again would not help: every call that waits for one ends."""
    while (call := next_call(pool)) is not None:
        end_unrun(cluster, call, failure, node, pool.environment_id)
