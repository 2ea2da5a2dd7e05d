"""Peers on this machine that write their frames to a Unix socket: no thread stands between them and the loop.

Through ZeroMQ a frame wakes its sender's I/O thread, which wakes ours, which wakes the loop; here it wakes the loop.
The socket lies in the private directory of the ``ipc`` address beside which it is found, and is served only without
keys: its directory's permissions are the authentication.

Rules: nothing here waits; a connection is read only once what was read of it before has been taken; what a peer
does not read is kept up to a bound, then refused as ZeroMQ would; all that a peer wrote before it left is given out
before it is told to be gone.
"""

import contextlib
import os
import select
import socket as sockets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path

from keepwarm_wire.streams import FrameSplitter, UnsentFrames

__all__ = ["DirectConnections", "PeerGoneError", "PeerFullError"]

_PREFIX = b"\0direct"
"""Ids of these peers. Those that ZeroMQ gives are five bytes long; whoever chooses one of these is not heard there."""

_READ_BYTES = 256 * 1024
_UNREAD_MAX = 1_000
"""Frames that are kept for a peer that does not read them; further ones are refused."""

_BACKLOG = 1_024
_ACCEPTED_PER_TURN = 64
_DEAF_S = 1.0
"""How long nobody is let in after there was no descriptor for somebody."""


class PeerGoneError(Exception):
    """There is no such connection any more."""


class PeerFullError(Exception):
    """The peer does not read what it is sent."""


class _Connection:
    __slots__ = ("frames", "is_over", "peer", "socket", "splitter", "unsent")

    def __init__(self, peer: bytes, socket: sockets.socket) -> None:
        self.peer, self.socket = peer, socket
        self.splitter = FrameSplitter()
        self.frames: deque[bytes] = deque()
        """Read, and not taken yet."""
        self.unsent = UnsentFrames()
        self.is_over = False
        """The other side is gone; nothing more will come."""


