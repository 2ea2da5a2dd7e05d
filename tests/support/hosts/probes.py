"""Questions to a network of hosts: does a packet pass, does a connection answer, how long does that take?"""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.hosts.host import Host
from support.hosts.program import Program

__all__ = ["answers", "echo", "packet_passes", "packets_that_pass", "start_echo"]

ECHO_PORT = 7000

_PACKET_PORT = 7001
_SILENCE_S = 0.3
"""Between hosts of one machine a packet takes microseconds."""

_BATCH = 50


def start_echo(host: Host, file: Path | None = None, env: dict[str, str] | None = None) -> Program:
    """Start the echo server of ``echo`` and wait until it listens."""
    script = Path(__file__).with_name("echo.py")
    words = [str(ECHO_PORT), *([str(file)] if file else [])]
    program = host.run([sys.executable, "-IS", str(script), *words], name="echo", env=env)
    host.wait_for_port(ECHO_PORT)
    return program


def echo(connection: socket.socket, data: bytes = b"hello", limit_s: float = 10) -> bytes:
    """Send, and return as many bytes as came back until then. Raises ``TimeoutError``."""
    connection.settimeout(limit_s)
    connection.sendall(data)
    received = b""
    while len(received) < len(data):
        piece = connection.recv(len(data))
        if not piece:
            break
        received += piece
    return received


def answers(connection: socket.socket, limit_s: float = _SILENCE_S) -> bool:
    """Whether an open connection answers in time. What was sent may still be answered later."""
    try:
        return echo(connection, b"?", limit_s) == b"?"
    except TimeoutError:
        return False


def packet_passes(sender: Host, receiver: Host) -> bool:
    """Whether one datagram arrives."""
    return packets_that_pass(sender, receiver, 1) == 1


def packets_that_pass(sender: Host, receiver: Host, count: int) -> int:
    """How many of so many datagrams arrive."""
    arrived = 0
    with _packet_sockets(sender, receiver) as (outgoing, incoming):
        for first in range(0, count, _BATCH):
            for _ in range(min(_BATCH, count - first)):
                with contextlib.suppress(OSError):  # the sender's own link is down
                    outgoing.sendto(b".", (receiver.address, _PACKET_PORT))
            deadline_s = time.monotonic() + _SILENCE_S
            is_last = first + _BATCH >= count
            arrived += _drain(incoming, deadline_s if is_last else 0, count - arrived)
    return arrived


def _drain(incoming: socket.socket, deadline_s: float, wanted: int) -> int:
    """Count what is there, and what comes until then, as long as there is any left to come."""
    arrived = 0
    while arrived < wanted:
        incoming.settimeout(max(0.0, deadline_s - time.monotonic()))
        try:
            incoming.recv(1)
        except (TimeoutError, BlockingIOError):
            break
        arrived += 1
    return arrived


@contextmanager
def _packet_sockets(sender: Host, receiver: Host) -> Iterator[tuple[socket.socket, socket.socket]]:
    with sender.open_socket(socket.SOCK_DGRAM) as outgoing, receiver.open_socket(socket.SOCK_DGRAM) as incoming:
        incoming.bind(("0.0.0.0", _PACKET_PORT))
        yield outgoing, incoming
