"""The client's socket: one ZeroMQ DEALER, connected to one scheduler; a ``Wakeup`` interrupts its poll.

With a key the connection is CURVE: encrypted, and each side proved to the other; beyond this machine there is no other.
Rules: only the thread that owns the client's turn calls anything here. Nothing here knows what messages mean, and
delivery is never assumed: frames that wait for a lost connection are dropped, because the session says again what is
still needed.
"""

import sys
from collections import deque
from collections.abc import Sequence
from threading import Thread
from typing import Any, NamedTuple

import zmq

from keepwarm.errors import ClusterUnreachable
from keepwarm.interruptions import waits
from keepwarm.waking import Wakeup
from keepwarm_wire import codec
from keepwarm_wire.addresses import is_remote
from keepwarm_wire.credentials import to_z85
from keepwarm_wire.key_files import StoredKey
from keepwarm_wire.messages import Message, PayloadChunk, Submit

__all__ = ["KEY_REFUSED", "NOT_THE_SERVER", "Arrivals", "Transport", "gathered"]

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

HEARTBEAT_MS = 2000
HEARTBEAT_TIMEOUT_MS = 6000
"""Beyond this machine: a peer that is silent for so long is gone."""

HANDSHAKES_FAILED_MAX = 4
"""One may fail because the scheduler restarts just then. So many in a row fail for a reason that stays."""

KEY_REFUSED = "key refused"
"""The scheduler does not accept this key. ZeroMQ does not try again."""
NOT_THE_SERVER = "not the server"
"""Who answers has not the key that is expected of it, or expects to be talked to in another way."""

_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | _FAILED


class Arrivals(NamedTuple):
    """What one poll brought. ``lost`` and ``made`` tell of the connection, in that order.

    ``refusal`` is ``KEY_REFUSED`` or ``NOT_THE_SERVER`` where no connection comes about for want of the right key.
    """

    messages: list[Message]
    lost: bool
    made: bool
    bad_frames: int
    refusal: str = ""


class Transport:
    """One connection that is made again whenever it breaks.

    Raises:
        ClusterUnreachable: the address leads beyond this machine and there is no key, or it cannot be used.
    """

    def __init__(self, address: str, wakeup: Wakeup, key: StoredKey | None = None) -> None:
        self.address = address
        self._wakeup = wakeup
        self.key = key
        self._handshakes_failed = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._unsent: deque[bytes] = deque()
        try:
            self._open_socket()
        except BaseException:
            _discard(self._context)
            raise

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
        self._secure(dealer)
        self._monitor = dealer.get_monitor_socket(_EVENTS)
        try:
            dealer.connect(self.address)
        except zmq.ZMQError as error:
            self._monitor.close(0)
            dealer.close(0)
            raise ClusterUnreachable(f"{self.address} cannot be used: {error}.") from None
        self._socket = dealer
        others: list[tuple[Any, int]] = [(self._monitor, zmq.POLLIN), (self._wakeup.fileno(), zmq.POLLIN)]
        self._read_set: list[tuple[Any, int]] = [(dealer, zmq.POLLIN), *others]
        self._both_set: list[tuple[Any, int]] = [(dealer, zmq.POLLIN | zmq.POLLOUT), *others]

    def _secure(self, dealer: "zmq.Socket[bytes]") -> None:
        key = self.key
        if key is not None:
            dealer.setsockopt(zmq.CURVE_SERVERKEY, to_z85(key.server).encode())
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, key.pair.public_z85)
            dealer.setsockopt(zmq.CURVE_SECRETKEY, key.pair.secret_z85)
        elif is_remote(self.address):
            dealer.close(0)
            raise ClusterUnreachable(f"{self.address} is not on this machine: it needs a key.")
        if is_remote(self.address):
            dealer.setsockopt(zmq.IPV6, 1)
            dealer.setsockopt(zmq.TCP_KEEPALIVE, 1)
            dealer.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)

    @property
    def is_congested(self) -> bool:
        """Whether frames wait for the socket: the session keeps its chunks back meanwhile."""
        return bool(self._unsent)

    def send(self, messages: Sequence[Message]) -> None:
        """Send in order without waiting; what the socket does not take now is sent by later calls."""
        if messages:
            self._unsent.extend(gathered(messages))
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
        ready = _ready(self._both_set if self._unsent else self._read_set, timeout_ms)
        if self._wakeup.fileno() in ready:
            self._wakeup.clear()
        lost, made, refusal = self._connection_changes() if self._monitor in ready else (False, False, "")
        messages: list[Message] = []
        bad_frames = 0
        if ready.get(self._socket, 0) & zmq.POLLIN:
            bad_frames = self._drain(messages)
        if self._unsent and not lost:
            self.send(())
        return Arrivals(messages, lost, made, bad_frames, refusal)

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

    def _connection_changes(self) -> tuple[bool, bool, str]:
        lost = made = False
        refusal = ""
        while True:
            try:
                parts = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return lost, made, refusal
            event = int.from_bytes(parts[0][:2], sys.byteorder)  # pyzmq's own parser comes with all of asyncio
            if event == zmq.EVENT_DISCONNECTED:
                lost, made = True, False
                self._unsent.clear()
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                made, refusal, self._handshakes_failed = True, "", 0
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                refusal = KEY_REFUSED
            else:
                self._handshakes_failed += 1
                if self._handshakes_failed >= HANDSHAKES_FAILED_MAX:
                    refusal = NOT_THE_SERVER

    def close(self, linger_s: float) -> None:
        """Close for good; what is queued is sent for at most ``linger_s``."""
        try:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(int(linger_s * 1000))
            self._context.term()
        except BaseException:  # of a signal handler, most likely
            _discard(self._context)
            raise


def _discard(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """Close what was left half open. A thread of its own does, for it blocks where a socket is not known yet."""
    Thread(target=context.destroy, kwargs={"linger": 0}, name="keepwarm-discard", daemon=True).start()


@waits
def _ready(poll_set: list[tuple[Any, int]], timeout_ms: int) -> dict[Any, int]:
    return dict(zmq.zmq_poll(poll_set, timeout_ms))


def gathered(messages: Sequence[Message]) -> list[bytes]:
    """Messages in frames: a chunk is a frame of its own, the others share frames up to a size."""
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
