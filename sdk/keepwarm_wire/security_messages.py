"""Messages about keys: joining with a token, and what an administrator does. The rules are those of ``messages``.

No secret is in any of them: a peer makes its key pair itself and sends the public half, and so does an administrator
with the key of a join token. Times are durations here as everywhere: ages and what is left.
"""

from typing import Annotated, NamedTuple

from keepwarm_wire.fields import Bounds, Count, Digest, Duration, Id, Name, Sentence, Small

__all__ = [
    "Enrol",
    "Enrolled",
    "KEYS_PER_PAGE_MAX",
    "KeyEntry",
    "KeyRefused",
    "KeyRevoked",
    "KeyRotated",
    "KeysListed",
    "ListKeys",
    "NewToken",
    "RevokeKey",
    "RotateKey",
    "TokenMade",
]

KEYS_PER_PAGE_MAX = 500

PublicKey = Digest
Cursor = Annotated[bytes, Bounds(0, 32)]
Page = Bounds(0, KEYS_PER_PAGE_MAX)


# ---------------------------------------------------------------- joining: who has a token, and the scheduler


class Enrol(NamedTuple):
    """First and only message of a connection made with a join token: this public key is to be mine.

    Repeated until answered. An empty ``name`` takes that of the token.
    """

    protocol_min: Small
    protocol_max: Small
    software: Name
    public_key: PublicKey
    name: Name


class Enrolled(NamedTuple):
    """The key is known from now on, as this: the peer connects again, with its own key."""

    public_key: PublicKey
    role: Name
    namespace: Name
    name: Name
    cluster_id: Id


# ---------------------------------------------------------------- administration


class NewToken(NamedTuple):
    """Let whoever holds the secret half of this key enrol, that often, for that long. From an admin."""

    request_number: Count
    public_key: PublicKey
    role: Name
    namespace: Name
    name: Name
    uses: Small
    lifetime_us: Duration


class TokenMade(NamedTuple):
    """The token is good from now on, with these values: a lifetime beyond the limits was brought to them."""

    request_number: Count
    role: Name
    namespace: Name
    name: Name
    uses: Small
    lifetime_us: Duration


class ListKeys(NamedTuple):
    """Ask for the keys and tokens after ``after``, a ``public_key`` that was listed; empty asks for the first."""

    request_number: Count
    after: Cursor


class KeyEntry(NamedTuple):
    """One key or token. ``state`` of a key is *live*, *revoked* or *rotated*; of a token *live*, *spent*, *expired*,
    *withdrawn*, or *early*: the scheduler's clock stands before its creation.

    ``unseen_us`` is how long ago the key last connected, ``FOREVER_US`` for never; ``uses_left`` and ``left_us`` are
    about tokens alone. ``origin`` says what the key was enrolled with.
    """

    public_key: PublicKey
    is_token: bool
    role: Name
    namespace: Name
    name: Name
    state: Name
    origin: Name
    age_us: Duration
    unseen_us: Duration
    uses_left: Small
    left_us: Duration


class KeysListed(NamedTuple):
    """Keys and tokens in the order of their public keys. ``is_last`` is false when there are more after these."""

    request_number: Count
    entries: Annotated[tuple[KeyEntry, ...], Page]
    is_last: bool


class RevokeKey(NamedTuple):
    """Let this key or token in no more: by fingerprint, or by the name of a live one. From an admin."""

    request_number: Count
    key: Name


class KeyRevoked(NamedTuple):
    """It is let in no more, and its connections are of no further use."""

    request_number: Count
    public_key: PublicKey
    name: Name
    is_token: bool


class RotateKey(NamedTuple):
    """Put this public key in the place of the one that the connection was made with."""

    request_number: Count
    public_key: PublicKey


class KeyRotated(NamedTuple):
    """The new key is known and the old one revoked: the peer connects again, with the new one."""

    request_number: Count
    public_key: PublicKey


class KeyRefused(NamedTuple):
    """What was asked about keys is not done, and why. ``request_number`` is 0 in answer to ``Enrol``."""

    request_number: Count
    code: Name
    reason: Sentence
