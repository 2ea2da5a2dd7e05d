"""Pressure and impossibility: idle instances make room for calls that have waited too long, hopeless calls fail.

An idle instance is ended early only here: for a pool whose head call has lost its patience and for which no node has
room, or on a node whose memory is nearly used up (an operator's drain is in ``cordons``). Where nobody is idle, because
calls of others follow one another without end, the pool is *starved*: an instance whose call has just ended then makes
room for it, if its head call deserves it more than those that follow.
"""

from itertools import islice
from typing import NamedTuple

from keepwarm_scheduler.core import saving
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import Decision, Reason, note
from keepwarm_scheduler.core.dispatching import next_call, park, serve, stop, take_off_idle
from keepwarm_scheduler.core.outcomes import fail
from keepwarm_scheduler.core.placement import Claim, VictimCandidate, choose_victims
from keepwarm_scheduler.core.places import could_ever, could_use_another, is_there, nodes_by_load
from keepwarm_scheduler.core.saving import claim
from keepwarm_scheduler.core.state import Call, Instance, Node, Pool, Shape
from keepwarm_scheduler.core.transitions import CallState, InstanceState
from keepwarm_scheduler.core.worth import victim_score
from keepwarm_wire.messages import Status

__all__ = ["infeasible", "make_room", "offer", "relieve", "watch_infeasible"]

_PLANS_COMPARED = 32
"""How many nodes that could make room are compared."""
_STARVED_LOOKED_AT, _STARVED_PLANNED_FOR = 64, 4
"""Of the starved pools, at each end of a call."""
_NODES_LOOKED_AT = 256
"""How many nodes are looked at in one go; the others' turn comes when the pool looks again."""


# ---------------------------------------------------------------- making room


class _Plan(NamedTuple):
    """What it takes to make room on a node; the smallest is the best. ``victims`` is empty where room is coming."""

    last_copies: int
    value: int
    node: str
    victims: list[VictimCandidate]


def make_room(cluster: Cluster, pool: Pool, call: Call) -> None:
    """End idle instances on one node so that this pool can start there: the only early end that calls cause."""
    plans: list[_Plan] = []
    begin = pool.room_cursor if pool.room_cursor < len(cluster.nodes) else 0
    for node in islice(nodes_by_load(cluster), begin, begin + _NODES_LOOKED_AT):
        plan = _plan(cluster, node, pool)
        if plan is not None:
            plans.append(plan)
            if len(plans) >= _PLANS_COMPARED:
                break
    pool.room_cursor = 0 if plans else begin + _NODES_LOOKED_AT
    if plans:
        cluster.starved.pop(pool.key, None)
        _carry_out(cluster, min(plans, key=lambda plan: plan[:3]), call)
    elif not pool.is_impossible:
        cluster.starved[pool.key] = pool


def _plan(cluster: Cluster, node: Node, pool: Pool) -> _Plan | None:
    if not could_use_another(node, pool):
        return None
    memory_coming, gpu_coming = _coming_free(node)
    candidates = {candidate.instance_id: candidate for candidate in _victims(cluster, node)}
    chosen = choose_victims(
        candidates.values(),
        pool.shape.memory_bytes - node.free["memory"] - memory_coming,
        pool.shape.gpu - node.free["gpu"] - gpu_coming,
    )
    if chosen is None:
        return None
    victims = [candidates[instance_id] for instance_id in chosen]
    last_copies = sum(victim.spare == 0 for victim in victims)
    return _Plan(last_copies, sum(victim.value for victim in victims), node.name, victims)


def _carry_out(cluster: Cluster, plan: _Plan, call: Call) -> None:
    if plan.victims:
        numbers = (len(plan.victims), plan.last_copies)
        note(call, Decision(Reason.MAKE_ROOM, cluster.now_ns, plan.node, numbers=numbers))
    for victim in plan.victims:
        instance = cluster.instances[victim.instance_id]
        cluster.clock = max(cluster.clock, victim.value)
        if victim.spare == 0:
            instance.pool.worth.evicted(victim.value)
        stop(cluster, instance, "evicted", call)


