"""The direct socket of a client: connecting, again too; frames, wake-ups, and a peer that does not read."""

import os
import signal
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keepwarm.direct_transport import DirectTransport
from keepwarm.transport import Arrivals
from keepwarm.waking import Wakeup
from keepwarm_wire import codec
from keepwarm_wire.messages import Cancel, Goodbye
from keepwarm_wire.streams import FrameSplitter, UnsentFrames, direct_path, framed, is_direct_offered

Listen = Callable[[], sockets.socket]


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s.sock"


@pytest.fixture
def listen(address: str) -> Iterator[Listen]:
    """Makes the scheduler's end, anew each time."""
    made = []

    def listening() -> sockets.socket:
        Path(direct_path(address)).unlink(missing_ok=True)
        listener = sockets.socket(sockets.AF_UNIX)
        made.append(listener)
        listener.settimeout(10)
        listener.bind(direct_path(address))
        listener.listen()
        return listener

    yield listening
    for each in made:
        each.close()


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup()
    yield made
    made.close()


@pytest.fixture
def transport(address: str, wakeup: Wakeup) -> Iterator[DirectTransport]:
    made = DirectTransport(address, wakeup)
    yield made
    made.close(0)


def receive_until(transport: DirectTransport, what: str) -> Arrivals:
    end_s = time.monotonic() + 10
    while (left_s := end_s - time.monotonic()) > 0:
        arrivals = transport.receive(left_s)
        if getattr(arrivals, what):
            return arrivals
    raise AssertionError(f"nothing with {what} came")


def connected(transport: DirectTransport, listener: sockets.socket) -> sockets.socket:
    assert receive_until(transport, "made").lost is False
    peer, _ = listener.accept()
    peer.settimeout(10)
    return peer


def test_messages_go_both_ways(transport: DirectTransport, listen: Listen) -> None:
    with connected(transport, listen()) as peer:
        transport.send([Cancel(1), Cancel(2)])
        (frame,) = FrameSplitter().feed(peer.recv(1000))
        assert codec.decode_frame(frame) == [Cancel(1), Cancel(2)]
        peer.sendall(framed(codec.encode_frame([Cancel(3)])))
        assert receive_until(transport, "messages").messages == [Cancel(3)]


def test_it_waits_for_a_scheduler_that_is_not_there_yet(transport: DirectTransport, listen: Listen) -> None:
    assert transport.receive(0.01) == Arrivals([], False, False, 0)
    transport.send([Cancel(1)])  # to nobody: the session says it again
    with connected(transport, listen()) as peer:
        transport.send([Cancel(2)])
        (frame,) = FrameSplitter().feed(peer.recv(1000))
        assert codec.decode_frame(frame) == [Cancel(2)]


def test_what_was_said_before_the_end_is_heard_and_another_connection_is_made(
    transport: DirectTransport, listen: Listen
) -> None:
    listener = listen()
    with connected(transport, listener) as peer:
        peer.sendall(framed(codec.encode_frame([Goodbye("stopped")])))
    arrivals = receive_until(transport, "messages")
    assert arrivals.messages == [Goodbye("stopped")]
    assert arrivals.lost or receive_until(transport, "lost").messages == []
    connected(transport, listener).close()


def test_bad_frames_are_counted_and_the_stream_goes_on(transport: DirectTransport, listen: Listen) -> None:
    with connected(transport, listen()) as peer:
        peer.sendall(framed(b"\xc1") + framed(codec.encode_frame([Cancel(1)])))
        arrivals = receive_until(transport, "messages")
        assert (arrivals.messages, arrivals.bad_frames, arrivals.lost) == ([Cancel(1)], 1, False)


def test_a_stream_that_makes_no_sense_is_given_up(transport: DirectTransport, listen: Listen) -> None:
    with connected(transport, listen()) as peer:
        peer.sendall(b"\xff" * 8)
        receive_until(transport, "lost")


