"""The client's socket: one ZeroMQ DEALER, connected to one scheduler; a ``Wakeup`` interrupts its poll.

Rules: only the thread that owns the client's turn calls anything here. Nothing here knows what messages mean, and
delivery is never assumed: frames that wait for a lost connection are dropped, because the session says again what is
still needed.
"""

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from keepwarm.errors import ClusterUnreachable
from keepwarm.waking import Wakeup
from keepwarm_wire import codec
from keepwarm_wire.messages import Message, PayloadChunk, Submit

__all__ = ["Arrivals", "Transport", "check_address"]

FRAMES_PER_RECEIVE_MAX = 256
HIGH_WATER_MESSAGES = 256
"""Frames queued in each direction inside ZeroMQ; more waits here, and the session's credit bounds that."""

RECONNECT_MS = 100
RECONNECT_MAX_MS = 2000
HANDSHAKE_MS = 5000
LINGER_MS = 500
COPY_BYTES_MAX = 64 * 1024
"""Frames above this are handed to ZeroMQ without a copy."""

FRAME_BYTES_AIM = 256 * 1024


class Arrivals(NamedTuple):
    """What one poll brought. ``lost`` and ``made`` tell of the connection, in that order."""

    messages: list[Message]
    lost: bool
    made: bool
    bad_frames: int


def check_address(address: str) -> None:
    """Raise ``ClusterUnreachable`` for an address this version cannot speak to."""
    if address.startswith("ipc://") and len(address) > len("ipc://"):
        return
    if address.startswith("tcp://"):
        raise ClusterUnreachable(
            f"{address}: remote clusters need keys, which this version does not have. "
            "Unset KEEPWARM_ADDRESS to use the local cluster."
        )
    raise ClusterUnreachable(f"{address!r} is no address: it must look like ipc:///path/to/scheduler.sock")


class Transport:
    """One connection that is made again whenever it breaks. Raises ``ClusterUnreachable`` for a bad address."""

    def __init__(self, address: str, wakeup: Wakeup) -> None:
        check_address(address)
        self.address = address
        self._wakeup = wakeup
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._unsent: deque[bytes] = deque()
        self._open_socket()

    def _open_socket(self) -> None:
        dealer = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, LINGER_MS),
            (zmq.IMMEDIATE, 1),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
            (zmq.MAXMSGSIZE, codec.FRAME_BYTES_MAX),
            (zmq.SNDHWM, HIGH_WATER_MESSAGES),
            (zmq.RCVHWM, HIGH_WATER_MESSAGES),
        ):
            dealer.setsockopt(option, value)
        self._monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        dealer.connect(self.address)
        self._socket = dealer
        others: list[tuple[Any, int]] = [(self._monitor, zmq.POLLIN), (self._wakeup.fileno(), zmq.POLLIN)]
        self._read_set: list[tuple[Any, int]] = [(dealer, zmq.POLLIN), *others]
        self._both_set: list[tuple[Any, int]] = [(dealer, zmq.POLLIN | zmq.POLLOUT), *others]

    def reconnect(self, address: str) -> None:
        """Drop the connection and connect anew at once, maybe elsewhere."""
        check_address(address)
        self.address = address
        self._unsent.clear()
        self._close_socket(linger_ms=0)
        self._open_socket()

    @property
    def is_congested(self) -> bool:
        """Whether frames wait for the socket: the session keeps its chunks back meanwhile."""
        return bool(self._unsent)

    def send(self, messages: Sequence[Message]) -> None:
        """Send in order without waiting; what the socket does not take now is sent by later calls."""
        if messages:
            self._unsent.extend(_frames(messages))
        while self._unsent:
            frame = self._unsent[0]
            try:
                self._socket.send(frame, zmq.DONTWAIT, copy=len(frame) <= COPY_BYTES_MAX)
            except zmq.Again:
                return
            self._unsent.popleft()

    def receive(self, timeout_s: float | None) -> Arrivals:
        """Wait for frames, a change of the connection, or a wake-up; take at most 256 frames."""
        timeout_ms = -1 if timeout_s is None else max(0, int(timeout_s * 1000 + 0.999))
        poll_set = self._both_set if self._unsent else self._read_set
        ready: dict[Any, int] = dict(zmq.zmq_poll(poll_set, timeout_ms))
        if self._wakeup.fileno() in ready:
            self._wakeup.clear()
        lost, made = self._connection_changes() if self._monitor in ready else (False, False)
        messages: list[Message] = []
        bad_frames = 0
        if ready.get(self._socket, 0) & zmq.POLLIN:
            bad_frames = self._drain(messages)
        if self._unsent and not lost:
            self.send(())
        return Arrivals(messages, lost, made, bad_frames)

    def _drain(self, messages: list[Message]) -> int:
        bad_frames = 0
        for _ in range(FRAMES_PER_RECEIVE_MAX):
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            try:
                messages += codec.decode_frame(parts[-1])
            except codec.ProtocolError:
                bad_frames += 1
        return bad_frames

    def _connection_changes(self) -> tuple[bool, bool]:
        lost = made = False
        while True:
            try:
                parts = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return lost, made
            if parse_monitor_message(parts)["event"] == zmq.EVENT_DISCONNECTED:
                lost, made = True, False
                self._unsent.clear()
            else:
                made = True

    def close(self, linger_s: float) -> None:
        """Close for good; what is queued is sent for at most ``linger_s``."""
        self._close_socket(int(linger_s * 1000))
        self._context.term()

    def _close_socket(self, linger_ms: int) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(linger_ms)


def _frames(messages: Sequence[Message]) -> list[bytes]:
    """Gather messages into frames: a chunk is a frame of its own, the others share frames up to a size."""
    frames: list[bytes] = []
    batch: list[Message] = []
    size = 0
    for message in messages:
        if isinstance(message, PayloadChunk):
            frames += codec.encode_frames(batch) if batch else ()
            frames.append(codec.encode_frame([message]))
            batch, size = [], 0
            continue
        batch.append(message)
        size += sys.getsizeof(message.arguments) if isinstance(message, Submit) else 0
        if size >= FRAME_BYTES_AIM:
            frames += codec.encode_frames(batch)
            batch, size = [], 0
    return frames + codec.encode_frames(batch) if batch else frames
