"""The frames between an agent and a runner: what they are, their bytes, and a bounded incremental decoder.

A frame is a 4-byte big-endian length of its body, a type byte, then the body. A body is the frame's fields one after
another, each in the encoding that `_LAYOUTS` names for it: integers are big-endian, everything of variable size carries
a 32-bit length. There is no pickle and no marshal here, and nothing optional.

Rules:
- Both ends are always of the same build (the agent copies the runner), so there is no version negotiation: a byte too
  many, a byte too few or an unknown type is an error.
- Whatever the bytes are, decoding returns frames or raises `FrameError`, and never buffers more than one frame's limit
  beyond what it was fed at once. User code shares its process with the runner and can forge any frame.
- Payloads over `INLINE_LIMIT_BYTES` travel as `Stored`, a file's name; never through the socket.
"""

from __future__ import annotations

import struct
from collections import namedtuple

TYPE_CHECKING = False  # a constant type checkers know: importing `typing` would slow every cold start
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, NamedTuple, Tuple, Type, Union
else:

    class _NamedTupleMaker(type):
        """Turns a class body of annotations into a named tuple, as `typing.NamedTuple` does."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            made = namedtuple(name, list(body.get("__annotations__", ())))
            made.__module__, made.__qualname__, made.__doc__ = __name__, name, body.get("__doc__")
            return made

    class NamedTuple(metaclass=_NamedTupleMaker):
        """The root that the frames derive from."""


__all__ = [
    "Load",
    "Call",
    "Drained",
    "Exit",
    "Cancel",
    "Timeout",
    "Recall",
    "Hello",
    "Started",
    "SetupDone",
    "Done",
    "Result",
    "Recalled",
    "Piece",
    "Stored",
    "Frame",
    "Payload",
    "FrameError",
    "FrameDecoder",
    "encode",
    "encode_inline_done",
    "codec_tag",
    "INLINE_LIMIT_BYTES",
    "LOAN",
    "MAX_BODY_BYTES",
    "QUIET",
    "STATUS_OK",
    "STATUS_FAILED",
    "STATUS_CANCELLED",
    "STATUS_TIMED_OUT",
]

INLINE_LIMIT_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024
DIGEST_BYTES = 32

QUIET = 1
"""Flag of a call: its start need not be told, unless its function is to be set up first. The board tells it."""

LOAN = 2
"""Flag of a call: it is a loan, and its arguments say to whom. See `lending`."""

STATUS_OK = 0
STATUS_FAILED = 1
STATUS_CANCELLED = 2
STATUS_TIMED_OUT = 3

PICKLE_CODEC = "pickle"
CLOUDPICKLE_CODEC = "cloudpickle"
_IMPLEMENTATION_CODES = {"cpython": "cp", "pypy": "pp"}


class FrameError(Exception):
    """The bytes are not a frame, or the frame does not fit into bytes. The connection they came from is unusable."""


class Stored(NamedTuple):
    """A payload in a file. From the agent: an absolute path. From the runner: a bare name in its spool directory."""

    path: str
    size: int
    sha256: bytes


class Load(NamedTuple):
    """Agent to runner: from now on this is the version of the function `name`; an older one is dropped."""

    function_version: bytes
    codec: str
    name: str
    body: Payload


class Call(NamedTuple):
    """Agent to runner: run this attempt, after those before it. `flags` is a sum of `QUIET` and `LOAN`."""

    attempt: int
    function_version: bytes
    flags: int
    arguments: Payload


class Drained(NamedTuple):
    """Agent to runner: what was printed up to an outcome that said so has been read; the next call may print."""


class Exit(NamedTuple):
    """Agent to runner: end as a Python program ends, with its atexit functions. Keep the sockets open until it has."""


class Cancel(NamedTuple):
    """Agent to runner, control socket: raise `CallCancelled` in this attempt if it has not ended."""

    attempt: int


class Timeout(NamedTuple):
    """Agent to runner, control socket: raise `CallTimeout` in this attempt if it has not ended."""

    attempt: int


class Recall(NamedTuple):
    """Agent to runner, control socket: do not run this attempt, unless it has begun."""

    attempt: int


class Recalled(NamedTuple):
    """Runner to agent, control socket: this attempt had not begun and will not."""

    attempt: int


class Piece(NamedTuple):
    """Runner to the client that it is lent to: the next bytes of the payload that the next outcome says is `Stored`."""

    data: Payload


class Hello(NamedTuple):
    """Runner to agent, first: who I am. `python` is "3.11", `version` is "3.11.7"."""

    pid: int
    python: str
    version: str
    implementation: str


class Started(NamedTuple):
    """Runner to agent: from here on a crash is this attempt's. With `setup`, loading and setup come before the run."""

    attempt: int
    setup: bool


