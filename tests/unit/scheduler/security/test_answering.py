"""The messages about keys: what each is answered with, and what has to be on disk before it is."""

import pytest

from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.security.answering import ABOUT_KEYS, Answer, answer, answer_without_keys
from keepwarm_scheduler.security.authorisation import MAY_SEND
from keepwarm_scheduler.security.records import KeyRecord, TokenRecord
from keepwarm_scheduler.security.registry import LIFETIME_S_MAX, Accepted, Registry
from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.credentials import fingerprint, to_z85
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
    NewToken,
    Refused,
    RevokeKey,
    RotateKey,
    TokenMade,
)
from keepwarm_wire.security_messages import KEYS_PER_PAGE_MAX
from keepwarm_wire.version import PROTOCOL_MAX
from support.wire_values import example

NOW_S = 1_700_000_000
HOUR_US = 3_600_000_000
CLUSTER = b"c" * 16
ADMIN, TOKEN, ALICE, OTHER = b"A" * 32, b"T" * 32, b"a" * 32, b"o" * 32


class Desk:
    """A registry with an administrator, and somebody who asks it things."""

    def __init__(self) -> None:
        self.registry = Registry(b"S" * 32)
        self.registry.adopt_admin(ADMIN, NOW_S)

    def ask(self, key: bytes, message: object, now_s: int = NOW_S) -> Answer:
        """The answer to a message from a connection of this key. Every answer travels."""
        principal = self.registry.principal_of(to_z85(key))
        assert principal is not None, "not let in"
        found = answer(self.registry, principal, message, CLUSTER, now_s)
        assert decode_frame(encode_frame([found.message])) == [found.message]
        return found

    def with_token(self, role: str = "client", namespace: str = "team-a", uses: int = 1) -> Answer:
        return self.ask(ADMIN, NewToken(1, TOKEN, role, namespace, "for-alice", uses, HOUR_US))

    def with_alice(self) -> Answer:
        self.with_token()
        return self.ask(TOKEN, enrol(ALICE))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def enrol(public_key: bytes, name: str = "alice", protocol: int = PROTOCOL_MAX) -> Enrol:
    return Enrol(protocol, protocol, "test", public_key, name)


def test_a_token_is_made_as_asked_and_written_before_it_is_answered(desk: Desk) -> None:
    made = desk.with_token()
    assert made.message == TokenMade(1, "client", "team-a", "for-alice", 1, HOUR_US)
    [record] = made.records
    assert isinstance(record, TokenRecord)
    assert (record.public_key, record.uses_left, record.expires_s) == (TOKEN, 1, NOW_S + 3600)
    assert made.event == "token for-alice for 1 client(s) was made by admin"
    assert desk.with_token() == Answer(made.message)


def test_a_token_for_ever_lasts_as_long_as_any_may(desk: Desk) -> None:
    message = NewToken(1, TOKEN, "agent", "", "", 5, FOREVER_US)
    assert desk.ask(ADMIN, message).message == TokenMade(
        1, "agent", "", f"token-{fingerprint(TOKEN)[:4]}", 5, LIFETIME_S_MAX * 1_000_000
    )


def test_a_peer_enrols_and_is_what_the_token_said(desk: Desk) -> None:
    enrolled = desk.with_alice()
    assert enrolled.message == Enrolled(ALICE, "client", "team-a", "alice", CLUSTER)
    assert [type(record) for record in enrolled.records] == [KeyRecord, TokenRecord]
    assert enrolled.event == "client alice has enrolled with for-alice"
    assert desk.ask(TOKEN, enrol(ALICE)) == Answer(enrolled.message)


def test_a_spent_token_is_refused_in_words_on_a_connection_that_is_open(desk: Desk) -> None:
    desk.with_alice()
    refused = desk.ask(TOKEN, enrol(OTHER, "bob"))
    assert refused == Answer(KeyRefused(0, "token_over", "This token is spent. Ask for another: `keepwarm token new`."))


def test_a_peer_of_another_protocol_is_told_so_and_burns_nothing(desk: Desk) -> None:
    desk.with_token()
    refused = desk.ask(TOKEN, enrol(ALICE, protocol=PROTOCOL_MAX + 1))
    assert isinstance(refused.message, Refused)
    assert refused.message.code == "version"
    assert refused.records == ()
    assert isinstance(desk.registry.authenticate(TOKEN, NOW_S), Accepted)


