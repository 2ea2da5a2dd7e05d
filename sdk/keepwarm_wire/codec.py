"""Bytes to messages and back: the one place where anything from the network is decoded.

A frame is one MessagePack array of messages, each the array ``[tag, field, ...]``. Every field of every message
is checked against its annotation (type, range, length, nesting; ``schemas`` does that), so that the code behind can
trust what it gets. Whatever the bytes, ``decode_frame`` either returns messages or raises ``ProtocolError``: nothing
else.
"""

from collections.abc import Sequence
from typing import Any, cast

import msgpack

from keepwarm_wire.fields import DOCUMENT_BYTES_MAX
from keepwarm_wire.messages import TAGS, Message
from keepwarm_wire.schemas import Decoder, ProtocolError, schema_of

__all__ = [
    "FRAME_BYTES_MAX",
    "FRAME_BYTES_SOFT",
    "ProtocolError",
    "decode_frame",
    "decode_rows",
    "encode_frame",
    "encode_frames",
    "read_rows",
]

FRAME_BYTES_MAX = DOCUMENT_BYTES_MAX + 2 * 1024 * 1024
"""Largest frame that is read. The sockets are told the same, so more never enters memory."""

FRAME_BYTES_SOFT = 1024 * 1024
"""``encode_frames`` begins a new frame once one has reached this size."""

MESSAGES_PER_FRAME_MAX = 100_000


class _Decoders(dict[Any, Decoder]):
    """Schemas by tag, compiled when first needed: a client never pays for an agent's messages."""

    def __missing__(self, tag: Any) -> Decoder:
        cls = TAGS.get(tag)
        if cls is None:
            raise ProtocolError(f"unknown message tag {tag}")
        decoder = self[tag] = schema_of(cls, tagged=True)
        return decoder


_DECODERS = _Decoders()
_TAG_OF = {cls: tag for tag, cls in TAGS.items()}


def encode_frame(messages: Sequence[Message]) -> bytes:
    """Encode messages as one frame. Raises ``KeyError`` for anything that is not a message."""
    tag_of = _TAG_OF
    return cast(bytes, msgpack.packb([(tag_of[type(message)], *message) for message in messages]))


def encode_frames(messages: Sequence[Message]) -> list[bytes]:
    """Encode messages as few frames of about ``FRAME_BYTES_SOFT`` or less, in order."""
    frame = encode_frame(messages)
    if len(messages) <= 1 or (len(frame) <= FRAME_BYTES_SOFT and len(messages) <= MESSAGES_PER_FRAME_MAX):
        return [frame]
    middle = len(messages) // 2
    return encode_frames(messages[:middle]) + encode_frames(messages[middle:])


def _no_tag(tag: object) -> int:
    raise ProtocolError(f"a tag is an integer, not {type(tag).__name__}")


def _no_map(_: object) -> None:
    # Refused while unpacking: a byte of empty maps would become eighty bytes of memory.
    raise ValueError("no message holds a map")


def decode_frame(frame: bytes) -> list[Message]:
    """Decode one frame and check every field. Raises ``ProtocolError`` for any bytes that break the rules.

    >>> from keepwarm_wire.messages import Cancel
    >>> decode_frame(encode_frame([Cancel(7)]))
    [Cancel(call_number=7)]
    """
    return decode_rows(read_rows(frame))


def read_rows(frame: bytes) -> tuple[Any, ...]:
    """The messages of a frame, unchecked: pass all of them to ``decode_rows``, a part at a time perhaps.

    Raises ``ProtocolError`` for a frame that is not even an array.
    """
    if len(frame) > FRAME_BYTES_MAX:
        raise ProtocolError(f"frame of {len(frame)} bytes, at most {FRAME_BYTES_MAX} are read")
    try:
        rows = msgpack.unpackb(frame, use_list=False, max_ext_len=0, object_pairs_hook=_no_map)
    except Exception as error:
        # msgpack raises its own errors, ValueError, UnicodeDecodeError, RecursionError, OverflowError, TypeError...
        raise ProtocolError(f"not MessagePack: {type(error).__name__}") from None
    if type(rows) is not tuple or len(rows) > MESSAGES_PER_FRAME_MAX:
        raise ProtocolError("a frame is an array of messages")
    return rows


def decode_rows(rows: Sequence[Any]) -> list[Message]:
    """Decode a part of what ``read_rows`` returned. Raises ``ProtocolError`` for any that break the rules."""
    decoders = _DECODERS
    try:
        return [decoders[row[0] if type(row[0]) is int else _no_tag(row[0])](row) for row in rows]
    except (TypeError, IndexError, KeyError):
        # A row that is no array, an empty one, or one whose tag cannot be a tag (an array, a map).
        raise ProtocolError("a message is an array that begins with its tag") from None
