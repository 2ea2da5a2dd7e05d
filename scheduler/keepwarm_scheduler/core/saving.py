"""Saving up: a node keeps what comes free there for a call that needs more than one ending call gives back.

Else whoever wants four cores of a node that others keep busy with calls of one core each would wait for ever, whatever
its priority. Rules:

- A node saves for a pool whose head call deserves it more than those that could run now, and has waited for
  ``patience_ns`` since it came or its pool was last served, whichever is later. Others' calls wait meanwhile, unless
  they deserve it more.
- It saves cpu for an instance that is parked there for want of it; or it keeps its instances idle for a *starved* pool,
  until enough of them are for an instance of that to be started in their place (``pressure``), and starts no other.
- One node at a time saves for a pool, and for ``SAVED_MAX_NS`` at most; then not again for as long: calls that run for
  hours are not to leave a node half empty.
"""

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.placement import Claim
from keepwarm_scheduler.core.state import Call, Node, Pool

__all__ = [
    "SAVED_MAX_NS",
    "begin",
    "claim",
    "claim_of",
    "end",
    "is_impatient",
    "is_kept_from",
    "may_save",
    "starved_by",
]

SAVED_MAX_NS = 30_000_000_000


def claim(cluster: Cluster, pool: Pool) -> Claim:
    """How the head call of a pool that has one compares with another pool's."""
    call = pool.queue.head()
    assert call is not None
    return claim_of(cluster, pool, call)


def claim_of(cluster: Cluster, pool: Pool, call: Call) -> Claim:
    """The same of a call that is not in the queue, or not at its head."""
    namespace_turn = cluster.namespace_turns.get(pool.namespace, 0)
    return Claim(-call.priority, namespace_turn, call.session.turn, call.submitted_ns, call.number)


def is_kept_from(cluster: Cluster, node: Node, pool: Pool, call: Call) -> bool:
    """Whether the node saves what the call would use for one that deserves it more."""
    saved = node.saved_for
    if saved is None or saved is pool or not saved.queue:
        return False
    return claim(cluster, saved) < claim_of(cluster, pool, call)


def is_impatient(cluster: Cluster, pool: Pool) -> bool:
    """Whether the pool has a call that has waited for long, and so has the pool."""
    call = pool.queue.head()
    if call is None:
        return False
    return cluster.now_ns - max(call.submitted_ns, pool.served_ns) >= cluster.config.patience_ns


def may_save(cluster: Cluster, node: Node, pool: Pool) -> bool:
    """Whether the node may save for this pool, or go on with it."""
    if node.saved_for is pool:
        if cluster.now_ns - node.saved_since_ns < SAVED_MAX_NS:
            return True
        node.saves_from_ns = cluster.now_ns + SAVED_MAX_NS
        return False
    other = pool.saved_on
    return cluster.now_ns >= node.saves_from_ns and (other is None or other is node or other.saved_for is not pool)


def begin(cluster: Cluster, node: Node, pool: Pool) -> None:
    """Save for this pool from now on, or go on; it is looked at again soon, for the call may be gone by then."""
    if node.saved_for is not pool:
        node.saved_for, node.saved_since_ns, pool.saved_on = pool, cluster.now_ns, node
    if ("saved", node.name) not in cluster.timers:
        cluster.timer("saved", node.name, cluster.config.patience_ns)


def starved_by(cluster: Cluster, node: Node) -> Pool | None:
    """The pool without an instance there that the node keeps its own idle for, if that is still of use."""
    pool = node.saved_for
    if pool is None or pool.key in node.parked or pool.starting or not is_impatient(cluster, pool):
        return None
    return pool if may_save(cluster, node, pool) else None


def end(cluster: Cluster, node: Node) -> None:
    """The node saves for nobody any more: who found no room there may look again."""
    if node.saved_for is not None:
        node.saved_for = None
        cluster.capacity_version += 1