def test_what_the_scheduler_does_not_read_waits_in_order(transport: DirectTransport, listen: Listen) -> None:
    with connected(transport, listen()) as peer:
        for number in range(1000):
            transport.send([Goodbye(f"{number} " + "x" * 500)])
        assert transport.is_congested
        splitter = FrameSplitter()
        heard: list[object] = []
        while len(heard) < 1000:
            transport.receive(0)
            for frame in splitter.feed(peer.recv(1 << 16)):
                heard += codec.decode_frame(frame)
        assert [str(message).split("'")[1].split()[0] for message in heard] == [str(number) for number in range(1000)]
        transport.receive(0)
        assert not transport.is_congested


def test_closing_sends_what_waits(transport: DirectTransport, listen: Listen) -> None:
    with connected(transport, listen()) as peer:
        for _ in range(1000):
            transport.send([Goodbye("x" * 500)])
        assert transport.is_congested
        closing = threading.Thread(target=transport.close, args=(10,))
        closing.start()
        splitter, count = FrameSplitter(), 0
        while data := peer.recv(1 << 16):
            count += len(splitter.feed(data))
        closing.join()
        assert count == 1000


def test_a_connection_that_an_interrupted_turn_left_in_the_middle_of_a_frame_is_made_anew(
    transport: DirectTransport, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would come next on it would be taken for the rest of that frame."""
    listener = listen()
    with connected(transport, listener) as peer:

        def interrupted(*_: object) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(UnsentFrames, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transport.send([Cancel(1)])
        monkeypatch.undo()
        transport.send([Cancel(2)])
        assert peer.recv(100) == b""
        assert receive_until(transport, "lost").made is False
    connected(transport, listener).close()


@pytest.mark.parametrize("act", ["receive", "pause"])
def test_a_connection_that_the_turn_of_a_handler_gives_up_before_a_wait_is_made_anew(
    transport: DirectTransport, wakeup: Wakeup, listen: Listen, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The handler's own turn was interrupted amid a frame, by another one, which found it so."""
    listener = listen()
    with connected(transport, listener):
        number = wakeup.fileno()

        def give_up() -> int:
            transport._lose()
            return number

        monkeypatch.setattr(wakeup, "fileno", give_up)
        if act == "receive":
            transport.receive(5)
        else:
            transport.pause(5)
        monkeypatch.undo()
    connected(transport, listener).close()


def test_a_wait_that_fails_for_another_reason_is_told(
    transport: DirectTransport, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be tried again and again, at once and in silence."""

    def fail(*_: object) -> None:
        raise OSError("too many descriptors")

    with connected(transport, listen()):
        monkeypatch.setattr(transport, "_ready", fail)
        monkeypatch.setattr(transport, "_pause", fail)
        with pytest.raises(OSError, match="too many"):
            transport.receive(5)
        with pytest.raises(OSError, match="too many"):
            transport.pause(5)
        monkeypatch.undo()


def test_what_a_handler_raises_into_a_wait_reaches_the_program(transport: DirectTransport, listen: Listen) -> None:
    """Of whatever kind it is."""

    def handler(_number: int, _frame: object) -> None:
        raise TimeoutError("of the program's own")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with connected(transport, listen()):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with pytest.raises(TimeoutError, match="program's own"):
                transport.receive(10)
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with pytest.raises(TimeoutError, match="program's own"):
                transport.pause(10)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_wake_up_ends_the_wait(transport: DirectTransport, wakeup: Wakeup, listen: Listen) -> None:
    with connected(transport, listen()):
        threading.Timer(0.05, wakeup.wake).start()
        began_s = time.monotonic()
        assert transport.receive(30).messages == []
        assert time.monotonic() - began_s < 10


def test_where_only_the_other_socket_is_nothing_is_offered(address: str, listen: Listen) -> None:
    assert is_direct_offered(address)  # who comes there will make both, this one first
    other = Path(address.removeprefix("ipc://"))
    other.touch()
    assert not is_direct_offered(address)
    listen()
    assert is_direct_offered(address)
    assert not is_direct_offered("tcp://head:7437")
