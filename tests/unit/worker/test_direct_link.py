"""The agent's direct socket, over a real one: connected or not, frames, a scheduler that leaves or does not read."""

import socket as sockets
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.messages import Goodbye, Received
from keepwarm_wire.streams import FrameSplitter, direct_path, framed
from keepwarm_worker.direct_link import DirectLink
from keepwarm_worker.poller import Poller
from keepwarm_worker.scheduler_link import QUEUE_FRAMES, LinkChange


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s.sock"


@pytest.fixture
def listener(address: str) -> Iterator[sockets.socket]:
    with sockets.socket(sockets.AF_UNIX) as made:
        made.settimeout(10)
        made.bind(direct_path(address))
        made.listen()
        yield made


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = Poller()
    yield made
    made.close()


@pytest.fixture
def changes() -> list[int]:
    return []


@pytest.fixture
def link(address: str, listener: sockets.socket, poller: Poller, changes: list[int]) -> Iterator[DirectLink]:
    made = DirectLink(address, poller, changes.append)
    yield made
    made.close(0)


@pytest.fixture
def peer(link: DirectLink, listener: sockets.socket) -> Iterator[sockets.socket]:
    made, _ = listener.accept()
    made.settimeout(10)
    with made:
        yield made


def test_nobody_there_is_told(address: str, poller: Poller, changes: list[int]) -> None:
    link = DirectLink(address, poller, changes.append)
    assert link.changes() == LinkChange(False, "", False)
    assert not link.send([Goodbye("x")])
    assert link.dropped_frames == 1
    link.close()


def test_messages_go_both_ways(link: DirectLink, peer: sockets.socket, poller: Poller) -> None:
    assert link.changes() == LinkChange(True, "", True)
    assert link.changes() == LinkChange(False, "", True)
    assert link.send([Goodbye("a"), Goodbye("b")])
    (frame,) = FrameSplitter().feed(peer.recv(1000))
    assert decode_frame(frame) == [Goodbye("a"), Goodbye("b")]
    peer.sendall(framed(encode_frame([Received((1, 2))])) + framed(b"\xc1"))
    poller.wait(10)
    assert link.receive() == [Received((1, 2))]  # the other frame is logged and ignored
    assert link.receive() == []


def test_a_scheduler_that_leaves_is_noticed_after_its_last_words(
    link: DirectLink, peer: sockets.socket, poller: Poller, changes: list[int]
) -> None:
    peer.sendall(framed(encode_frame([Goodbye("stopped")])))
    peer.close()
    poller.wait(10)
    heard = link.receive()
    assert heard == [Goodbye("stopped")]
    if not changes:
        poller.wait(10)
        assert link.receive() == []
    assert len(changes) == 1
    assert not link.changes().is_made
    assert link.receive() == []


def test_what_is_not_read_waits_up_to_a_bound(link: DirectLink, peer: sockets.socket, poller: Poller) -> None:
    sent = 0
    while link.send([Goodbye(f"{sent} " + "x" * 500)]):
        sent += 1
    assert sent > QUEUE_FRAMES
    splitter = FrameSplitter()
    heard: list[object] = []
    while len(heard) < sent:
        poller.wait(0)
        for frame in splitter.feed(peer.recv(1 << 16)):
            heard += decode_frame(frame)
    assert [str(message).split("'")[1].split()[0] for message in heard] == [str(number) for number in range(sent)]
    poller.wait(0)
    assert link.send([Goodbye("after")])
