"""Clients: their sessions, the functions they declare, the calls they submit, and what they acknowledge."""

import hashlib

from keepwarm_scheduler.core import lending
from keepwarm_scheduler.core.at_most_once import forget_doubt, is_in_doubt
from keepwarm_scheduler.core.calls import abandon, cancel, submit
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.effects import Send
from keepwarm_scheduler.core.events import LOCAL, Principal
from keepwarm_scheduler.core.outcomes import forget, record
from keepwarm_scheduler.core.recovery import hold_back
from keepwarm_scheduler.core.state import Call, Environment, Function, Session
from keepwarm_scheduler.core.transitions import CallState
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    Borrow,
    Cancel,
    ClientBeat,
    ClientBeatReply,
    ClientHello,
    DeclareFunction,
    ForgetFunctions,
    Received,
    Refused,
    Status,
    Submit,
    Welcome,
)
from keepwarm_wire.spec import Spec, SpecError, parse_spec, spec_key
from keepwarm_wire.texts import TEXT_BYTES_MAX, text_bytes

__all__ = [
    "beat",
    "cancel_call",
    "declare",
    "end",
    "environment_of",
    "forget_functions",
    "open_session",
    "received",
    "set_timeouts",
    "submit_call",
    "timer_due",
    "unplug",
]

_DOUBT_NS = 1_000_000_000
"""How long a session that seems to be lost is still listened for."""

_MISSING_NAMED_MAX = 10_000
_ANSWERS_PER_INTERVAL_MAX = 8
"""So many beats of a session are answered in the time of one."""

_OVER_CREDIT_BLAME = 10

_REPEATED_BYTES = 16 << 20
"""Of outcomes that are repeated in one go; the others' turn comes with the next beat."""
_OUTCOME_BYTES = 200
_REPEATED_LATEST_NS = 30_000_000_000

_UNKNOWN_PER_BLAME = 4
"""Acknowledgements of calls that this scheduler never knew: few, and after a restart only."""

_GAPS_MAX = 100_000
"""Runs of call numbers that are remembered. A client counts up: one with so many gaps makes its numbers up."""


# ---------------------------------------------------------------- the session itself


def open_session(cluster: Cluster, peer: bytes, principal: Principal, hello: ClientHello) -> None:
    """A client says hello: a new session, or a known one on a new connection."""
    session = cluster.sessions.get(hello.session_id)
    refused = _no_room(cluster, principal) if session is None else _not_ours(session, principal)
    if refused is not None:
        cluster.effects.append(Send(peer, refused))
        return
    # Of a session that has declared nothing nothing is known: its client, which may have missed an earlier welcome and
    # take this scheduler for the one that it knew, is to hand over everything.
    known = session is not None and bool(session.functions)
    if session is None:
        session = cluster.sessions[hello.session_id] = Session(
            hello.session_id, peer, principal, hello.label, cluster.now_ns
        )
        cluster.had_client = True
        cluster.sessions_of[principal.key] = cluster.sessions_of.get(principal.key, 0) + 1
    elif session.peer and session.peer != peer:
        cluster.peers.pop(session.peer, None)
    is_new_here = session.peer != peer
    session.peer, session.heard_ns = peer, cluster.now_ns
    cluster.peers[peer] = session
    config = cluster.config
    cluster.timer("session", session.session_id, cluster.pace.session_lost_ns(cluster.peers_count))
    cluster.send(
        session,
        Welcome(
            1,
            cluster.cluster_id,
            cluster.epoch,
            known,
            config.credit_calls,
            config.credit_bytes,
            cluster.pace.interval_ns(cluster.peers_count) // 1_000,
            lending.lends(cluster, session),
        ),
    )
    if is_new_here:
        _repeat_outcomes(cluster, session, older_than_ns=0)


def _no_room(cluster: Cluster, principal: Principal) -> Refused | None:
    config = cluster.config
    if len(cluster.sessions) >= config.sessions_max:
        return Refused("too_many_sessions", "The scheduler has no room for another client.")
    if principal != LOCAL and cluster.sessions_of.get(principal.key, 0) >= config.sessions_per_key_max:
        reason = f"{config.sessions_per_key_max} programs with this key are connected: no more are let in."
        return Refused("too_many_sessions", reason)
    return None


def _not_ours(session: Session, principal: Principal) -> Refused | None:
    if (
        session.is_keeper
        or session.principal.key != principal.key
        or session.principal.namespace != principal.namespace
    ):
        return Refused("forbidden", "That session belongs to another key. Start a new one.")
    return None


def unplug(cluster: Cluster, session: Session) -> None:
    """The connection broke. A session with functions lives on until it has been silent for too long."""
    if not session.functions:
        end(cluster, session)
        return
    cluster.peers.pop(session.peer, None)
    session.peer = b""


