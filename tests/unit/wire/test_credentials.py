"""Keys, join tokens and names: what is written is read back, what was damaged is refused in words, no secret shows."""

import dataclasses
import pickle
import shlex
import traceback

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from keepwarm_wire.credentials import (
    KEY_BYTES,
    NAME_CHARACTERS_MAX,
    ROLES,
    CredentialError,
    KeyPair,
    Token,
    check_name,
    check_public_key,
    fingerprint,
    from_base64url,
    from_z85,
    is_fingerprint,
    to_base64url,
    to_z85,
)

KEYS = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES).filter(any)
TOKENS = st.builds(Token, st.sampled_from(ROLES), KEYS, KEYS)

CANARY = bytes(range(100, 132))
"""A secret that must not be seen."""
TOKEN = Token("agent", b"s" * KEY_BYTES, CANARY)
SEEN_AS = (
    CANARY.decode("latin-1"),
    repr(CANARY)[2:-1],
    CANARY.hex(),
    to_z85(CANARY),
    to_base64url(CANARY)[:-1],
    to_base64url(b"s" * 32 + CANARY)[44:-2],
)
"""The canary in every way in which a part of it could be written."""


def shows_no_secret(text: str) -> bool:
    return not any(form in text for form in SEEN_AS)


# ---------------------------------------------------------------- encodings


@given(KEYS)
def test_z85_is_that_of_zeromq(key: bytes) -> None:
    assert to_z85(key).encode() == z85.encode(key)
    assert from_z85(to_z85(key)) == key


@pytest.mark.parametrize("text", ["", "a" * 39, "a" * 41, "a" * 39 + "~", "a" * 39 + "é", "#####" * 8, "a" * 39 + "\0"])
def test_what_is_no_key_in_z85_is_refused(text: str) -> None:
    with pytest.raises(CredentialError, match="40 characters of Z85"):
        from_z85(text)


@given(st.binary(max_size=100))
def test_base64url_is_read_back(raw: bytes) -> None:
    assert from_base64url(to_base64url(raw)) == raw


@pytest.mark.parametrize("text", ["A", "AB=", "A+==", "A/aa", "AAAé", "AB", "AAAAA", " AAAA", "AAAA\n"])
def test_base64url_has_one_spelling(text: str) -> None:
    """``AB`` and ``AA`` would both decode to one byte of zero: only the latter is what is written."""
    with pytest.raises(CredentialError, match="no base64url"):
        from_base64url(text)


@given(KEYS, KEYS)
def test_fingerprints_tell_keys_apart_and_have_their_form(one: bytes, two: bytes) -> None:
    assert is_fingerprint(fingerprint(one))
    assert (fingerprint(one) == fingerprint(two)) == (one == two)


# ---------------------------------------------------------------- key pairs


def test_a_key_pair_of_zeromq_is_read_and_given_back() -> None:
    public, secret = zmq.curve_keypair()
    pair = KeyPair.from_z85(public, secret)
    assert (pair.public_z85, pair.secret_z85) == (public, secret)
    assert zmq.curve_public(pair.secret_z85) == pair.public_z85
    assert KeyPair.from_z85(public.decode(), secret.decode()) == pair


@pytest.mark.parametrize(
    ("public", "secret"),
    [(b"", b"s" * 32), (b"p" * 31, b"s" * 32), (b"p" * 32, b"s" * 33), (bytes(32), b"s" * 32), (b"p" * 32, bytes(32))],
)
def test_halves_that_are_no_keys_are_refused(public: bytes, secret: bytes) -> None:
    with pytest.raises(CredentialError, match=r"public key|secret key"):
        KeyPair(public, secret)


def test_no_secret_shows_in_what_people_and_logs_see() -> None:
    pair = KeyPair(b"p" * KEY_BYTES, CANARY)
    for value in (pair, TOKEN, [pair, TOKEN], {"key": pair, "token": TOKEN}):
        assert shows_no_secret(f"{value!r} {value} {value!s:>20}")
    with pytest.raises(dataclasses.FrozenInstanceError) as caught:
        pair.secret = b""  # type: ignore[misc]
    assert shows_no_secret("".join(traceback.format_exception(caught.value)))


