"""Keys and tokens: what is let in as what, what is refused and why, and that nothing comes back."""

import pytest

from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.security import registry as limits
from keepwarm_scheduler.security.records import ForgetCredential, KeyRecord, TokenRecord
from keepwarm_scheduler.security.registry import (
    LIFETIME_S_MAX,
    LIFETIME_S_MIN,
    Accepted,
    Change,
    RefusalError,
    Registry,
    Rejected,
)
from keepwarm_wire.credentials import fingerprint, to_z85

NOW_S = 1_700_000_000
HOUR_S = 3600
SERVER = b"S" * 32
ADMIN = b"A" * 32
TOKEN = b"T" * 32


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def registry() -> Registry:
    """A registry with an administrator, as after ``keepwarm init``."""
    registry = Registry(SERVER)
    registry.adopt_admin(ADMIN, NOW_S)
    return registry


def make_token(
    registry: Registry,
    public_key: bytes = TOKEN,
    role: str = "client",
    namespace: str = "",
    name: str = "",
    uses: int = 1,
    lifetime_s: int = HOUR_S,
    now_s: int = NOW_S,
) -> TokenRecord:
    wanted = TokenRecord(public_key, role, namespace, name, uses, 0, 0, 0, b"")
    token = registry.new_token(wanted, lifetime_s, now_s).subject
    assert isinstance(token, TokenRecord)
    return token


def enrol(registry: Registry, number: int, name: str, role: str = "client") -> KeyRecord:
    """A key enrolled with a token of its own."""
    token = make_token(registry, key_of(1000 + number), role)
    key = registry.enrol(token.public_key, key_of(number), name, NOW_S).subject
    assert isinstance(key, KeyRecord)
    return key


def code_of(verdict: Accepted | Rejected) -> str:
    return "accepted" if isinstance(verdict, Accepted) else verdict.code


# ---------------------------------------------------------------- roles and namespaces


@pytest.mark.parametrize(
    ("role", "given", "namespace"),
    [("client", "", "default"), ("client", "team-a", "team-a"), ("agent", "", ""), ("admin", "", "default")],
)
def test_a_key_is_what_its_token_says(registry: Registry, role: str, given: str, namespace: str) -> None:
    make_token(registry, role=role, namespace=given)
    registry.enrol(TOKEN, key_of(1), "peer", NOW_S)
    verdict = registry.authenticate(key_of(1), NOW_S)
    assert verdict == Accepted(Principal(to_z85(key_of(1)), role, namespace), "peer")
    assert registry.principal_of(to_z85(key_of(1))) == verdict.principal


def test_the_administrators_key_beside_the_schedulers_is_let_in(registry: Registry) -> None:
    verdict = registry.authenticate(ADMIN, NOW_S)
    assert isinstance(verdict, Accepted)
    assert (verdict.principal.role, verdict.name) == ("admin", "admin")
    assert registry.adopt_admin(ADMIN, NOW_S).records == ()


def test_a_second_administrators_key_has_a_name_of_its_own(registry: Registry) -> None:
    change = registry.adopt_admin(key_of(1), NOW_S)
    assert change.subject.name == f"admin-{fingerprint(key_of(1))[:4]}"
    assert change.records == (change.subject,)


def test_a_token_connection_is_in_the_role_of_a_token(registry: Registry) -> None:
    make_token(registry, role="admin")
    verdict = registry.authenticate(TOKEN, NOW_S)
    assert isinstance(verdict, Accepted)
    assert verdict.principal.role == "token"


