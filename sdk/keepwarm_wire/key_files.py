"""Keys on disk: written 0600 and whole or not at all, read only when nobody else could have read them.

Used by the scheduler, the agent and the SDK alike. A key file is a few lines ``field: value``. One that another user
owns, or could read or write, is refused, as ssh does. The *key store* of a scheduler is a directory, 0700, with
``server.key`` (what the scheduler proves itself with) and, until it is carried elsewhere, ``admin.key``. On systems
without POSIX permissions only the content is checked. No secret is ever in an error.
"""

import os
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

from keepwarm_wire.credentials import (
    ROLE_ADMIN,
    ROLES,
    CredentialError,
    KeyPair,
    check_name,
    check_public_key,
    from_base64url,
    to_base64url,
)

__all__ = [
    "ADMIN_KEY_FILE",
    "KeyFileError",
    "KeyStore",
    "ROLE_SERVER",
    "SERVER_KEY_FILE",
    "StoredKey",
    "has_key_store",
    "make_admin_key",
    "make_key_store",
    "read_key",
    "read_key_store",
    "replace_server_key",
    "write_key",
]

SERVER_KEY_FILE = "server.key"
ADMIN_KEY_FILE = "admin.key"

ROLE_SERVER = "server"
"""The role in the key file of a scheduler."""

_FILE_BYTES_MAX = 4096
_HEADER = "# A key of keepwarm. Whoever can read this file can act as its owner: keep it to yourself.\n"
_FIELDS = {"role", "name", "server", "public", "secret"}
_HAS_OWNERS = hasattr(os, "getuid")


class KeyFileError(CredentialError):
    """A key file cannot be used or written. The message names the file, says why and what to do."""


class StoredKey(NamedTuple):
    """What a key file holds. ``server`` is the scheduler's public key that its owner trusts, empty in ``server.key``.

    ``role`` and ``name`` are for people and early errors: the scheduler goes by its own registry.
    """

    role: str
    name: str
    pair: KeyPair
    server: bytes = b""


class KeyStore(NamedTuple):
    """The keys that a scheduler starts with. ``admin`` is empty once ``admin.key`` was carried elsewhere."""

    server: KeyPair
    admin: bytes


# ---------------------------------------------------------------- one file


def write_key(path: Path, key: StoredKey, *, replace: bool = False) -> None:
    """Write a key file, 0600, in a directory that is made 0700 if it is missing. It is on disk when this returns.

    Raises:
        KeyFileError: there is a file already and ``replace`` is false, or the directory cannot be used.
    """
    check_name(key.name)
    server = f"server: {to_base64url(key.server)}\n" if key.server else ""
    text = (
        f"{_HEADER}role: {key.role}\nname: {key.name}\n{server}"
        f"public: {to_base64url(key.pair.public)}\nsecret: {to_base64url(key.pair.secret)}\n"
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_no_foreign_writer(path.parent)
        try:
            _write_whole(draft, text)
            if replace:
                draft.replace(path)
            else:
                path.hardlink_to(draft)  # unlike a renaming, never over a file that is there
        finally:
            draft.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except FileExistsError:
        raise KeyFileError(f"{path} exists already and is left as it is. Move it away to make another key.") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}. Choose another place.") from error


def read_key(path: Path) -> StoredKey:
    """Read a key file.

    Raises:
        KeyFileError: it is missing, damaged, not yours, or others could read it.
    """
    try:
        _require_no_foreign_writer(path.parent)
        # Not to wait for somebody at the other end, should it be a pipe. What is checked is what is read.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(handle, "rb") as file:
            _require_private(path, os.fstat(handle))
            content = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise KeyFileError(f"There is no key at {path}.") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return _parse(content)
    except (CredentialError, ValueError, KeyError) as error:
        # Its own words only: a parser's could quote the file.
        reason = str(error) if type(error) is CredentialError else "it is no key file"
        raise KeyFileError(f"{path} is damaged: {reason} Put it back from a copy, or make another key.") from None


def _parse(content: bytes) -> StoredKey:
    if len(content) > _FILE_BYTES_MAX:
        raise CredentialError("it is too long for a key file.")
    fields: dict[str, str] = {}
    for line in content.decode("ascii").splitlines():
        if line and not line.startswith("#"):
            name, separator, value = line.partition(": ")
            if not separator or name in fields:
                raise CredentialError("a line of it is no 'field: value', or says it twice.")
            fields[name] = value.strip()
    missing = sorted(_FIELDS - {"server"} - fields.keys())
    if missing:
        raise CredentialError(f"it lacks {', '.join(missing)}.")
    role = fields["role"]
    if role not in (*ROLES, ROLE_SERVER):
        raise CredentialError("its role is none that is known here.")
    server = check_public_key(from_base64url(fields["server"])) if "server" in fields else b""
    pair = KeyPair(from_base64url(fields["public"]), from_base64url(fields["secret"]))
    return StoredKey(role, check_name(fields["name"]), pair, server)


