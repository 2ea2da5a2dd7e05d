"""Where the scheduler serves: its ROUTER socket, bound to addresses of networks or to sockets in private directories.

A socket on this machine is as safe as its directory; beyond this machine nothing is ever served without keys.
"""

import logging
import os
import select
import socket as sockets
import stat
from pathlib import Path

import zmq

from keepwarm_scheduler.direct_connections import DirectConnections
from keepwarm_wire.addresses import is_remote
from keepwarm_wire.codec import FRAME_BYTES_MAX
from keepwarm_wire.streams import direct_path

__all__ = ["BindError", "bind", "listen_directly", "new_socket", "require_private_directory", "socket_path"]

log = logging.getLogger("keepwarm.scheduler")

_KEEP_ALIVE_S = 20
_UNACKNOWLEDGED_MS = 60_000
"""Connections to machines that have vanished are closed after a minute, long after their peers were given up.

Not earlier, and there are no heartbeats of ZeroMQ from this side: a connection that breaks tells the core that a
process has ended, and silence alone must not. Those who connect have heartbeats: they may try another connection.
"""


_RECEIVED_MAX = 100
"""Frames of one connection that ZeroMQ holds for us; then it reads no more of it, and its sender has to wait."""

_UNREAD_MAX = 1_000
"""Frames that ZeroMQ holds for a connection that does not read them; further ones are dropped."""


class BindError(Exception):
    """The address cannot be served. The message says why and what to do."""


def new_socket(context: "zmq.Context[zmq.Socket[bytes]]") -> "zmq.Socket[bytes]":
    """The scheduler's socket, with its options set, not bound yet."""
    socket = context.socket(zmq.ROUTER)
    for option, value in (
        (zmq.ROUTER_MANDATORY, 1),
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
        (zmq.SNDHWM, _UNREAD_MAX),
        (zmq.RCVHWM, _RECEIVED_MAX),
        (zmq.HANDSHAKE_IVL, 5_000),
        (zmq.BACKLOG, 1_024),
        (zmq.IPV6, 1),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, _KEEP_ALIVE_S),
        (zmq.TCP_KEEPALIVE_INTVL, _KEEP_ALIVE_S),
        (zmq.TCP_KEEPALIVE_CNT, 2),
        (zmq.TCP_MAXRT, _UNACKNOWLEDGED_MS),
    ):
        socket.setsockopt(option, value)
    return socket


def listen_directly(addresses: tuple[str, ...], epoll: select.epoll) -> DirectConnections:
    """Serve the direct socket beside each of these addresses, all of this machine. Raises ``BindError``.

    Where its path would be too long there is none, and peers go through ZeroMQ.
    """
    paths = []
    for address in addresses:
        _require_free(socket_path(address))
        path = direct_path(address)
        if path:
            _require_free(Path(path))
            paths.append(Path(path))
        else:
            log.warning("the path of %s is so long that no other socket fits beside it: calls take longer", address)
    try:
        return DirectConnections(paths, epoll)
    except OSError as error:
        raise BindError(f"Cannot serve {', '.join(map(str, paths))}: {error}.") from error


def bind(socket: "zmq.Socket[bytes]", addresses: tuple[str, ...], *, is_guarded: bool) -> None:
    """Serve all of them. Raises ``BindError``."""
    for address in addresses:
        if not is_remote(address):
            _require_free(socket_path(address))
            left_over = direct_path(address) if is_guarded else ""
            if left_over:  # it would lead peers astray: with keys there is none
                _require_free(Path(left_over))
    previous_mask = os.umask(0o177)
    try:
        for address in addresses:
            _bind_one(socket, address, is_guarded=is_guarded)
    finally:
        os.umask(previous_mask)


def _bind_one(socket: zmq.Socket[bytes], address: str, *, is_guarded: bool) -> None:
    # Nothing may ever be served to a network without keys, whatever the settings were.
    assert is_guarded or not is_remote(address), f"{address} without keys"
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise BindError(f"Cannot serve {address}: {error}.") from error


def socket_path(address: str) -> Path:
    """The file of a socket on this machine."""
    return Path(address.removeprefix("ipc://"))


def require_private_directory(directory: Path) -> None:
    """A local socket is as safe as its directory: nobody but its owner may enter."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise BindError(
            f"{directory} is open to other users, who could then run code as you. Run `chmod 700 {directory}`, or "
            f"choose another directory."
        )


def _require_free(path: Path) -> None:
    """Refuse a socket that someone serves; remove one that a dead scheduler left."""
    if not path.exists():
        return
    with sockets.socket(sockets.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise BindError(f"A scheduler is already serving {path}.")