def timer_due(cluster: Cluster, session: Session) -> None:
    """Has the session been heard lately?"""
    silent_ns = cluster.now_ns - session.heard_ns
    lost_ns = cluster.pace.session_lost_ns(cluster.peers_count)
    if silent_ns < lost_ns:
        session.is_doubted = False
        cluster.timer("session", session.session_id, lost_ns - silent_ns)
    elif not session.is_doubted:
        # The scheduler itself may have been paused, and what its clients said meanwhile waits to be read.
        session.is_doubted = True
        cluster.timer("session", session.session_id, _DOUBT_NS)
    else:
        end(cluster, session)


def end(cluster: Cluster, session: Session) -> None:
    """The client is gone: its unfinished calls are cancelled, nothing of it is kept."""
    session.peer, peer = b"", session.peer
    if cluster.peers.get(peer) is session:
        del cluster.peers[peer]
    for call in list(session.calls.values()):
        if call.state is not CallState.DONE:
            attempt = call.attempt
            record(cluster, call, Status.CANCELLED, b"", None, None)
            if attempt is not None:
                abandon(cluster, attempt)
        forget(cluster, call)
    _forget_functions(cluster, session, list(session.functions.values()))
    cluster.cancel_timer("session", session.session_id)
    cluster.sessions.pop(session.session_id, None)
    if not session.is_keeper:
        key = session.principal.key
        cluster.sessions_of[key] -= 1
        if not cluster.sessions_of[key]:
            del cluster.sessions_of[key]


def _forget_functions(cluster: Cluster, session: Session, functions: list[Function]) -> None:
    """The session makes no more calls of them."""
    for function in functions:
        cluster.drop(function.declaration.body)
        if function.pool is not None:
            function.pool.leave(session, function.name)
            cluster.forget_unused(function.pool)
    _forget_environments(cluster, functions)


def _forget_environments(cluster: Cluster, functions: list[Function]) -> None:
    """What nobody declares any more and no node has made a lock of is nothing to remember."""
    kept = {id(kept.function.environment) for kept in cluster.book.functions.values()}
    families: dict[tuple[str, ...], None] = {}
    for function in functions:
        environment = function.environment
        environment.users -= 1
        is_unused = not environment.users and environment.lock is None and environment.locking_node is None
        if is_unused and id(environment) not in kept:
            del cluster.environments[(environment.namespace, environment.spec_key)]
            families[environment.family] = None
    for family in families:
        left = [one for one in cluster.families[family] if (one.namespace, one.spec_key) in cluster.environments]
        cluster.families[family] = left
        if not left:
            del cluster.families[family]


# ---------------------------------------------------------------- what clients send


def declare(cluster: Cluster, session: Session, message: DeclareFunction) -> None:
    """A function under a number. An unreadable spec refuses the client in words."""
    if message.function_number in session.functions:
        return
    if len(session.functions) >= cluster.config.functions_per_session_max:
        cluster.send(session, Refused("too_many_functions", "This client has declared too many functions."))
        return
    options = message.options
    if text_bytes(options.env_vars) + text_bytes(options.labels) + text_bytes(options.custom) > TEXT_BYTES_MAX:
        reason = f"The environment variables and labels of {message.name} are more than {TEXT_BYTES_MAX} bytes."
        cluster.send(session, Refused("too_large", reason))
        return
    try:
        spec = parse_spec(message.spec)
    except SpecError as error:
        cluster.send(session, Refused("bad_spec", str(error)[:8000]))
        return
    environment = environment_of(cluster, session.principal.namespace, message.spec, spec)
    environment.users += 1
    # Nodes know a function's bytes by its version, which its client has made up: nobody's is another namespace's.
    digest = hashlib.sha256(session.principal.namespace.encode() + b"\0" + message.version).digest()
    session.functions[message.function_number] = Function(message._replace(version=digest), environment)
    cluster.claim(message.body)


def forget_functions(cluster: Cluster, session: Session, message: ForgetFunctions) -> None:
    """The client names them no more. One that an unfinished call is of stays: its client has made a mistake."""
    numbers = [number for number in dict.fromkeys(message.function_numbers) if number in session.functions]
    if not numbers:
        return
    in_use = {call.function for call in session.calls.values() if call.state is not CallState.DONE}
    unused = [number for number in numbers if session.functions[number] not in in_use]
    _forget_functions(cluster, session, [session.functions.pop(number) for number in unused])


def environment_of(cluster: Cluster, namespace: str, text: bytes, spec: Spec) -> Environment:
    """The environment of a spec within a namespace, made when it is first met."""
    key = (namespace, spec_key(text))
    environment = cluster.environments.get(key)
    if environment is None:
        environment = cluster.environments[key] = Environment(
            key[0], key[1], text, spec.python, is_empty=not spec.requirements
        )
    if not environment.family:
        environment.family = (key[0], spec.kind, *spec.requirements)
        cluster.families.setdefault(environment.family, []).append(environment)
    environment.spec = environment.spec or text
    return environment


