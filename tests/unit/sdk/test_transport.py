"""The socket: addresses, frames, wake-ups, and what becomes of frames when the peer goes."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from keepwarm.errors import ClusterUnreachable
from keepwarm.transport import FRAME_BYTES_AIM, Arrivals, Transport, gathered
from keepwarm.waking import Wakeup
from keepwarm_wire import codec
from keepwarm_wire.messages import Cancel, Goodbye, Message, PayloadChunk, Submit

Bind = Callable[[], "zmq.Socket[bytes]"]


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s.sock"


@pytest.fixture
def bind(address: str) -> Iterator[Bind]:
    """Makes the peer: a ROUTER at the address."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    routers = []

    def bound() -> "zmq.Socket[bytes]":
        router = context.socket(zmq.ROUTER)
        routers.append(router)
        router.bind(address)
        return router

    yield bound
    for router in routers:
        router.close(0)
    context.term()


@pytest.fixture
def transport(address: str) -> Iterator[Transport]:
    wakeup = Wakeup()
    made = Transport(address, wakeup)
    yield made
    made.close(0)
    wakeup.close()


def receive_until(transport: Transport, what: str, limit_s: float = 10) -> Arrivals:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        arrivals = transport.receive(end_s - time.monotonic())
        if getattr(arrivals, what):
            return arrivals
    raise AssertionError(f"nothing with {what} came")


def test_beyond_this_machine_nothing_is_said_without_a_key() -> None:
    wakeup = Wakeup()
    with pytest.raises(ClusterUnreachable, match="needs a key"):
        Transport("tcp://127.0.0.1:1", wakeup)
    with pytest.raises(ClusterUnreachable, match="cannot be used"):
        Transport("ipc://" + "x" * 200, wakeup)
    wakeup.close()


def test_messages_travel_both_ways(transport: Transport, bind: Bind) -> None:
    router = bind()
    assert receive_until(transport, "made").made
    transport.send([Cancel(1), Cancel(2)])
    identity, frame = router.recv_multipart()
    assert codec.decode_frame(frame) == [Cancel(1), Cancel(2)]
    router.send_multipart([identity, codec.encode_frame([Goodbye("x")])])
    assert receive_until(transport, "messages").messages == [Goodbye("x")]


def test_bytes_that_are_no_frame_are_counted_and_dropped(transport: Transport, bind: Bind) -> None:
    router = bind()
    receive_until(transport, "made")
    transport.send([Cancel(1)])
    identity, _ = router.recv_multipart()
    router.send_multipart([identity, b"garbage"])
    assert receive_until(transport, "bad_frames").messages == []


def test_a_wake_up_ends_a_poll(transport: Transport) -> None:
    waker = threading.Timer(0.05, transport._wakeup.wake)
    waker.start()
    began_s = time.monotonic()
    transport.receive(20)
    assert time.monotonic() - began_s < 10
    waker.join()


def test_a_wake_up_before_the_poll_is_not_lost_and_counts_once(transport: Transport) -> None:
    transport._wakeup.wake()
    transport._wakeup.wake()
    transport.receive(20)
    began_s = time.monotonic()
    transport.receive(0.05)
    assert time.monotonic() - began_s >= 0.04


def test_frames_wait_for_a_peer_and_are_sent_once_it_is_there(transport: Transport, bind: Bind) -> None:
    transport.send([Cancel(1)])
    assert transport.is_congested
    router = bind()
    receive_until(transport, "made")
    assert codec.decode_frame(router.recv_multipart()[1]) == [Cancel(1)]
    assert not transport.is_congested


def test_what_waits_when_a_connection_is_lost_is_dropped(transport: Transport, bind: Bind) -> None:
    router = bind()
    receive_until(transport, "made")
    router.close(0)
    end_s = time.monotonic() + 10
    while not transport.is_congested and time.monotonic() < end_s:
        transport.send([Cancel(1)])
    assert transport.is_congested
    receive_until(transport, "lost")
    assert not transport.is_congested


def test_it_connects_again_by_itself(transport: Transport, bind: Bind) -> None:
    router = bind()
    receive_until(transport, "made")
    router.close(0)
    receive_until(transport, "lost")
    bind()
    assert receive_until(transport, "made").made


def test_chunks_have_frames_of_their_own_and_the_order_is_kept() -> None:
    messages: list[Message] = [Cancel(1), PayloadChunk(b"p" * 16, 0, b"x"), Cancel(2), Cancel(3)]
    frames = gathered(messages)
    assert [len(codec.decode_frame(frame)) for frame in frames] == [1, 1, 2]
    assert [message for frame in frames for message in codec.decode_frame(frame)] == messages


def test_submits_are_gathered_into_frames_of_a_bounded_size() -> None:
    messages = [Submit(number, 1, 0, False, b"x" * 60_000) for number in range(1, 50)]
    frames = gathered(messages)
    assert [message for frame in frames for message in codec.decode_frame(frame)] == messages
    assert max(map(len, frames)) < FRAME_BYTES_AIM + 61_000
