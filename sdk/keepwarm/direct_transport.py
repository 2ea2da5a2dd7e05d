"""The client's socket on the scheduler's own machine: frames in a stream, without a thread of ZeroMQ on either side.

The same rules and the same interface as ``transport``: only the thread that owns the client's turn calls anything here,
and delivery is never assumed. A lost connection is tried again until it is there. That thread may be interrupted
anywhere, by a handler of a signal that makes calls itself or raises something: a connection that is left amid a
frame is given up by whoever finds it so, and made anew.
"""

import select
import socket as sockets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from keepwarm.interruptions import is_the_programs, waits
from keepwarm.transport import Arrivals, gathered
from keepwarm.waking import Wakeup
from keepwarm_wire import codec
from keepwarm_wire.messages import Message
from keepwarm_wire.streams import FrameSplitter, UnsentFrames, direct_path

__all__ = ["DirectTransport", "Watched"]

T = TypeVar("T")

READ_BYTES = 256 * 1024
RETRY_S = 0.1
_READS_PER_RECEIVE = 4
_SELECT_BELOW = 1024
"""What ``select`` takes, which waits for less than a millisecond where it must; ``poll`` takes any descriptor."""

_NO_SIGNAL: int = getattr(sockets, "MSG_NOSIGNAL", 0)
"""Not to be killed by SIGPIPE, which programs may have set to its default."""
_SO_NOSIGPIPE = 0x1022
"""The same on macOS, as an option of the socket that Python has no name for."""


class Watched(Protocol):
    """Other descriptors that a wait is to end for."""

    def register(self, poll: select.poll) -> None:
        """Register them all."""

    def ready(self, descriptor: int, mask: int) -> None:
        """One of them is ready, or it is none of them."""


