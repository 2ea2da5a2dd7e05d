"""A start: the detached calls of earlier epochs are read back, and every one goes on, none of them twice.

Unfinished calls wait with those that clients send again until the nodes of the last epoch have reported; what is left
of their timeouts is at least as long as that may take, so that a call that has ended in time is not called late. The
work per call is kept small here: there may be a hundred thousand, and nothing is dispatched before they are in.
"""

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import Decision, Reason
from keepwarm_scheduler.core.detached import declaration_digest, keeper_of
from keepwarm_scheduler.core.detached_records import KeptFunction, KnownKey, Record
from keepwarm_scheduler.core.events import SavedCall, SavedDetached, SavedEnd, SavedFunction
from keepwarm_scheduler.core.recovery import release
from keepwarm_scheduler.core.sessions import environment_of, set_timeouts
from keepwarm_scheduler.core.state import Call, Function
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import Reference
from keepwarm_wire.spec import parse_spec

__all__ = ["restore"]


def restore(cluster: Cluster, saved: SavedDetached) -> None:
    """Take in what is on disk; ``recovery.begin`` comes before."""
    for function in saved.functions:
        _function(cluster, function)
    _records(cluster, saved)
    book = cluster.book
    for namespace, key, call_id, digest, left_us in saved.keys:
        book.keys[(namespace, key)] = KnownKey(call_id, digest, cluster.now_ns + left_us * 1_000)
        cluster.timer("key", (namespace, key), left_us * 1_000)
    for call_id, namespace, left_us in saved.tombstones:
        book.tombstones[call_id] = (namespace, cluster.now_ns + left_us * 1_000)
    if book.tombstones:
        cluster.timer("tombstones", "", 0)
    for session_id, number, left_us in saved.dispatched:
        book.doubts[(session_id, number)] = cluster.now_ns + left_us * 1_000
        cluster.timer("doubt", (session_id, number), left_us * 1_000)
    unused = [kept.function_id for kept in book.functions.values() if not kept.unfinished]
    for function_id in unused:
        cluster.timer("function", function_id, 0)
    if not cluster.is_recovering:
        release(cluster)


def _records(cluster: Cluster, saved: SavedDetached) -> None:
    """Finished and unfinished ones, in the order of their numbers."""
    ends, calls = saved.ends, saved.calls
    index = 0
    waits = Decision(Reason.RECOVERING, cluster.now_ns)
    for call in calls:
        while index < len(ends) and ends[index].number < call.number:
            _end(cluster, ends[index])
            index += 1
        _call(cluster, call, waits)
    for end in ends[index:]:
        _end(cluster, end)


def _function(cluster: Cluster, saved: SavedFunction) -> None:
    book, declaration = cluster.book, saved.declaration
    keeper = keeper_of(cluster, saved.namespace)
    environment = environment_of(cluster, saved.namespace, declaration.spec, parse_spec(declaration.spec))
    function = Function(declaration, environment)
    kept = KeptFunction(saved.function_id, function, declaration_digest(declaration))
    keeper.functions[kept.digest] = book.functions[kept.function_id] = kept
    keeper.session.functions[kept.function_id] = function
    book.last_function = max(book.last_function, kept.function_id)
    if isinstance(declaration.body, Reference):
        book.claim(declaration.body.payload_id)


def _call(cluster: Cluster, saved: SavedCall, waits: Decision) -> None:
    book, now_ns = cluster.book, cluster.now_ns
    keeper, kept = keeper_of(cluster, saved.namespace), book.functions[saved.function_id]
    accepted_ns = now_ns - saved.age_us * 1_000
    call = Call(keeper.session, saved.number, kept.function, saved.priority, saved.arguments, accepted_ns)
    call.cancel_reason, call.reason = saved.cancel_reason, "recovering"
    call.lost_nodes, call.exceptions = saved.lost_nodes, saved.exceptions
    call.crashes, call.out_of_memory = saved.crashes, saved.out_of_memory
    call.decisions.append(waits)
    kept.unfinished += 1
    record = Record(
        saved.number,
        saved.call_id,
        keeper,
        saved.function,
        saved.key,
        saved.label,
        accepted_ns,
        saved.result_ttl_us,
        call,
        kept,
        saved.arguments_bytes,
        saved.attempts,
    )
    book.add(record)
    book.unfinished += 1
    book.count_bytes(keeper, saved.arguments_bytes)
    if isinstance(saved.arguments, Reference):
        book.claim(saved.arguments.payload_id)
    keeper.session.calls[saved.number] = call
    cluster.recovering[call.key] = call
    if saved.queue_left_us < FOREVER_US or saved.overall_left_us < FOREVER_US:
        grace_us = cluster.config.recovery_grace_ns // 1_000 if cluster.is_recovering else 0
        set_timeouts(cluster, call, max(saved.queue_left_us, grace_us), max(saved.overall_left_us, grace_us))


def _end(cluster: Cluster, saved: SavedEnd) -> None:
    book, now_ns = cluster.book, cluster.now_ns
    record = Record(
        saved.number,
        saved.call_id,
        keeper_of(cluster, saved.namespace),
        saved.function,
        saved.key,
        saved.label,
        now_ns - saved.age_us * 1_000,
        attempts=saved.attempts,
        status=saved.status,
        kind=saved.kind,
        node=saved.node,
        ended_ns=now_ns - saved.ended_us * 1_000,
        expires_ns=now_ns + saved.left_us * 1_000,
        result_bytes=saved.result_bytes,
        result_id=saved.result_id,
    )
    book.add(record)
    book.count_bytes(record.keeper, saved.result_bytes)
    if saved.result_id:
        book.claim(saved.result_id)
    cluster.timer("expiry", saved.number, saved.left_us * 1_000)