class SetupDone(NamedTuple):
    """Runner to agent: the function is loaded and set up (follows a `Started` with `setup`); its run starts now."""

    attempt: int
    setup_us: int


class Done(NamedTuple):
    """Runner to agent: an attempt returned `payload`, and nothing was set up for it. The common, short `Result`.

    With `printed` something that was written to fd 1 or 2 is still in its pipe: the runner waits for `Drained`.
    """

    attempt: int
    run_us: int
    printed: bool
    payload: Payload


class Result(NamedTuple):
    """Runner to agent: how an attempt ended. `printed` as in `Done`.

    `payload` in `codec` is the result if the status is ok, else the exception, empty if it cannot travel. The texts
    are empty if the status is ok. `kind` says what failed: see `failures.KINDS`.
    """

    attempt: int
    status: int
    codec: str
    payload: Payload
    setup_us: int
    run_us: int
    kind: str
    type_name: str
    message: str
    traceback: str
    printed: bool


if TYPE_CHECKING:
    Payload = Union[bytes, Stored]
    FromAgent = Union[Load, Call, Drained, Exit, Cancel, Timeout, Recall]
    Frame = Union[FromAgent, Hello, Started, SetupDone, Done, Result, Recalled, Piece]
    Writer = Callable[[Any], bytes]
    Reader = Callable[[bytes, int], Tuple[Any, int]]
else:
    Payload = Frame = None  # names for annotations only

_LAYOUTS: Dict[Type[Any], Tuple[int, Tuple[str, ...]]] = {
    Load: (1, ("digest", "text", "text", "payload")),
    Call: (2, ("u64", "digest", "u8", "payload")),
    Exit: (3, ()),
    Cancel: (4, ("u64",)),
    Timeout: (5, ("u64",)),
    Recall: (6, ("u64",)),
    Drained: (7, ()),
    Hello: (16, ("u32", "text", "text", "text")),
    Started: (17, ("u64", "flag")),
    SetupDone: (18, ("u64", "u64")),
    Result: (19, ("u64", "u8", "text", "payload", "u64", "u64", "text", "text", "text", "text", "flag")),
    Recalled: (20, ("u64",)),
    Done: (21, ("u64", "u64", "flag", "payload")),
    Piece: (22, ("payload",)),
}

_HEADER = struct.Struct(">IB")
_U8 = struct.Struct(">B")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_INLINE, _STORED = b"\x00", b"\x01"


def _write_bytes(value: bytes) -> bytes:
    return _U32.pack(len(value)) + value


def _read_exactly(body: bytes, offset: int, size: int) -> Tuple[bytes, int]:
    end = offset + size
    if end > len(body):
        raise FrameError("a field of %d bytes ends after its frame" % size)
    return body[offset:end], end


def _read_bytes(body: bytes, offset: int) -> Tuple[bytes, int]:
    (size,) = _U32.unpack_from(body, offset)
    return _read_exactly(body, offset + 4, size)


def _write_digest(value: bytes) -> bytes:
    if len(value) != DIGEST_BYTES:
        raise FrameError("a digest has %d bytes, not %d" % (DIGEST_BYTES, len(value)))
    return value


def _read_digest(body: bytes, offset: int) -> Tuple[bytes, int]:
    return _read_exactly(body, offset, DIGEST_BYTES)


def _write_text(value: str) -> bytes:
    return _write_bytes(value.encode("utf-8"))


def _read_text(body: bytes, offset: int) -> Tuple[str, int]:
    raw, offset = _read_bytes(body, offset)
    return raw.decode("utf-8"), offset


