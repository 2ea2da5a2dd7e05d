"""What is asked about detached calls: attaching, listing, showing, stopping, forgetting.

Who asks sees the calls of its connection's namespace, and an admin all of them; a call of another namespace is as
unknown as one that never was. What a call has done is told only once it is on disk.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from keepwarm_scheduler.core.calls import cancel
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.detached_ends import bury, watched_by
from keepwarm_scheduler.core.detached_records import UNFINISHED, Keeper, Record
from keepwarm_scheduler.core.effects import SaveCancel, Send, SendOutcome
from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.core.state import Session
from keepwarm_scheduler.core.transitions import CallState
from keepwarm_wire.credentials import ROLE_ADMIN
from keepwarm_wire.detached_messages import DETACHED_PER_PAGE_MAX
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    AttachDetached,
    CancelDetached,
    DetachedCancelled,
    DetachedEntry,
    DetachedForgotten,
    DetachedListed,
    DetachedRefused,
    DetachedShown,
    ForgetDetached,
    ListDetached,
    Message,
    ShowDetached,
    Status,
)

__all__ = ["ABOUT_CALLS", "Asker", "attach"]

_PAGE_DEFAULT = 100
_TEXT_MAX = 512

_STANDS: dict[str, tuple[int, ...]] = {
    "unfinished": (UNFINISHED,),
    "done": tuple(range(len(Status.NAMES))),
    **{name: (status,) for status, name in enumerate(Status.NAMES)},
}
"""What may be asked for, and how records stand then."""

_AT_NODES = frozenset({CallState.DISPATCHED.value, CallState.RUNNING.value})


class Asker(NamedTuple):
    """Who asks, and where the answer goes."""

    peer: bytes
    principal: Principal

    def sees(self, namespace: str) -> bool:
        """Whether calls of the namespace are there for this asker."""
        return self.principal.role == ROLE_ADMIN or self.principal.namespace == namespace


def _answer(cluster: Cluster, asker: Asker, message: Message) -> None:
    cluster.effects.append(Send(asker.peer, message, after_sync=True))


def _find(cluster: Cluster, asker: Asker, call_id: bytes) -> Record | None:
    """The call, if it is there for the asker; else the asker is told."""
    book = cluster.book
    record = book.by_id.get(call_id)
    if record is not None and asker.sees(record.namespace):
        return record
    grave = book.tombstones.get(call_id)
    if grave is not None and asker.sees(grave[0]):
        refusal = DetachedRefused(call_id, "expired", "The call has ended, and its result has expired.")
    else:
        refusal = DetachedRefused(call_id, "unknown", "There is no such call in this namespace.")
    _answer(cluster, asker, refusal)
    return None


# ---------------------------------------------------------------- outcomes


def attach(cluster: Cluster, session: Session, message: AttachDetached) -> None:
    """A session wants outcomes: those that are there at once, the others when they are."""
    asker = Asker(session.peer, session.principal)
    for call_id in message.call_ids:
        record = _find(cluster, asker, call_id)
        if record is None:
            continue
        if record.call is None:
            cluster.effects.append(SendOutcome(session.peer, record.number))
        else:
            watched_by(cluster, record, session.session_id)


def _forget(cluster: Cluster, asker: Asker, message: ForgetDetached) -> None:
    book = cluster.book
    gone: list[bytes] = []
    for call_id in message.call_ids:
        record = book.by_id.get(call_id)
        if record is not None and record.call is None and asker.sees(record.namespace):
            bury(cluster, record)
        grave = book.tombstones.get(call_id)
        if grave is not None and asker.sees(grave[0]):
            gone.append(call_id)
    _answer(cluster, asker, DetachedForgotten(tuple(gone)))


# ---------------------------------------------------------------- stopping


def _cancel(cluster: Cluster, asker: Asker, message: CancelDetached) -> None:
    record = _find(cluster, asker, message.call_id)
    if record is None:
        return
    call = record.call
    if call is not None:
        if not call.cancel_reason:
            cluster.effects.append(SaveCancel(record.number, "by its caller"))
        cancel(cluster, call, "by its caller")
    state = Status.NAMES[record.status] if record.call is None else "stopping"
    _answer(cluster, asker, DetachedCancelled(message.call_id, state))


# ---------------------------------------------------------------- looking


def _show(cluster: Cluster, asker: Asker, message: ShowDetached) -> None:
    record = _find(cluster, asker, message.call_id)
    if record is not None:
        _answer(cluster, asker, DetachedShown(message.request_number, _entry(cluster, record)))


def _list(cluster: Cluster, asker: Asker, message: ListDetached) -> None:
    limit = min(message.limit or _PAGE_DEFAULT, DETACHED_PER_PAGE_MAX)
    found = list(islice(_matching(cluster, asker, message), limit + 1))
    entries = tuple([_entry(cluster, record) for record in found[:limit]])
    _answer(cluster, asker, DetachedListed(message.request_number, entries, len(found) <= limit))


def _matching(cluster: Cluster, asker: Asker, message: ListDetached) -> Iterator[Record]:
    """What is asked for, the newest first. Whoever else has calls, however many, they are not looked at."""
    book, namespace, wanted = cluster.book, message.namespace, message.state
    if not namespace and asker.principal.role != ROLE_ADMIN:
        namespace = asker.principal.namespace
    keeper = book.keepers.get(namespace)
    if namespace and (keeper is None or not asker.sees(namespace)):
        return iter(())
    before = int.from_bytes(message.after[:8], "big")
    if wanted in _AT_NODES:
        return _at_nodes(cluster, keeper, wanted, before)
    if wanted == CallState.QUEUED.value:  # of the unfinished ones all but those that nodes have
        found = book.newest_first(before, keeper, (UNFINISHED,))
        return (record for record in found if _state(record) == wanted)
    return book.newest_first(before, keeper, _STANDS.get(wanted, ()) if wanted else None)


def _at_nodes(cluster: Cluster, keeper: Keeper | None, wanted: str, before: int) -> Iterator[Record]:
    """Found by their attempts, of which there are no more than the nodes can take."""
    records = cluster.book.records
    for number in sorted(_numbers_at_nodes(cluster, keeper), reverse=True):
        record = records.get(number)
        if record is not None and _state(record) == wanted and (not before or number < before):
            yield record


def _numbers_at_nodes(cluster: Cluster, keeper: Keeper | None) -> Iterator[int]:
    for attempt in cluster.attempts.values():
        call = attempt.call
        if call is not None and call.session.is_keeper and (keeper is None or call.session is keeper.session):
            yield call.number


def _state(record: Record) -> str:
    return Status.NAMES[record.status] if record.call is None else record.call.state.value


def _entry(cluster: Cluster, record: Record) -> DetachedEntry:
    call, now_ns = record.call, cluster.now_ns
    reason, node, ended_us, left_us = record.kind, record.node, FOREVER_US, FOREVER_US
    if call is None:
        ended_us, left_us = _us(now_ns - record.ended_ns), _us(record.expires_ns - now_ns)
    else:
        reason = call.reason if call.state is CallState.QUEUED else ""
        node = "" if call.attempt is None else call.attempt.instance.node.name
    return DetachedEntry(
        record.call_id,
        record.number.to_bytes(8, "big"),
        record.namespace[:_TEXT_MAX],
        record.function,
        record.key,
        record.label,
        _state(record),
        reason,
        node,
        record.attempts,
        _us(now_ns - record.accepted_ns),
        ended_us,
        left_us,
        record.result_bytes,
    )


def _us(duration_ns: int) -> int:
    return min(max(0, duration_ns) // 1_000, FOREVER_US)


ABOUT_CALLS: dict[type, Callable[[Cluster, Asker, Any], None]] = {
    ListDetached: _list,
    ShowDetached: _show,
    CancelDetached: _cancel,
    ForgetDetached: _forget,
}
"""What both sessions and administrators may ask."""
