"""The client's socket on the scheduler's own machine: frames in a stream, without a thread of ZeroMQ on either side.

The same rules and the same interface as ``transport``: only the thread that owns the client's turn calls anything here,
and delivery is never assumed. A lost connection is tried again until it is there.
"""

import select
import socket as sockets
import time
from collections.abc import Sequence

from keepwarm.transport import Arrivals, gathered
from keepwarm.waking import Wakeup
from keepwarm_wire import codec
from keepwarm_wire.messages import Message
from keepwarm_wire.streams import FrameSplitter, UnsentFrames, direct_path

__all__ = ["DirectTransport"]

READ_BYTES = 256 * 1024
RETRY_S = 0.1
_READS_PER_RECEIVE = 4


class DirectTransport:
    """One connection that is made again whenever it breaks."""

    def __init__(self, address: str, wakeup: Wakeup) -> None:
        self.address = address
        self._wakeup = wakeup
        self._socket: sockets.socket | None = None
        self._splitter = FrameSplitter()
        self._unsent = UnsentFrames()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._poll = select.poll()
        self._poll.register(wakeup.fileno(), select.POLLIN)
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
            made.connect(direct_path(self.address))
        except OSError:  # not there, full for the moment, or its path is too long
            made.close()
            return
        self._socket, self._splitter, self._was_made = made, FrameSplitter(), True
        self._poll.register(made.fileno(), select.POLLIN)

    def _lose(self) -> None:
        lost, self._socket = self._socket, None
        if lost is not None:
            self._poll.unregister(lost.fileno())
            lost.close()
            self._unsent.clear()
            self._was_lost = True

    # ------------------------------------------------------------ out

    def send(self, messages: Sequence[Message]) -> None:
        """Send in order without waiting; what the socket does not take now is sent by later calls."""
        if self._socket is None:
            return
        was_congested = self.is_congested
        for frame in gathered(messages) if messages else ():
            self._unsent.add(frame)
        self._unsent.write(self._socket.send)
        if self.is_congested != was_congested:
            wanted = select.POLLIN | select.POLLOUT if self._unsent else select.POLLIN
            self._poll.modify(self._socket.fileno(), wanted)

    # ------------------------------------------------------------ in

    def receive(self, timeout_s: float | None) -> Arrivals:
        """Wait for frames, a change of the connection, or a wake-up."""
        if self._socket is None:
            self._connect()
        messages: list[Message] = []
        bad_frames = 0
        for descriptor, mask in self._poll.poll(self._timeout_ms(timeout_s)):
            if descriptor == self._wakeup.fileno():
                self._wakeup.clear()
            elif mask & ~select.POLLOUT:
                bad_frames = self._read(messages)
        if self._unsent:
            self.send(())
        made, lost = self._was_made, self._was_lost
        self._was_made = self._was_lost = False
        return Arrivals(messages, lost, made, bad_frames)

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
            if self._socket is None:
                break
            try:
                size = self._socket.recv_into(self._buffer)
                frames = self._splitter.feed(bytes(self._buffer[:size]))
            except BlockingIOError:
                break
            except (OSError, codec.ProtocolError):
                size, frames = 0, []
            for frame in frames:
                try:
                    messages += codec.decode_frame(frame)
                except codec.ProtocolError:
                    bad_frames += 1
            if not size:
                self._lose()
            if size < READ_BYTES:
                break
        return bad_frames

    # ------------------------------------------------------------ ends

    def close(self, linger_s: float) -> None:
        """Close for good; what waits is sent for at most ``linger_s``."""
        end_s = time.monotonic() + linger_s
        while self._unsent and self._socket is not None and (left_s := end_s - time.monotonic()) > 0:
            select.select([], [self._socket], [], left_s)
            self._unsent.write(self._socket.send)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