def test_the_canary_would_be_noticed() -> None:
    """The text of the token is where the secret is: the forms that are looked for are found there."""
    assert not shows_no_secret(TOKEN.text())
    assert not shows_no_secret(repr(pickle.dumps(CANARY)))


# ---------------------------------------------------------------- tokens


@given(TOKENS)
def test_a_token_is_read_back_from_its_line(token: Token) -> None:
    text = token.text()
    assert Token.parse(text) == token
    assert Token.parse(f"  {text}\r\n") == token
    assert shlex.quote(text) == text  # a shell takes it as it is
    assert "\n" not in text
    assert len(text) < 110


@given(TOKENS, st.data())
def test_one_wrong_character_is_noticed(token: Token, data: st.DataObject) -> None:
    text = token.text()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda one: one != text[place]))
    with pytest.raises(CredentialError):
        Token.parse(text[:place] + other + text[place + 1 :])


@given(TOKENS, st.data())
def test_a_token_that_was_cut_off_is_said_to_be(token: Token, data: st.DataObject) -> None:
    text = token.text()
    with pytest.raises(CredentialError, match="cut off"):
        Token.parse(text[: data.draw(st.integers(len("kw1_"), len(text) - 1))])


@given(st.text(max_size=120))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    with pytest.raises(CredentialError):
        Token.parse(text)


_BODY = TOKEN.text().rpartition("agent_")[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no keepwarm token"),
        ("ghp_abc", "no keepwarm token"),
        ("kw1", "cut off"),
        ("kw2_agent_xyz", "newer release made it. Upgrade"),
        (f"kw1_agent_{_BODY[:50]}", "cut off: 50 of 91"),
        (f"kw1_agent_{_BODY}{_BODY}", "91 characters too long"),
        (f"kw1_agent_{_BODY[:40]}\n{_BODY[40:]}", "blank after 50 characters"),
        (f"kw1_agent_{_BODY[:40]}+{_BODY[41:]}", "Character 51"),
        (f"kw1_client_{_BODY}", "damaged"),
        (f"kw1_root_{_BODY}", "no role"),
        (f"kw1_agent_{_BODY.swapcase()}", "damaged"),
    ],
)
def test_the_error_says_what_happened_to_the_token_and_keeps_its_secret(text: str, words: str) -> None:
    with pytest.raises(CredentialError, match=words) as caught:
        Token.parse(text)
    assert shows_no_secret(str(caught.value))
    assert _BODY[:40] not in str(caught.value)


@pytest.mark.parametrize(
    ("role", "server", "secret"),
    [("token", b"s" * 32, b"t" * 32), ("agent", bytes(32), b"t" * 32), ("agent", b"s" * 32, b"t")],
)
def test_tokens_are_made_of_a_role_and_two_keys(role: str, server: bytes, secret: bytes) -> None:
    with pytest.raises(CredentialError):
        Token(role, server, secret)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["a", "7", "gpu-01.example.org", "alice@team_a", "x" * NAME_CHARACTERS_MAX])
def test_usual_names_are_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * (NAME_CHARACTERS_MAX + 1), "-rf", ".hidden", "a b", "a\n", "\x1b[31m", "ä", "a/b", "a\u202eb"]
)
def test_names_that_could_deceive_a_reader_or_a_shell_are_refused(name: str) -> None:
    with pytest.raises(CredentialError) as caught:
        check_name(name, "namespace")
    assert "namespace" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_name_never_looks_like_a_fingerprint() -> None:
    with pytest.raises(CredentialError, match="looks like the fingerprint"):
        check_name(fingerprint(b"k" * 32))


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33, bytes(32)])
def test_public_keys_of_nobody_are_refused(key: bytes) -> None:
    with pytest.raises(CredentialError, match="public key"):
        check_public_key(key)
