"""Who a peer is: CURVE keys, join tokens, roles and names, as values that can be checked and written down.

A key pair is 32 random bytes and the public key that follows from them. Whoever holds the secret half *is* the peer, so
it never appears in a repr, an error or a log: what people see of a key is its fingerprint. A **join token** is one line
for a human to carry: the scheduler's public key and a one-time secret key, with which a new peer may enrol a key of its
own and do nothing else. Nothing here opens a file or a socket, or makes a key: ``zmq.curve_keypair`` does.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

__all__ = [
    "CredentialError",
    "DEFAULT_NAMESPACE",
    "KEY_BYTES",
    "KeyPair",
    "ROLES",
    "ROLE_ADMIN",
    "ROLE_AGENT",
    "ROLE_CLIENT",
    "ROLE_TOKEN",
    "Token",
    "as_name",
    "check_name",
    "check_public_key",
    "fingerprint",
    "from_base64url",
    "from_z85",
    "is_fingerprint",
    "to_base64url",
    "to_z85",
]

KEY_BYTES = 32
NAME_CHARACTERS_MAX = 128

ROLE_ADMIN = "admin"
ROLE_CLIENT = "client"
ROLE_AGENT = "agent"
ROLE_TOKEN = "token"  # noqa: S105 - the role of a connection that was made with a join token
"""Such a connection may enrol a key, and nothing else. No key that is kept has this role."""

ROLES = (ROLE_ADMIN, ROLE_CLIENT, ROLE_AGENT)
"""The roles that a key may have."""

DEFAULT_NAMESPACE = "default"

_TOKEN_PREFIX = "kw1"  # noqa: S105
_CHECKSUM_BYTES = 4
_BODY_CHARACTERS = -(-(2 * KEY_BYTES + _CHECKSUM_BYTES) * 8 // 6)

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._@-]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_FINGERPRINT = re.compile(r"[0-9a-f]{4}(-[0-9a-f]{4}){4}")
_NOT_BASE64URL = re.compile(r"[^A-Za-z0-9_-]")

_Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_B85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
"""ZeroMQ and Python agree on base 85 in everything but the alphabet."""
_TO_Z85 = bytes.maketrans(_B85, _Z85)
_FROM_Z85 = bytes.maketrans(_Z85, _B85)


class CredentialError(ValueError):
    """A key, token or name that cannot be used. The message says why and what to do, and never quotes a secret."""


# ---------------------------------------------------------------- encodings


def to_z85(raw: bytes) -> str:
    """Bytes as ZeroMQ writes keys. The length has to be a multiple of four, as a key's is.

    >>> to_z85(b"\\x86\\x4f\\xd2\\x6f\\xb5\\x59\\xf7\\x5b")
    'HelloWorld'
    """
    return base64.b85encode(raw).translate(_TO_Z85).decode("ascii")


def from_z85(text: str) -> bytes:
    """A key of ``KEY_BYTES`` bytes from ZeroMQ's way of writing it. Raises ``CredentialError`` for anything else."""
    written = text.encode("utf-8", "replace")
    if len(written) * 4 == KEY_BYTES * 5 and not written.translate(None, _Z85):
        try:
            return base64.b85decode(written.translate(_FROM_Z85))
        except ValueError:
            pass  # five characters that say more than four bytes hold
    raise CredentialError("This is no key: a key is 40 characters of Z85.")


