"""Where a scheduler is: addresses as people write them, and as ZeroMQ takes them.

An address is ``ipc:///absolute/path`` (this machine) or ``tcp://host:port`` (any machine, always encrypted), which may
be written ``host:port`` or ``host``. Several, with commas between them, are the same cluster's: they are tried in turn.
"""

import re
from typing import Final

__all__ = ["PORT_DEFAULT", "is_remote", "parse_address", "parse_addresses"]

PORT_DEFAULT: Final = 7437
ADDRESSES_MAX: Final = 16

_IPC: Final = "ipc://"
_TCP: Final = "tcp://"
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?")


def parse_address(text: str) -> str:
    """One address in the form that ZeroMQ takes.

    Raises:
        ValueError: it is no address; the message says what one looks like.

    >>> parse_address("node1"), parse_address("[::1]:9"), parse_address("ipc:///tmp/s")
    ('tcp://node1:7437', 'tcp://[::1]:9', 'ipc:///tmp/s')
    """
    written = text.strip()
    if written.startswith(_IPC):
        if len(written) > len(_IPC):
            return written
        raise ValueError(f"{text!r} is no address: it must look like ipc:///path/to/scheduler.sock.")
    match = _HOST_AND_PORT.fullmatch(written.removeprefix(_TCP))
    port = int(match["port"] or PORT_DEFAULT) if match else 0
    if match is None or not 0 < port < 65_536:
        raise ValueError(f"{text!r} is no address: write tcp://host:port, or ipc:///path/to/scheduler.sock.")
    return f"{_TCP}{match['host']}:{port}"


def parse_addresses(text: str) -> tuple[str, ...]:
    """The addresses of one cluster, in the order in which they are to be tried.

    Raises:
        ValueError: one of them is no address, or there is none, or more than 16.

    >>> parse_addresses("a:1, b:2")
    ('tcp://a:1', 'tcp://b:2')
    """
    written = [part for part in text.split(",") if part.strip()]
    if not 0 < len(written) <= ADDRESSES_MAX:
        raise ValueError(f"{text!r} holds {len(written)} addresses: give 1 to {ADDRESSES_MAX}, with commas between.")
    return tuple(dict.fromkeys(map(parse_address, written)))


def is_remote(address: str) -> bool:
    """Whether a parsed address leads through a network: then it needs a key."""
    return address.startswith(_TCP)