def _write_payload(value: Payload) -> bytes:
    if isinstance(value, Stored):
        return _STORED + _write_text(value.path) + _U64.pack(value.size) + _write_digest(value.sha256)
    if len(value) > INLINE_LIMIT_BYTES:
        raise FrameError("a payload of %d bytes must be stored in a file, not sent inline" % len(value))
    return _INLINE + _write_bytes(value)


def _read_payload(body: bytes, offset: int) -> Tuple[Payload, int]:
    form, offset = _read_exactly(body, offset, 1)
    if form == _INLINE:
        inline, offset = _read_bytes(body, offset)
        if len(inline) > INLINE_LIMIT_BYTES:
            raise FrameError("an inline payload of %d bytes" % len(inline))
        return inline, offset
    if form != _STORED:
        raise FrameError("an unknown payload form: %r" % form)
    path, offset = _read_text(body, offset)
    size, offset = _read_u64(body, offset)
    sha256, offset = _read_digest(body, offset)
    return Stored(path, size, sha256), offset


def _read_u8(body: bytes, offset: int) -> Tuple[int, int]:
    return _U8.unpack_from(body, offset)[0], offset + 1


def _read_u32(body: bytes, offset: int) -> Tuple[int, int]:
    return _U32.unpack_from(body, offset)[0], offset + 4


def _read_u64(body: bytes, offset: int) -> Tuple[int, int]:
    return _U64.unpack_from(body, offset)[0], offset + 8


def _read_flag(body: bytes, offset: int) -> Tuple[bool, int]:
    value, offset = _read_u8(body, offset)
    if value > 1:
        raise FrameError("a flag of value %d" % value)
    return bool(value), offset


_WRITERS: Dict[str, Writer] = {
    "u8": _U8.pack,
    "u32": _U32.pack,
    "u64": _U64.pack,
    "flag": _U8.pack,
    "digest": _write_digest,
    "text": _write_text,
    "payload": _write_payload,
}
_READERS: Dict[str, Reader] = {
    "u8": _read_u8,
    "u32": _read_u32,
    "u64": _read_u64,
    "flag": _read_flag,
    "digest": _read_digest,
    "text": _read_text,
    "payload": _read_payload,
}
_ENCODERS = {frame: (code, [_WRITERS[kind] for kind in kinds]) for frame, (code, kinds) in _LAYOUTS.items()}
_DECODERS = {code: (frame, [_READERS[kind] for kind in kinds]) for frame, (code, kinds) in _LAYOUTS.items()}


# The two frames of every call, in one step each where their payload is inline: what the tables say, only faster.
_CALL = struct.Struct(">IBQ%dsBBI" % DIGEST_BYTES)
_DONE = struct.Struct(">IBQQBBI")
_CALL_CODE, _DONE_CODE = 2, 21
_make = tuple.__new__  # what a named tuple's own `__new__` calls, without a Python function around it


def _encode_call(frame: Call) -> bytes | None:
    attempt, function_version, flags, payload = frame
    if type(payload) is not bytes or len(payload) > INLINE_LIMIT_BYTES or len(function_version) != DIGEST_BYTES:
        return None
    size = len(payload)
    body_bytes = _CALL.size - _HEADER.size + size
    return _CALL.pack(body_bytes, _CALL_CODE, attempt, function_version, flags, 0, size) + payload


def _encode_done(frame: Done) -> bytes | None:
    attempt, run_us, printed, payload = frame
    if type(payload) is not bytes or len(payload) > INLINE_LIMIT_BYTES:
        return None
    return encode_inline_done(attempt, run_us, printed, payload)


def encode_inline_done(attempt: int, run_us: int, printed: bool, payload: bytes) -> bytes:
    """The bytes of a `Done` whose payload is within `INLINE_LIMIT_BYTES`."""
    size = len(payload)
    return _DONE.pack(_DONE.size - _HEADER.size + size, _DONE_CODE, attempt, run_us, printed, 0, size) + payload


def _decode_call(data: bytes, start: int, end: int) -> Frame | None:
    payload_start = start + _CALL.size
    if payload_start > end:
        return None
    _, _, attempt, function_version, flags, form, size = _CALL.unpack_from(data, start)
    if form or size > INLINE_LIMIT_BYTES or payload_start + size != end:
        return None
    return _make(Call, (attempt, function_version, flags, data[payload_start:end]))