def submit_call(cluster: Cluster, session: Session, message: Submit | Borrow) -> None:
    """One call, or loan, accepted once: a copy of a known one changes nothing."""
    function = session.functions.get(message.function_number)
    is_over = len(session.calls) >= cluster.config.credit_calls * 3 // 2 or session.seen.gaps >= _GAPS_MAX
    if function is None or is_over:
        cluster.overstepped(session.peer, _OVER_CREDIT_BLAME if is_over else 1)
        return  # not seen: the reply to the next beat names it, and the client repairs the cause first
    if not session.seen.add(message.call_number):
        call = session.calls.get(message.call_number)
        if call is None or call.outcome is not None:
            cluster.discard(message.arguments)  # stored once more for a copy that came late
        if call is not None and call.outcome is not None:
            cluster.send(session, call.outcome)
        return
    call = Call(session, message.call_number, function, message.priority, message.arguments, cluster.now_ns)
    session.calls[call.number] = call
    cluster.claim(message.arguments)
    set_timeouts(cluster, call, function.options.queue_timeout_us, function.options.overall_timeout_us)
    if isinstance(message, Borrow):
        call.is_loan = True
        submit(cluster, call)
        return
    call.lost_nodes = message.lost_nodes
    if message.resent or is_in_doubt(cluster, call):
        hold_back(cluster, call)
    else:
        submit(cluster, call)


def set_timeouts(cluster: Cluster, call: Call, queue_us: int, overall_us: int) -> None:
    """What is left of the two timeouts that count from a call's submit begins to run."""
    for kind, left_us in (("queue", queue_us), ("overall", overall_us)):
        if left_us < FOREVER_US:
            call.timed = True
            cluster.timer(kind, call.key, left_us * 1_000)
            if kind == "queue":
                call.queue_end_ns = cluster.now_ns + left_us * 1_000


def cancel_call(cluster: Cluster, session: Session, message: Cancel) -> None:
    """Stop one of the session's calls."""
    call = session.calls.get(message.call_number)
    if call is not None:
        cancel(cluster, call, "by its caller")


def received(cluster: Cluster, session: Session, message: Received) -> None:
    """The client has these outcomes."""
    unknown = 0
    for number in message.call_numbers:
        forget_doubt(cluster, (session.session_id, number))
        call = session.calls.get(number)
        if call is not None:
            forget(cluster, call)
        elif session.seen.gaps >= _GAPS_MAX:
            cluster.overstepped(session.peer, len(message.call_numbers))
            return  # what of the others is true is said again, once their outcomes are repeated
        elif session.seen.add(number):  # answered under an earlier scheduler: not missing, and never to be run again
            unknown += 1
    if unknown >= _UNKNOWN_PER_BLAME:
        cluster.overstepped(session.peer, unknown // _UNKNOWN_PER_BLAME)


def beat(cluster: Cluster, session: Session, message: ClientBeat) -> None:
    """Name the calls that never arrived, and repeat the outcomes that it seems to have missed.

    That costs by the call, so a client that beats much more often than it was told is answered no more often for it.
    """
    interval_ns = cluster.config.beat_interval_ns
    if cluster.now_ns - session.answers_since_ns >= interval_ns:
        session.answers, session.answers_since_ns = 0, cluster.now_ns
    session.answers += 1
    if session.answers > _ANSWERS_PER_INTERVAL_MAX:
        cluster.overstepped(session.peer, _OVER_CREDIT_BLAME)
        return
    missing = session.seen.missing(min(message.submitted_up_to, 1 << 62), _MISSING_NAMED_MAX)
    cluster.send(session, ClientBeatReply(message.beat_number, tuple(missing), cluster.next_beat_us()))
    _repeat_outcomes(cluster, session, older_than_ns=interval_ns)


def _repeat_outcomes(cluster: Cluster, session: Session, older_than_ns: int) -> None:
    """Each the less often the older it is, and not all at once: on a slow link they may be still under way."""
    now_ns, left_bytes = cluster.now_ns, _REPEATED_BYTES
    due = [
        call
        for call in session.calls.values()
        if call.outcome is not None
        and now_ns - call.said_ns >= max(older_than_ns, min(call.said_ns - call.outcome_ns, _REPEATED_LATEST_NS))
    ]
    for call in sorted(due, key=lambda call: call.said_ns):
        outcome = call.outcome
        if outcome is None or left_bytes <= 0:
            return
        call.said_ns = now_ns
        left_bytes -= _OUTCOME_BYTES + (len(outcome.result) if type(outcome.result) is bytes else 0)
        cluster.send(session, outcome)
