"""Agents and their nodes: joining, falling silent, being lost, coming back, leaving.

A node is *suspect* as soon as its connection breaks, or when it was not heard for some beats: nothing new comes to it,
what runs there goes on. It is alive again with the first word. It is *lost* ``reconnect_grace_ns`` after its connection
broke, or when it was not heard for much longer: then its calls are placed elsewhere. A node is never lost before it has
been suspect for a while: after a pause of the scheduler's own, what was sent meanwhile is heard first.
"""

from keepwarm_scheduler.core.calls import lose_attempt
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.dispatching import close_node, open_node, serve
from keepwarm_scheduler.core.effects import ForgetNode, SaveNode
from keepwarm_scheduler.core.events import LOCAL, Principal
from keepwarm_scheduler.core.instances import end_instance, suspend
from keepwarm_scheduler.core.lending import stop_lending
from keepwarm_scheduler.core.places import forget_node
from keepwarm_scheduler.core.recovery import node_reported
from keepwarm_scheduler.core.saving import claim
from keepwarm_scheduler.core.starting import consider_starts, resolve, unlock
from keepwarm_scheduler.core.state import Node
from keepwarm_scheduler.core.transitions import NODE, NodeState, change
from keepwarm_wire.messages import AgentHello, Goodbye, Welcome

__all__ = ["heard_again", "leave", "lose", "new_capacity", "register", "timer_due", "unplug", "use_again"]

_BEATS_TO_BREAK = 2
"""A connection that breaks after so many beats without a word was given up for the silence."""


def register(cluster: Cluster, peer: bytes, principal: Principal, hello: AgentHello) -> None:
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
    node.peer, node.can_lend = peer, hello.can_lend and principal == LOCAL
    if not node.can_lend:
        stop_lending(cluster)
    if node.state is not NodeState.ALIVE:
        change(node, NODE, NodeState.ALIVE)
    if known:
        close_node(node)  # it may not hear us: it is open again with its first report
    node.has_reported = False
    node.heard_ns = cluster.now_ns
    cluster.peers[peer] = node
    cluster.capacity_version += 1
    cluster.effects.append(SaveNode(node.name))
    cluster.timer("node", node.name, cluster.pace.suspect_ns(cluster.peers_count))
    interval_us = cluster.pace.interval_ns(cluster.peers_count) // 1_000
    cluster.send(node, Welcome(1, cluster.cluster_id, cluster.epoch, known, 0, 0, interval_us), after_sync=True)


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
        hello.ahead_max,
        is_closed=hello.node in cluster.cordons,
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
    _suspect(node)
    cluster.timer("node", node.name, _patience_ns(cluster, node))


def _patience_ns(cluster: Cluster, node: Node) -> int:
    """How long a node whose connection broke may take to come back.

    One that breaks while both sides were heard tells that the agent ended, or is back in a moment. One that was silent,
    or on which the agent did not hear us (it said hello again), was given up: that tells of the network, not of the
    agent, and the node has as long as one that is silent on its connection.
    """
    silent_ns, grace_ns = cluster.now_ns - node.heard_ns, cluster.config.reconnect_grace_ns
    was_heard = silent_ns < _BEATS_TO_BREAK * cluster.pace.interval_ns(cluster.peers_count)
    if node.has_reported and was_heard:
        return grace_ns
    return max(cluster.pace.lost_ns(cluster.peers_count) - silent_ns, grace_ns)


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
    if not node.peer:
        lose(cluster, node, is_gone=False)
        return
    silent_ns = cluster.now_ns - node.heard_ns
    suspect_in_ns = cluster.pace.suspect_ns(cluster.peers_count) - silent_ns
    lost_in_ns = cluster.pace.lost_ns(cluster.peers_count) - silent_ns
    if suspect_in_ns > 0:
        cluster.timer("node", node.name, suspect_in_ns)
    elif node.state is NodeState.ALIVE:
        _suspect(node)
        cluster.timer("node", node.name, max(lost_in_ns, cluster.config.reconnect_grace_ns))
    elif lost_in_ns > 0:
        cluster.timer("node", node.name, lost_in_ns)
    else:
        lose(cluster, node, is_gone=False)


def _suspect(node: Node) -> None:
    if node.state is NodeState.ALIVE:
        change(node, NODE, NodeState.SUSPECT)
        close_node(node)


def heard_again(cluster: Cluster, node: Node) -> None:
    """A suspect node has said something on the connection that it has: it was never away."""
    change(node, NODE, NodeState.ALIVE)
    use_again(cluster, node)


def use_again(cluster: Cluster, node: Node) -> None:
    """A node may be open again: it is, unless it is out of reach, has not reported, or is cordoned."""
    is_fit = node.state is NodeState.ALIVE and node.has_reported and node.name not in cluster.cordons
    if node.is_closed and is_fit:
        open_node(cluster, node)
        new_capacity(cluster)


def lose(cluster: Cluster, node: Node, *, is_gone: bool) -> None:
    """A node is out of reach: its calls are placed elsewhere, its instances are out of use.

    With ``is_gone`` they are known to have ended and the node is forgotten; else it may come back with them.
    """
    was_lost = node.is_lost
    if is_gone:
        change(node, NODE, NodeState.GONE)
    elif not was_lost:
        _suspect(node)
        change(node, NODE, NodeState.LOST)
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
        cluster.cancel_timer("saved", node.name)
        cluster.nodes.pop(node.name, None)
        if node.peer and cluster.peers.get(node.peer) is node:
            del cluster.peers[node.peer]
    else:
        cluster.timer("node", node.name, cluster.config.node_forgotten_ns)
    node_reported(cluster, node.name)
    if not was_lost:
        new_capacity(cluster)
