"""Orders of an operator about single nodes: cordon, drain, uncordon; and what comes of them.

A cordoned node is closed: nothing is started there and no call is sent there; what runs goes on, and leases run out. A
drained one is emptied besides. An order belongs to the node's name, is on disk before it is answered, and holds until
it is undone: over restarts of scheduler and agent, and while the node is away. A restart of the scheduler begins the
wait for leases anew, so that it never shortens one. Rules: no call is ended by an order; an instance is ended only
while it is idle or not ready yet; every step can be taken again, for it follows from what is there now.
"""

from typing import Final

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.dispatching import close_node, stop
from keepwarm_scheduler.core.effects import ForgetCordon, SaveCordon, Send
from keepwarm_scheduler.core.events import SavedCordon
from keepwarm_scheduler.core.lending import call_all_back
from keepwarm_scheduler.core.nodes import use_again
from keepwarm_scheduler.core.starting import consider_starts
from keepwarm_scheduler.core.state import Cordon, Node
from keepwarm_scheduler.core.transitions import InstanceState, NodeState
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import CordonNode, Goodbye, Message, NodeChanged, NodeRefused, ShowNode
from keepwarm_wire.node_messages import CORDON_MODES

__all__ = ["CORDONS_MAX", "attend", "has_left", "order", "restore", "show", "timer_due", "word"]

CORDONS_MAX: Final = 10_000
"""Orders outlive nodes: those of nodes that will never come back have to be undone by somebody some day."""

_DRAINED: Final = "the node is drained and its agent was to be stopped"


# ---------------------------------------------------------------- what operators say


def order(cluster: Cluster, peer: bytes, message: CordonNode) -> None:
    """Carry out an order; it is answered once it is on disk."""
    refused = _refusal(cluster, message)
    if refused is not None:
        cluster.effects.append(Send(peer, refused))
        return
    name, is_drain = message.node, message.mode == "drain"
    cluster.cancel_timer("drain", name)
    if message.mode == "uncordon":
        if cluster.cordons.pop(name, None) is not None:
            cluster.effects.append(ForgetCordon(name))
    else:
        _keep(cluster, name, SavedCordon(name, is_drain, message.max_wait_us * is_drain, message.stop and is_drain))
        cluster.effects.append(_saved(name, cluster.cordons[name]))
    node = cluster.nodes.get(name)
    if node is not None:
        use_again(cluster, node)
        attend(cluster, node)
    cluster.effects.append(Send(peer, _standing(cluster, message.request_number, name), after_sync=True))


def show(cluster: Cluster, peer: bytes, message: ShowNode) -> None:
    """Tell how a node stands."""
    reply: Message = _standing(cluster, message.request_number, message.node)
    if not _is_known(cluster, message.node):
        reply = _unknown(message.request_number, message.node)
    cluster.effects.append(Send(peer, reply))


def _refusal(cluster: Cluster, message: CordonNode) -> NodeRefused | None:
    number = message.request_number
    if message.mode not in CORDON_MODES:
        return NodeRefused(number, "bad_mode", f"{message.mode[:64]!r} is none of {', '.join(CORDON_MODES)}.")
    if not _is_known(cluster, message.node):
        return _unknown(number, message.node)
    if len(cluster.cordons) >= CORDONS_MAX and message.node not in cluster.cordons and message.mode != "uncordon":
        reason = f"{CORDONS_MAX} nodes are cordoned already: `keepwarm uncordon` those that are gone for good."
        return NodeRefused(number, "too_many", reason)
    return None


def _is_known(cluster: Cluster, name: str) -> bool:
    return name in cluster.nodes or name in cluster.cordons or name in cluster.waiting_nodes


def _unknown(number: int, name: str) -> NodeRefused:
    return NodeRefused(number, "unknown_node", f"No node is called {name!r}: `keepwarm status` lists them.")


# ---------------------------------------------------------------- keeping orders


def restore(cluster: Cluster, saved: tuple[SavedCordon, ...]) -> None:
    """What was ordered before the scheduler was restarted holds."""
    for each in saved:
        _keep(cluster, each.node, each)


def _keep(cluster: Cluster, name: str, saved: SavedCordon) -> None:
    wait_us = min(saved.max_wait_us, FOREVER_US)
    cluster.cordons[name] = Cordon(saved.is_drain, wait_us, saved.stop, cluster.now_ns + wait_us * 1_000)
    if saved.is_drain and wait_us < FOREVER_US:
        cluster.timer("drain", name, wait_us * 1_000)
    node = cluster.nodes.get(name)
    if node is not None:
        close_node(node)
        call_all_back(cluster, node)


def _saved(name: str, cordon: Cordon) -> SaveCordon:
    return SaveCordon(name, cordon.is_drain, cordon.max_wait_us, cordon.stop)


def has_left(cluster: Cluster, name: str) -> None:
    """An agent that was to leave has left: the next one of this node stays, and is told nothing."""
    cordon = cluster.cordons.get(name)
    if cordon is not None and cordon.stop:
        cluster.cordons[name] = cordon = cordon._replace(stop=False)
        cluster.effects.append(_saved(name, cordon))


# ---------------------------------------------------------------- emptying a node


def timer_due(cluster: Cluster, name: str) -> None:
    """Leases are not waited for any more."""
    node = cluster.nodes.get(name)
    if node is not None:
        attend(cluster, node)


def attend(cluster: Cluster, node: Node) -> None:
    """Do what is to be done at a cordoned node now: called after everything that may have changed there."""
    cordon = cluster.cordons.get(node.name)
    if cordon is None or node.state is not NodeState.ALIVE or not node.has_reported:
        return
    is_over = cluster.now_ns >= cordon.until_ns
    for instance in list(node.instances.values()):
        if instance.state is InstanceState.STARTING:
            stop(cluster, instance, "stopped")  # it would be of no use, and its calls wait for it
            if instance.pool.queue:
                consider_starts(cluster, instance.pool)
        elif instance.state is InstanceState.IDLE and cordon.is_drain:
            is_endless = instance.lease.is_infinite and not instance.is_lease_unknown
            if is_over or is_endless:
                stop(cluster, instance, "evicted: drain")
    if cordon.stop and _is_empty(cluster, node):
        cluster.send(node, Goodbye(_DRAINED))  # again with each beat, until it leaves


def _is_empty(cluster: Cluster, node: Node) -> bool:
    """Whether nothing of the cluster's is on the node, as it has said itself."""
    is_locking = any(environment.locking_node is node for environment in cluster.locking.values())
    return node.has_reported and not (node.is_lost or node.instances or node.attempts or is_locking)


# ---------------------------------------------------------------- how a node stands


def word(cluster: Cluster, name: str) -> str:
    """*open*, *cordoned*, *draining* or *drained*."""
    cordon, node = cluster.cordons.get(name), cluster.nodes.get(name)
    if cordon is None:
        return "open"
    if not cordon.is_drain:
        return "cordoned"
    is_empty = name not in cluster.waiting_nodes if node is None else _is_empty(cluster, node)
    return "drained" if is_empty else "draining"


def _standing(cluster: Cluster, number: int, name: str) -> NodeChanged:
    node, cordon = cluster.nodes.get(name), cluster.cordons.get(name)
    calls, instances = (0, 0) if node is None else (len(node.attempts), len(node.instances))
    left_us = FOREVER_US
    if cordon is not None and cordon.is_drain and cordon.max_wait_us < FOREVER_US:
        left_us = max(0, cordon.until_ns - cluster.now_ns) // 1_000
    reach = "absent" if node is None else node.state.value
    return NodeChanged(number, name, word(cluster, name), reach, calls, instances, left_us)