def _coming_free(node: Node) -> tuple[int, int]:
    """Memory and GPUs of instances that are about to end: who waits for them needs no other victims."""
    stopping = [one for one in node.instances.values() if one.state is InstanceState.STOPPING]
    return sum(one.memory_bytes for one in stopping), sum(one.gpu for one in stopping)


def _victims(cluster: Cluster, node: Node) -> list[VictimCandidate]:
    """The idle instances of a node. Of a pool's, the one that was used last is the last to be spared."""
    victims: list[VictimCandidate] = []
    surplus: dict[bytes, list[Instance]] = {}
    for instance in node.instances.values():
        if instance.state is InstanceState.IDLE:
            if instance.pool.starting + instance.pool.busy + 1 == len(instance.pool.instances):
                victims.append(_victim(cluster, instance, 0))  # the usual case: nobody else of the pool is idle
            else:
                surplus.setdefault(instance.pool.key, []).append(instance)
    for instances in surplus.values():
        instances.sort(key=lambda instance: (instance.used_ns, instance.instance_id))
        spare = len(instances[0].pool.idle) + sum(instance.is_parked for instance in instances)
        for instance in instances:
            spare -= 1
            victims.append(_victim(cluster, instance, spare))
    return victims


def _victim(cluster: Cluster, instance: Instance, spare: int) -> VictimCandidate:
    score = instance.score
    if score is None:
        pool = instance.pool
        cost_ns = cluster.start_cost_ns(pool)  # the directory outlives the process
        score = victim_score(instance.clock, pool.worth.worth_milli, cost_ns, instance.memory_bytes)
        instance.score = score
    return VictimCandidate(instance.instance_id, spare, score, instance.memory_bytes, instance.gpu)


def relieve(cluster: Cluster, node: Node) -> None:
    """End the idle instance worth least on a node that has measured next to no free memory; 0 is not measured.

    One for each beat: what it frees is measured by the next. Nothing, while one is ending already.
    """
    if not 0 < node.load[1] < cluster.config.node_memory_floor_bytes:
        return
    if any(instance.state is InstanceState.STOPPING for instance in node.instances.values()):
        return
    victim = min(_victims(cluster, node), key=lambda one: (-one.spare, one.value, one.instance_id), default=None)
    if victim is not None:
        instance = cluster.instances[victim.instance_id]
        cluster.clock = max(cluster.clock, victim.value)
        if victim.spare == 0:
            instance.pool.worth.evicted(victim.value)
        stop(cluster, instance, "evicted")


def offer(cluster: Cluster, instance: Instance) -> None:
    """An instance is idle again and its cpu is free: its pool's next call takes it, unless another's deserves it more.

    Where others are parked on the node, ``serve_node`` decides among them all; it has to be called next.
    """
    pool, node = instance.pool, instance.node
    if not pool.queue:
        return
    if cluster.starved and _gives_way(cluster, instance):
        return
    if node.parked:
        take_off_idle(instance)
        park(instance)
    else:
        serve(cluster, pool)


def _gives_way(cluster: Cluster, instance: Instance) -> bool:
    """Whether an instance was ended for a starved pool that could start in its place, or is kept idle for one."""
    node = instance.node
    for pool in _more_deserving(cluster, instance.pool):
        plan = _plan(cluster, node, pool)
        call = next_call(pool)
        if plan is not None and call is not None:
            del cluster.starved[pool.key]
            _carry_out(cluster, plan, call)
            if instance.state is not InstanceState.IDLE:
                return True
        elif (
            saving.is_impatient(cluster, pool)
            and could_use_another(node, pool)
            and saving.may_save(cluster, node, pool)
        ):
            take_off_idle(instance)
            park(instance)
            saving.begin(cluster, node, pool)
            return True
    return False


def _more_deserving(cluster: Cluster, own: Pool) -> list[Pool]:
    """The starved pools that deserve an instance's place most, of those whose turn it is to be looked at."""
    claims: list[tuple[Claim, bytes]] = []
    own_claim = claim(cluster, own)
    for pool in list(islice(cluster.starved.values(), _STARVED_LOOKED_AT)):
        del cluster.starved[pool.key]
        if not pool.queue or pool.starting:
            continue
        cluster.starved[pool.key] = pool  # behind the others
        if pool is not own and _has_no_patience(cluster, pool) and (other := claim(cluster, pool)) < own_claim:
            claims.append((other, pool.key))
    return [cluster.starved[key] for _, key in sorted(claims)[:_STARVED_PLANNED_FOR]]


