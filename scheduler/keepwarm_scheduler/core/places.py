"""Which nodes there are to start an instance on: what fits where, and finding a good one without looking at all.

Nodes are filed by how loaded they are, lazily: a node whose bookings changed is only marked, and filed anew when a
node is next looked for, so that a warm call costs one assignment. A search looks at the nodes where the pool or its
environment is already, then at the least loaded ones, and ends at the first few that have room; only a search that
finds nothing has looked at every node, and is not repeated until some node has gained room
(``Cluster.capacity_version``).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.placement import Candidate, Temperature, best, fits
from keepwarm_scheduler.core.state import Node, Pool, Shape
from keepwarm_scheduler.core.transitions import NodeState

__all__ = [
    "could_ever",
    "could_use_another",
    "find",
    "forget_node",
    "has_room",
    "is_there",
    "is_usable",
    "load_permille",
    "nodes_by_load",
    "set_environments",
]

_INSTANCES_WITHOUT_CPU_MAX = 64
"""How many instances of one pool a node holds at most when their calls book no cpu."""
_SMALL_CLUSTER = 64
"""With no more nodes than this, all of them are compared."""
_PROBED_MAX = 256
"""How many nodes of a hotter tier are looked at before the next tier."""
_COMPARED_MAX = 32
"""How many nodes with room are compared."""
_RUNNERS_UP = 3
_WITHIN_REACH = (NodeState.ALIVE, NodeState.SUSPECT)
_FULL = 1 << 12


# ---------------------------------------------------------------- what fits where


def is_usable(node: Node) -> bool:
    """Whether anything can be started there now."""
    return bool(node.peer) and not node.is_closed and is_there(node)


def is_there(node: Node) -> bool:
    """Whether it counts as part of the cluster: one that is suspect or cordoned does, and may be of use again."""
    return node.has_reported and node.state in _WITHIN_REACH and not node.is_leaving


def could_ever(node: Node, pool: Pool) -> bool:
    """Whether the node, empty and in use, could run the pool's calls."""
    shape, capacity = pool.shape, node.capacity
    return (
        is_there(node)
        and pool.python in node.pythons
        and pool.platform == node.platform
        and capacity["memory"] >= pool.shape.memory_bytes
        and capacity["cpu"] >= shape.cpu
        and capacity["gpu"] >= shape.gpu
        and (not shape.labels or all(node.labels.get(label.name) == label.value for label in shape.labels))
        and (not shape.custom or fits(capacity, {quantity.name: quantity.amount for quantity in shape.custom}))
    )


def has_room(node: Node, pool: Pool) -> bool:
    """Whether an instance could start there now."""
    free, saved = node.free, node.saved_for
    if saved is not None and saved is not pool and saved.key not in node.parked:
        return False  # what comes free is kept for an instance of that
    return free["memory"] >= pool.shape.memory_bytes and free["gpu"] >= pool.shape.gpu and could_use_another(node, pool)


def could_use_another(node: Node, pool: Pool) -> bool:
    """Whether one more instance would be of use there: not while one is parked for want of cpu."""
    return (
        is_usable(node)
        and could_ever(node, pool)
        and pool.per_node.get(node.name, 0) < _useful(node, pool.shape)
        and pool.key not in node.parked
    )


def _useful(node: Node, shape: Shape) -> int:
    return node.capacity["cpu"] // shape.cpu if shape.cpu else _INSTANCES_WITHOUT_CPU_MAX


def load_permille(node: Node) -> int:
    """The share of a node's cpu that is promised to running calls."""
    capacity = node.capacity["cpu"] or 1
    return (capacity - node.free["cpu"]) * 1000 // capacity


def candidate(node: Node, pool: Pool) -> Candidate:
    """A node as the policy sees it."""
    if pool.per_node.get(node.name):
        temperature = Temperature.WARM
    elif pool.environment_id in node.environments:
        temperature = Temperature.BUILT
    else:
        temperature = Temperature.COLD
    return Candidate(node.name, temperature, load_permille(node), len(node.instances))


def set_environments(cluster: Cluster, node: Node, environments: dict[str, int]) -> None:
    """What is built on a node's disk, as it says itself; with nothing when the node is gone."""
    before = node.environments
    if before.keys() != environments.keys():
        for environment_id in before.keys() - environments.keys():
            places = cluster.built_on[environment_id]
            del places[node.name]
            if not places:
                del cluster.built_on[environment_id]
        for environment_id in environments:
            if environment_id not in before:
                cluster.built_on.setdefault(environment_id, {})[node.name] = None
    node.environments = environments


# ---------------------------------------------------------------- finding one


def find(cluster: Cluster, pool: Pool) -> tuple[list[Candidate], int]:
    """The node to start an instance of the pool on and the next best ones, and among how many they were chosen.

    Nothing when no node has room; only then has every node been looked at, if there are many.
    """
    nodes = cluster.nodes
    if len(nodes) <= _SMALL_CLUSTER:
        found = [candidate(node, pool) for node in nodes.values() if has_room(node, pool)]
    else:
        found = (
            _with_room(cluster, pool, islice(pool.per_node, _PROBED_MAX))
            or _with_room(cluster, pool, islice(cluster.built_on.get(pool.environment_id, ()), _PROBED_MAX))
            or _least_loaded(cluster, pool)
        )
    return best(pool.key, found, 1 + _RUNNERS_UP), len(found)


def _with_room(cluster: Cluster, pool: Pool, names: Iterable[str]) -> list[Candidate]:
    nodes = cluster.nodes
    roomy = (nodes[name] for name in names if name in nodes and has_room(nodes[name], pool))
    return [candidate(node, pool) for node in islice(roomy, _COMPARED_MAX)]


def _least_loaded(cluster: Cluster, pool: Pool) -> list[Candidate]:
    """Some nodes with room of the lowest level of load that has any."""
    for level in _levels(cluster):
        roomy = (node for node in level.values() if has_room(node, pool))
        found = [candidate(node, pool) for node in islice(roomy, _COMPARED_MAX)]
        if found:
            return found
    return []


def nodes_by_load(cluster: Cluster) -> Iterator[Node]:
    """Every node, the least loaded first. Bookings may change meanwhile; another search may not begin."""
    for level in _levels(cluster):
        yield from level.values()


def _levels(cluster: Cluster) -> Iterator[OrderedDict[str, Node]]:
    """The nodes by level of load, lowest first, after filing those whose bookings changed."""
    levels, unfiled = cluster.levels, cluster.unfiled
    for name, node in unfiled.items():
        if node.level >= 0:
            _unfile(cluster, node)
        node.level = _level(node)
        levels.setdefault(node.level, OrderedDict())[name] = node
    unfiled.clear()
    for level in sorted(levels):
        yield levels[level]


def forget_node(cluster: Cluster, node: Node) -> None:
    """A node is gone for good."""
    set_environments(cluster, node, {})
    node.unfiled.pop(node.name, None)
    if node.level >= 0:
        _unfile(cluster, node)


def _unfile(cluster: Cluster, node: Node) -> None:
    filed = cluster.levels[node.level]
    del filed[node.name]
    if not filed:
        del cluster.levels[node.level]
    node.level = -1


def _level(node: Node) -> int:
    """Eighths of the cpu that is promised, then the order of magnitude of its instances; full nodes come last."""
    level = min(8, load_permille(node) // 125) << 6 | min(63, len(node.instances).bit_length())
    return level if node.free["memory"] >= node.capacity["memory"] >> 7 else level | _FULL
