"""Messages about detached calls: submitting, following, listing and stopping them. The rules are those of ``messages``.

A detached call belongs to a namespace, not to a session: whoever speaks for the namespace may ask for it by its id.
Repeating any of these messages is harmless, and the client's repetition repairs every loss.
"""

from typing import Annotated, NamedTuple

from keepwarm_wire.fields import Bounds, Count, Duration, Id, Name, Priority, Sentence, Small
from keepwarm_wire.records import CallReport, Failure, Payload

__all__ = [
    "DETACHED_NAMED_MAX",
    "DETACHED_PER_PAGE_MAX",
    "AttachDetached",
    "CancelDetached",
    "DetachedAccepted",
    "DetachedCancelled",
    "DetachedEntry",
    "DetachedForgotten",
    "DetachedListed",
    "DetachedOutcome",
    "DetachedRefused",
    "DetachedShown",
    "ForgetDetached",
    "ListDetached",
    "ShowDetached",
    "SubmitDetached",
]

DETACHED_PER_PAGE_MAX = 500
DETACHED_NAMED_MAX = 1_000
"""How many calls one message may name."""

Cursor = Annotated[bytes, Bounds(0, 64)]
Page = Bounds(0, DETACHED_PER_PAGE_MAX)
Named = Bounds(0, DETACHED_NAMED_MAX)


# ---------------------------------------------------------------- client to scheduler


class SubmitDetached(NamedTuple):
    """One detached call of a declared function. ``call_id`` is made by the client, at random, before it first sends.

    ``key`` is empty, or one that the namespace uses for one call only within the retention of keys. ``result_ttl_us``
    is how long the outcome is to be kept. Repeated, after the function's declaration, until accepted or refused.
    """

    call_id: Id
    function_number: Small
    priority: Priority
    key: Name
    result_ttl_us: Duration
    arguments: Payload


class AttachDetached(NamedTuple):
    """The session wants the outcomes of these calls, when they are there. Repeated with the beats until they are."""

    call_ids: Annotated[tuple[Id, ...], Named]


class ListDetached(NamedTuple):
    """Ask for a page of calls, the newest first. ``after`` is empty, or the ``cursor`` of a call that was listed.

    ``state`` is empty for all, *unfinished*, *done*, or the name of a state or status. ``namespace`` is for admins, who
    see all of them when it is empty; others see their own.
    """

    request_number: Count
    after: Cursor
    state: Name
    namespace: Name
    limit: Small


class ShowDetached(NamedTuple):
    """Ask what is known of one call, without its result."""

    request_number: Count
    call_id: Id


class CancelDetached(NamedTuple):
    """Stop a call, queued or running."""

    call_id: Id


class ForgetDetached(NamedTuple):
    """The outcomes of these calls are not needed any more: their room may be used. Unfinished ones are left alone."""

    call_ids: Annotated[tuple[Id, ...], Named]


# ---------------------------------------------------------------- scheduler to client


class DetachedAccepted(NamedTuple):
    """The call is on disk and will end, whatever happens. ``accepted_id`` is the call that the key stands for.

    It is another than ``call_id`` when an earlier call has the same key; ``is_known`` tells that nothing new was made.
    """

    call_id: Id
    accepted_id: Id
    is_known: bool


class DetachedRefused(NamedTuple):
    """What was asked about this call is not done, and why.

    ``code`` is *key_conflict*, *id_conflict*, *results_full* or *too_many* for a call that was not
    accepted; *unknown* or *expired* for one that was asked for.
    """

    call_id: Id
    code: Name
    reason: Sentence


class DetachedOutcome(NamedTuple):
    """The one recorded outcome of a call, on disk. The fields are those of ``Outcome``."""

    call_id: Id
    status: Small
    result: Payload
    failure: None | Failure
    report: CallReport | None


class DetachedEntry(NamedTuple):
    """What is known of a call, for people.

    ``state`` is *queued*, *dispatched* or *running*, or the name of the status in which it ended; ``reason`` is what
    it waits for, or the kind of its failure. ``age_us`` is the time since it was accepted, ``ended_us`` since its end
    and ``left_us`` until its result expires; both are ``FOREVER_US`` while it is unfinished.
    """

    call_id: Id
    cursor: Cursor
    namespace: Name
    function: Name
    key: Name
    label: Name
    state: Name
    reason: Name
    node: Name
    attempts: Small
    age_us: Duration
    ended_us: Duration
    left_us: Duration
    result_bytes: Count


class DetachedListed(NamedTuple):
    """A page of calls. ``is_last`` is false when there are more after these."""

    request_number: Count
    entries: Annotated[tuple[DetachedEntry, ...], Page]
    is_last: bool


class DetachedShown(NamedTuple):
    """What is known of the call that was asked for."""

    request_number: Count
    entry: DetachedEntry


class DetachedCancelled(NamedTuple):
    """The wish is on disk: no new attempt will start. ``state`` is *stopping*, or the status in which it has ended."""

    call_id: Id
    state: Name


class DetachedForgotten(NamedTuple):
    """These outcomes are gone, and those unfinished among them are not."""

    call_ids: Annotated[tuple[Id, ...], Named]
