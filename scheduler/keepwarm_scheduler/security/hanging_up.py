"""Breaking one connection of a socket of ZeroMQ, which has no call for that.

A frame that has been received knows the descriptor that it came by (``ZMQ_SRCFD``). That is shut down, and ZeroMQ finds
the connection broken. It may have closed it by itself meanwhile, and the number may be another file's: so nothing is
touched but a TCP connection with the same address, and at worst somebody from there has to connect anew.
"""

import contextlib
import os
import socket as sockets

import zmq

__all__ = ["hang_up"]

_SOURCE_DESCRIPTOR = 2
"""``ZMQ_SRCFD``, for which pyzmq has no name."""


def hang_up(frame: zmq.Frame) -> bool:
    """Break the connection that a frame came by. False if it is gone already, or was not over TCP."""
    try:
        descriptor, address = int(frame.get(_SOURCE_DESCRIPTOR)), str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return False
    with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family != sockets.AF_UNIX and connection.getpeername()[0] == address:
            connection.shutdown(sockets.SHUT_RDWR)
            return True
    return False