def _has_no_patience(cluster: Cluster, pool: Pool) -> bool:
    """Whether the head call has waited too long: the one that starved the pool may have been served meanwhile."""
    call = next_call(pool)
    return call is not None and cluster.now_ns - call.submitted_ns >= cluster.config.patience_ns


# ---------------------------------------------------------------- impossibility


def watch_infeasible(cluster: Cluster, call: Call) -> None:
    """Look at the call again after a bound, and fail it if still no node could ever run it."""
    if call.state is CallState.QUEUED and ("infeasible", call.key) not in cluster.timers:
        config = cluster.config
        has_nodes = any(is_there(node) for node in cluster.nodes.values())
        call.timed = True
        delay_ns = config.infeasible_ns if has_nodes else config.no_nodes_ns
        if call.session.is_keeper:
            delay_ns = config.detached_infeasible_ns
        cluster.timer("infeasible", call.key, delay_ns)


def infeasible(cluster: Cluster, call: Call) -> None:
    """The bound is over: if still no node could ever run the call, it fails and says why."""
    if call.state is not CallState.QUEUED:
        return
    nodes = [node for node in cluster.nodes.values() if is_there(node)]
    environment, pool = call.function.environment, call.function.pool
    with_python = [node for node in nodes if environment.python in node.pythons]
    if not nodes and call.session.is_keeper:
        watch_infeasible(cluster, call)  # nobody waits at a terminal: nodes may come another day
    elif not nodes:
        message = "The cluster has no node: start an agent with `keepwarm agent`."
        _fail_alike(cluster, call, "no_feasible_node", message)
    elif not with_python:
        have = ", ".join(f"{node.name}: {' '.join(node.pythons) or 'none'}" for node in nodes[:20])
        message = f"No node has Python {environment.python} (nodes have {have})."
        _fail_alike(cluster, call, "python_missing", message)
    elif pool is not None and not any(could_ever(node, pool) for node in nodes):
        _fail_alike(cluster, call, "no_feasible_node", _why_infeasible(nodes, pool))


def _fail_alike(cluster: Cluster, call: Call, kind: str, message: str) -> None:
    """What makes one call impossible makes all calls of its pool impossible; detached ones have more patience."""
    pool = call.function.pool
    fail(cluster, call, Status.FAILED, kind, message)
    if pool is None:
        return
    for other in list(pool.queue):
        if call.session.is_keeper or not other.session.is_keeper:
            fail(cluster, other, Status.FAILED, kind, message)
    head = next_call(pool)
    if head is not None:
        watch_infeasible(cluster, head)


def _why_infeasible(nodes: list[Node], pool: Pool) -> str:
    shape = pool.shape
    wants = [f"cpu={shape.cpu / 1000:g}", f"memory={shape.memory_bytes >> 20} MiB"]
    wants += [f"gpu={shape.gpu / 1000:g}"] if shape.gpu else []
    wants += [f"{quantity.name}={quantity.amount / 1000:g}" for quantity in shape.custom]
    wants += [f"label {label.name}={label.value}" for label in shape.labels]
    if any(node.platform != pool.platform for node in nodes):
        wants.append(f"platform {pool.platform}, for which its environment was resolved")
    have = "; ".join(f"{node.name}: {', '.join(_has(node, shape, pool.platform))}" for node in nodes[:20])
    return f"No node could ever run this: it asks for {', '.join(wants)}; nodes have {have}."


def _has(node: Node, shape: Shape, platform: str) -> list[str]:
    """What a node has of the things that are asked for."""
    capacity = node.capacity
    has = [f"cpu={capacity.get('cpu', 0) / 1000:g}", f"memory={capacity.get('memory', 0) >> 20} MiB"]
    has += [f"gpu={capacity.get('gpu', 0) / 1000:g}"] if shape.gpu else []
    has += [f"{quantity.name}={capacity.get(quantity.name, 0) / 1000:g}" for quantity in shape.custom]
    has += [f"platform {node.platform}"] if node.platform != platform else []
    return has + [f"label {label.name}={node.labels.get(label.name, '(none)')}" for label in shape.labels]
