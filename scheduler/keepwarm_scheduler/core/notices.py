"""Leases that end before their time: whom that is told, how it is counted, and who is to blame.

A promise is broken when an instance ends as evicted, killed or died while a function's term on it still runs. Rules:

* each connected session that has called such a function gets one ``LeaseBroken`` per instance, which names its own
  functions only, and at most ``NOTICES_PER_TURN_MAX`` in a turn; what is over that is counted in the last of them;
* a function whose own call ended the process is told nothing: that is no promise to others;
* a session of another namespace than the one whose call needed the place is told of no function of that one;
* a notice is neither kept nor repeated; every broken lease is counted, told or not;
* calls that come and succeed never get here: only ends, evictions and calls that failed do.
"""

import re
from typing import Final, NamedTuple

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.leases import UNKNOWN_TERM, UNSERVED
from keepwarm_scheduler.core.state import Attempt, Call, Culprit, Instance, Session
from keepwarm_wire.messages import InstanceEnded, LeaseBroken

__all__ = ["FUNCTIONS_NAMED_MAX", "NOTICES_PER_TURN_MAX", "blame", "evicted", "flush", "instance_ended"]

NOTICES_PER_TURN_MAX: Final = 16
FUNCTIONS_NAMED_MAX: Final = 16
_ENVIRONMENT_SHOWN: Final = 12
"""Of an environment's id, as ``keepwarm status`` shows it."""

_WHY: Final = {"run_timeout": "timeout", "startup_timeout": "timeout", "cancelled": "cancellation"}
"""By the kind of a call's failure: why its process may have to be killed."""
_FATAL: Final = frozenset({*_WHY, "process_died", "out_of_memory"})
"""The kinds of failure that a process may not survive."""
_BROKEN: Final = frozenset({"evicted", "killed", "died"})
"""The causes of an end that break what is left of a lease: others come after it, or with the end of cluster or node."""

_LINKS: Final = {"evicted": "for", "killed": "of", "died": "in a call of"}
_HOW = re.compile(r"\bSIG[A-Z0-9]+|\bexit code -?\d+")
"""What of an agent's account of a death is told: the rest may quote what the process printed."""


class _End(NamedTuple):
    """An end that breaks leases: ``word`` and ``why`` are what it is counted under, ``how`` what is said of it."""

    word: str
    why: str
    how: str
    culprit: Culprit | None
    left_us: dict[str, int]


# ---------------------------------------------------------------- who is to blame


def blame(cluster: Cluster, attempt: Attempt, kind: str) -> None:
    """A call failed on its instance. If the process does not survive that, it was this call's doing."""
    if kind in _FATAL:
        why = "timeout" if attempt.is_overdue else _WHY.get(kind, "crash")
        attempt.instance.culprit = _culprit_of(cluster, attempt, why)


def evicted(cluster: Cluster, instance: Instance, call: Call | None) -> None:
    """An instance is told to make room, for a call if that is known: its leases are broken from now on.

    What follows *evicted:* in the cause for which it was told to stop is why, where that is no call.
    """
    function = namespace = ""
    what = instance.stop_cause.partition(": ")[2] or "memory"
    if call is not None:
        function, namespace, pool = call.function.name, call.session.principal.namespace, call.function.pool
        if pool is not None and instance.node.free["memory"] >= pool.shape.memory_bytes:
            what = "gpu"
    instance.evicted_for = Culprit(what, function, namespace, 0, cluster.now_ns)


def _culprit(cluster: Cluster, instance: Instance, token: int) -> Culprit | None:
    """Whose call took an instance along: the agent said which. Its outcome came before that, unless it was lost."""
    known, attempt = instance.culprit, instance.attempt
    if not token or (known is not None and known.attempt == token):
        return known if token else None
    if attempt is None or attempt.token != token:
        return None
    return _culprit_of(
        cluster, attempt, "timeout" if attempt.is_overdue or not attempt.cancel_command else "cancellation"
    )


