"""The frames between a client and the process that is lent to it, as the client needs them.

They are those between an agent and a runner, byte for byte (``keepwarm_worker.runner.frames`` explains them, and tests
compare the two): a 4-byte length of the body, a type byte, the body. What comes from a process may be forged by user
code: whatever the bytes, reading them gives frames of bounded size or raises ``FrameError``.
"""

from struct import Struct, error
from typing import NamedTuple

__all__ = [
    "FrameError",
    "Outcome",
    "Piece",
    "Recalled",
    "call_frame",
    "cancel_frame",
    "read",
    "read_whole",
    "recall_frame",
]

BODY_BYTES_MAX = 256 * 1024
INLINE_BYTES_MAX = 64 * 1024
QUIET = 1

_HEADER = Struct(">IB")
_CALL = Struct(">IBQ32sBBI")
_DONE = Struct(">IBQQBBI")
_NUMBER = Struct(">IBQ")
_U32 = Struct(">I")
_U64 = Struct(">Q")
_CALL_CODE, _CANCEL_CODE, _RECALL_CODE = 2, 4, 6
_RESULT_CODE, _RECALLED_CODE, _DONE_CODE, _PIECE_CODE = 19, 20, 21, 22
_DIGEST_BYTES = 32
_STATUS_OK = 0


class FrameError(Exception):
    """The bytes are no frame that a process may send: what else it says cannot be trusted either."""


class Outcome(NamedTuple):
    """How a call ended. ``payload`` is None where it came in pieces before, ``size`` bytes of them.

    ``status`` is 0 for success, as on the wire; then the texts are empty.
    """

    number: int
    run_us: int
    printed: bool
    payload: bytes | None
    size: int
    status: int = 0
    kind: str = ""
    type_name: str = ""
    message: str = ""
    traceback: str = ""


class Piece(NamedTuple):
    """The next bytes of a large payload, before the outcome that it belongs to."""

    data: bytes


class Recalled(NamedTuple):
    """This call had not begun, and will not."""

    number: int


def call_frame(number: int, version: bytes, arguments: bytes) -> bytes:
    """Run this call after those before it. ``arguments`` are at most ``INLINE_BYTES_MAX``."""
    size = len(arguments)
    return _CALL.pack(_CALL.size - _HEADER.size + size, _CALL_CODE, number, version, QUIET, 0, size) + arguments


def cancel_frame(number: int) -> bytes:
    """Interrupt this call, if it runs."""
    return _NUMBER.pack(_U64.size, _CANCEL_CODE, number)


def recall_frame(number: int) -> bytes:
    """Do not run this call, unless it has begun."""
    return _NUMBER.pack(_U64.size, _RECALL_CODE, number)


def read(data: bytes, frames: list[Outcome | Piece | Recalled]) -> bytes:
    """Append the frames that ``data`` begins with to ``frames``; returns the rest, to be fed again with more.

    Raises ``FrameError``.
    """
    start, available = 0, len(data)
    header_bytes, done_bytes = _HEADER.size, _DONE.size
    while start + header_bytes <= available:
        size, code = _HEADER.unpack_from(data, start)
        if size > BODY_BYTES_MAX:
            raise FrameError(f"a frame of {size} bytes")
        end = start + header_bytes + size
        if end > available:
            break
        if code == _DONE_CODE and start + done_bytes <= end:
            _, _, number, run_us, printed, form, payload_bytes = _DONE.unpack_from(data, start)
            if not form and start + done_bytes + payload_bytes == end:
                frames.append(Outcome(number, run_us, printed != 0, data[start + done_bytes : end], payload_bytes))
                start = end
                continue
        frames.append(_Body(data, start + header_bytes, end).frame(code))
        start = end
    return data[start:]


def read_whole(data: bytes) -> Outcome | None:
    """The one outcome that this is, whose payload may have been cut into pieces; None for whatever else it is."""
    frames: list[Outcome | Piece | Recalled] = []
    try:
        rest = read(data, frames)
    except FrameError:
        return None
    pieces = [frame.data for frame in frames if type(frame) is Piece]
    last = frames[-1] if frames else None
    if type(last) is not Outcome or rest or len(pieces) < len(frames) - 1:
        return None
    payload = b"".join(pieces) if last.payload is None else last.payload
    return last._replace(payload=payload) if len(payload) == last.size else None


class _Body:
    """Reads the fields of one frame in order."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data, self._at, self._end = data, start, end

    def frame(self, code: int) -> Outcome | Piece | Recalled:
        try:
            made = self._frame(code)
        except (error, UnicodeDecodeError, IndexError) as damage:
            raise FrameError(f"a damaged frame of type {code}: {damage}") from None
        if self._at != self._end:
            raise FrameError(f"a frame of type {code} with bytes left over")
        return made

    def _frame(self, code: int) -> Outcome | Piece | Recalled:
        if code == _RECALLED_CODE:
            return Recalled(self._u64())
        if code == _PIECE_CODE:
            data, _ = self._payload()
            if data is None:
                raise FrameError("a piece of a payload that is in a file")
            return Piece(data)
        if code == _DONE_CODE:
            number, run_us, printed = self._u64(), self._u64(), self._u8()
            payload, size = self._payload()
            return Outcome(number, run_us, printed != 0, payload, size)
        if code == _RESULT_CODE:
            number, status, _codec = self._u64(), self._u8(), self._text()
            payload, size = self._payload()
            _setup_us, run_us = self._u64(), self._u64()
            kind, type_name, message, traceback = self._text(), self._text(), self._text(), self._text()
            printed = self._u8() != 0
            return Outcome(number, run_us, printed, payload, size, status, kind, type_name, message, traceback)
        raise FrameError(f"a frame of type {code}")

    def _bytes(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > self._end:
            raise FrameError("a field that ends after its frame")
        return self._data[start : self._at]

    def _u8(self) -> int:
        return self._bytes(1)[0]

    def _u32(self) -> int:
        return int(_U32.unpack(self._bytes(_U32.size))[0])

    def _u64(self) -> int:
        return int(_U64.unpack(self._bytes(_U64.size))[0])

    def _text(self) -> str:
        return self._bytes(self._u32()).decode()

    def _payload(self) -> tuple[bytes | None, int]:
        """The bytes, or None and the size of what came in pieces."""
        if not self._u8():
            size = self._u32()
            return self._bytes(size), size
        self._text()
        size = self._u64()
        self._bytes(_DIGEST_BYTES)
        return None, size