class DirectTransport:
    """One connection that is made again whenever it breaks."""

    def __init__(self, address: str, wakeup: Wakeup, watched: Watched | None = None) -> None:
        self.address = address
        self._wakeup = wakeup
        self._watched = watched
        self._socket: sockets.socket | None = None
        self._splitter = FrameSplitter()
        self._unsent = UnsentFrames()
        self._is_amid = False
        """Whether somebody is between two halves of reading or writing: an interrupted turn, if another finds it so."""
        self._retry_s = 0.0
        self._was_made = self._was_lost = False

    @property
    def is_congested(self) -> bool:
        """Whether bytes wait for the socket: the session keeps its chunks back meanwhile."""
        return bool(self._unsent)

    # ------------------------------------------------------------ the connection

    def _connect(self) -> None:
        """Try, unless that was done a moment ago. A local socket accepts at once, or does not."""
        now_s = time.monotonic()
        if now_s < self._retry_s:
            return
        self._retry_s = now_s + RETRY_S
        made = sockets.socket(sockets.AF_UNIX)
        try:
            made.setblocking(False)
            if sys.platform == "darwin":
                made.setsockopt(sockets.SOL_SOCKET, _SO_NOSIGPIPE, 1)
            made.connect(direct_path(self.address))
        except OSError:  # not there, full for the moment, or its path is too long
            made.close()
            return
        self._socket, self._was_made, self._is_amid = made, True, False
        self._splitter, self._unsent = FrameSplitter(), UnsentFrames()

    def _lose(self) -> None:
        lost, self._socket = self._socket, None
        if lost is not None:
            lost.close()
            self._unsent = UnsentFrames()
            self._was_lost, self._was_made = True, False

    def _usable(self) -> sockets.socket | None:
        """The socket, unless it is in the middle of a frame."""
        if self._is_amid:
            self._lose()
        return self._socket

    # ------------------------------------------------------------ out

    def send(self, messages: Sequence[Message]) -> None:
        """Send in order without waiting; what the socket does not take now is sent by later calls."""
        socket = self._usable()
        if socket is None:
            return
        for frame in gathered(messages) if messages else ():
            self._unsent.add(frame)
        self._write(socket)

    def _write(self, socket: sockets.socket) -> None:
        self._is_amid = True
        is_whole = self._unsent.write(lambda data: socket.send(data, _NO_SIGNAL))
        if socket is self._socket:
            self._is_amid = False
            if not is_whole:
                self._shut(socket)

    @staticmethod
    def _shut(socket: sockets.socket) -> None:
        """The scheduler is gone, most likely; what it has said is still to be read."""
        try:
            socket.shutdown(sockets.SHUT_WR)
        except OSError:
            return

    # ------------------------------------------------------------ in

    def receive(self, timeout_s: float | None) -> Arrivals:
        """Wait for frames, a change of the connection, or a wake-up."""
        if self._socket is None:
            self._connect()
        socket = self._socket
        messages: list[Message] = []
        bad_frames = 0
        for descriptor, mask in _unless_closed(socket, lambda: self._ready(socket, self._timeout_ms(timeout_s))):
            if descriptor == self._wakeup.fileno():
                self._wakeup.clear()
            elif socket is None or descriptor != socket.fileno():
                if self._watched is not None:
                    self._watched.ready(descriptor, mask)
            elif mask & ~select.POLLOUT and socket is self._socket:
                bad_frames = self._read(messages)
        if self._unsent:
            self.send(())
        made, lost = self._was_made, self._was_lost
        self._was_made = self._was_lost = False
        return Arrivals(messages, lost, made, bad_frames)

    def pause(self, seconds: float) -> None:
        """Wait for the scheduler or a wake-up, whose words stay for the next look, but not for what is watched."""
        socket = self._socket
        _unless_closed(socket, lambda: self._pause(socket, seconds))

    @waits
    def _pause(self, socket: sockets.socket | None, seconds: float) -> None:
        waited = [self._wakeup.fileno()] if socket is None else [self._wakeup.fileno(), socket.fileno()]
        if max(waited) < _SELECT_BELOW:
            select.select(waited, (), (), seconds)
            return
        poll = select.poll()
        for descriptor in waited:
            poll.register(descriptor, select.POLLIN)
        poll.poll(max(1, int(seconds * 1000)))

    @waits
    def _ready(self, socket: sockets.socket | None, timeout_ms: int | None) -> list[tuple[int, int]]:
        poll = select.poll()  # one for each wait: a signal's handler may wait in the middle of another's
        poll.register(self._wakeup.fileno(), select.POLLIN)
        if socket is not None:
            poll.register(socket, select.POLLIN | select.POLLOUT if self._unsent else select.POLLIN)
        if self._watched is not None:
            self._watched.register(poll)
        return poll.poll(timeout_ms)

    def _timeout_ms(self, timeout_s: float | None) -> int | None:
        if self._was_made or self._was_lost:
            return 0
        if self._socket is None:
            left_s = max(0.0, self._retry_s - time.monotonic())
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        return None if timeout_s is None else max(0, int(timeout_s * 1000 + 0.999))

    def _read(self, messages: list[Message]) -> int:
        """Take in what is there; how many frames could not be read."""
        bad_frames = 0
        for _ in range(_READS_PER_RECEIVE):
            socket, splitter = self._usable(), self._splitter
            if socket is None:
                break
            self._is_amid = True
            data = _received(socket)
            frames = splitter.feed(data or b"")
            if socket is not self._socket:  # given up by a turn in the middle of this one
                break
            self._is_amid = False
            for frame in frames:
                try:
                    messages += codec.decode_frame(frame)
                except codec.ProtocolError:
                    bad_frames += 1
            if data == b"" or splitter.is_broken:
                self._lose()
            if data is None or len(data) < READ_BYTES:
                break
        return bad_frames

    # ------------------------------------------------------------ ends

    def close(self, linger_s: float) -> None:
        """Close for good; what waits is sent for at most ``linger_s``."""
        end_s = time.monotonic() + linger_s
        while self._unsent and (socket := self._usable()) is not None and (left_s := end_s - time.monotonic()) > 0:
            writable = select.poll()
            writable.register(socket, select.POLLOUT)
            writable.poll(left_s * 1000)
            self._write(socket)
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _unless_closed(socket: sockets.socket | None, wait: Callable[[], T]) -> T | tuple[()]:
    """Nothing where the turn of a signal's handler has closed the socket before this wait for it began."""
    try:
        return wait()
    except (OSError, ValueError) as error:
        is_closed = socket is not None and socket.fileno() < 0
        if not is_closed or is_the_programs(error):
            raise
        return ()


def _received(socket: sockets.socket) -> bytes | None:
    """What has come; nothing at the end of the stream, None if there is nothing yet."""
    try:
        return socket.recv(READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""
