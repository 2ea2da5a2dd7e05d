"""What the loop waits for: plain descriptors, and sockets of ZeroMQ, whose descriptors tell only of changes.

To ask a socket of ZeroMQ whether it has something costs two system calls, so it is asked only when its descriptor is
readable, or when it has been used since it said that it has nothing: what it does then may take the sign away.
"""

import select
from collections.abc import Iterable

import zmq

__all__ = ["Sources"]


class Sources:
    """Waits until any of these sockets and descriptors is readable. Whoever uses one of the sockets says so."""

    def __init__(self, sockets: "Iterable[zmq.Socket[bytes]]", descriptors: Iterable[int]) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, zmq.Socket[bytes]] = {}
        self._unsure: dict[zmq.Socket[bytes], None] = {}
        """Those that may have something of which their descriptors do not tell."""
        for socket in sockets:
            descriptor = int(socket.getsockopt(zmq.FD))
            self._sockets[descriptor] = socket
            self._unsure[socket] = None
            self._epoll.register(descriptor, select.EPOLLIN)
        for descriptor in descriptors:
            self._epoll.register(descriptor, select.EPOLLIN)

    def used(self, socket: "zmq.Socket[bytes]") -> None:
        """Something has been sent or received there since the last wait."""
        self._unsure[socket] = None

    def wait(self, timeout_ms: int) -> "dict[zmq.Socket[bytes] | int, None]":
        """Those that are readable now, or once one of them is; none when the time is over."""
        ready: dict[zmq.Socket[bytes] | int, None] = {}
        for socket in list(self._unsure):
            self._ask(socket, ready)
        for descriptor, _ in self._epoll.poll(0 if ready else timeout_ms / 1000):
            of_zeromq = self._sockets.get(descriptor)
            if of_zeromq is None:
                ready[descriptor] = None
            else:
                self._ask(of_zeromq, ready)
        return ready

    def _ask(self, socket: "zmq.Socket[bytes]", ready: "dict[zmq.Socket[bytes] | int, None]") -> None:
        if int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            ready[socket] = None
            self._unsure[socket] = None
        else:
            self._unsure.pop(socket, None)

    def close(self) -> None:
        """Wait for nothing more."""
        self._epoll.close()
