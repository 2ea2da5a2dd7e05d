"""A network between one scheduler and its peers: it delays, loses, duplicates and reorders frames, and breaks.

What it keeps of TCP and ZeroMQ: frames belong to a connection. What a peer sent on a broken connection may still reach
the scheduler process it was sent to, under the old connection's name; what was sent to a peer reaches it only until it
has connected anew. The scheduler learns of a broken connection sooner or later.

In a part of the runs frames are bytes, as in reality; in the others the messages themselves travel, which costs less
and changes nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.messages import Message
from support.simulation.clock import MILLISECOND, Clock
from support.simulation.tally import Tally

__all__ = ["CALM", "Link", "Network", "Rates"]


class Rates(NamedTuple):
    """How a network misbehaves: probabilities per frame, and the range of its delays."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    slow: float = 0.0
    delay_max_ns: int = 5 * MILLISECOND


CALM = Rates()
_DELAY_MIN_NS = MILLISECOND // 10
_SLOW_MAX_NS = 1_500 * MILLISECOND
_RECONNECT_MAX_NS = 400 * MILLISECOND
_NOTICE_MAX_NS = 600 * MILLISECOND


class Serving(Protocol):
    """The scheduler's end."""

    def receive(self, peer: bytes, messages: Sequence[Message]) -> None:
        """A frame has arrived."""

    def peer_lost(self, peer: bytes) -> None:
        """A connection is known to be broken."""


def _nothing() -> None:
    return None


@dataclass(eq=False)
class Link:
    """One peer's way to the scheduler, across its connections."""

    name: str
    receive: Callable[[Sequence[Message]], None]
    connected: Callable[[], None] = _nothing
    disconnected: Callable[[], None] = _nothing
    connection: int = 0
    is_connected: bool = False
    is_closed: bool = False
    blocked_up: bool = False
    blocked_down: bool = False
    last_up_ns: int = 0
    last_down_ns: int = 0

    @property
    def peer(self) -> bytes:
        """The connection's name at the scheduler."""
        return f"{self.name}#{self.connection}".encode()


@dataclass(eq=False)
class Network:
    """All links. ``rates`` may change at any time."""

    clock: Clock
    random: Random
    tally: Tally
    rates: Rates = CALM
    is_encoding: bool = True
    links: dict[str, Link] = field(default_factory=dict)
    peers: dict[bytes, Link] = field(default_factory=dict)
    scheduler: Serving | None = None
    _connections: int = 0
    """No two connections share a name: what a killed agent sent is not taken for its successor's."""

    # ------------------------------------------------------------ connections

    def attach(self, link: Link) -> None:
        """A peer's process has started: it connects as soon as it can. It takes the place of one of the same name."""
        self.links[link.name] = link
        self._connect_soon(link)

    def close(self, link: Link) -> None:
        """A peer's process has ended."""
        link.is_closed = True
        self._break(link)

    def scheduler_started(self, scheduler: Serving) -> None:
        """A scheduler serves the address: everyone connects to it."""
        self.scheduler = scheduler
        for link in self.links.values():
            self._connect_soon(link)

    def scheduler_ended(self) -> None:
        """The scheduler's process is gone, and every connection with it."""
        self.scheduler = None
        for link in self.links.values():
            self._break(link)

    def break_connection(self, link: Link) -> None:
        """A connection is cut; the peer connects anew."""
        self._break(link)
        self._connect_soon(link)

    def block(self, link: Link, *, up: bool, down: bool) -> None:
        """Partition a peer, in one direction or both; both False heals it."""
        link.blocked_up, link.blocked_down = up, down
        if not up and not down:
            self._connect_soon(link)

    def _break(self, link: Link) -> None:
        if not link.is_connected:
            return
        link.is_connected = False
        scheduler, peer = self.scheduler, link.peer
        self.peers.pop(peer, None)
        if scheduler is not None:
            self.clock.after(self.random.randrange(_NOTICE_MAX_NS), lambda: self._notice(scheduler, peer))
        link.disconnected()

    def _notice(self, scheduler: Serving, peer: bytes) -> None:
        if self.scheduler is scheduler:
            scheduler.peer_lost(peer)

    def _connect_soon(self, link: Link) -> None:
        self.clock.after(self.random.randrange(MILLISECOND, _RECONNECT_MAX_NS), lambda: self._connect(link))

    def _connect(self, link: Link) -> None:
        is_cut = link.blocked_up or link.blocked_down or self.scheduler is None
        if link.is_connected or link.is_closed or is_cut:
            return
        self._connections += 1
        link.connection = self._connections
        link.is_connected = True
        link.last_up_ns = link.last_down_ns = 0
        self.peers[link.peer] = link
        link.connected()

    # ------------------------------------------------------------ frames

    def send_up(self, link: Link, messages: Sequence[Message]) -> None:
        """A peer sends a frame to the scheduler."""
        scheduler, peer = self.scheduler, link.peer
        if not messages or not link.is_connected or scheduler is None or link.blocked_up:
            return
        frame = self._frame(messages)

        def deliver() -> None:
            if self.scheduler is scheduler and not link.blocked_up:
                scheduler.receive(peer, _messages(frame))

        link.last_up_ns = self._send(deliver, link.last_up_ns)

    def send_down(self, peer: bytes, messages: Sequence[Message]) -> None:
        """The scheduler sends a frame to a connection; one that is gone gets nothing."""
        link = self.peers.get(peer)
        if link is None or link.blocked_down:
            return
        frame, connection = self._frame(messages), link.connection

        def deliver() -> None:
            if link.connection == connection and not link.is_closed and not link.blocked_down:
                link.receive(_messages(frame))

        link.last_down_ns = self._send(deliver, link.last_down_ns)

    def _frame(self, messages: Sequence[Message]) -> bytes | tuple[Message, ...]:
        return encode_frame(messages) if self.is_encoding else tuple(messages)

    def _send(self, deliver: Callable[[], None], last_ns: int) -> int:
        """Schedule the deliveries of one frame; returns when the last frame in order arrives."""
        rates, random, clock = self.rates, self.random.random, self.clock
        if rates is CALM:
            at_ns = max(clock.now_ns + _between(random(), _DELAY_MIN_NS, rates.delay_max_ns), last_ns)
            clock.at(at_ns, deliver)
            return at_ns
        if random() < rates.loss:
            self.tally.strike("frame lost")
            return last_ns
        copies = 1
        if random() < rates.duplicate:
            self.tally.strike("frame duplicated")
            copies = 2
        for copy in range(copies):
            delay_ns = _between(random(), _DELAY_MIN_NS, rates.delay_max_ns)
            if random() < rates.slow:
                self.tally.strike("frame slow")
                delay_ns = _between(random(), _DELAY_MIN_NS, _SLOW_MAX_NS)
            at_ns = clock.now_ns + delay_ns
            if copy == 0:
                if random() >= rates.reorder:
                    at_ns = last_ns = max(at_ns, last_ns)
                elif at_ns < last_ns:
                    self.tally.strike("frame overtakes")
            clock.at(at_ns, deliver)
        return last_ns


def _between(luck: float, low_ns: int, high_ns: int) -> int:
    return low_ns + int(luck * (high_ns - low_ns))


def _messages(frame: bytes | tuple[Message, ...]) -> Sequence[Message]:
    return decode_frame(frame) if isinstance(frame, bytes) else frame
