"""Breaking one connection of a socket of ZeroMQ, which has no call for that.

A frame that has been received knows the descriptor that it came by (``ZMQ_SRCFD``). That is shut down, and ZeroMQ finds
the connection broken. It may have closed it by itself meanwhile, and the number may be another file's: so it is noted
which socket that was when its peer was first heard, and nothing else is touched. At worst, where a peer had left before
it was first heard, somebody from the same address has to connect anew.
"""

import os
import socket as sockets
from typing import NamedTuple

import zmq

__all__ = ["Source", "hang_up", "source_of"]

_SOURCE_DESCRIPTOR = 2
"""``ZMQ_SRCFD``, for which pyzmq has no name."""


class Source(NamedTuple):
    """The socket that a frame came by: its descriptor, what tells it from later ones of that number, and its peer."""

    descriptor: int
    inode: int
    address: str


def source_of(frame: zmq.Frame) -> Source | None:
    """Where a frame came from; None if that is gone already."""
    try:
        descriptor = int(frame.get(_SOURCE_DESCRIPTOR))
        return Source(descriptor, os.fstat(descriptor).st_ino, str(frame.get("Peer-Address")))
    except (zmq.ZMQError, OSError):
        return None


def hang_up(source: Source) -> bool:
    """Break a connection. False if it is gone, or is none over TCP."""
    try:
        copy = os.dup(source.descriptor)
    except OSError:
        return False
    try:
        if os.fstat(copy).st_ino != source.inode:
            return False
        with sockets.socket(fileno=copy) as connection:
            copy = -1
            if connection.family == sockets.AF_UNIX:
                return False
            address = str(connection.getpeername()[0])
            if address.partition("%")[0] != source.address.partition("%")[0]:
                return False
            connection.shutdown(sockets.SHUT_RDWR)
            return True
    except OSError:
        return False
    finally:
        if copy >= 0:
            os.close(copy)