def _decode_done(data: bytes, start: int, end: int) -> Frame | None:
    payload_start = start + _DONE.size
    if payload_start > end:
        return None
    _, _, attempt, run_us, printed, form, size = _DONE.unpack_from(data, start)
    if form or size > INLINE_LIMIT_BYTES or payload_start + size != end or printed > 1:
        return None
    return _make(Done, (attempt, run_us, printed == 1, data[payload_start:end]))


_COMMON_ENCODERS: Dict[Type[Any], Callable[[Any], bytes | None]] = {Call: _encode_call, Done: _encode_done}
_COMMON_DECODERS: Dict[int, Callable[[bytes, int, int], Frame | None]] = {
    _CALL_CODE: _decode_call,
    _DONE_CODE: _decode_done,
}


def encode(frame: Frame) -> bytes:
    """The bytes of a frame, header included.

    Raises:
        FrameError: a field is out of its range, or the body is over `MAX_BODY_BYTES`.
    """
    code, writers = _ENCODERS[type(frame)]
    encode_common = _COMMON_ENCODERS.get(type(frame))
    try:
        common = None if encode_common is None else encode_common(frame)
        if common is not None:
            return common
        body = b"".join([write(value) for write, value in zip(writers, frame)])  # noqa: B905 - strict= needs Python 3.10
    except (struct.error, UnicodeEncodeError) as error:
        raise FrameError("%s does not fit its frame: %s" % (type(frame).__name__, error)) from error
    if len(body) > MAX_BODY_BYTES:
        raise FrameError("%s has %d bytes, over the limit of %d" % (type(frame).__name__, len(body), MAX_BODY_BYTES))
    return _HEADER.pack(len(body), code) + body


def _decode(code: int, body: bytes) -> Frame:
    known = _DECODERS.get(code)
    if known is None:
        raise FrameError("an unknown frame type: %d" % code)
    frame_type, readers = known
    fields = []
    offset = 0
    try:
        for read in readers:
            value, offset = read(body, offset)
            fields.append(value)
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError("not a valid %s: %s" % (frame_type.__name__, error)) from error
    if offset != len(body):
        raise FrameError("%d bytes after the last field of %s" % (len(body) - offset, frame_type.__name__))
    frame: Frame = frame_type(*fields)
    return frame


class FrameDecoder:
    """Turns bytes, however they are cut, into frames. After a `FrameError` it stays unusable."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0
        self._broken = False

    def feed(self, data: bytes) -> List[Frame]:
        """Take the next bytes of the stream; return the frames that are complete, in order.

        Raises:
            FrameError: the stream is not made of frames. Frames before the fault in the same `data` are dropped.
        """
        if self._broken:
            raise FrameError("this stream was broken by an earlier frame")
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        try:
            return self._split(data)
        except FrameError:
            self._broken = True
            raise

    def _split(self, data: bytes) -> List[Frame]:
        frames: List[Frame] = []
        start, available, header_bytes = 0, len(data), _HEADER.size
        while True:
            body_start = start + header_bytes
            if body_start > available:
                self._needed = header_bytes
                break
            size, code = _HEADER.unpack_from(data, start)
            if size > MAX_BODY_BYTES:
                raise FrameError("a frame of %d bytes, over the limit of %d" % (size, MAX_BODY_BYTES))
            end = body_start + size
            if end > available:
                self._needed = header_bytes + size
                break
            decode_common = _COMMON_DECODERS.get(code)
            frame = None if decode_common is None else decode_common(data, start, end)
            frames.append(_decode(code, data[body_start:end]) if frame is None else frame)
            start = end
        if start < available:
            self._buffer += data[start:]
        return frames


def codec_tag(implementation: str, major: int, minor: int) -> str:
    """The codec of a by-value pickle: only the very same implementation and minor version may unpickle it.

    >>> codec_tag("cpython", 3, 11)
    'cloudpickle:cp311'
    """
    return "%s:%s%d%d" % (CLOUDPICKLE_CODEC, _IMPLEMENTATION_CODES.get(implementation, implementation), major, minor)
