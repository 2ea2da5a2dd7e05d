"""Connections that are gone: when to look for them, and which they are.

ZeroMQ says that some connection broke, not whose, and may say it before it has taken the peer away. So all peers are
tried, at once and again a little later: an empty frame to one that is not there fails at once. Anybody may connect and
break off thousands of times a second, so that is not done for every single time.

Who is gone counts as lost only once all that it had said has been heard: its goodbye may be the last of that.
"""

import time
from collections.abc import Callable, Container, Iterable

import zmq
from zmq.utils.monitor import parse_monitor_message

from keepwarm_wire.codec import encode_frames

__all__ = ["PROBE_DELAYS_S", "Departures"]

PROBE_DELAYS_S = (0.02, 0.2, 1.0)
"""When peers are looked for again after a connection broke."""

_UNREAD_MAX_NS = 1_000_000_000
"""So long what ZeroMQ has of other connections is read before one that is gone counts as lost."""

_NOTHING = encode_frames([])[0]


class Departures:
    """Watches a ROUTER socket that says when a peer is unknown. Close it before the socket."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self.monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        """For the poller: call ``on_event`` when it is readable."""
        self._probes_s: list[float] = []
        self._gone: dict[bytes, int] = {}
        """Those that are gone and not lost yet, and since when."""

    @property
    def is_waiting(self) -> bool:
        """Whether somebody is gone and not lost yet."""
        return bool(self._gone)

    def note(self, peer: bytes) -> None:
        """This one is gone, as was found in another way."""
        self._gone.setdefault(peer, time.monotonic_ns())

    def on_event(self) -> None:
        """Some connection broke."""
        while self.monitor.poll(0):
            parse_monitor_message(self.monitor.recv_multipart())
        now_s = time.monotonic()
        first_s = min(self._probes_s[0], now_s + PROBE_DELAYS_S[0]) if self._probes_s else now_s
        self._probes_s = [first_s, *[now_s + delay_s for delay_s in PROBE_DELAYS_S]]

    @property
    def next_ns(self) -> int | None:
        """When to look again, on the monotonic clock; None if nothing has happened."""
        return int(self._probes_s[0] * 1e9) if self._probes_s else None

    @property
    def is_due(self) -> bool:
        """Whether it is time to look."""
        return bool(self._probes_s) and time.monotonic() >= self._probes_s[0]

    def look(self, peers: Iterable[bytes]) -> None:
        """Note those of the peers that are gone, now that it is time to look."""
        self._probes_s.pop(0)
        for peer in self.gone(peers):
            self.note(peer)

    def lost(self, direct: Container[bytes], holds: Callable[[bytes], bool], *, is_all_read: bool) -> list[bytes]:
        """Those who are gone and of whom nothing is left to be heard; each is told of once.

        Args:
            direct: those that have not come through ZeroMQ.
            holds: whether something that a peer has said is read, and waits to be handled.
            is_all_read: whether ZeroMQ has nothing of anybody that is not read.
        """
        now_ns = time.monotonic_ns()
        lost = []
        for peer, since_ns in self._gone.items():
            is_read = is_all_read or peer in direct or now_ns - since_ns > _UNREAD_MAX_NS
            if is_read and not holds(peer):
                lost.append(peer)
        for peer in lost:
            del self._gone[peer]
        return lost

    def gone(self, peers: Iterable[bytes]) -> list[bytes]:
        """Those of the peers that are gone."""
        gone = []
        for peer in peers:
            try:
                self._socket.send_multipart((peer, _NOTHING), zmq.NOBLOCK)
            except zmq.Again:
                continue
            except zmq.ZMQError:
                gone.append(peer)
        return gone

    def close(self) -> None:
        """Watch no more."""
        self._socket.disable_monitor()
        self.monitor.close()
