"""What the registry knows of each key and each join token, as it is kept on disk. Frozen, and without any secret.

Times are whole seconds of wall time, for they outlive restarts; 0 means *not yet*.
"""

from typing import NamedTuple

__all__ = ["ForgetCredential", "KeyRecord", "Record", "TokenRecord"]


class KeyRecord(NamedTuple):
    """A peer's public key. ``made_by`` is the public key of the token, or of the earlier key, that brought it in.

    ``successor`` is the key that this one was rotated to; such a key is revoked too. ``origin`` is ``made_by`` for
    people. An agent's namespace is empty: a node serves all of them.
    """

    public_key: bytes
    role: str
    namespace: str
    name: str
    created_s: int
    last_seen_s: int = 0
    revoked_s: int = 0
    successor: bytes = b""
    made_by: bytes = b""
    origin: str = ""


class TokenRecord(NamedTuple):
    """A join token's public key, and what whoever holds its secret key may enrol as.

    ``server_key`` is the scheduler's public key that the token names: with another key of the scheduler it is useless.
    """

    public_key: bytes
    role: str
    namespace: str
    name: str
    uses: int
    uses_left: int
    created_s: int
    expires_s: int
    server_key: bytes
    revoked_s: int = 0


class ForgetCredential(NamedTuple):
    """The key or token with this public key is known no more."""

    public_key: bytes


Record = KeyRecord | TokenRecord | ForgetCredential
"""What a change of the registry is to the journal: a row to write in place of an older one, or to delete."""