def _write_whole(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    with os.fdopen(handle, "w", encoding="ascii", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)


def _sync_directory(directory: Path) -> None:
    if not _HAS_OWNERS:
        return  # directories cannot be opened there
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------- who else could


def _require_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path} is no file. A key has to be in a file of its own.")
    if not _HAS_OWNERS:
        return
    if status.st_uid != os.getuid():
        raise KeyFileError(
            f"{path} belongs to user {status.st_uid}, not to you ({os.getuid()}): it is their key. "
            f"Run this as that user, or make a key of your own."
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise KeyFileError(
            f"{path} can be read or changed by other users (mode {stat.S_IMODE(status.st_mode):04o}), who may have "
            f"the key by now. If they are trusted run `chmod 600 {path}`; else make another key and revoke this one."
        )


def _require_no_foreign_writer(directory: Path) -> None:
    """Whoever may write in the directory can put another key in place of this one."""
    if not _HAS_OWNERS:
        return
    status = directory.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise KeyFileError(
            f"Others can put files into {directory}, so a key there could be anybody's. "
            f"Run `chmod 700 {directory}` as its owner, or choose another place."
        )


# ---------------------------------------------------------------- a scheduler's keys


def make_key_store(directory: Path, server: KeyPair, admin: KeyPair) -> KeyStore:
    """Write ``server.key`` and ``admin.key`` unless there is a key store already, and return what is there then.

    Repeating it changes nothing: keys that are there stay. The directory is made 0700.

    Raises:
        KeyFileError: a key that is there cannot be used, or the directory cannot.

    >>> import zmq, tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     made = [KeyPair.from_z85(*zmq.curve_keypair()) for _ in range(2)]
    ...     make_key_store(Path(place) / "keys", *made).server == made[0]
    True
    """
    if not has_key_store(directory):
        write_key(directory / ADMIN_KEY_FILE, StoredKey(ROLE_ADMIN, "admin", admin, server.public))
        # Last, for it is what makes the directory a key store.
        write_key(directory / SERVER_KEY_FILE, StoredKey(ROLE_SERVER, "scheduler", server))
    return read_key_store(directory)


def make_admin_key(directory: Path, admin: KeyPair) -> KeyStore:
    """Write another ``admin.key``, where the first was carried elsewhere or lost. Known once the scheduler starts next.

    Raises:
        KeyFileError: there is no key store, it cannot be used, or there is an ``admin.key``.
    """
    server = read_key_store(directory).server
    write_key(directory / ADMIN_KEY_FILE, StoredKey(ROLE_ADMIN, "admin", admin, server.public))
    return read_key_store(directory)


def replace_server_key(directory: Path, server: KeyPair) -> KeyStore:
    """Give the scheduler another key, and tell ``admin.key`` of it. Takes effect when the scheduler starts next.

    Every join token and every key file of another machine names the old key, and has to be given the new one.

    Raises:
        KeyFileError: there is no key store, or it cannot be used.
    """
    old = read_key_store(directory)
    if old.admin:
        admin = read_key(directory / ADMIN_KEY_FILE)
        write_key(directory / ADMIN_KEY_FILE, admin._replace(server=server.public), replace=True)
    write_key(directory / SERVER_KEY_FILE, StoredKey(ROLE_SERVER, "scheduler", server), replace=True)
    return read_key_store(directory)


def has_key_store(directory: Path) -> bool:
    """Whether a scheduler with this directory has keys, usable or not: if not, it serves this user alone."""
    return os.path.lexists(directory / SERVER_KEY_FILE)


def read_key_store(directory: Path) -> KeyStore:
    """Read the keys that a scheduler starts with.

    Raises:
        KeyFileError: there is no key store, others can enter the directory, or a key in it cannot be used.
    """
    if not has_key_store(directory):
        raise KeyFileError(f"There are no keys in {directory}. Make them: `keepwarm init`.")
    if _HAS_OWNERS and stat.S_IMODE(directory.stat().st_mode) & 0o077:
        raise KeyFileError(f"Other users can enter {directory}. Run `chmod 700 {directory}`.")
    server = read_key(directory / SERVER_KEY_FILE)
    if server.role != ROLE_SERVER:
        raise KeyFileError(f"{directory / SERVER_KEY_FILE} is the key of a {server.role}, not of a scheduler.")
    admin_file = directory / ADMIN_KEY_FILE
    if not os.path.lexists(admin_file):
        return KeyStore(server.pair, b"")
    admin = read_key(admin_file)
    if admin.role != ROLE_ADMIN:
        raise KeyFileError(f"{admin_file} is the key of a {admin.role}, not of an administrator.")
    return KeyStore(server.pair, admin.pair.public)