def test_unknown_keys_are_refused_by_fingerprint(registry: Registry) -> None:
    assert registry.authenticate(key_of(1), NOW_S) == Rejected("unknown", f"unknown key {fingerprint(key_of(1))}")
    assert code_of(registry.authenticate(SERVER, NOW_S)) == "unknown"
    assert registry.principal_of(to_z85(key_of(1))) is None
    assert registry.principal_of("") is None


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"role": "token"}, "no role"),
        ({"role": "any"}, "no role"),
        ({"role": "agent", "namespace": "team-a"}, "all namespaces"),
        ({"role": "admin", "namespace": "team-a"}, "all namespaces"),
        ({"namespace": "a b"}, "no namespace"),
        ({"name": "../x"}, "name of a token"),
        ({"uses": 0}, "good 1 to"),
        ({"uses": limits.TOKEN_USES_MAX + 1}, "good 1 to"),
        ({"public_key": bytes(32)}, "zeros"),
    ],
)
def test_tokens_that_make_no_sense_are_refused(registry: Registry, wanted: dict[str, object], words: str) -> None:
    with pytest.raises(RefusalError, match=words) as caught:
        make_token(registry, **wanted)  # type: ignore[arg-type]
    assert caught.value.code == "bad_request"


# ---------------------------------------------------------------- tokens


def test_a_use_is_burnt_with_each_key(registry: Registry) -> None:
    make_token(registry, role="agent", uses=2)
    for number in (1, 2):
        assert code_of(registry.authenticate(TOKEN, NOW_S)) == "accepted"
        change = registry.enrol(TOKEN, key_of(number), f"node-{number}", NOW_S)
        assert [type(record) for record in change.records] == [KeyRecord, TokenRecord]
    assert code_of(registry.authenticate(TOKEN, NOW_S)) == "spent"
    with pytest.raises(RefusalError, match="is spent") as caught:
        registry.enrol(TOKEN, key_of(3), "node-3", NOW_S)
    assert caught.value.code == "token_over"
    assert code_of(registry.authenticate(key_of(3), NOW_S)) == "unknown"


def test_a_repeated_enrolment_burns_nothing(registry: Registry) -> None:
    make_token(registry, uses=1)
    first = registry.enrol(TOKEN, key_of(1), "alice", NOW_S)
    again = registry.enrol(TOKEN, key_of(1), "alice", NOW_S + 2 * HOUR_S)
    assert again == Change(first.subject)


def test_a_token_expires_on_the_second(registry: Registry) -> None:
    make_token(registry, lifetime_s=HOUR_S)
    assert code_of(registry.authenticate(TOKEN, NOW_S + HOUR_S - 1)) == "accepted"
    assert registry.authenticate(TOKEN, NOW_S + HOUR_S) == Rejected(
        "expired", f"expired token token-{fingerprint(TOKEN)[:4]}"
    )
    with pytest.raises(RefusalError, match="is expired"):
        registry.enrol(TOKEN, key_of(1), "alice", NOW_S + HOUR_S)


def test_a_clock_that_was_set_back_does_not_keep_a_token_good(registry: Registry) -> None:
    make_token(registry)
    assert code_of(registry.authenticate(TOKEN, NOW_S - 200)) == "accepted"
    verdict = registry.authenticate(TOKEN, NOW_S - HOUR_S)
    assert verdict == Rejected(
        "early", f"early token token-{fingerprint(TOKEN)[:4]}: the clock stands before its creation"
    )


@pytest.mark.parametrize(
    ("asked_s", "given_s"),
    [(0, LIFETIME_S_MIN), (HOUR_S, HOUR_S), (LIFETIME_S_MAX + 1, LIFETIME_S_MAX), (1 << 53, LIFETIME_S_MAX)],
)
def test_lifetimes_are_brought_to_their_limits(registry: Registry, asked_s: int, given_s: int) -> None:
    assert make_token(registry, lifetime_s=asked_s).expires_s == NOW_S + given_s


def test_a_repeated_request_for_a_token_makes_one(registry: Registry) -> None:
    token = make_token(registry, name="for-alice")
    assert make_token(registry, name="for-alice", now_s=NOW_S + 5) == token
    with pytest.raises(RefusalError, match="known already"):
        make_token(registry, name="for-alice", role="admin")


def test_two_live_tokens_have_two_names(registry: Registry) -> None:
    make_token(registry, name="for-alice")
    with pytest.raises(RefusalError, match="a token for-alice already"):
        make_token(registry, key_of(7), name="for-alice")
    make_token(registry, key_of(7), name="for-alice", now_s=NOW_S + HOUR_S)


