"""A small disk can be full and have room again; a sync can fail and succeed again; neither concerns another program."""

import socket
from collections.abc import Iterator

import pytest

from support.hosts.faults.disks import FsyncShim, fill_disk
from support.hosts.network import Hosts
from support.hosts.probes import ECHO_PORT, echo, start_echo

DISK_BYTES = 1 << 20


@pytest.fixture
def writer(pair: Hosts) -> Iterator[socket.socket]:
    """A connection from b to a program on a which writes to a's small disk what it is sent, and syncs it."""
    host = pair["a"]
    host.use_small_disk(DISK_BYTES)
    shim = FsyncShim(pair.folder)
    start_echo(host, host.home / "written", env=shim.variables)
    with pair["b"].connect(host.address, ECHO_PORT) as connection:
        yield connection


def test_nothing_can_be_written_to_a_full_disk(writer: socket.socket, pair: Hosts) -> None:
    """What was written before is still there, and afterwards there is room again."""
    host, piece = pair["a"], bytes(8192)
    assert echo(writer, piece) == piece
    with fill_disk(host):
        writer.sendall(piece)
        assert writer.recv(100) == b"!ENOSPC"
        (pair["b"].home / "elsewhere").write_bytes(piece)
    assert echo(writer, piece) == piece
    assert (host.home / "written").read_bytes() == 2 * piece


def test_a_disk_can_be_nearly_full(writer: socket.socket, pair: Hosts) -> None:
    """With room for one more piece, and not for many."""
    piece = bytes(8192)
    with fill_disk(pair["a"], spared_bytes=4 * len(piece)):
        assert echo(writer, piece) == piece
        answers = []
        for _ in range(4):
            writer.sendall(piece)
            answers.append(writer.recv(len(piece)))
        assert b"!ENOSPC" in answers


def test_only_a_disk_of_its_own_is_filled(pair: Hosts) -> None:
    """The machine's disk never is."""
    with pytest.raises(AssertionError, match="has no disk of its own"):
        fill_disk(pair["a"])


def test_a_sync_fails_while_it_is_made_to(writer: socket.socket, pair: Hosts) -> None:
    """Before and afterwards it succeeds; the write itself has happened each time."""
    shim = FsyncShim(pair.folder)
    assert echo(writer, b"one") == b"one"
    with shim.fail():
        writer.sendall(b"two")
        assert writer.recv(100) == b"!EIO"
    assert echo(writer, b"three") == b"three"
    assert (pair["a"].home / "written").read_bytes() == b"onetwothree"
