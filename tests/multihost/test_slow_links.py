"""The slow link does to bytes what its faults say: later, fewer, one bit wrong, held back, swallowed, cut."""

import socket
import time
from collections.abc import Iterator

import pytest

from support.hosts.faults.slow_link import Direction, SlowLink
from support.hosts.host import Host
from support.hosts.network import Hosts
from support.hosts.probes import ECHO_PORT, answers, echo, start_echo

DELAY_S = 0.1
LATE_S = 0.1
"""By how much the quickest of a few echoes may be late on a busy machine."""

BUSY_S = 1.0
"""By how much a single one may."""

TIMES = 5


@pytest.fixture
def link(pair: Hosts) -> Iterator[SlowLink]:
    """From a to an echo server on b."""
    start_echo(pair["b"])
    with SlowLink(pair["a"], (pair["b"].address, ECHO_PORT)) as slow:
        yield slow


@pytest.fixture
def connection(pair: Hosts, link: SlowLink) -> Iterator[socket.socket]:
    """From a program on a, through the link, to b."""
    with pair["a"].connect("127.0.0.1", link.port) as opened:
        assert echo(opened) == b"hello"
        yield opened


def seconds_of(connection: socket.socket, data: bytes) -> float:
    """How long an echo takes."""
    begun_s = time.monotonic()
    assert echo(connection, data) == data
    return time.monotonic() - begun_s


def connect_and_echo(host: Host, link: SlowLink) -> bytes:
    """One exchange on a connection of its own."""
    with host.connect("127.0.0.1", link.port) as connection:
        return echo(connection)


def test_everything_passes_unchanged(connection: socket.socket, link: SlowLink) -> None:
    """Megabytes too, and they are counted."""
    data = bytes(range(256)) * 8192
    sent, received = 0, b""
    connection.settimeout(20)
    while sent < len(data):
        piece = data[sent : sent + 65536]
        connection.sendall(piece)
        sent += len(piece)
        while len(received) < sent:
            received += connection.recv(65536)
    assert received == data
    assert link.passed_bytes == dict.fromkeys(Direction, len(data) + len(b"hello"))


def test_a_delay_comes_twice_in_a_round_trip(connection: socket.socket, link: SlowLink) -> None:
    """And is gone when undone."""
    with link.delay(DELAY_S):
        assert 2 * DELAY_S <= min(seconds_of(connection, b"x") for _ in range(TIMES)) < 2 * DELAY_S + LATE_S
    assert min(seconds_of(connection, b"x") for _ in range(TIMES)) < LATE_S


def test_delayed_bytes_overlap(connection: socket.socket, link: SlowLink) -> None:
    """Twenty pieces sent at once are together as late as one: the link is long, not narrow."""
    with link.delay(DELAY_S):
        begun_s = time.monotonic()
        for _ in range(20):
            connection.sendall(b"0123456789")
        received = b""
        while len(received) < 200:
            received += connection.recv(200)
        assert 2 * DELAY_S <= time.monotonic() - begun_s < 2 * DELAY_S + BUSY_S


def test_a_narrow_link_takes_the_time_that_its_bytes_need(connection: socket.socket, link: SlowLink) -> None:
    """There and back, the first and the last piece apart."""
    with link.narrow(200_000):
        took_s = seconds_of(connection, bytes(60_000))
        assert 0.3 <= took_s < 0.6 + BUSY_S


@pytest.mark.parametrize("direction", Direction)
def test_exactly_one_bit_is_flipped(connection: socket.socket, link: SlowLink, direction: Direction) -> None:
    """In the direction that was asked for, and only once."""
    data = bytes(1000)
    link.flip_bit(direction)
    other = next(one for one in Direction if one is not direction)
    received = echo(connection, data)
    assert len(received) == len(data)
    assert sum(byte.bit_count() for byte in received) == 1
    assert link.flipped_bits == 1
    assert link._flips == {direction: 0, other: 0}
    assert echo(connection, data) == data


def test_a_frozen_link_holds_everything_back_for_later(connection: socket.socket, link: SlowLink) -> None:
    """Nothing is lost, and the order is kept."""
    with link.freeze():
        assert not answers(connection)
        connection.sendall(b"!")
    connection.settimeout(10)
    assert connection.recv(1) + connection.recv(1) == b"?!"


def test_a_black_hole_swallows_for_good(connection: socket.socket, link: SlowLink) -> None:
    """The connection stays open, and what is sent afterwards arrives."""
    with link.swallow():
        assert not answers(connection)
    assert echo(connection, b"later") == b"later"


def test_a_cut_resets_old_and_new_connections(connection: socket.socket, pair: Hosts, link: SlowLink) -> None:
    """Afterwards one can connect again."""
    with link.cut():
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(ConnectionError):
            connect_and_echo(pair["a"], link)
    assert connect_and_echo(pair["a"], link) == b"hello"


def test_greetings_are_damaged_for_who_connects_only(pair: Hosts, link: SlowLink) -> None:
    """The first byte that arrives, on each new connection."""
    with link.damage_greetings():
        assert connect_and_echo(pair["a"], link) == bytes([b"h"[0] ^ 0x55]) + b"ello"
    assert connect_and_echo(pair["a"], link) == b"hello"


def test_the_end_of_one_side_reaches_the_other(connection: socket.socket) -> None:
    """Half a close is passed on, and what was sent before it arrives."""
    connection.sendall(b"last")
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(10)
    assert connection.recv(10) + connection.recv(10) == b"last"
    assert connection.recv(10) == b""


def test_a_dead_target_is_not_connected_to(pair: Hosts, link: SlowLink) -> None:
    """Who connects is reset, at once or when it sends."""
    pair["b"].power_off()
    with pytest.raises(ConnectionError):
        connect_and_echo(pair["a"], link)
