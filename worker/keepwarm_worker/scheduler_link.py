"""The agent's one socket to the scheduler.

Rules: nothing here waits; what cannot be sent is dropped and counted, because every exchange of the protocol repairs a
lost message; what cannot be decoded is logged and otherwise ignored. One thread only.
"""

import logging

import zmq

from keepwarm_wire.codec import FRAME_BYTES_MAX, ProtocolError, decode_frame, encode_frame, encode_frames
from keepwarm_wire.messages import Message, PayloadChunk

__all__ = ["FRAMES_PER_TURN", "SchedulerLink"]

FRAMES_PER_TURN = 256
LINGER_MS = 500
RECONNECT_MS = 50
RECONNECT_MAX_MS = 200  # a local socket: trying costs next to nothing
QUEUE_FRAMES = 1000

_log = logging.getLogger(__name__)


class SchedulerLink:
    """A DEALER that connects, and connects again, to the scheduler's ROUTER."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, LINGER_MS),
            (zmq.IMMEDIATE, 1),
            (zmq.SNDHWM, QUEUE_FRAMES),
            (zmq.RCVHWM, QUEUE_FRAMES),
            (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._socket.connect(address)
        self.dropped_frames = 0

    @property
    def descriptor(self) -> int:
        """Readable when something may have changed: edge-triggered, so ask ``has_input`` before sleeping."""
        return int(self._socket.getsockopt(zmq.FD))

    @property
    def monitor_descriptor(self) -> int:
        """Readable when a connection may have been made: ask ``was_connected``, and ask once at the start."""
        return int(self._monitor.getsockopt(zmq.FD))

    def was_connected(self) -> bool:
        """Whether the connection was made, or made again, since this was last asked."""
        was_connected = False
        while self._monitor.poll(0):
            self._monitor.recv_multipart()
            was_connected = True
        return was_connected

    def has_input(self) -> bool:
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def receive(self) -> list[Message]:
        """The messages that are here, of at most ``FRAMES_PER_TURN`` frames."""
        messages: list[Message] = []
        for _ in range(FRAMES_PER_TURN):
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                messages += decode_frame(frame)
            except ProtocolError as error:
                _log.warning("ignored a frame of the scheduler: %s", error)
        return messages

    def send(self, messages: list[Message]) -> None:
        """Send the messages of one turn: one frame, and one for each piece of a payload."""
        chunks = [message for message in messages if type(message) is PayloadChunk]
        others = [message for message in messages if type(message) is not PayloadChunk] if chunks else messages
        frames = encode_frames(others) if others else []
        for frame in frames:
            self._send(frame)
        for chunk in chunks:
            self._send(encode_frame([chunk]))

    def close(self) -> None:
        """Close; what is queued may still leave for half a second."""
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self.dropped_frames += 1
