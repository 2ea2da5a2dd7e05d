"""What passes through: output to its client, functions to the nodes that ask, locks to the environments that wait."""

from itertools import islice

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.events import SavedLock
from keepwarm_scheduler.core.starting import adopt_lock
from keepwarm_scheduler.core.starting import lock_failed as fail_lock
from keepwarm_scheduler.core.state import Environment, Node
from keepwarm_wire.messages import (
    AttemptOutput,
    Failure,
    FunctionBody,
    LockFailed,
    LockMade,
    LockProgress,
    NeedFunction,
    Output,
    Progress,
)
from keepwarm_wire.spec import environment_id

__all__ = ["lock_failed", "lock_made", "lock_progress", "need_function", "output", "restore_locks"]

_TOLD_MAX = 1_000
"""Of so many calls that wait for a lock, the oldest, the sessions are told how it goes."""


def output(cluster: Cluster, node: Node, message: AttemptOutput) -> None:
    """A piece of what a call printed goes to its client, ahead of the outcome."""
    attempt = node.attempts.get(message.attempt)
    if attempt is not None and attempt.call is not None:
        call = attempt.call
        piece = Output(call.number, node.name, message.stream, message.data, message.dropped_bytes)
        cluster.send(call.session, piece)
    elif attempt is None:
        cluster.astonished(node)


def need_function(cluster: Cluster, node: Node, message: NeedFunction) -> None:
    """A node has no bytes of a function that it is to run: any attempt there that uses it has them."""
    for attempt in node.attempts.values():
        if attempt.call is None:
            continue
        declaration = attempt.call.function.declaration
        if declaration.version == message.version:
            body = FunctionBody(
                declaration.version, declaration.name, declaration.codec, declaration.has_setup, declaration.body
            )
            cluster.send(node, body)
            return


def _locking(cluster: Cluster, node: Node, key: bytes) -> list[Environment]:
    """The environments (one per namespace) whose lock this node was asked to make."""
    return [
        environment
        for environment in cluster.locking.values()
        if environment.spec_key == key and environment.locking_node is node
    ]


def lock_made(cluster: Cluster, node: Node, message: LockMade) -> None:
    """A spec is resolved."""
    for environment in _locking(cluster, node, message.spec_key):
        try:
            message.lock.decode()
        except UnicodeDecodeError:
            failure = Failure("lock_failed", f"Node {node.name} made a lock that is no text: its agent is at fault.")
            fail_lock(cluster, environment, failure)
        else:
            adopt_lock(cluster, environment, message.platform, message.lock, message.duration_us)


def lock_failed(cluster: Cluster, node: Node, message: LockFailed) -> None:
    """A spec cannot be resolved."""
    for environment in _locking(cluster, node, message.spec_key):
        fail_lock(cluster, environment, message.failure)


def lock_progress(cluster: Cluster, node: Node, message: LockProgress) -> None:
    """Tell the sessions whose calls wait for this lock, each function once."""
    told: dict[tuple[bytes, int], None] = {}
    for environment in _locking(cluster, node, message.spec_key):
        for call in islice(environment.waiting, _TOLD_MAX):
            key = (call.session.session_id, call.function.declaration.function_number)
            if key not in told:
                told[key] = None
                elapsed_us = (cluster.now_ns - call.submitted_ns) // 1_000
                cluster.send(call.session, Progress(key[1], node.name, message.phase, message.detail, elapsed_us))


def restore_locks(cluster: Cluster, locks: tuple[SavedLock, ...]) -> None:
    """Locks of earlier runs: the same spec gives the same bytes as before."""
    for saved in locks:
        key = (saved.namespace, saved.spec_key)
        environment = cluster.environments.get(key)
        if environment is None:
            environment = cluster.environments[key] = Environment(*key, b"", saved.python, is_empty=False)
        environment.locks[saved.platform] = saved.lock
        environment.platform, environment.lock = saved.platform, saved.lock
        environment.environment_id = environment_id(saved.lock.decode(), saved.python, saved.platform)
