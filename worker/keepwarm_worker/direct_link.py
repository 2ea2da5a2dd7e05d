"""The agent's socket to a scheduler on the same machine: frames in a stream, without a thread of ZeroMQ on either side.

The rules and the interface are those of ``scheduler_link``: nothing here waits; what cannot be sent is dropped and
counted; what cannot be decoded is logged and otherwise ignored. One thread only.
"""

import contextlib
import logging
import select
import socket as sockets
import time
from collections.abc import Callable

from keepwarm_wire.codec import ProtocolError, decode_frame
from keepwarm_wire.messages import Message
from keepwarm_wire.streams import FrameSplitter, UnsentFrames, direct_path
from keepwarm_worker.poller import READABLE, WRITABLE, Poller
from keepwarm_worker.scheduler_link import LINGER_MS, QUEUE_FRAMES, LinkChange, frames_of

__all__ = ["DirectLink"]

_READ_BYTES = 256 * 1024
_READS_PER_TURN = 4

_log = logging.getLogger(__name__)


class DirectLink:
    """One connection, tried once: whoever is without it tries again with another after ``retry_s``."""

    retry_s = 0.1

    def __init__(self, address: str, poller: Poller, on_change: Callable[[int], None]) -> None:
        self._poller, self._on_change = poller, on_change
        self.dropped_frames = 0
        self._splitter = FrameSplitter()
        self._unsent = UnsentFrames()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._socket: sockets.socket | None = None
        self._was_made = False
        self._is_readable = False
        """Whether the poller has said so since the last look."""
        made = sockets.socket(sockets.AF_UNIX)
        try:
            made.setblocking(False)
            made.connect(direct_path(address))
        except OSError:  # not there, full for the moment, or its path is too long
            made.close()
            return
        self._socket, self._was_made = made, True
        poller.add(made.fileno(), self._on_ready)

    def changes(self) -> LinkChange:
        """What happened to the connection since this was last asked."""
        was_made, self._was_made = self._was_made, False
        return LinkChange(was_made, "", self._socket is not None)

    def has_input(self) -> bool:
        """Whether something is here that the poller does not tell of: never."""
        return False

    def receive(self) -> list[Message]:
        """The messages that are here, of a bounded share of what came."""
        messages: list[Message] = []
        if not self._is_readable:
            return messages
        self._is_readable = False
        for _ in range(_READS_PER_TURN):
            if self._socket is None:
                break
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                break
            except OSError as error:
                _log.warning("the connection to the scheduler broke: %s", error)
                size = 0
            for frame in self._splitter.feed(bytes(self._buffer[:size])):
                try:
                    messages += decode_frame(frame)
                except ProtocolError as error:
                    _log.warning("ignored a frame of the scheduler: %s", error)
            if not size or self._splitter.is_broken:
                self._lose()
            if size < _READ_BYTES:
                break
        return messages

    def send(self, messages: list[Message]) -> bool:
        """Send the messages of one turn. False if any was dropped."""
        dropped_frames = self.dropped_frames
        was_waiting = bool(self._unsent)
        for frame in frames_of(messages):
            if self._socket is None or len(self._unsent) >= QUEUE_FRAMES:
                self.dropped_frames += 1
            else:
                self._unsent.add(frame)
        if self._socket is not None and not was_waiting:
            self._write(self._socket)
            if self._unsent:
                self._poller.change(self._socket.fileno(), READABLE | WRITABLE)
        return self.dropped_frames == dropped_frames

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close; what waits to be sent may still leave for so long."""
        if self._socket is None:
            return
        end_s = time.monotonic() + linger_ms / 1000
        writable = select.poll()
        writable.register(self._socket, select.POLLOUT)
        while self._unsent and (left_s := end_s - time.monotonic()) > 0:
            writable.poll(left_s * 1000)
            self._write(self._socket)
        self._poller.remove(self._socket.fileno())
        self._socket.close()
        self._socket = None

    def _on_ready(self, mask: int) -> None:
        """Bytes that have come are read in the turn that follows; those that waited are sent now."""
        self._is_readable |= bool(mask & READABLE)
        if mask & WRITABLE and self._socket is not None:
            self._write(self._socket)
            if not self._unsent:
                self._poller.change(self._socket.fileno(), READABLE)

    def _write(self, socket: sockets.socket) -> None:
        if not self._unsent.write(socket.send):
            # The scheduler is gone, most likely; what it has said is still to be read.
            with contextlib.suppress(OSError):
                socket.shutdown(sockets.SHUT_WR)

    def _lose(self) -> None:
        self._unsent.clear()
        self.close()
        self._on_change(0)
