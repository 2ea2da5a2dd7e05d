"""Detached calls come in: each is accepted once, however often its submit arrives, and only once it is on disk.

The id of a call is its client's, made before it first sends; a key of the namespace may stand for it too. An accepted
call is a call of its namespace's keeper from then on: placed, retried and recovered like any other. Its answer leaves
after the sync of its turn, and so does its first dispatch.
"""

import hashlib
from collections.abc import Callable

from keepwarm_scheduler.core.calls import submit
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.detached_ends import keep
from keepwarm_scheduler.core.detached_records import (
    Keeper,
    KeptFunction,
    KnownKey,
    Record,
    digest_of,
    keeper_id,
    size_of,
)
from keepwarm_scheduler.core.effects import SaveCall, SaveFunction, SaveKey
from keepwarm_scheduler.core.events import LOCAL, Principal
from keepwarm_scheduler.core.sessions import end, set_timeouts
from keepwarm_scheduler.core.state import Call, Function, Session
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.identifiers import epoch_of, number_of, token
from keepwarm_wire.messages import (
    DeclareFunction,
    DetachedAccepted,
    DetachedRefused,
    Message,
    Reference,
    SubmitDetached,
)

__all__ = ["declaration_digest", "keeper_of", "missing_body", "submit_call", "wants"]

SHARE = 2
"""Where there are keys, one namespace may take up half of the room."""


def wants(cluster: Cluster, namespace: str, message: SubmitDetached) -> bool:
    """Whether the arguments of a submit are needed: not of one that is known, by its id or its key."""
    book = cluster.book
    is_known = message.call_id in book.by_id or message.call_id in book.tombstones
    return not is_known and (not message.key or (namespace, message.key) not in book.keys)


def missing_body(
    cluster: Cluster, peer: bytes, message: SubmitDetached, is_here: Callable[[bytes], bool]
) -> Reference | None:
    """The body of a submit's function, if it has to be kept with the call and is not here.

    Where the bytes are that an earlier call has had kept, those of this one's declaration are not needed. If the disk
    has lost them, it is these that are kept from now on.
    """
    session = cluster.peers.get(peer)
    function = session.functions.get(message.function_number) if isinstance(session, Session) else None
    if function is None or not isinstance(function.declaration.body, Reference):
        return None
    namespace = function.environment.namespace
    kept = _find_kept(cluster, namespace, function)
    if kept is not None:
        body = kept.function.declaration.body
        if not isinstance(body, Reference) or is_here(body.payload_id):
            return None
        del cluster.book.keepers[namespace].functions[kept.digest]
    body = function.declaration.body
    return None if is_here(body.payload_id) else body


def submit_call(cluster: Cluster, session: Session, message: SubmitDetached) -> None:
    """Accept a call, or say that it is known already, or why it is not accepted."""
    if _answer_known(cluster, session, message):
        return
    function = session.functions.get(message.function_number)
    if function is None:
        return  # its declaration is lost or on its way: the client sends both again
    refusal = _no_room(cluster, session.principal, size_of(message.arguments))
    if message.key and _answer_key(cluster, session, function.declaration, message):
        return
    if refusal is not None:
        _answer(cluster, session, DetachedRefused(message.call_id, *refusal))
        return
    if message.key:
        _use_key(cluster, session, function.declaration, message)
    call = _accept(cluster, session, function, message)
    _answer(cluster, session, DetachedAccepted(message.call_id, message.call_id, False))
    submit(cluster, call)


def _answer(cluster: Cluster, session: Session, message: Message) -> None:
    cluster.send(session, message, after_sync=True)


def _answer_key(cluster: Cluster, session: Session, declaration: DeclareFunction, message: SubmitDetached) -> bool:
    known = cluster.book.keys.get((session.principal.namespace, message.key))
    if known is None:
        return False
    if known.digest == digest_of(declaration, message.arguments):
        _answer(cluster, session, DetachedAccepted(message.call_id, known.call_id, True))
    else:
        reason = f"The key {message.key!r} was used for a call of another function or with other arguments."
        _answer(cluster, session, DetachedRefused(message.call_id, "key_conflict", reason))
    return True


