"""How pools get instances: resolving a spec into a lock, choosing a node, starting, making room.

A scan over nodes happens only when a pool wants a start, and after a scan that found no room not again until some
node has gained room (``Cluster.capacity_version``). So a saturated cluster costs nothing per message.
"""

import hashlib

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.dispatching import book, enqueue, next_call, release_booking, serve, stop
from keepwarm_scheduler.core.effects import SaveLock
from keepwarm_scheduler.core.outcomes import end_unrun, fail
from keepwarm_scheduler.core.placement import (
    Candidate,
    Temperature,
    VictimCandidate,
    choose,
    choose_victims,
    fits,
    starts_wanted,
)
from keepwarm_scheduler.core.state import Call, Environment, Function, Instance, Node, Pool, Shape
from keepwarm_scheduler.core.transitions import CallState, InstanceState
from keepwarm_wire.messages import Failure, MakeLock, StartInstance, Status
from keepwarm_wire.spec import environment_id

__all__ = [
    "adopt_lock",
    "admit",
    "consider_starts",
    "fail_waiting",
    "infeasible",
    "lock_failed",
    "recheck",
    "resolve",
    "unlock",
]

_INSTANCES_WITHOUT_CPU_MAX = 64
"""How many instances of one pool a node holds at most when their calls book no cpu."""


# ---------------------------------------------------------------- from a call to a pool


def admit(cluster: Cluster, call: Call, *, first: bool = False) -> Pool | None:
    """Put a queued call where it has to wait: in its pool's queue, or for its environment's lock."""
    function = call.function
    environment = function.environment
    if function.pool is None and environment.lock is not None:
        function.pool = _pool_of(cluster, function)
        function.pool.users += 1
    if function.pool is None:
        call.reason = "lock"
        environment.waiting.append(call)
        resolve(cluster, environment)
        return None
    enqueue(function.pool, call, first=first)
    return function.pool


