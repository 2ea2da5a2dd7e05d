"""The keys that this user's programs prove themselves with: one file per cluster, under the home directory.

``keepwarm login`` makes a key pair, has it enrolled with a token, and keeps it in ``logins/``; on the scheduler's own
machine the administrator's key beside the scheduler's serves as well. Every address beyond this machine needs one; a
local socket needs one only if its scheduler has keys. Nothing here opens a socket.
"""

import re
from pathlib import Path

from keepwarm import local
from keepwarm.errors import ClusterUnreachable, OptionError
from keepwarm_wire.addresses import is_remote, parse_addresses
from keepwarm_wire.credentials import CredentialError
from keepwarm_wire.key_files import ADMIN_KEY_FILE, StoredKey, has_key_store, read_key

__all__ = [
    "is_serving_here",
    "admin_key_path",
    "cluster_home",
    "cluster_socket",
    "key_file",
    "key_for",
    "key_path",
    "key_store",
    "parse",
]

_NO_FILE_NAME = re.compile(r"[^A-Za-z0-9.-]")


def parse(text: str) -> tuple[str, ...]:
    """The addresses of a cluster as the transport takes them. Raises ``ClusterUnreachable`` for what is none."""
    try:
        return parse_addresses(text)
    except ValueError as error:
        raise ClusterUnreachable(str(error)) from None


def cluster_home() -> Path:
    """Where a scheduler that was started by hand keeps its socket, state and keys."""
    return local.home() / "cluster"


def cluster_socket() -> str:
    """The local socket of a scheduler that was started by hand."""
    return f"ipc://{cluster_home() / 'scheduler.sock'}"


def is_serving_here() -> bool:
    """Whether a scheduler that was started by hand serves this home."""
    path = cluster_home() / "scheduler.sock"
    return path.exists() and local.accepts(path)


def key_store() -> Path:
    """The keys that ``keepwarm init`` makes."""
    return cluster_home() / "keys"


def admin_key_path() -> Path:
    """The administrator's key, on the machine where ``keepwarm init`` was run."""
    return key_store() / ADMIN_KEY_FILE


def key_path(address: str) -> Path:
    """Where the key for a cluster's address is kept."""
    return local.home() / "logins" / f"{_NO_FILE_NAME.sub('_', address.partition('://')[2])}.key"


def key_for(addresses: tuple[str, ...]) -> StoredKey | None:
    """The key for a cluster: that of a login, else the administrator's; ``None`` for a socket that needs none.

    Raises:
        ClusterUnreachable: the cluster is beyond this machine, and there is no key for it.
        OptionError: there is one, but it cannot be used; the message says why.
    """
    path = _find(addresses)
    if path is not None:
        try:
            return read_key(path)
        except CredentialError as error:
            raise OptionError(str(error)) from None
    if any(map(is_remote, addresses)):
        where = addresses[0].partition("://")[2]
        raise ClusterUnreachable(
            f"{addresses[0]}: this user has no key for that cluster. Ask who runs it for a token "
            f"(`keepwarm token new --role client` there), then run `keepwarm login TOKEN --at {where}`."
        )
    return None


def key_file(addresses: tuple[str, ...]) -> tuple[Path, StoredKey]:
    """The file that ``key_for`` reads, and what it holds. Raises as that does; ``OptionError`` where there is none."""
    path, key = _find(addresses), key_for(addresses)
    if path is None or key is None:
        raise OptionError(f"{addresses[0]}: there is no key for this cluster, and it needs none.")
    return path, key


def _find(addresses: tuple[str, ...]) -> Path | None:
    for path in map(key_path, addresses):
        if path.exists():
            return path
    is_here = cluster_socket() in addresses or any(map(_is_this_machine, addresses))
    if is_here and has_key_store(key_store()) and admin_key_path().exists():
        return admin_key_path()
    return None


def _is_this_machine(address: str) -> bool:
    return re.match(r"tcp://(127\.|localhost:|\[::1\])", address) is not None