def to_base64url(raw: bytes) -> str:
    """Bytes as letters, digits, ``-`` and ``_``, without padding: nothing that a shell or a file would interpret."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """What ``to_base64url`` wrote, exactly: ``CredentialError`` for any other text, a second spelling included."""
    if not _NOT_BASE64URL.search(text):
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        if to_base64url(raw) == text:
            return raw
    raise CredentialError("This is no base64url: a character is wrong or missing.")


def fingerprint(public_key: bytes) -> str:
    """A public key as people compare it: 80 bits of its SHA-256, in five groups.

    >>> fingerprint(bytes(32))
    '6668-7aad-f862-bd77-6c8f'
    """
    digits = hashlib.sha256(public_key).hexdigest()
    return "-".join(digits[start : start + 4] for start in range(0, 20, 4))


def is_fingerprint(text: str) -> bool:
    """Whether this has the form of a fingerprint; no name has."""
    return _FINGERPRINT.fullmatch(text) is not None


# ---------------------------------------------------------------- checks


def check_name(name: str, what: str = "name") -> str:
    """Return a name of a peer, a token or a namespace, or raise ``CredentialError``. ``what`` is said in the error."""
    if not name or len(name) > NAME_CHARACTERS_MAX:
        raise CredentialError(f"A {what} has 1 to {NAME_CHARACTERS_MAX} characters, this one {len(name)}.")
    if not _NAME.fullmatch(name):
        raise CredentialError(
            f"{name!a} is no {what}: use letters, digits, '.', '_', '@' and '-', a letter or digit first."
        )
    if is_fingerprint(name):
        raise CredentialError(f"{name} is no {what}: it looks like the fingerprint of a key. Choose another.")
    return name


def as_name(text: str) -> str:
    """What somebody is called whose own name may hold other characters: those become ``-``.

    >>> as_name("gpu box/7")
    'gpu-box-7'
    """
    return _NOT_IN_NAMES.sub("-", text).lstrip("._@-")[:NAME_CHARACTERS_MAX] or "unnamed"


def check_public_key(public_key: bytes) -> bytes:
    """Return a public key that may belong to somebody, or raise ``CredentialError``."""
    if len(public_key) != KEY_BYTES:
        raise CredentialError(f"A public key has {KEY_BYTES} bytes, this one {len(public_key)}.")
    if not any(public_key):
        raise CredentialError("A public key of zeros belongs to nobody: it has to be made by zmq.curve_keypair().")
    return public_key


# ---------------------------------------------------------------- values


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """A CURVE key pair, as bytes. Its repr, which is its str, shows the fingerprint alone.

    Raises:
        CredentialError: a half has not 32 bytes, or is of zeros.

    >>> import zmq
    >>> pair = KeyPair.from_z85(*zmq.curve_keypair())
    """

    public: bytes
    secret: bytes

    def __post_init__(self) -> None:
        check_public_key(self.public)
        if len(self.secret) != KEY_BYTES or not any(self.secret):
            raise CredentialError(f"A secret key has {KEY_BYTES} random bytes, this one has not.")

    @classmethod
    def from_z85(cls, public: bytes | str, secret: bytes | str) -> "KeyPair":
        """The pair that ``zmq.curve_keypair()`` returned."""
        halves = (half.decode("ascii") if isinstance(half, bytes) else half for half in (public, secret))
        return cls(*map(from_z85, halves))

    @property
    def public_z85(self) -> bytes:
        """For ``zmq.CURVE_PUBLICKEY``."""
        return to_z85(self.public).encode("ascii")

    @property
    def secret_z85(self) -> bytes:
        """For ``zmq.CURVE_SECRETKEY``."""
        return to_z85(self.secret).encode("ascii")

    def __repr__(self) -> str:
        return f"KeyPair({fingerprint(self.public)})"


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """A join token: whom to trust, and a secret key to enrol another with. Its repr does not hold the secret.

    ``role`` is there for people and for early errors; what the token allows is known to the scheduler alone.

    Raises:
        CredentialError: the role is unknown, or a key has not 32 bytes.
    """

    role: str
    server_public: bytes
    secret: bytes

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise CredentialError(f"{self.role!a} is no role: a token is for {', '.join(ROLES)}.")
        check_public_key(self.server_public)
        if len(self.secret) != KEY_BYTES or not any(self.secret):
            raise CredentialError(f"A token holds a secret key of {KEY_BYTES} random bytes, this one does not.")

    def text(self) -> str:
        """The one line for a human to carry; ``Token.parse`` reads it. This is the secret: show it once."""
        body = to_base64url(self.server_public + self.secret + self._checksum())
        return f"{_TOKEN_PREFIX}_{self.role}_{body}"

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Read a token that somebody pasted. Blanks around it do not matter.

        Raises:
            CredentialError: it is no token, is cut off, mistyped, or from a newer release.
        """
        role, body = _token_parts(text.strip())
        try:
            raw = from_base64url(body)
            token = cls(role, raw[:KEY_BYTES], raw[KEY_BYTES : 2 * KEY_BYTES])
            is_whole = raw[2 * KEY_BYTES :] == token._checksum()
        except CredentialError:
            is_whole = False
        if not is_whole:
            raise CredentialError("This token is damaged: a character differs from what was made. Copy it once more.")
        return token

    def _checksum(self) -> bytes:
        content = b"keepwarm token 1\0" + self.role.encode() + b"\0" + self.server_public + self.secret
        return hashlib.sha256(content).digest()[:_CHECKSUM_BYTES]

    def __repr__(self) -> str:
        return f"Token({self.role}, server {fingerprint(self.server_public)})"


def _token_parts(text: str) -> tuple[str, str]:
    """Role and body of a token's text, or an error that says what happened to it on the way."""
    prefix, _, rest = text.partition("_")
    if prefix != _TOKEN_PREFIX:
        if re.fullmatch(r"kw[0-9]{1,3}", prefix):
            raise CredentialError(f"This token begins with {prefix}: a newer release made it. Upgrade keepwarm here.")
        raise CredentialError(
            f"This is no keepwarm token: tokens begin with {_TOKEN_PREFIX}_. `keepwarm token new` makes one."
        )
    blank = re.search(r"\s", text)
    if blank:
        raise CredentialError(f"This token holds a blank after {blank.start()} characters: it has to be one line.")
    role, separator, body = rest.partition("_")
    if not separator or (role in ROLES and len(body) < _BODY_CHARACTERS):
        raise CredentialError(
            f"This token is cut off: {len(body)} of {_BODY_CHARACTERS} characters of its last part are here. "
            f"Copy the whole line."
        )
    if role not in ROLES:
        raise CredentialError(f"This token is for no role that is known here ({', '.join(ROLES)}). Copy it once more.")
    if len(body) > _BODY_CHARACTERS:
        raise CredentialError(
            f"This token is {len(body) - _BODY_CHARACTERS} characters too long: something was pasted behind it."
        )
    wrong = _NOT_BASE64URL.search(body)
    if wrong:
        place = len(text) - len(body) + wrong.start() + 1
        raise CredentialError(f"Character {place} of this token is not one that tokens have. Copy it once more.")
    return role, body
