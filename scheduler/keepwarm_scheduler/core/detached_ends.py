"""How a detached call ends and is forgotten: its outcome goes to disk, then to who waits for it, and expires.

``outcomes.record`` calls this for every call of a keeper. Nothing here leaves before the disk has it: the outcome, and
the word to its node that it is final.
"""

from keepwarm_scheduler.core.at_most_once import forget_doubt
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.detached_records import KeptFunction, Record, failure_bytes, size_of
from keepwarm_scheduler.core.effects import (
    ForgetCall,
    ForgetFunction,
    ForgetKey,
    ForgetTombstone,
    KeepPayload,
    ReleasePayload,
    SaveAttempts,
    SaveOutcome,
)
from keepwarm_scheduler.core.state import Call
from keepwarm_wire.messages import DetachedOutcome, Payload, Reference, Status

__all__ = [
    "bury",
    "ended",
    "expire",
    "forget_function",
    "forget_key",
    "forget_tombstones",
    "keep",
    "release",
    "tried",
    "watched_by",
]

_FUNCTION_KEPT_NS = 600_000_000_000
"""A function of which no detached call is unfinished is kept for so long: the next one is often of the same."""

_WATCHERS_WEEDED = 16


def keep(cluster: Cluster, payload: Payload) -> None:
    """These bytes have to survive the process, from this turn's sync on."""
    if isinstance(payload, Reference) and cluster.book.claim(payload.payload_id):
        cluster.effects.append(KeepPayload(payload.payload_id, payload.size, payload.sha256))


def release(cluster: Cluster, payload: Payload) -> None:
    """One less needs them."""
    if isinstance(payload, Reference):
        _release_id(cluster, payload.payload_id)


def _release_id(cluster: Cluster, payload_id: bytes) -> None:
    if payload_id and cluster.book.unclaim(payload_id):
        cluster.effects.append(ReleasePayload(payload_id))


def tried(cluster: Cluster, call: Call) -> None:
    """An attempt was made, or has failed in a way that is counted: retries are not to begin anew with a restart."""
    record = cluster.book.records[call.number]
    cluster.effects.append(
        SaveAttempts(call.number, record.attempts, call.lost_nodes, call.exceptions, call.crashes, call.out_of_memory)
    )


# ---------------------------------------------------------------- the end


def ended(cluster: Cluster, call: Call, arguments: Payload) -> None:
    """The outcome of a keeper's call has been recorded: keep it, tell who waits."""
    book, outcome = cluster.book, call.outcome
    record = book.records[call.number]
    assert outcome is not None
    # A success has no failure, and nobody asks for the result of anything else: what counts is kept, and counted.
    is_success = outcome.status == Status.SUCCEEDED
    result, failure = (outcome.result, None) if is_success else (b"", outcome.failure)
    kind = "" if failure is None else failure.kind
    node = "" if outcome.report is None else outcome.report.node
    book.unfinished -= 1
    book.count_bytes(record.keeper, -record.arguments_bytes)
    record.call, record.arguments_bytes = None, 0
    record.status, record.kind, record.node = outcome.status, kind, node
    record.ended_ns, record.expires_ns = cluster.now_ns, cluster.now_ns + record.result_ttl_us * 1_000
    record.result_bytes = size_of(result) + failure_bytes(failure)
    book.count_bytes(record.keeper, record.result_bytes)
    book.has_ended(record)
    if isinstance(result, Reference):
        record.result_id = result.payload_id
        keep(cluster, result)
    release(cluster, arguments)
    message = DetachedOutcome(record.call_id, outcome.status, result, failure, outcome.report)
    cluster.effects.append(
        SaveOutcome(record.number, record.result_ttl_us, record.attempts, kind, node, record.result_bytes, message)
    )
    forget_doubt(cluster, call.key)
    cluster.timer("expiry", record.number, record.result_ttl_us * 1_000)
    for session_id in record.watchers:
        session = cluster.sessions.get(session_id)
        if session is not None:
            cluster.send(session, message, after_sync=True)
    record.watchers = {}
    if record.kept is not None:
        _one_less(cluster, record.kept)
        record.kept = None
    key = book.keys.get((record.namespace, record.key)) if record.key else None
    if key is not None and key.call_id == record.call_id and key.until_ns <= cluster.now_ns:
        forget_key(cluster, (record.namespace, record.key))


def _one_less(cluster: Cluster, kept: KeptFunction) -> None:
    kept.unfinished -= 1
    if not kept.unfinished:
        cluster.timer("function", kept.function_id, _FUNCTION_KEPT_NS)


def forget_function(cluster: Cluster, function_id: int) -> None:
    """No detached call has been of this function for a while."""
    book = cluster.book
    kept = book.functions.get(function_id)
    if kept is None or kept.unfinished:
        return
    del book.functions[function_id]
    keeper = book.keepers[kept.function.environment.namespace]
    del keeper.session.functions[function_id]
    if keeper.functions.get(kept.digest) is kept:
        del keeper.functions[kept.digest]
    pool = kept.function.pool
    if pool is not None:
        pool.leave(keeper.session, kept.function.name)
        cluster.forget_unused(pool)
    release(cluster, kept.function.declaration.body)
    cluster.effects.append(ForgetFunction(function_id))


# ---------------------------------------------------------------- being forgotten


def watched_by(cluster: Cluster, record: Record, session_id: bytes) -> None:
    """A session wants the outcome. Sessions that are over are weeded out as new ones come."""
    watchers = record.watchers
    watchers[session_id] = None
    if len(watchers) > _WATCHERS_WEEDED:
        record.watchers = {one: None for one in watchers if one in cluster.sessions}


def expire(cluster: Cluster, number: int) -> None:
    """The time of an outcome is over."""
    record = cluster.book.records.get(number)
    if record is not None and record.call is None:
        bury(cluster, record)


def bury(cluster: Cluster, record: Record) -> None:
    """Forget a finished call, but for a tombstone."""
    book, config = cluster.book, cluster.config
    cluster.cancel_timer("expiry", record.number)
    book.remove(record)
    _release_id(cluster, record.result_id)
    kept_ns = config.tombstone_ns
    cluster.effects.append(ForgetCall(record.number, record.call_id, record.namespace, kept_ns // 1_000))
    book.tombstones[record.call_id] = (record.namespace, cluster.now_ns + kept_ns)
    while len(book.tombstones) > config.tombstones_max:
        _forget_oldest_tombstone(cluster)
    if ("tombstones", "") not in cluster.timers:
        cluster.timer("tombstones", "", kept_ns)


def forget_tombstones(cluster: Cluster) -> None:
    """Those whose time is over; then look again when the next one's is."""
    tombstones = cluster.book.tombstones
    while tombstones:
        _, until_ns = next(iter(tombstones.values()))
        if until_ns > cluster.now_ns:
            cluster.timer("tombstones", "", until_ns - cluster.now_ns)
            return
        _forget_oldest_tombstone(cluster)


def _forget_oldest_tombstone(cluster: Cluster) -> None:
    call_id, _ = cluster.book.tombstones.popitem(last=False)
    cluster.effects.append(ForgetTombstone(call_id))


def forget_key(cluster: Cluster, name: tuple[str, str]) -> None:
    """The retention of a key is over: it may stand for another call, unless its own is still unfinished."""
    book = cluster.book
    key = book.keys.get(name)
    if key is None or key.until_ns > cluster.now_ns:
        return
    record = book.by_id.get(key.call_id)
    if record is not None and record.call is not None:
        return  # looked at again when the call ends
    del book.keys[name]
    cluster.cancel_timer("key", name)
    cluster.effects.append(ForgetKey(*name))
