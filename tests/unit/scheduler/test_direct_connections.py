"""Direct connections, over real sockets: frames, those who leave, those who do not read, and too few descriptors."""

import os
import resource
import select
import socket as sockets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keepwarm_scheduler.direct_connections import DirectConnections, PeerFullError, PeerGoneError
from keepwarm_wire.codec import FRAME_BYTES_MAX
from keepwarm_wire.streams import FrameSplitter, framed

Taken = list[tuple[bytes, bytes]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.direct"


class Served(DirectConnections):
    """With an epoll of their own, which is asked at each turn."""

    def __init__(self, path: Path) -> None:
        self.epoll = select.epoll()
        super().__init__([path], self.epoll)

    def turn(self, take: Callable[[bytes, bytes], bool] = lambda *_: True) -> list[bytes]:
        return self.receive(dict(self.epoll.poll(0)), take)

    def close(self) -> None:
        super().close()
        self.epoll.close()


@pytest.fixture
def connections(path: Path) -> Iterator[Served]:
    made = Served(path)
    yield made
    made.close()


@pytest.fixture
def peer(path: Path, connections: Served) -> Iterator[sockets.socket]:
    with sockets.socket(sockets.AF_UNIX) as made:
        made.connect(str(path))
        made.settimeout(10)
        yield made


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """This process may open so many more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + left, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def taker(taken: Taken) -> Callable[[bytes, bytes], bool]:
    def take(peer: bytes, frame: bytes) -> bool:
        taken.append((peer, frame))
        return True

    return take


def read(connections: Served) -> tuple[Taken, list[bytes]]:
    """What comes in two turns: one lets peers in, the other reads them."""
    taken: Taken = []
    connections.turn(taker(taken))
    return taken, connections.turn(taker(taken))


def test_frames_go_both_ways(connections: Served, peer: sockets.socket) -> None:
    peer.sendall(framed(b"one") + framed(b"two"))
    taken, gone = read(connections)
    assert [frame for _, frame in taken] == [b"one", b"two"]
    assert gone == []
    (who,) = {each for each, _ in taken}
    assert who in connections
    connections.send(who, b"answer")
    assert FrameSplitter().feed(peer.recv(100)) == [b"answer"]


def test_each_connection_has_an_id_of_its_own_that_no_peer_of_zeromq_can_have(connections: Served, path: Path) -> None:
    for _ in range(3):
        with sockets.socket(sockets.AF_UNIX) as made:
            made.connect(str(path))
            made.sendall(framed(b"x"))
            ((who, _),) = read(connections)[0]
            assert who.startswith(b"\0")  # ZeroMQ's own are five bytes, chosen ones do not begin so
            assert len(who) > 5
    assert len(connections) == 3


def test_the_socket_is_its_owners_alone(connections: Served, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_said_before_leaving_is_taken_first(connections: Served, peer: sockets.socket) -> None:
    peer.sendall(framed(b"goodbye"))
    peer.close()
    taken: Taken = []
    gone: list[bytes] = []
    while not gone:
        assert len(taken) <= 1
        gone = connections.turn(taker(taken))
    assert taken == [(gone[0], b"goodbye")]
    assert connections.turn() == gone  # until it is dropped
    assert connections.drop(gone[0])
    assert not connections.drop(gone[0])
    assert connections.turn() == []


def test_no_more_is_read_of_a_peer_until_what_was_read_is_taken(connections: Served, peer: sockets.socket) -> None:
    peer.sendall(b"".join(framed(bytes([number])) for number in range(5)))
    taken: Taken = []

    def take_one(who: bytes, frame: bytes) -> bool:
        taken.append((who, frame))
        return False

    connections.turn(take_one)  # lets it in
    connections.turn(take_one)
    assert len(taken) == 1
    assert connections.is_waiting
    peer.sendall(framed(b"later"))
    for _ in range(5):
        connections.turn(take_one)
    assert [frame for _, frame in taken] == [*(bytes([number]) for number in range(5)), b"later"]
    assert not connections.is_waiting


def test_what_a_peer_does_not_read_is_kept_up_to_a_bound_and_comes_in_order(
    connections: Served, peer: sockets.socket
) -> None:
    peer.sendall(framed(b"hello"))
    ((who, _),) = read(connections)[0]
    sent = 0
    while sent < 10_000:
        try:
            connections.send(who, sent.to_bytes(4) * 4096)
        except PeerFullError:
            break
        sent += 1
    assert 1_000 < sent < 10_000
    splitter = FrameSplitter()
    numbers: list[int] = []
    peer.setblocking(False)
    while len(numbers) < sent:
        connections.turn()
        try:
            numbers += [int.from_bytes(frame[:4]) for frame in splitter.feed(peer.recv(1 << 20))]
        except BlockingIOError:
            continue
    assert numbers == list(range(sent))


def test_who_is_gone_is_sent_nothing(connections: Served, peer: sockets.socket) -> None:
    peer.sendall(framed(b"hello"))
    ((who, _),) = read(connections)[0]
    peer.close()
    connections.send(who, b"into the void")  # nobody can know it yet
    assert read(connections)[1] == [who]
    with pytest.raises(PeerGoneError):
        connections.send(who, b"x")
    with pytest.raises(PeerGoneError):
        connections.send(b"nobody", b"x")


def test_a_frame_beyond_the_limit_ends_the_connection(connections: Served, peer: sockets.socket) -> None:
    peer.sendall(framed(b"first"))
    peer.sendall((FRAME_BYTES_MAX + 1).to_bytes(4))
    taken, gone = read(connections)
    assert [frame for _, frame in taken] == [b"first"]
    assert len(gone) == 1
    connections.drop(gone[0])
    assert peer.recv(1) == b""


def test_without_descriptors_others_wait_until_one_leaves(connections: Served, path: Path) -> None:
    waiting = [sockets.socket(sockets.AF_UNIX) for _ in range(3)]
    for each in waiting[:2]:
        each.connect(str(path))
    waiting[2].connect(str(path))
    with few_descriptors(1):
        connections.turn()
        assert len(connections) == 1
        connections.turn()  # nor does it try again and again
        waiting[0].close()
        (gone,) = read(connections)[1]
        connections.drop(gone)
    read(connections)
    assert len(connections) == 2
    for each in waiting:
        each.close()


def test_at_the_end_its_file_stays_and_nobody_serves_it(path: Path) -> None:
    """As ZeroMQ's does: who looks for the next scheduler sees by both what it will offer."""
    Served(path).close()
    with sockets.socket(sockets.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
        late.connect(str(path))


def test_two_addresses_without_descriptors(tmp_path: Path) -> None:
    """Both have somebody who waits, in the same turn."""
    epoll = select.epoll()
    served = DirectConnections([tmp_path / "a", tmp_path / "b"], epoll)
    waiting = [sockets.socket(sockets.AF_UNIX) for _ in range(2)]
    for each, name in zip(waiting, ("a", "b"), strict=True):
        each.connect(str(tmp_path / name))
    with few_descriptors(0):
        served.receive(dict(epoll.poll(0)), lambda *_: True)
        assert len(served) == 0
        assert served.next_ns is not None
    until_ns = served.next_ns
    while time.monotonic_ns() < until_ns:
        served.receive(dict(epoll.poll(0.1)), lambda *_: True)
        assert len(served) == 0
    for _ in range(2):  # nobody had to leave for that
        served.receive(dict(epoll.poll(0)), lambda *_: True)
    assert len(served) == 2
    served.close()
    epoll.close()
    for each in waiting:
        each.close()
