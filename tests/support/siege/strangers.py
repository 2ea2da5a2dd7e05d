"""What people without a key do to a port: garbage, half a greeting, other mechanisms, the wrong key, or nothing at all.

Each attack is a function of a target and a deadline on the monotonic clock; it returns how often it did its worst.
"""

import contextlib
import random
import select
import socket
import time
from collections.abc import Callable

import zmq

from support.siege.target import Target

__all__ = ["STRANGERS"]

_CONNECTIONS = 50
_SILENT = 500
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01"
_CURVE_GREETING = _GREETING + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
_HELLO = b"\x04\xc8\x05HELLO" + b"\x01\x00" + bytes(192)
"""A command frame of the right size that holds nothing."""


def _talk(target: Target, end_s: float, says: Callable[[random.Random], bytes]) -> int:
    """Connect, say something, wait to be thrown out, again."""
    rng, done = random.Random(1), 0
    open_sockets: list[socket.socket] = []
    while time.monotonic() < end_s:
        try:
            connection = socket.create_connection((target.host, target.port), timeout=1)
            connection.sendall(says(rng))
            connection.setblocking(False)
            open_sockets.append(connection)
            done += 1
        except OSError:
            time.sleep(0.01)
        gone = select.select(open_sockets, [], [], 0.002)[0] if open_sockets else []
        for each in [*gone, *open_sockets[: max(0, len(open_sockets) - _CONNECTIONS)]]:
            with contextlib.suppress(ValueError):
                open_sockets.remove(each)
            each.close()
    for each in open_sockets:
        each.close()
    return done


def garbage(target: Target, end_s: float) -> int:
    """Random bytes, and protocols of others."""
    said = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0" * 64, b"SSH-2.0-x\r\n")
    return _talk(target, end_s, lambda rng: rng.choice((*said, rng.randbytes(rng.randrange(1, 4096)))))


def truncated(target: Target, end_s: float) -> int:
    """ZMTP up to somewhere, then hang up or more garbage."""
    whole = _CURVE_GREETING + _HELLO
    return _talk(
        target, end_s, lambda rng: whole[: rng.randrange(1, len(whole))] + rng.choice((b"", rng.randbytes(300)))
    )


def half_open(target: Target, end_s: float) -> int:
    """The greeting, and then never a word more."""
    return _hold(target, end_s, _CURVE_GREETING)


def silent(target: Target, end_s: float) -> int:
    """Connected and silent; how many of them the scheduler has hung up on."""
    return _hold(target, end_s, b"")


def _hold(target: Target, end_s: float, first: bytes) -> int:
    held: list[socket.socket] = []
    for _ in range(_SILENT):
        with contextlib.suppress(OSError):
            connection = socket.create_connection((target.host, target.port), timeout=5)
            connection.sendall(first)
            held.append(connection)
    closed = 0
    poller = select.poll()
    by_number = {each.fileno(): each for each in held}
    for number in by_number:
        poller.register(number, select.POLLIN | select.POLLHUP)
    while by_number and time.monotonic() < end_s:
        for number, _ in poller.poll(100):
            with contextlib.suppress(OSError):
                if by_number[number].recv(4096):
                    continue
            poller.unregister(number)
            by_number.pop(number).close()
            closed += 1
    for each in by_number.values():
        each.close()
    return closed


def _knock(target: Target, end_s: float, prepare: Callable[["zmq.Socket[bytes]"], None]) -> int:
    """Sockets of ZeroMQ that try again as fast as they can."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    monitors, events = [], 0
    for _ in range(20):
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, 20)
        prepare(dealer)
        monitors.append((dealer, dealer.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)))
        dealer.connect(target.address)
        dealer.send(b"let me in")
    while time.monotonic() < end_s:
        for _, monitor in monitors:
            while monitor.poll(0):
                monitor.recv_multipart()
                events += 1
        time.sleep(0.02)
    for dealer, monitor in monitors:
        dealer.disable_monitor()
        monitor.close(0)
        dealer.close(0)
    context.term()
    return events


def null_mechanism(target: Target, end_s: float) -> int:
    """Without encryption."""
    return _knock(target, end_s, lambda _: None)


def plain_mechanism(target: Target, end_s: float) -> int:
    """With a name and a password."""

    def prepare(dealer: "zmq.Socket[bytes]") -> None:
        dealer.setsockopt(zmq.PLAIN_USERNAME, b"admin")
        dealer.setsockopt(zmq.PLAIN_PASSWORD, b"admin")

    return _knock(target, end_s, prepare)


def wrong_key(target: Target, end_s: float) -> int:
    """With a key that nobody has let in, of the right scheduler: a new one each time."""
    done = 0
    while time.monotonic() < end_s:
        public, secret = zmq.curve_keypair()
        with target.dealer(zmq.Context.instance(), pair=(public, secret)) as dealer:
            dealer.send(b"let me in")
            dealer.poll(30)
        done += 1
    return done


STRANGERS: dict[str, Callable[[Target, float], int]] = {
    "garbage": garbage,
    "truncated": truncated,
    "half-open": half_open,
    "silent": silent,
    "null mechanism": null_mechanism,
    "plain mechanism": plain_mechanism,
    "wrong key": wrong_key,
}
