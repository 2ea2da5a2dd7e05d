"""What the loop waits for: plain descriptors, and sockets of ZeroMQ, whose descriptors tell only of changes.

To ask a socket of ZeroMQ whether it has something costs two system calls, so it is asked only when its descriptor is
readable, or when it has been used since it said that it has nothing: what it does then may take the sign away.
"""

import select

import zmq

__all__ = ["Sources"]


class Sources:
    """Waits until something is ready. Whoever uses one of ZeroMQ's sockets says so."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        """Plain descriptors are registered here by whoever owns them."""
        self._sockets: dict[int, zmq.Socket[bytes]] = {}
        self._unsure: dict[zmq.Socket[bytes], None] = {}
        """Those that may have something of which their descriptors do not tell."""

    def add(self, socket: "zmq.Socket[bytes]") -> None:
        """Wait for this socket of ZeroMQ too."""
        descriptor = int(socket.getsockopt(zmq.FD))
        self._sockets[descriptor] = socket
        self._unsure[socket] = None
        self.epoll.register(descriptor, select.EPOLLIN)

    def used(self, socket: "zmq.Socket[bytes]") -> None:
        """Something has been sent or received there since the last wait."""
        self._unsure[socket] = None

    def wait(self, timeout_s: float) -> "tuple[dict[int, int], dict[zmq.Socket[bytes], None]]":
        """What is ready now, or once anything is: descriptors with their events, and sockets of ZeroMQ with input."""
        sockets: dict[zmq.Socket[bytes], None] = {}
        if self._unsure:
            for socket in list(self._unsure):
                self._ask(socket, sockets)
        ready = dict(self.epoll.poll(0 if sockets else timeout_s))
        for descriptor, socket in self._sockets.items():
            if ready.pop(descriptor, None) is not None:
                self._ask(socket, sockets)
        return ready, sockets

    def _ask(self, socket: "zmq.Socket[bytes]", ready: "dict[zmq.Socket[bytes], None]") -> None:
        if int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            ready[socket] = None
            self._unsure[socket] = None
        else:
            self._unsure.pop(socket, None)

    def close(self) -> None:
        """Wait for nothing more."""
        self.epoll.close()
