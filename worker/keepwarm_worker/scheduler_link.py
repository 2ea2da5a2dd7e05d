"""The agent's one socket to the scheduler. With a key it is CURVE; beyond this machine there is no other way.

Rules: nothing here waits; what cannot be sent is dropped and counted, because every exchange of the protocol repairs a
lost message; what cannot be decoded is logged and otherwise ignored. One thread only.
"""

import logging
from typing import NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from keepwarm_wire.addresses import is_remote
from keepwarm_wire.codec import FRAME_BYTES_MAX, ProtocolError, decode_frame, encode_frame, encode_frames
from keepwarm_wire.credentials import to_z85
from keepwarm_wire.key_files import StoredKey
from keepwarm_wire.messages import Message, PayloadChunk

__all__ = [
    "FRAMES_PER_TURN",
    "KEY_REFUSED",
    "LINGER_MS",
    "NOT_THE_SERVER",
    "QUEUE_FRAMES",
    "LinkChange",
    "SchedulerLink",
    "frames_of",
]

FRAMES_PER_TURN = 256
LINGER_MS = 500
RECONNECT_MS = 50
RECONNECT_MAX_MS = 200  # a local socket: trying costs next to nothing
REMOTE_RECONNECT_MAX_MS = 2000
HEARTBEAT_MS = 2000
HEARTBEAT_TIMEOUT_MS = 6000
HANDSHAKE_MS = 5000
QUEUE_FRAMES = 1000

HANDSHAKES_FAILED_MAX = 4
"""One may fail because the scheduler restarts just then. So many in a row fail for a reason that stays."""

KEY_REFUSED = "the scheduler does not accept this agent's key: it was revoked, or the scheduler's keys were made anew"
NOT_THE_SERVER = (
    "who answers does not prove to be the scheduler that this agent's key belongs to: its keys were made anew, it has "
    "none, or it is another"
)

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)

_log = logging.getLogger(__name__)


class LinkChange(NamedTuple):
    """What happened to the connection: it was made, or it cannot be made, for a reason in words; and if it is there."""

    was_made: bool
    refusal: str = ""
    is_made: bool = False


def frames_of(messages: list[Message]) -> list[bytes]:
    """The messages of one turn: together, but for pieces of payloads, which have a frame each."""
    chunks = [message for message in messages if type(message) is PayloadChunk]
    others = [message for message in messages if type(message) is not PayloadChunk] if chunks else messages
    frames = encode_frames(others) if others else []
    return frames + [encode_frame([chunk]) for chunk in chunks]


class SchedulerLink:
    """A DEALER that connects, and connects again, to the scheduler's ROUTER.

    ZeroMQ does not try again with a key that was refused, or after a handshake that was damaged on its way, which it
    does not even tell. So whoever is without a connection for ``retry_s`` should try with another.
    """

    retry_s = 10.0
    """Longer than a handshake and two attempts take."""

    def __init__(self, address: str, key: StoredKey | None = None) -> None:
        self._address, self._key = address, key
        self._context = zmq.Context(io_threads=1)
        self._handshakes_failed = 0
        self._is_made = False
        self.dropped_frames = 0
        self._open()

    def _open(self) -> None:
        is_far, key = is_remote(self._address), self._key
        if is_far and key is None:
            raise ValueError(f"{self._address} is not on this machine: it needs a key.")
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        if key is not None:
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, to_z85(key.server).encode())
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, key.pair.public_z85)
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, key.pair.secret_z85)
        if is_far:
            self._socket.setsockopt(zmq.IPV6, 1)
            self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        for option, value in (
            (zmq.LINGER, LINGER_MS),
            (zmq.IMMEDIATE, 1),
            (zmq.SNDHWM, QUEUE_FRAMES),
            (zmq.RCVHWM, QUEUE_FRAMES),
            (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, REMOTE_RECONNECT_MAX_MS if is_far else RECONNECT_MAX_MS),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        self._socket.connect(self._address)

    @property
    def descriptor(self) -> int:
        """Readable when something may have changed: edge-triggered, so ask ``has_input`` before sleeping."""
        return int(self._socket.getsockopt(zmq.FD))

    @property
    def monitor_descriptor(self) -> int:
        """Readable when the connection may have changed: ask ``changes``, and ask once at the start."""
        return int(self._monitor.getsockopt(zmq.FD))

    def changes(self) -> LinkChange:
        """What happened to the connection since this was last asked."""
        was_made, refusal = False, ""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                was_made, refusal, self._handshakes_failed = True, "", 0
                self._is_made = True
            elif event == zmq.EVENT_DISCONNECTED:
                self._is_made = False
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                refusal = KEY_REFUSED
            else:
                self._handshakes_failed += 1
                if self._handshakes_failed >= HANDSHAKES_FAILED_MAX:
                    self._handshakes_failed, refusal = 0, NOT_THE_SERVER
        return LinkChange(was_made, refusal, self._is_made)

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

    def wait(self, timeout_ms: int) -> None:
        """Sleep until something has come, or for so long."""
        self._socket.poll(timeout_ms)

    def send(self, messages: list[Message]) -> bool:
        """Send the messages of one turn: one frame, and one for each piece of a payload. False if any was dropped."""
        dropped_frames = self.dropped_frames
        for frame in frames_of(messages):
            self._send(frame)
        return self.dropped_frames == dropped_frames

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close; what is queued may still leave for so long."""
        self._close_socket(linger_ms)
        self._context.term()

    def _close_socket(self, linger_ms: int) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close(linger_ms)

    def _send(self, frame: bytes) -> None:
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self.dropped_frames += 1