def test_revoking_ends_the_connections_of_the_key(desk: Desk) -> None:
    desk.with_alice()
    revoked = desk.ask(ADMIN, RevokeKey(7, "alice"))
    assert revoked.message == KeyRevoked(7, ALICE, "alice", False)
    assert revoked.ended == (to_z85(ALICE),)
    assert revoked.event == "client alice was revoked by admin"
    assert len(revoked.records) == 1
    assert desk.ask(ADMIN, RevokeKey(8, fingerprint(ALICE))) == Answer(KeyRevoked(8, ALICE, "alice", False))
    token = desk.ask(ADMIN, RevokeKey(9, "for-alice"))
    assert token.message == KeyRevoked(9, TOKEN, "for-alice", True)
    assert token.ended == (to_z85(TOKEN),)


def test_a_refusal_carries_the_number_of_its_request(desk: Desk) -> None:
    refused = desk.ask(ADMIN, RevokeKey(7, "nobody")).message
    assert isinstance(refused, KeyRefused)
    assert (refused.request_number, refused.code) == (7, "unknown_key")


def test_a_key_is_rotated_by_its_owner(desk: Desk) -> None:
    desk.with_alice()
    rotated = desk.ask(ALICE, RotateKey(3, OTHER))
    assert rotated.message == KeyRotated(3, OTHER)
    assert rotated.ended == (to_z85(ALICE),)
    assert len(rotated.records) == 2
    principal = desk.registry.principal_of(to_z85(OTHER))
    assert principal == Principal(to_z85(OTHER), "client", "team-a")


def test_keys_are_listed_with_ages_and_never_with_times(desk: Desk) -> None:
    desk.with_alice()
    listed = desk.ask(ADMIN, ListKeys(5, b""), NOW_S + 60).message
    assert isinstance(listed, KeysListed)
    assert listed.is_last
    minute_us = 60_000_000
    assert {entry.name: entry for entry in listed.entries} == {
        "admin": KeyEntry(
            ADMIN, False, "admin", "", "admin", "live", "keepwarm init", minute_us, FOREVER_US, 0, FOREVER_US
        ),
        "alice": KeyEntry(
            ALICE, False, "client", "team-a", "alice", "live", "token for-alice", minute_us, FOREVER_US, 0, FOREVER_US
        ),
        "for-alice": KeyEntry(
            TOKEN, True, "client", "team-a", "for-alice", "spent", "", minute_us, FOREVER_US, 0, HOUR_US - minute_us
        ),
    }


def test_a_clock_that_was_set_back_makes_no_ages_below_zero(desk: Desk) -> None:
    desk.with_alice()
    listed = desk.ask(ADMIN, ListKeys(5, b""), 0).message
    assert isinstance(listed, KeysListed)
    assert {entry.age_us for entry in listed.entries} == {0}


def test_many_keys_are_listed_in_pages_without_gap_or_repetition(desk: Desk) -> None:
    names = {f"key-{number}": number.to_bytes(32, "big") for number in range(1, 2 * KEYS_PER_PAGE_MAX)}
    records = [KeyRecord(key, "client", "default", name, NOW_S) for name, key in names.items()]
    desk.registry = Registry(b"S" * 32, [KeyRecord(ADMIN, "admin", "", "admin", NOW_S), *records])
    found: list[str] = []
    after, is_last = b"", False
    while not is_last:
        page = desk.ask(ADMIN, ListKeys(1, after)).message
        assert isinstance(page, KeysListed)
        found += [entry.name for entry in page.entries]
        after, is_last = page.entries[-1].public_key, page.is_last
    assert sorted(found) == sorted([*names, "admin"])
    assert len(found) == 2 * KEYS_PER_PAGE_MAX


@pytest.mark.parametrize("kind", sorted(ABOUT_KEYS, key=str), ids=lambda kind: kind.__name__)
def test_every_message_about_keys_is_answered_with_and_without_keys(desk: Desk, kind: type) -> None:
    assert kind in MAY_SEND
    desk.with_alice()
    asker = {"Enrol": TOKEN, "RotateKey": ALICE}.get(kind.__name__, ADMIN)
    message = example(kind)
    assert desk.ask(asker, message).message is not None
    without = answer_without_keys(message)
    assert (without.request_number, without.code) == (getattr(message, "request_number", 0), "no_keys")
