"""Calls sent ahead: short ones go to a busy instance, which runs them one after another without waiting for us.

Rules:
- Only what is measured to be short is sent ahead, and no more of it than ``HORIZON_NS`` worth of running, so that
  whoever comes next waits no longer than that for its turn, and nobody is warm-started in vain; half of that where
  several sessions call, for there somebody does come next.
- Never ahead: calls that must not run twice or are on disk, those with large arguments or of private pools, loans.
- Whoever else waits for the node's cpu, or for memory, gets its turn after that: an instance is then given calls ahead
  only as it begins to be busy.
- An attempt that is ahead has booked nothing. It takes its instance's booking when the one before it ends.
- When the call that runs takes longer than was expected, those behind it are asked back and placed again.
"""

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.estimates import RunTimes
from keepwarm_scheduler.core.state import Call, Instance, Node, Pool
from keepwarm_scheduler.core.transitions import InstanceState
from keepwarm_wire.messages import RecallAttempts, Reference

__all__ = ["HORIZON_NS", "SHARED_HORIZON_NS", "called", "depth", "find_room", "recall_due", "watch"]

HORIZON_NS = 4_000_000
"""How much running may wait at an instance. Less than it takes an instance to be worth starting; five calls of 1 ms."""

SHARED_HORIZON_NS = 2_000_000
"""The same where more than one session has called of late."""

_SHARED_NS = 1_000_000_000
"""How long a pool counts as shared after two sessions have called in turn."""

_CALL_MIN_NS = 15_000
"""What a call costs an instance at least, whatever its function does."""

_RECALL_NS = 50_000_000
"""So long a call may run before those behind it are asked back."""


def depth(times: RunTimes | None, horizon_ns: int = HORIZON_NS) -> int:
    """How many calls of a function may be ahead on one instance: 0 unless it is known to be short."""
    if times is None or not times.is_measured:
        return 0
    return horizon_ns // max(times.mean_ns, _CALL_MIN_NS)


def called(cluster: Cluster, pool: Pool, session_id: bytes) -> None:
    """Note who has a call for the pool."""
    if pool.last_caller != session_id:
        if pool.last_caller:
            pool.shared_ns = cluster.now_ns
        pool.last_caller = session_id


def find_room(cluster: Cluster, pool: Pool, call: Call) -> Instance | None:
    """A busy instance of the pool that may take the call ahead; the one that was given one the longest ago."""
    allowed = _allowed(cluster, pool, call)
    if not allowed:
        return None
    roomy = pool.roomy
    while roomy:
        instance_id, instance = next(iter(roomy.items()))
        if _has_room(cluster, instance, allowed):
            roomy.move_to_end(instance_id)
            return instance
        del roomy[instance_id]
    return None


def _allowed(cluster: Cluster, pool: Pool, call: Call) -> int:
    function = call.function
    is_bound = function.options.at_most_once or call.session.is_keeper or pool.is_private or call.is_loan
    if is_bound or type(call.arguments) is Reference:
        return 0
    is_shared = pool.shared_ns and cluster.now_ns - pool.shared_ns < _SHARED_NS
    return depth(function.run_times, SHARED_HORIZON_NS if is_shared else HORIZON_NS)


def _has_room(cluster: Cluster, instance: Instance, allowed: int) -> bool:
    node, running = instance.node, instance.attempt
    return (
        instance.state is InstanceState.BUSY
        and not node.is_closed
        and node.saved_for is None
        and len(instance.ahead) < min(allowed, node.ahead_max)
        and running is not None
        and depth(running.run_times) > 0
        and cluster.now_ns - running.dispatched_ns < _RECALL_NS
        and (instance.busy_ns == cluster.now_ns or not _is_wanted(cluster, node, instance.pool))
    )


def _is_wanted(cluster: Cluster, node: Node, pool: Pool) -> bool:
    """Whether other pools wait for the instance's place: for the node's cpu, or for memory anywhere."""
    if not (cluster.starved or node.parked):
        return False
    if len(cluster.starved) > (pool.key in cluster.starved):
        return True
    return any(parked[0].pool.queue and key != pool.key for key, parked in node.parked.items())


def watch(cluster: Cluster, instance: Instance) -> None:
    """Look after the calls ahead of an instance, in case the one that runs does not end."""
    if not instance.is_recall_timed:
        instance.is_recall_timed = True
        cluster.timer("recall", instance.instance_id, _RECALL_NS)


def recall_due(cluster: Cluster, instance_id: int) -> None:
    """If the instance has run the same call for too long, ask those behind it back; again, for messages get lost."""
    instance = cluster.instances.get(instance_id)
    if instance is None:
        return
    instance.is_recall_timed = False
    if not instance.ahead:
        return
    running = instance.attempt
    left_ns = 0 if running is None else running.dispatched_ns + _RECALL_NS - cluster.now_ns
    instance.is_recall_timed = True
    if left_ns > 0:
        cluster.timer("recall", instance_id, left_ns)
        return
    tokens = tuple(attempt.token for attempt in instance.ahead)
    cluster.send(instance.node, RecallAttempts(cluster.next_command(instance.node), tokens))
    cluster.timer("recall", instance_id, cluster.config.beat_interval_ns)
