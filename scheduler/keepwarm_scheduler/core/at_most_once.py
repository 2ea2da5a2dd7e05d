"""Calls that must not run twice: the journal knows of each dispatch before the node does.

A call of a function that says ``at_most_once`` is sent only after a record of that is on disk. From then on it is in
*doubt*: unless its node tells how it ended, or that it never came, it ends *lost*. The record stays until the client
has the outcome, or for ``CoreConfig.doubt_ns``: a client that comes back later than that may have its call run again.
"""

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.effects import ForgetDispatch, SaveDispatch, SendStored
from keepwarm_scheduler.core.state import Call, Node
from keepwarm_wire.messages import Dispatch, Reference

__all__ = ["forget_doubt", "is_in_doubt", "send_dispatch"]


def send_dispatch(cluster: Cluster, node: Node, call: Call, message: Dispatch) -> None:
    """Send a dispatch that the disk has to know of first: of a detached call, or of one that must not run twice."""
    if call.function.options.at_most_once:
        kept_ns = cluster.config.doubt_ns
        cluster.book.doubts[call.key] = cluster.now_ns + kept_ns
        cluster.effects.append(SaveDispatch(*call.key, kept_ns // 1_000))
        cluster.timer("doubt", call.key, kept_ns)
    if call.session.is_keeper:
        cluster.book.records[call.number].attempts += 1
    if call.session.is_keeper and not isinstance(call.arguments, Reference):
        if node.peer:
            cluster.effects.append(SendStored(node.peer, message))
    else:
        cluster.send(node, message, after_sync=True)


def is_in_doubt(cluster: Cluster, call: Call) -> bool:
    """Whether the call may have run already, and must not again."""
    return call.key in cluster.book.doubts


def forget_doubt(cluster: Cluster, key: tuple[bytes, int]) -> None:
    """Nobody will ask for this call again, or it never came to its node."""
    if cluster.book.doubts.pop(key, None) is not None:
        cluster.cancel_timer("doubt", key)
        cluster.effects.append(ForgetDispatch(*key))