def resolve(cluster: Cluster, environment: Environment) -> None:
    """See to it that the environment gets a lock, if a node that can make one is there."""
    if environment.lock is not None or environment.locking_node is not None:
        return
    nodes = [node for node in cluster.nodes.values() if _is_usable(node) and environment.python in node.pythons]
    if not nodes:
        _watch_infeasible(cluster, environment)
        return
    if environment.is_empty:
        adopt_lock(cluster, environment, nodes[0].platform, b"", 0)
        return
    chosen = choose(
        environment.spec_key,
        (Candidate(node.name, Temperature.COLD, _load_permille(node), len(node.instances)) for node in nodes),
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
        if call.state is CallState.QUEUED:
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
    environment, options = function.environment, function.options
    shape = Shape(
        options.cpu,
        options.memory_bytes or cluster.config.undeclared_memory_bytes,
        options.gpu,
        options.custom,
        options.labels,
    )
    is_private = options.keep_alive_us == 0
    identity = (environment.namespace, environment.environment_id, options.env_vars, shape, is_private)
    if is_private:
        # A private instance serves one call of one function: no other function may take it.
        identity += (function.name, function.declaration.version)  # type: ignore[assignment]
    key = hashlib.sha256(repr(identity).encode()).digest()
    assert environment.lock is not None
    pool = cluster.pools.get(key)
    if pool is None:
        pool = cluster.pools[key] = Pool(key, environment.environment_id, environment.platform)
    if not pool.python:
        pool.namespace, pool.python, pool.lock = environment.namespace, environment.python, environment.lock
        pool.env_vars, pool.is_private = options.env_vars, is_private
        _book_anew(cluster, pool, shape)
    return pool


def _book_anew(cluster: Cluster, pool: Pool, shape: Shape) -> None:
    """A pool met first in an agent's beat was known by its key alone: now it is known what its instances hold."""
    pool.shape = shape
    for instance in pool.instances.values():
        free = instance.node.free
        free["memory"] += instance.memory_bytes - shape.memory_bytes
        free["gpu"] += instance.gpu - shape.gpu
        instance.memory_bytes, instance.gpu = shape.memory_bytes, shape.gpu
        if instance.attempt is not None:
            release_booking(instance.attempt)
            book(instance.attempt)
        if pool.is_private and instance.sequence:
            stop(cluster, instance, "released")  # it has served its one call; a busy one is released after it


# ---------------------------------------------------------------- starting instances


def consider_starts(cluster: Cluster, pool: Pool) -> None:
    """Start as many instances as the policy wants and the nodes have room for."""
    call = next_call(pool)
    if call is None or pool.idle:
        return
    wanted = starts_wanted(pool.statistics, pool.queued, pool.busy, pool.starting, is_private=pool.is_private)
    if wanted == 0:
        if pool.starting == 0 and pool.busy:
            # A promise to look again: run times are estimates, and this wait may turn out long.
            _look_again(cluster, pool, min(pool.statistics.cold_start_ns, cluster.config.patience_ns))
        return
    for _ in range(wanted):
        if not _start_one(cluster, pool, call):
            return


def _look_again(cluster: Cluster, pool: Pool, delay_ns: int) -> None:
    """Set the recheck timer unless it is set: calls that keep coming must not put it off."""
    if ("recheck", pool.key) not in cluster.timers:
        cluster.timer("recheck", pool.key, delay_ns)


def recheck(cluster: Cluster, pool: Pool) -> None:
    """A wait has become long: start one instance if none is under way, or make room for one."""
    call = next_call(pool)
    if call is None or pool.idle or pool.starting:
        return
    if _start_one(cluster, pool, call):
        return
    if cluster.now_ns - call.submitted_ns >= cluster.config.patience_ns:
        make_room(cluster, pool)
    _look_again(cluster, pool, cluster.config.patience_ns)


def _start_one(cluster: Cluster, pool: Pool, call: Call) -> bool:
    if pool.blocked_at != cluster.capacity_version:
        chosen = choose(pool.key, (_candidate(node, pool) for node in cluster.nodes.values() if _has_room(node, pool)))
        if chosen is not None:
            start(cluster, pool, cluster.nodes[chosen.node], call.function.options.startup_timeout_us, call.function)
            return True
        pool.blocked_at = cluster.capacity_version
        pool.is_impossible = not any(_could_ever(node, pool) for node in cluster.nodes.values())
        cluster.blocked[pool.key] = pool
    if pool.is_impossible:
        _watch_infeasible_call(cluster, call)
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
    register_instance(cluster, instance)
    pool.starting += 1
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
    instance.gpu = pool.shape.gpu
    node.free["gpu"] -= instance.gpu


def _candidate(node: Node, pool: Pool) -> Candidate:
    if pool.per_node.get(node.name):
        temperature = Temperature.WARM
    elif pool.environment_id in node.environments:
        temperature = Temperature.BUILT
    else:
        temperature = Temperature.COLD
    return Candidate(node.name, temperature, _load_permille(node), len(node.instances))


def _load_permille(node: Node) -> int:
    capacity = max(1, node.capacity.get("cpu", 0))
    return (capacity - node.free.get("cpu", 0)) * 1000 // capacity


def _is_usable(node: Node) -> bool:
    return bool(node.peer) and node.has_reported and not node.is_lost and not node.is_leaving


def _could_ever(node: Node, pool: Pool) -> bool:
    """Whether the node, empty, could run the pool's calls."""
    shape = pool.shape
    need = {"cpu": shape.cpu, "memory": shape.memory_bytes, "gpu": shape.gpu}
    need.update({quantity.name: quantity.amount for quantity in shape.custom})
    return (
        _is_usable(node)
        and pool.python in node.pythons
        and pool.platform == node.platform
        and all(node.labels.get(label.name) == label.value for label in shape.labels)
        and fits(node.capacity, need)
    )


def _has_room(node: Node, pool: Pool) -> bool:
    """Whether an instance could start there now."""
    return _could_use_another(node, pool) and fits(
        node.free, {"memory": pool.shape.memory_bytes, "gpu": pool.shape.gpu}
    )


def _could_use_another(node: Node, pool: Pool) -> bool:
    """Whether one more instance would be of use there: not while one is parked for want of cpu."""
    useful = node.capacity.get("cpu", 0) // pool.shape.cpu if pool.shape.cpu else _INSTANCES_WITHOUT_CPU_MAX
    return _could_ever(node, pool) and pool.per_node.get(node.name, 0) < useful and pool.key not in node.parked


# ---------------------------------------------------------------- pressure and impossibility


def make_room(cluster: Cluster, pool: Pool) -> None:
    """End idle instances on one node so that this pool can start there: the only early end that calls cause."""
    best: tuple[int, str, list[int]] | None = None
    for node in cluster.nodes.values():
        if not _could_use_another(node, pool):
            continue
        memory_coming, gpu_coming = _coming_free(node)
        victims = choose_victims(
            _victims(node),
            pool.shape.memory_bytes - node.free["memory"] - memory_coming,
            pool.shape.gpu - node.free["gpu"] - gpu_coming,
        )
        if victims is not None and (best is None or (len(victims), node.name) < best[:2]):
            best = (len(victims), node.name, victims)
    for instance_id in best[2] if best is not None else ():
        stop(cluster, cluster.instances[instance_id], "evicted")


def _coming_free(node: Node) -> tuple[int, int]:
    """Memory and GPUs of instances that are about to end: who waits for them needs no other victims."""
    stopping = [one for one in node.instances.values() if one.state is InstanceState.STOPPING]
    return sum(one.memory_bytes for one in stopping), sum(one.gpu for one in stopping)


def _victims(node: Node) -> list[VictimCandidate]:
    return [
        VictimCandidate(
            instance.instance_id,
            len(instance.pool.idle),
            instance.lease.deadline_ns,
            instance.memory_bytes,
            instance.gpu,
        )
        for instance in node.instances.values()
        if instance.state is InstanceState.IDLE
    ]


def _watch_infeasible(cluster: Cluster, environment: Environment) -> None:
    for call in environment.waiting:
        _watch_infeasible_call(cluster, call)


def _watch_infeasible_call(cluster: Cluster, call: Call) -> None:
    if call.state is CallState.QUEUED and ("infeasible", call.key) not in cluster.timers:
        config = cluster.config
        has_nodes = any(_is_usable(node) for node in cluster.nodes.values())
        call.timed = True
        cluster.timer("infeasible", call.key, config.infeasible_ns if has_nodes else config.no_nodes_ns)


def infeasible(cluster: Cluster, call: Call) -> None:
    """The bound is over: if still no node could ever run the call, it fails and says why."""
    if call.state is not CallState.QUEUED:
        return
    nodes = [node for node in cluster.nodes.values() if _is_usable(node)]
    environment, pool = call.function.environment, call.function.pool
    with_python = [node for node in nodes if environment.python in node.pythons]
    if not nodes:
        message = "The cluster has no node: start an agent with `keepwarm agent`."
        _fail_alike(cluster, call, "no_feasible_node", message)
    elif not with_python:
        have = ", ".join(f"{node.name}: {' '.join(node.pythons) or 'none'}" for node in nodes[:20])
        message = f"No node has Python {environment.python} (nodes have {have})."
        _fail_alike(cluster, call, "python_missing", message)
    elif pool is not None and not any(_could_ever(node, pool) for node in nodes):
        _fail_alike(cluster, call, "no_feasible_node", _why_infeasible(nodes, pool))


def _fail_alike(cluster: Cluster, call: Call, kind: str, message: str) -> None:
    """What makes one call impossible makes all calls of its pool impossible."""
    pool = call.function.pool
    fail(cluster, call, Status.FAILED, kind, message)
    while pool is not None and (other := next_call(pool)) is not None:
        fail(cluster, other, Status.FAILED, kind, message)


def _why_infeasible(nodes: list[Node], pool: Pool) -> str:
    shape = pool.shape
    wants = [f"cpu={shape.cpu / 1000:g}", f"memory={shape.memory_bytes >> 20} MiB"]
    wants += [f"gpu={shape.gpu / 1000:g}"] if shape.gpu else []
    wants += [f"{quantity.name}={quantity.amount / 1000:g}" for quantity in shape.custom]
    wants += [f"label {label.name}={label.value}" for label in shape.labels]
    have = "; ".join(f"{node.name}: {', '.join(_has(node, shape))}" for node in nodes[:20])
    return f"No node could ever run this: it asks for {', '.join(wants)}; nodes have {have}."


def _has(node: Node, shape: Shape) -> list[str]:
    """What a node has of the things that are asked for."""
    capacity = node.capacity
    has = [f"cpu={capacity.get('cpu', 0) / 1000:g}", f"memory={capacity.get('memory', 0) >> 20} MiB"]
    has += [f"gpu={capacity.get('gpu', 0) / 1000:g}"] if shape.gpu else []
    has += [f"{quantity.name}={capacity.get(quantity.name, 0) / 1000:g}" for quantity in shape.custom]
    return has + [f"label {label.name}={node.labels.get(label.name, '(none)')}" for label in shape.labels]


def fail_waiting(cluster: Cluster, pool: Pool, failure: Failure, node: str) -> None:
    """An instance could not be made, and trying again would not help: every call that waits for one ends."""
    while (call := next_call(pool)) is not None:
        end_unrun(cluster, call, failure, node, pool.environment_id)