class DirectConnections:
    """Listens at each of ``paths``, which must be free, in directories that nobody else may enter.

    Args:
        paths: of the sockets.
        epoll: where connections are registered, for the caller to wait on.

    Raises:
        OSError: one of the paths cannot be served.
    """

    def __init__(self, paths: Iterable[Path], epoll: select.epoll) -> None:
        self._epoll = epoll
        self._listeners: dict[int, sockets.socket] = {}
        self._connections: dict[int, _Connection] = {}
        self._of_peers: dict[bytes, _Connection] = {}
        self._untaken: dict[bytes, _Connection] = {}
        self._over: dict[bytes, None] = {}
        self._numbers = count(1)
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._deaf_until_ns: int | None = None
        """Until when the listeners are left alone, for want of descriptors."""
        for path in paths:
            self._listen(path)

    def _listen(self, path: Path) -> None:
        listener = sockets.socket(sockets.AF_UNIX)
        previous_mask = os.umask(0o177)
        try:
            listener.bind(str(path))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(previous_mask)
        self._listeners[listener.fileno()] = listener
        self._epoll.register(listener, select.EPOLLIN)

    @property
    def next_ns(self) -> int | None:
        """When ``receive`` is to be called even if nothing comes, on the monotonic clock."""
        return self._deaf_until_ns

    @property
    def is_waiting(self) -> bool:
        """Whether something that was read before has not been taken."""
        return bool(self._untaken)

    def __contains__(self, peer: object) -> bool:
        return peer in self._of_peers

    def __len__(self) -> int:
        return len(self._of_peers)

    # ------------------------------------------------------------ in

    def receive(self, ready: Mapping[int, int], take: Callable[[bytes, bytes], bool]) -> list[bytes]:
        """Read what is there, and give it to ``take``, with its peer, until that says no more of this peer.

        ``ready`` is what the epoll said, of other descriptors too. Returns those who are gone: all that they had said
        has been taken. Each is told of until it is dropped.
        """
        if self._deaf_until_ns is not None and time.monotonic_ns() >= self._deaf_until_ns:
            self._listen_again()
        for descriptor, mask in ready.items():
            connection = self._connections.get(descriptor)
            if connection is None:
                if descriptor in self._listeners:
                    self._accept(self._listeners[descriptor])
                continue
            if mask & select.EPOLLOUT:
                self._flush(connection)
            if mask & ~select.EPOLLOUT and not connection.frames and not connection.is_over:
                self._read(connection)
        if not (self._untaken or self._over):
            return []
        for peer, connection in list(self._untaken.items()):
            frames = connection.frames
            while frames:
                if not take(peer, frames.popleft()):
                    break
            if not frames:
                del self._untaken[peer]
        return [peer for peer in self._over if peer not in self._untaken]

    def _accept(self, listener: sockets.socket) -> None:
        for _ in range(_ACCEPTED_PER_TURN):
            if self._deaf_until_ns is not None:
                return
            try:
                socket, _ = listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError:  # no descriptor is left, say: who waits is let in later
                self._stop_listening()
                return
            socket.setblocking(False)
            try:
                self._epoll.register(socket, select.EPOLLIN)
            except OSError:
                socket.close()
                self._stop_listening()
                return
            connection = _Connection(_PREFIX + next(self._numbers).to_bytes(8), socket)
            self._connections[socket.fileno()] = self._of_peers[connection.peer] = connection

    def _stop_listening(self) -> None:
        self._deaf_until_ns = time.monotonic_ns() + int(_DEAF_S * 1e9)
        for each in self._listeners.values():
            self._epoll.unregister(each)

    def _listen_again(self) -> None:
        self._deaf_until_ns = None
        for each in self._listeners.values():
            self._epoll.register(each, select.EPOLLIN)

    def _read(self, connection: _Connection) -> None:
        try:
            size = connection.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        connection.frames.extend(connection.splitter.feed(bytes(self._buffer[:size])))
        if connection.frames:
            self._untaken[connection.peer] = connection
        if not size or connection.splitter.is_broken:
            self._end(connection)

    def _end(self, connection: _Connection) -> None:
        """Nothing more comes of it, nor goes to it."""
        if not connection.is_over:
            connection.is_over = True
            self._epoll.unregister(connection.socket)
            connection.unsent.clear()
            self._over[connection.peer] = None

    # ------------------------------------------------------------ out

    def send(self, peer: bytes, frame: bytes) -> None:
        """Send a frame, or keep it until the peer reads.

        Raises:
            PeerGoneError: it has left.
            PeerFullError: too much is kept for it already; the frame is not.
        """
        connection = self._of_peers.get(peer)
        if connection is None or connection.is_over:
            raise PeerGoneError
        unsent, was_reading = connection.unsent, not connection.unsent
        if len(unsent) >= _UNREAD_MAX:
            raise PeerFullError
        unsent.add(frame)
        if was_reading:
            self._write(connection)
            if unsent:
                self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, connection: _Connection) -> None:
        self._write(connection)
        if not connection.unsent:
            self._epoll.modify(connection.socket, select.EPOLLIN)

    @staticmethod
    def _write(connection: _Connection) -> None:
        if not connection.unsent.write(connection.socket.send):
            # The other side is gone, most likely; what it has said is still to be read.
            with contextlib.suppress(OSError):
                connection.socket.shutdown(sockets.SHUT_WR)

    # ------------------------------------------------------------ ends

    def drop(self, peer: bytes) -> bool:
        """Close a connection, if it is there, and forget it."""
        connection = self._of_peers.pop(peer, None)
        if connection is None:
            return False
        self._end(connection)
        del self._connections[connection.socket.fileno()], self._over[peer]
        self._untaken.pop(peer, None)
        connection.socket.close()
        if self._deaf_until_ns is not None:
            self._listen_again()
        return True

    def close(self) -> None:
        """Close the sockets that new connections would come to, and all connections.

        The files stay, as ZeroMQ's do: peers who look for the next scheduler see by them what it will offer.
        """
        self._deaf_until_ns = None
        for listener in self._listeners.values():
            listener.close()
        for peer in list(self._of_peers):
            self.drop(peer)
