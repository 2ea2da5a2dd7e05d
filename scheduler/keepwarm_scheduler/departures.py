"""Connections that are gone: when to look for them, and which they are.

ZeroMQ says that some connection broke, not whose, and may say it before it has taken the peer away. So all peers are
tried, at once and again a little later: an empty frame to one that is not there fails at once. Anybody may connect and
break off thousands of times a second, so that is not done for every single time.
"""

import time
from collections.abc import Iterable

import zmq
from zmq.utils.monitor import parse_monitor_message

from keepwarm_wire.codec import encode_frames

__all__ = ["PROBE_DELAYS_S", "Departures"]

PROBE_DELAYS_S = (0.02, 0.2, 1.0)
"""When peers are looked for again after a connection broke."""

_NOTHING = encode_frames([])[0]


class Departures:
    """Watches a ROUTER socket that says when a peer is unknown. Close it before the socket."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self.monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        """For the poller: call ``on_event`` when it is readable."""
        self._probes_s: list[float] = []

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

    def due(self, peers: Iterable[bytes]) -> list[bytes]:
        """Those of the peers that are gone, now that it is time to look."""
        self._probes_s.pop(0)
        return self.gone(peers)

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
