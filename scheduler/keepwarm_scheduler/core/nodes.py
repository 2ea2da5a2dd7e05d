"""Agents and their nodes: joining, falling silent, being lost, coming back, leaving."""

from keepwarm_scheduler.core.calls import lose_attempt
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.dispatching import claim, serve
from keepwarm_scheduler.core.effects import ForgetNode, SaveNode
from keepwarm_scheduler.core.instances import end_instance, suspend
from keepwarm_scheduler.core.places import forget_node
from keepwarm_scheduler.core.recovery import node_reported
from keepwarm_scheduler.core.starting import consider_starts, resolve, unlock
from keepwarm_scheduler.core.state import Node
from keepwarm_wire.messages import AgentHello, Goodbye, Welcome

__all__ = ["leave", "lose", "new_capacity", "register", "timer_due", "unplug"]


def register(cluster: Cluster, peer: bytes, hello: AgentHello) -> None:
    """An agent says hello: a new node, a known one on a new connection, or a new process in an old one's place."""
    node = cluster.nodes.get(hello.node)
    known = node is not None and node.incarnation == hello.incarnation
    if node is not None and not known:
        if node.peer and node.peer != peer:
            cluster.send(node, Goodbye("another agent has joined under this node's name"))
        lose(cluster, node, is_gone=True)
        node = None
    if node is None:
        node = _new_node(cluster, peer, hello)
    elif node.peer and node.peer != peer:
        cluster.peers.pop(node.peer, None)
    node.peer = peer
    node.is_lost = node.has_reported = False
    node.heard_ns = cluster.now_ns
    cluster.peers[peer] = node
    cluster.capacity_version += 1
    cluster.effects.append(SaveNode(node.name))
    config = cluster.config
    cluster.timer("node", node.name, config.node_lost_ns)
    cluster.send(
        node,
        Welcome(1, cluster.cluster_id, cluster.epoch, known, 0, 0, config.beat_interval_ns // 1_000),
        after_sync=True,
    )


def _new_node(cluster: Cluster, peer: bytes, hello: AgentHello) -> Node:
    capacity = {quantity.name: quantity.amount for quantity in hello.resources}
    node = cluster.nodes[hello.node] = Node(
        hello.node,
        peer,
        hello.incarnation,
        hello.platform,
        hello.pythons,
        {label.name: label.value for label in hello.labels},
        {"cpu": 0, "memory": 0, "gpu": 0} | capacity,
        {"cpu": 0, "memory": 0, "gpu": 0} | capacity,
        cluster.now_ns,
        unfiled=cluster.unfiled,
    )
    cluster.unfiled[node.name] = node
    return node


def new_capacity(cluster: Cluster) -> None:
    """A node joined or gained room: whoever waits for one looks again."""
    cluster.capacity_version += 1
    for environment in cluster.environments.values():
        if environment.waiting:
            resolve(cluster, environment)
    waiting = sorted((claim(cluster, pool), pool.key) for pool in cluster.pools.values() if pool.queue)
    for _, key in waiting:
        pool = cluster.pools.get(key)
        if pool is not None:
            serve(cluster, pool)
            consider_starts(cluster, pool)


def unplug(cluster: Cluster, node: Node) -> None:
    """The connection broke. If the agent lives it is back in a moment; else the node is lost soon."""
    cluster.peers.pop(node.peer, None)
    node.peer = b""
    cluster.timer("node", node.name, cluster.config.reconnect_grace_ns)


def leave(cluster: Cluster, node: Node) -> None:
    """The agent says goodbye: its instances are gone."""
    cluster.peers.pop(node.peer, None)
    node.peer = b""
    lose(cluster, node, is_gone=True)
    cluster.effects.append(ForgetNode(node.name))


def timer_due(cluster: Cluster, node: Node) -> None:
    """Either the node has been silent for too long, or it is time to forget one that was lost long ago."""
    if node.is_lost:
        lose(cluster, node, is_gone=True)
        cluster.effects.append(ForgetNode(node.name))
        return
    silent_ns = cluster.now_ns - node.heard_ns
    if node.peer and silent_ns < cluster.config.node_lost_ns:
        cluster.timer("node", node.name, cluster.config.node_lost_ns - silent_ns)
        return
    lose(cluster, node, is_gone=False)


def lose(cluster: Cluster, node: Node, *, is_gone: bool) -> None:
    """A node is out of reach: its calls are placed elsewhere, its instances are out of use.

    With ``is_gone`` they are known to have ended and the node is forgotten; else it may come back with them.
    """
    was_lost, node.is_lost = node.is_lost, True
    if not is_gone and node.peer:
        # Should it speak again on this connection after all, it has to say hello and report first.
        cluster.peers.pop(node.peer, None)
        node.peer = b""
    for environment in list(cluster.locking.values()):
        if environment.locking_node is node:
            unlock(cluster, environment)
    for instance in list(node.instances.values()):
        suspend(cluster, instance)
    for attempt in list(node.attempts.values()):
        lose_attempt(cluster, attempt, was_node_lost=True)
    if is_gone:
        for instance in list(node.instances.values()):
            end_instance(cluster, instance, "node lost")
        forget_node(cluster, node)
        cluster.cancel_timer("node", node.name)
        cluster.nodes.pop(node.name, None)
        if node.peer and cluster.peers.get(node.peer) is node:
            del cluster.peers[node.peer]
    else:
        cluster.timer("node", node.name, cluster.config.node_forgotten_ns)
    node_reported(cluster, node.name)
    if not was_lost:
        new_capacity(cluster)
