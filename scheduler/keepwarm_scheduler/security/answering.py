"""The messages about keys: what each asks of the registry, and what is answered. Pure.

Called for messages that ``authorisation`` has let through, with the principal that the connection belongs to. The
answer may be sent once the records are on disk, and then the connections of ``ended`` are over.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.security.records import KeyRecord, Record, TokenRecord
from keepwarm_scheduler.security.registry import Change, RefusalError, Registry
from keepwarm_wire.credentials import from_z85
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    Enrol,
    Enrolled,
    KeyEntry,
    KeyRefused,
    KeyRevoked,
    KeyRotated,
    KeysListed,
    ListKeys,
    Message,
    NewToken,
    Refused,
    RevokeKey,
    RotateKey,
    TokenMade,
)
from keepwarm_wire.security_messages import KEYS_PER_PAGE_MAX
from keepwarm_wire.version import negotiate

__all__ = ["ABOUT_KEYS", "Answer", "answer", "answer_without_keys"]

_SECOND_US = 1_000_000


class Answer(NamedTuple):
    """What to send once ``records`` are on disk; ``ended`` are the keys whose connections are over then.

    ``event`` is one line for the log, empty when nothing has changed.
    """

    message: Message
    records: tuple[Record, ...] = ()
    ended: tuple[str, ...] = ()
    event: str = ""


class _Asked(NamedTuple):
    """Everything that a request may depend on."""

    registry: Registry
    principal: Principal
    cluster_id: bytes
    wall_now_s: int


def answer(registry: Registry, principal: Principal, message: Message, cluster_id: bytes, wall_now_s: int) -> Answer:
    """Do what a message of ``ABOUT_KEYS`` asks, in the registry, and return what is to be written and said."""
    try:
        return _ANSWERS[type(message)](_Asked(registry, principal, cluster_id, wall_now_s), message)
    except RefusalError as refusal:
        return Answer(KeyRefused(getattr(message, "request_number", 0), refusal.code, str(refusal)))


def answer_without_keys(message: Message) -> KeyRefused:
    """What a scheduler says that has no keys, and serves one user on a private socket."""
    reason = "This cluster has no keys: it serves one user on one machine. `keepwarm init` makes keys."
    return KeyRefused(getattr(message, "request_number", 0), "no_keys", reason)


def _enrol(asked: _Asked, message: Enrol) -> Answer:
    agreed = negotiate(message.protocol_min, message.protocol_max, message.software)
    if not agreed.protocol:
        return Answer(Refused("version", agreed.reason))
    token_key = from_z85(asked.principal.key)
    change = asked.registry.enrol(token_key, message.public_key, message.name, asked.wall_now_s)
    key = change.subject
    reply = Enrolled(key.public_key, key.role, key.namespace, key.name, asked.cluster_id)
    return _done(asked, reply, change, f"{key.role} {key.name} has enrolled with")


def _new_token(asked: _Asked, message: NewToken) -> Answer:
    wanted = TokenRecord(message.public_key, message.role, message.namespace, message.name, message.uses, 0, 0, 0, b"")
    change = asked.registry.new_token(wanted, message.lifetime_us // _SECOND_US, asked.wall_now_s)
    token = change.subject
    assert isinstance(token, TokenRecord)
    left_us = max(0, token.expires_s - asked.wall_now_s) * _SECOND_US
    reply = TokenMade(message.request_number, token.role, token.namespace, token.name, token.uses, left_us)
    return _done(asked, reply, change, f"token {token.name} for {token.uses} {token.role}(s) was made by")


def _list_keys(asked: _Asked, message: ListKeys) -> Answer:
    found = list(islice(asked.registry.listed(asked.wall_now_s, message.after), KEYS_PER_PAGE_MAX + 1))
    entries = tuple(_entry(record, state, asked.wall_now_s) for record, state in found[:KEYS_PER_PAGE_MAX])
    return Answer(KeysListed(message.request_number, entries, len(found) <= KEYS_PER_PAGE_MAX))


def _entry(record: KeyRecord | TokenRecord, state: str, wall_now_s: int) -> KeyEntry:
    def since_us(then_s: int) -> int:
        return max(0, wall_now_s - then_s) * _SECOND_US

    about = (record.role, record.namespace, record.name, state)
    if isinstance(record, TokenRecord):
        left_us = max(0, record.expires_s - wall_now_s) * _SECOND_US
        return KeyEntry(
            record.public_key, True, *about, "", since_us(record.created_s), FOREVER_US, record.uses_left, left_us
        )
    unseen_us = since_us(record.last_seen_s) if record.last_seen_s else FOREVER_US
    return KeyEntry(
        record.public_key, False, *about, record.origin, since_us(record.created_s), unseen_us, 0, FOREVER_US
    )


def _revoke(asked: _Asked, message: RevokeKey) -> Answer:
    change = asked.registry.revoke(message.key, asked.wall_now_s)
    record = change.subject
    is_token = isinstance(record, TokenRecord)
    reply = KeyRevoked(message.request_number, record.public_key, record.name, is_token)
    return _done(asked, reply, change, f"{'token' if is_token else record.role} {record.name} was revoked by")


def _rotate(asked: _Asked, message: RotateKey) -> Answer:
    change = asked.registry.rotate(from_z85(asked.principal.key), message.public_key, asked.wall_now_s)
    reply = KeyRotated(message.request_number, message.public_key)
    return _done(asked, reply, change, f"the key of {change.subject.name} was replaced by")


def _done(asked: _Asked, reply: Message, change: Change, what: str) -> Answer:
    event = f"{what} {asked.registry.name_of(asked.principal)}" if change.records else ""
    return Answer(reply, change.records, change.ended, event)


_ANSWERS: dict[type, Callable[[_Asked, Any], Answer]] = {
    Enrol: _enrol,
    NewToken: _new_token,
    ListKeys: _list_keys,
    RevokeKey: _revoke,
    RotateKey: _rotate,
}

ABOUT_KEYS = frozenset(_ANSWERS)
"""The messages that are answered here; the core never sees them."""
