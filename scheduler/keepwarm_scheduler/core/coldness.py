"""Why no warm instance could take a call: found out when one is started, from what is known then."""

from itertools import islice

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import CAUSES, Coldness
from keepwarm_scheduler.core.state import Pool
from keepwarm_scheduler.core.transitions import InstanceState

__all__ = ["coldness"]

_LOOKED_AT_MAX = 64
"""How many instances of a pool are looked at."""


def coldness(cluster: Cluster, pool: Pool) -> tuple[Coldness, int, str]:
    """The reason, with how many microseconds ago and on which node the last warm instance ended, if one did."""
    if pool.is_private:
        return Coldness.PRIVATE, 0, ""
    if pool.busy:
        return Coldness.ALL_BUSY, 0, ""
    for instance in islice(pool.instances.values(), _LOOKED_AT_MAX):
        if instance.state is InstanceState.SUSPENDED:
            return Coldness.NODE_LOST, 0, instance.node.name
        if instance.state is InstanceState.IDLE:
            is_closed = instance.node.is_closed
            return Coldness.CLOSED if is_closed else Coldness.NO_CPU, 0, instance.node.name
        if instance.state is InstanceState.STOPPING:
            return CAUSES.get(instance.stop_cause, Coldness.DIED), 0, instance.node.name
    ending = cluster.history.ending(pool.key)
    if ending is not None:
        return ending.coldness, (cluster.now_ns - ending.at_ns) // 1_000, ending.node
    return _never_warm(cluster, pool)


def _never_warm(cluster: Cluster, pool: Pool) -> tuple[Coldness, int, str]:
    """Nothing was ever warm for these calls: was something else that they could have been mistaken for?"""
    for other in islice(cluster.pools_of.get(pool.environment_id, {}).values(), _LOOKED_AT_MAX):
        if other is not pool and other.namespace in (pool.namespace, "") and other.instances:
            return Coldness.OTHER_OPTIONS, 0, next(iter(other.instances.values())).node.name
    for relative in cluster.families.get(pool.family, ()):
        if relative.environment_id == pool.environment_id:
            continue
        for other in islice(cluster.pools_of.get(relative.environment_id, {}).values(), _LOOKED_AT_MAX):
            if other.instances:
                return Coldness.OTHER_PYTHON, 0, next(iter(other.instances.values())).node.name
    places = cluster.built_on.get(pool.environment_id)
    if places:
        return Coldness.NEVER_STARTED, 0, next(iter(places))
    return Coldness.NEVER_BUILT, 0, ""