def _use_key(cluster: Cluster, session: Session, declaration: DeclareFunction, message: SubmitDetached) -> None:
    name, kept_ns = (session.principal.namespace, message.key), cluster.config.key_retention_ns
    digest = digest_of(declaration, message.arguments)
    cluster.book.keys[name] = KnownKey(message.call_id, digest, cluster.now_ns + kept_ns)
    cluster.timer("key", name, kept_ns)
    cluster.effects.append(SaveKey(*name, message.call_id, digest, kept_ns // 1_000))


def _answer_known(cluster: Cluster, session: Session, message: SubmitDetached) -> bool:
    call_id, book = message.call_id, cluster.book
    record, tombstone = book.by_id.get(call_id), book.tombstones.get(call_id)
    if record is None and tombstone is None:
        return False
    namespace = record.namespace if record is not None else tombstone[0] if tombstone is not None else ""
    if namespace == session.principal.namespace:
        _answer(cluster, session, DetachedAccepted(call_id, call_id, True))
    else:
        _answer(cluster, session, DetachedRefused(call_id, "id_conflict", "This call id is in use: make another."))
    return True


def _no_room(cluster: Cluster, principal: Principal, size: int) -> tuple[str, str] | None:
    book, config = cluster.book, cluster.config
    if len(book.records) >= config.detached_calls_max:
        return "too_many", f"{len(book.records)} detached calls are kept, finished ones included: no more are accepted."
    if book.stored_bytes + size > config.detached_bytes_max:
        reason = (
            f"Arguments and results of detached calls take up {book.stored_bytes} of {config.detached_bytes_max} "
            "bytes: no more are accepted until results expire or are forgotten."
        )
        return "results_full", reason
    keeper = None if principal == LOCAL else book.keepers.get(principal.namespace)
    if keeper is None:
        return None
    calls_max, bytes_max = config.detached_calls_max // SHARE, config.detached_bytes_max // SHARE
    if len(keeper.listing) >= calls_max:
        reason = (
            f"{len(keeper.listing)} detached calls of namespace {keeper.namespace} are kept, finished ones included. "
            f"Its share is {calls_max}: no more are accepted until results expire or are forgotten."
        )
        return "too_many", reason
    if keeper.stored_bytes + size > bytes_max:
        reason = (
            f"Arguments and results of detached calls of namespace {keeper.namespace} take up {keeper.stored_bytes} "
            f"bytes. Its share is {bytes_max}: no more are accepted until results expire or are forgotten."
        )
        return "results_full", reason
    return None


def _accept(cluster: Cluster, session: Session, declared: Function, message: SubmitDetached) -> Call:
    keeper = keeper_of(cluster, session.principal.namespace)
    kept = _kept_function(cluster, keeper, declared)
    if not kept.unfinished:
        cluster.cancel_timer("function", kept.function_id)
    kept.unfinished += 1
    number, function, config = _next_number(cluster), kept.function, cluster.config
    # Inline arguments are on disk only.
    arguments = b"" if isinstance(message.arguments, bytes) else message.arguments
    call = Call(keeper.session, number, function, message.priority, arguments, cluster.now_ns)
    ttl_us = message.result_ttl_us if 0 < message.result_ttl_us < FOREVER_US else config.result_ttl_us
    record = Record(
        number,
        message.call_id,
        keeper,
        function.name,
        message.key,
        session.label,
        cluster.now_ns,
        min(ttl_us, config.result_ttl_max_us),
        call,
        kept,
        size_of(message.arguments),
    )
    cluster.book.add(record)
    cluster.book.unfinished += 1
    cluster.book.count_bytes(keeper, record.arguments_bytes)
    keeper.session.calls[number] = call
    keeper.session.seen.fill(number)
    options = function.options
    set_timeouts(cluster, call, options.queue_timeout_us, options.overall_timeout_us)
    keep(cluster, message.arguments)
    cluster.discard(message.arguments)  # what the session uploaded is kept apart from now on
    cluster.effects.append(
        SaveCall(
            number,
            record.call_id,
            keeper.namespace,
            kept.function_id,
            record.function,
            message.priority,
            record.key,
            record.label,
            record.result_ttl_us,
            options.queue_timeout_us,
            options.overall_timeout_us,
            message.arguments,
        )
    )
    return call


def _next_number(cluster: Cluster) -> int:
    """A number that no detached call of this cluster ever had."""
    last = cluster.book.last_number
    return token(cluster.epoch, number_of(last) + 1 if last and epoch_of(last) == cluster.epoch else 1)


def keeper_of(cluster: Cluster, namespace: str) -> Keeper:
    """The keeper of a namespace, made when it is first needed."""
    keeper = cluster.book.keepers.get(namespace)
    if keeper is None:
        session_id = keeper_id(cluster.cluster_id, namespace)
        impostor = cluster.sessions.get(session_id)
        if impostor is not None:
            end(cluster, impostor)
        principal = Principal("", "keeper", namespace)
        session = Session(session_id, b"", principal, "detached calls", cluster.now_ns, is_keeper=True)
        session.seen.fill(token(cluster.epoch, 0))
        cluster.sessions[session_id] = session
        keeper = cluster.book.keepers[namespace] = Keeper(namespace, session)
    return keeper


def declaration_digest(declaration: DeclareFunction) -> bytes:
    """What two declarations have in common that are of the same function in every way."""
    return hashlib.sha256(repr(declaration._replace(function_number=0, body=b"")).encode()).digest()


def _find_kept(cluster: Cluster, namespace: str, declared: Function) -> KeptFunction | None:
    """The keeper's own record of a function, if there is one whose bytes are not known to be lost."""
    keeper, known = cluster.book.keepers.get(namespace), cluster.book.functions.get(declared.kept_as)
    if keeper is None:
        return None
    return keeper.functions.get(declaration_digest(declared.declaration) if known is None else known.digest)


def _kept_function(cluster: Cluster, keeper: Keeper, declared: Function) -> KeptFunction:
    """The keeper's own record of a function that a session has declared, on disk from this turn on."""
    book, declaration = cluster.book, declared.declaration
    kept = _find_kept(cluster, keeper.namespace, declared)
    if kept is None:
        book.last_function += 1
        declaration = declaration._replace(function_number=book.last_function)
        function = Function(declaration, declared.environment)
        kept = KeptFunction(book.last_function, function, declaration_digest(declaration))
        keeper.functions[kept.digest] = book.functions[kept.function_id] = kept
        keeper.session.functions[kept.function_id] = function
        keep(cluster, declaration.body)
        cluster.effects.append(SaveFunction(kept.function_id, keeper.namespace, declaration))
    declared.kept_as = kept.function_id
    return kept