def _culprit_of(cluster: Cluster, attempt: Attempt, why: str) -> Culprit:
    return Culprit(why, attempt.function, attempt.instance.pool.namespace, attempt.token, cluster.now_ns)


# ---------------------------------------------------------------- the end


def instance_ended(cluster: Cluster, instance: Instance, cause: str, message: InstanceEnded | None) -> None:
    """An instance is gone: count what that breaks, and have those told who held a lease on it.

    ``cause`` is empty when nobody could say it; ``message`` is the agent's word, if it did not get lost.
    """
    word = cause.partition(":")[0] or "died"
    if word not in _BROKEN or not instance.ready_ns or instance.pool.is_private or cluster.is_stopping:
        return
    end = _end_of(cluster, instance, word, message)
    if not end.left_us:
        return
    counted = f"{word} ({end.why})" if end.why else word
    cluster.leases_broken[counted] = cluster.leases_broken.get(counted, 0) + 1
    told: dict[bytes, list[str]] = {}
    for name in end.left_us:
        for session_id in instance.pool.callers.get(name, ()):
            told.setdefault(session_id, []).append(name)
    for session_id, names in told.items():
        session = cluster.sessions.get(session_id)
        if session is not None and session.peer:
            _tell(cluster, session, instance, end, names)


def _end_of(cluster: Cluster, instance: Instance, word: str, message: InstanceEnded | None) -> _End:
    failure = None if message is None else message.failure
    if word == "evicted":
        culprit = instance.evicted_for
        left_us = _left_us(instance, cluster.now_ns if culprit is None else culprit.at_ns)
    else:
        culprit = _culprit(cluster, instance, 0 if message is None else message.attempt)
        left_us = _left_us(instance, cluster.now_ns)
        if culprit is not None:
            left_us.pop(culprit.function, None)
    why = how = "" if culprit is None else culprit.why
    if word == "died":
        why = how = "" if culprit is None else "crash"
        if failure is not None and failure.kind == "out_of_memory":
            why = how = "out of memory"
        elif failure is not None and (found := _HOW.search(failure.message)):
            how = found.group()
    return _End(word, why, how, culprit, left_us)


def _left_us(instance: Instance, at_ns: int) -> dict[str, int]:
    """The terms that run, by function; one that is not known is nobody's."""
    left_us = instance.lease.left_us(at_ns)
    left_us.pop(UNKNOWN_TERM, None)
    unserved_us = left_us.pop(UNSERVED, None)
    if unserved_us is not None and instance.started_for and not instance.uses:
        left_us[instance.started_for] = unserved_us
    return left_us


def _tell(cluster: Cluster, session: Session, instance: Instance, end: _End, names: list[str]) -> None:
    notices = cluster.notices.setdefault(session.session_id, [])
    if len(notices) >= NOTICES_PER_TURN_MAX:
        last = notices[-1]
        notices[-1] = last._replace(more_notices=last.more_notices + 1)
        return
    notices.append(
        LeaseBroken(
            instance.instance_id,
            instance.node.name,
            instance.pool.environment_id[:_ENVIRONMENT_SHOWN],
            tuple(names[:FUNCTIONS_NAMED_MAX]),
            max(0, len(names) - FUNCTIONS_NAMED_MAX),
            _cause(end, session.principal.namespace),
            max(end.left_us[name] for name in names),
            0,
        )
    )


def _cause(end: _End, namespace: str) -> str:
    """The cause as ``killed: timeout of app:slow``; without the function for those whom that does not concern."""
    culprit = end.culprit
    function = culprit.function if culprit is not None and culprit.namespace == namespace else ""
    if not end.how:
        return end.word
    return f"{end.word}: {end.how} {_LINKS[end.word]} {function}" if function else f"{end.word}: {end.how}"


def flush(cluster: Cluster) -> None:
    """Send the notices of this turn."""
    notices, cluster.notices = cluster.notices, {}
    for session_id, messages in notices.items():
        session = cluster.sessions.get(session_id)
        if session is not None:
            for message in messages:
                cluster.send(session, message)
