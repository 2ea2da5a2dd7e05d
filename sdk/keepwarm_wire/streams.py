"""Frames in a stream of bytes: how peers on the scheduler's own machine talk, each frame behind its length.

A scheduler that is served on a socket in a private directory (ZeroMQ's, ``ipc:///d/scheduler.sock``) listens on a
second one beside it (``/d/scheduler.sock.direct``) to which the same frames are written, each behind its length in four
bytes, the most significant first. No thread of ZeroMQ stands between the two processes then. Nothing here touches a
socket.
"""

import os
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from keepwarm_wire.codec import FRAME_BYTES_MAX

__all__ = ["DIRECT_SUFFIX", "FrameSplitter", "UnsentFrames", "direct_path", "framed", "is_direct_offered"]

DIRECT_SUFFIX: Final = ".direct"
PATH_BYTES_MAX: Final = 107
"""Of a socket, as the kernel allows."""

_IPC: Final = "ipc://"
_LENGTH: Final = struct.Struct(">I")


def direct_path(address: str) -> str:
    """The file of the direct socket beside an ``ipc`` address; empty where there can be none.

    That is for other addresses, and where its path would be too long.

    >>> direct_path("ipc:///run/keepwarm/scheduler.sock")
    '/run/keepwarm/scheduler.sock.direct'
    """
    path = address.removeprefix(_IPC) + DIRECT_SUFFIX
    return path if address.startswith(_IPC) and len(os.fsencode(path)) <= PATH_BYTES_MAX else ""


def is_direct_offered(address: str) -> bool:
    """Whether the scheduler at an address, or one that is still to come there, has a direct socket.

    It makes that before its other one: where only the other is, its path left no room for a second.
    """
    path = direct_path(address)
    return bool(path) and (os.path.exists(path) or not os.path.exists(path.removesuffix(DIRECT_SUFFIX)))  # noqa: PTH110


def framed(frame: bytes) -> bytes:
    """A frame as it is written to a stream.

    >>> framed(b"abc")
    b'\\x00\\x00\\x00\\x03abc'
    """
    return _LENGTH.pack(len(frame)) + frame


class FrameSplitter:
    """Cuts the bytes of a stream into its frames. Holds at most one frame that is not complete.

    >>> splitter = FrameSplitter()
    >>> splitter.feed(b"\\0\\0\\0\\2hi\\0\\0")
    [b'hi']
    >>> splitter.feed(b"\\0\\1x")
    [b'x']
    """

    __slots__ = ("_missing", "_parts", "is_broken")

    def __init__(self) -> None:
        self.is_broken = False
        """A frame was said to be longer than ``FRAME_BYTES_MAX``: the rest of the stream means nothing."""
        self._parts: list[bytes] = []
        """What has come of a frame, its length included, that is not complete."""
        self._missing = 0
        """How many bytes must come at least before it can be."""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete with these bytes. Look at ``is_broken`` afterwards."""
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        frames: list[bytes] = []
        start, end = 0, len(data)
        while end - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > FRAME_BYTES_MAX:
                self.is_broken = True
                return frames
            stop = start + _LENGTH.size + length
            if stop > end:
                self._keep(data[start:], stop - end)
                return frames
            frames.append(data[start + _LENGTH.size : stop])
            start = stop
        if start < end:
            self._keep(data[start:], _LENGTH.size - (end - start))
        return frames

    def _keep(self, rest: bytes, missing: int) -> None:
        self._parts.append(rest)
        self._missing = missing


class UnsentFrames:
    """Frames on their way into a stream that takes only so much at a time.

    >>> unsent = UnsentFrames()
    >>> unsent.add(b"abc")
    >>> written = []
    >>> unsent.write(lambda data: written.append(bytes(data)) or len(data))
    True
    >>> written, len(unsent)
    ([b'\x00\x00\x00\x03abc'], 0)
    """

    __slots__ = ("_frames",)

    def __init__(self) -> None:
        self._frames: deque[memoryview] = deque()

    def __len__(self) -> int:
        """How many frames are not written, or only in part."""
        return len(self._frames)

    def add(self, frame: bytes) -> None:
        """Have a frame written after all others; ``write`` does it."""
        self._frames.append(memoryview(framed(frame)))

    def write(self, send: Callable[[memoryview], int]) -> bool:
        """Give ``send``, a non-blocking socket's, what it takes now.

        False if that failed: all is dropped, and nothing more may be written to the stream, in the middle of a frame.
        """
        frames = self._frames
        while frames:
            data = frames[0]
            try:
                sent = send(data)
            except BlockingIOError:
                return True
            except OSError:
                frames.clear()
                return False
            if sent < len(data):
                frames[0] = data[sent:]
            else:
                frames.popleft()
        return True

    def clear(self) -> None:
        """Write none of them."""
        self._frames.clear()
