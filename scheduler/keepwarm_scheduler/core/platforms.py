"""Environments whose platform no node has any more: they are resolved anew, for one that is there.

An environment is resolved for one platform. Nodes of another may take over when all nodes of that one are gone: its
calls then wait for a lock again, or take one that was made there earlier. Locks of platforms that are gone are kept.
"""

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.places import is_there, is_usable
from keepwarm_scheduler.core.pressure import infeasible
from keepwarm_scheduler.core.starting import admit, adopt_lock
from keepwarm_scheduler.core.state import Call, Environment
from keepwarm_scheduler.core.transitions import CallState

__all__ = ["infeasible_due"]


def infeasible_due(cluster: Cluster, call: Call) -> None:
    """The bound is over of a call that no node could run: elsewhere perhaps, on another platform; else it fails."""
    if call.state is not CallState.QUEUED:
        return
    environment = call.function.environment
    platform = _other_platform(cluster, environment)
    if call.function.pool is None or not platform:
        infeasible(cluster, call)
        return
    calls = _withdraw(cluster, environment)
    environment.lock, environment.platform, environment.environment_id, environment.blocked_at = None, "", "", -1
    lock = environment.locks.get(platform)
    if lock is None:
        for each in calls:
            admit(cluster, each)
        return
    for each in calls:
        each.reason = "lock"
        environment.waiting[each] = None
    adopt_lock(cluster, environment, platform, lock, 0)


def _other_platform(cluster: Cluster, environment: Environment) -> str:
    """One that usable nodes with the Python have, if none is there of the environment's own; better a known one."""
    if any(is_there(node) and node.platform == environment.platform for node in cluster.nodes.values()):
        return ""
    others = [
        node.platform for node in cluster.nodes.values() if is_usable(node) and environment.python in node.pythons
    ]
    return next((each for each in others if each in environment.locks), others[0] if others else "")


def _withdraw(cluster: Cluster, environment: Environment) -> list[Call]:
    """Take the environment's calls and functions out of its pools, which are of a platform that is gone."""
    calls: list[Call] = []
    for pool in list(cluster.pools_of.get(environment.environment_id, {}).values()):
        for call in list(pool.queue):
            if call.function.environment is environment:
                pool.remove(call)
                calls.append(call)
    for session in cluster.sessions.values():
        for function in session.functions.values():
            pool_left = function.pool
            if function.environment is environment and pool_left is not None:
                function.pool = None
                pool_left.leave(session, function.name)
                cluster.forget_unused(pool_left)
    return calls