def test_tokens_are_bounded_by_those_that_are_live(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOKENS_MAX", 3)
    for number in range(3):
        make_token(registry, key_of(number + 1))
    with pytest.raises(RefusalError, match="There are 3 tokens"):
        make_token(registry, key_of(9))
    registry.enrol(key_of(2), key_of(100), "alice", NOW_S)
    change = registry.new_token(TokenRecord(key_of(9), "client", "", "", 1, 0, 0, 0, b""), HOUR_S, NOW_S)
    assert change.records[0] == ForgetCredential(key_of(2))
    assert code_of(registry.authenticate(key_of(9), NOW_S)) == "accepted"
    assert code_of(registry.authenticate(key_of(100), NOW_S)) == "accepted"


def test_tokens_of_an_earlier_key_of_the_scheduler_are_over(registry: Registry) -> None:
    token = make_token(registry)
    later = Registry(b"s" * 32, [], [token])
    assert code_of(later.authenticate(TOKEN, NOW_S)) == "expired"
    assert later.prune(NOW_S) == (ForgetCredential(TOKEN),)
    assert registry.prune(NOW_S) == ()


def test_tokens_are_forgotten_a_week_after_their_end(registry: Registry) -> None:
    token = make_token(registry)
    assert registry.prune(token.expires_s + limits.TOKEN_KEPT_S - 1) == ()
    assert registry.prune(token.expires_s + limits.TOKEN_KEPT_S) == (ForgetCredential(TOKEN),)
    assert registry.principal_of(to_z85(TOKEN)) is None


def test_a_spent_token_is_still_known_to_whom_it_let_in(registry: Registry) -> None:
    """Its connection may repeat its request, for the answer may have been lost."""
    make_token(registry)
    registry.enrol(TOKEN, key_of(1), "alice", NOW_S)
    principal = registry.principal_of(to_z85(TOKEN))
    assert principal is not None
    assert principal.role == "token"


# ---------------------------------------------------------------- one key, one name


def test_a_public_key_is_known_once(registry: Registry) -> None:
    make_token(registry, uses=10)
    enrol(registry, 1, "alice")
    for taken in (SERVER, ADMIN, TOKEN, key_of(1)):
        with pytest.raises(RefusalError, match="known already") as caught:
            registry.enrol(TOKEN, taken, "bob", NOW_S)
        assert caught.value.code == "key_in_use"
        with pytest.raises(RefusalError, match="known already"):
            registry.rotate(key_of(1), taken, NOW_S)
    assert registry.authenticate(ADMIN, NOW_S) == Accepted(Principal(to_z85(ADMIN), "admin", "default"), "admin")


def test_a_name_belongs_to_one_live_key(registry: Registry) -> None:
    enrol(registry, 1, "alice")
    token = make_token(registry)
    with pytest.raises(RefusalError, match="alice has a key already") as caught:
        registry.enrol(TOKEN, key_of(2), "alice", NOW_S)
    assert caught.value.code == "name_taken"
    assert token.uses_left == 1
    registry.revoke("alice", NOW_S)
    assert registry.enrol(TOKEN, key_of(2), "alice", NOW_S).subject.name == "alice"


def test_a_key_without_a_name_has_its_tokens(registry: Registry) -> None:
    make_token(registry, name="alice")
    assert registry.enrol(TOKEN, key_of(1), "", NOW_S).subject.name == "alice"


def test_a_name_that_could_deceive_is_refused_and_burns_nothing(registry: Registry) -> None:
    make_token(registry)
    for name in ("a b", "\x1b[2J", fingerprint(ADMIN), "x" * 200):
        with pytest.raises(RefusalError) as caught:
            registry.enrol(TOKEN, key_of(1), name, NOW_S)
        assert caught.value.code == "bad_request"
    assert code_of(registry.authenticate(TOKEN, NOW_S)) == "accepted"


# ---------------------------------------------------------------- revoking


def test_a_revoked_key_is_let_in_no_more_and_never_again(registry: Registry) -> None:
    key = enrol(registry, 1, "alice")
    change = registry.revoke("alice", NOW_S)
    assert change.ended == (to_z85(key.public_key),)
    assert registry.authenticate(key_of(1), NOW_S) == Rejected(
        "revoked", f"revoked key alice ({fingerprint(key_of(1))})"
    )
    assert registry.principal_of(to_z85(key_of(1))) is None
    make_token(registry)
    with pytest.raises(RefusalError, match="was revoked"):
        registry.enrol(TOKEN, key_of(1), "alice", NOW_S)


def test_a_revoked_key_is_not_answered_as_if_it_had_just_enrolled(registry: Registry) -> None:
    make_token(registry, uses=5)
    registry.enrol(TOKEN, key_of(1), "alice", NOW_S)
    registry.revoke("alice", NOW_S)
    with pytest.raises(RefusalError, match="was revoked"):
        registry.enrol(TOKEN, key_of(1), "alice", NOW_S)


def test_revoking_again_changes_nothing(registry: Registry) -> None:
    key = enrol(registry, 1, "alice")
    registry.revoke("alice", NOW_S)
    for which in ("alice", fingerprint(key.public_key)):
        change = registry.revoke(which, NOW_S + 9)
        assert (change.records, change.ended) == ((), ())
        assert change.subject.revoked_s == NOW_S


def test_a_token_is_revoked_like_a_key(registry: Registry) -> None:
    make_token(registry, name="leaked")
    assert registry.revoke("leaked", NOW_S).ended == (to_z85(TOKEN),)
    assert registry.authenticate(TOKEN, NOW_S) == Rejected("withdrawn", "withdrawn token leaked")
    assert registry.principal_of(to_z85(TOKEN)) is None
    with pytest.raises(RefusalError, match="is withdrawn"):
        registry.enrol(TOKEN, key_of(1), "mallory", NOW_S)


def test_a_name_means_what_is_live_and_two_are_told_apart_by_fingerprint(registry: Registry) -> None:
    enrol(registry, 1, "alice")
    registry.revoke("alice", NOW_S)
    enrol(registry, 2, "alice")
    assert registry.revoke("alice", NOW_S).subject.public_key == key_of(2)
    enrol(registry, 3, "alice")
    make_token(registry, name="alice")
    with pytest.raises(RefusalError, match=f"{fingerprint(key_of(3))} and {fingerprint(TOKEN)}") as caught:
        registry.revoke("alice", NOW_S)
    assert caught.value.code == "ambiguous"
    assert registry.revoke(fingerprint(key_of(3)), NOW_S).subject.public_key == key_of(3)


def test_what_is_unknown_cannot_be_revoked_and_is_shown_safely(registry: Registry) -> None:
    with pytest.raises(RefusalError, match=r"called '\\x1b\[2J'") as caught:
        registry.revoke("\x1b[2J", NOW_S)
    assert caught.value.code == "unknown_key"
    with pytest.raises(RefusalError):
        registry.revoke(fingerprint(SERVER), NOW_S)


def test_the_last_administrator_stays(registry: Registry) -> None:
    with pytest.raises(RefusalError, match="only key of an administrator") as caught:
        registry.revoke("admin", NOW_S)
    assert caught.value.code == "last_admin"
    enrol(registry, 1, "alice", "admin")
    registry.revoke("admin", NOW_S)
    assert registry.adopt_admin(ADMIN, NOW_S).records == ()
    assert code_of(registry.authenticate(ADMIN, NOW_S)) == "revoked"
    with pytest.raises(RefusalError, match="only key"):
        registry.revoke("alice", NOW_S)


def test_the_keys_revoked_longest_ago_are_forgotten_and_stay_out(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REVOKED_KEYS_KEPT_MAX", 2)
    for number in (1, 2, 3):
        enrol(registry, number, f"peer-{number}")
        change = registry.revoke(f"peer-{number}", NOW_S + number)
    assert change.records[1:] == (ForgetCredential(key_of(1)),)
    assert [code_of(registry.authenticate(key_of(number), NOW_S)) for number in (1, 2, 3)] == [
        "unknown",
        "revoked",
        "revoked",
    ]


def test_keys_are_bounded(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEYS_MAX", 2)
    enrol(registry, 1, "alice")
    make_token(registry)
    with pytest.raises(RefusalError) as caught:
        registry.enrol(TOKEN, key_of(2), "bob", NOW_S)
    assert caught.value.code == "too_many_keys"
    with pytest.raises(RefusalError) as caught:
        registry.rotate(key_of(1), key_of(2), NOW_S)
    assert caught.value.code == "too_many_keys"


# ---------------------------------------------------------------- rotating


def test_a_rotated_key_is_replaced_by_one_with_the_same_rights(registry: Registry) -> None:
    old = enrol(registry, 1, "alice")
    change = registry.rotate(key_of(1), key_of(2), NOW_S + 5)
    assert change.ended == (to_z85(key_of(1)),)
    new = change.subject
    assert isinstance(new, KeyRecord)
    assert (new.role, new.namespace, new.name) == (old.role, old.namespace, old.name)
    assert new.origin == f"key {fingerprint(key_of(1))}"
    assert code_of(registry.authenticate(key_of(1), NOW_S)) == "revoked"
    assert code_of(registry.authenticate(key_of(2), NOW_S)) == "accepted"
    assert registry.revoke("alice", NOW_S).subject.public_key == key_of(2)


@pytest.mark.parametrize("which", [TOKEN, key_of(9), key_of(1)], ids=["token", "unknown", "revoked"])
def test_only_a_key_that_is_let_in_can_be_rotated(registry: Registry, which: bytes) -> None:
    make_token(registry)
    enrol(registry, 1, "alice")
    registry.revoke("alice", NOW_S)
    with pytest.raises(RefusalError, match="Only a key that is let in"):
        registry.rotate(which, key_of(2), NOW_S)


# ---------------------------------------------------------------- what there is


def test_when_a_key_was_seen_is_written_once_an_hour(registry: Registry) -> None:
    enrol(registry, 1, "alice")
    verdict = registry.authenticate(key_of(1), NOW_S)
    assert isinstance(verdict, Accepted)
    [first] = registry.seen(verdict.principal, NOW_S)
    assert isinstance(first, KeyRecord)
    assert first.last_seen_s == NOW_S
    assert registry.seen(verdict.principal, NOW_S + 3599) == ()
    assert len(registry.seen(verdict.principal, NOW_S + 3600)) == 1
    make_token(registry)
    token = registry.authenticate(TOKEN, NOW_S)
    assert isinstance(token, Accepted)
    assert registry.seen(token.principal, NOW_S) == ()


def test_everything_is_listed_with_its_state(registry: Registry) -> None:
    enrol(registry, 1, "alice")
    enrol(registry, 2, "bob")
    registry.rotate(key_of(2), key_of(3), NOW_S)
    enrol(registry, 4, "carol")
    registry.revoke("carol", NOW_S)
    make_token(registry)
    found = {record.public_key: state for record, state in registry.listed(NOW_S)}
    assert list(found) == sorted(found)
    assert found == {
        ADMIN: "live",
        key_of(1): "live",
        key_of(2): "rotated",
        key_of(3): "live",
        key_of(4): "revoked",
        TOKEN: "live",
        **{key_of(1000 + number): "spent" for number in (1, 2, 4)},
    }
    after = [record.public_key for record, _ in registry.listed(NOW_S, after=key_of(4))]
    assert after == [key for key in sorted(found) if key > key_of(4)]


def test_principals_have_names_for_people(registry: Registry) -> None:
    assert registry.name_of(Principal(to_z85(ADMIN), "admin", "default")) == "admin"
    assert registry.name_of(Principal(to_z85(key_of(9)), "client", "x")) == fingerprint(key_of(9))
    assert registry.name_of(Principal("local", "any", "default")) == "local"
