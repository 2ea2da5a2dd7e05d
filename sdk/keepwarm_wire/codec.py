"""Bytes to messages and back: the one place where anything from the network is decoded.

A frame is one MessagePack array of messages, each the array ``[tag, field, ...]``. Every field of every message
is checked here against its annotation (type, range, length, nesting), so that the code behind can trust what it
gets. Whatever the bytes, ``decode_frame`` either returns messages or raises ``ProtocolError``: nothing else.

How the checks stay cheap: a message's schema is compiled once into a tuple of exact types, compared against the
types of the row in one step; bounds are then checked by index. Rows whose types differ (an optional or a union
field) take a slower path with the same rules.
"""

import types
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple, Union, cast, get_args, get_origin, get_type_hints

import msgpack

from keepwarm_wire.fields import DOCUMENT_BYTES_MAX, Bounds
from keepwarm_wire.messages import TAGS, Message

__all__ = ["FRAME_BYTES_MAX", "FRAME_BYTES_SOFT", "ProtocolError", "decode_frame", "encode_frame", "encode_frames"]

FRAME_BYTES_MAX = DOCUMENT_BYTES_MAX + 2 * 1024 * 1024
"""Largest frame that is read. The sockets are told the same, so more never enters memory."""

FRAME_BYTES_SOFT = 1024 * 1024
"""``encode_frames`` begins a new frame once one has reached this size."""

MESSAGES_PER_FRAME_MAX = 100_000


class ProtocolError(Exception):
    """A peer sent bytes that are no message of this protocol. The message says which rule was broken."""


class _Record(NamedTuple):
    """A compiled schema. ``slow`` holds, for every field, its full check; ``nested`` those that must convert."""

    cls: type[Any]
    required: int
    width: int
    types: tuple[type[Any], ...]
    bounds: tuple[tuple[int, int, int], ...]
    lengths: tuple[tuple[int, int, int], ...]
    nested: tuple[tuple[int, Callable[[Any], Any]], ...]
    slow: tuple[Callable[[Any], Any], ...]
    defaults: tuple[Any, ...]


def _fail(where: str, value: object) -> ProtocolError:
    return ProtocolError(f"{where}: unexpected {type(value).__name__}")


def _scalar(kind: type[Any], bounds: Bounds | None) -> Callable[[Any], Any]:
    sized = kind in (bytes, str)

    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise _fail(kind.__name__, value)
        if bounds is not None and not bounds.low <= (len(value) if sized else value) <= bounds.high:
            raise ProtocolError(f"{kind.__name__} outside {bounds.low} to {bounds.high}")
        return value

    return check


def _collection(element: Callable[[Any], Any], bounds: Bounds) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is not tuple:
            raise _fail("array", value)
        if not bounds.low <= len(value) <= bounds.high:
            raise ProtocolError(f"array longer than {bounds.high}")
        return tuple([element(item) for item in value])

    return check


def _union(choices: dict[type[Any], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        choice = choices.get(type(value))
        if choice is None:
            raise _fail("union", value)
        return choice(value)

    return check


class _Field(NamedTuple):
    """One compiled annotation: the type it has on the wire in the common case, and its full check."""

    wire_type: type[Any]
    bounds: Bounds | None
    check: Callable[[Any], Any]
    converts: bool


def _field(annotation: Any) -> _Field:
    bounds: Bounds | None = None
    if get_origin(annotation) is Annotated:
        annotation, bounds = get_args(annotation)
    origin = get_origin(annotation)
    if origin is tuple:
        element = _field(get_args(annotation)[0])
        if bounds is None:
            raise TypeError(f"{annotation} needs bounds")
        return _Field(tuple, None, _collection(element.check, bounds), True)
    if origin in (Union, types.UnionType):
        members = [_field(member) for member in get_args(annotation)]
        choices = {member.wire_type: member.check for member in members}
        return _Field(members[0].wire_type, members[0].bounds, _union(choices), members[0].converts)
    if annotation is type(None):
        return _Field(type(None), None, lambda value: value, False)
    if issubclass(annotation, tuple):
        record = _compile(annotation)
        return _Field(tuple, None, lambda value: _convert(record, value, 0), True)
    return _Field(annotation, bounds, _scalar(annotation, bounds), False)


def _compile(cls: type[Any]) -> _Record:
    hints = get_type_hints(cls, include_extras=True)
    names = cls._fields
    fields = [_field(hints[name]) for name in names]
    plain = [(index, field) for index, field in enumerate(fields) if field.bounds is not None]
    ranges = [(i, f.bounds.low, f.bounds.high) for i, f in plain if f.bounds and f.wire_type is int]
    lengths = [(i, f.bounds.low, f.bounds.high) for i, f in plain if f.bounds and f.wire_type in (bytes, str)]
    defaults = cls._field_defaults
    return _Record(
        cls=cls,
        required=len(names) - len(defaults),
        width=len(names),
        types=tuple(field.wire_type for field in fields),
        bounds=tuple(ranges),
        lengths=tuple(lengths),
        nested=tuple((index, field.check) for index, field in enumerate(fields) if field.converts),
        slow=tuple(field.check for field in fields),
        defaults=tuple(defaults.get(name) for name in names),
    )


def _convert(record: _Record, row: Any, skip: int) -> Any:
    """Check one row, whose first ``skip`` items are not fields, and make its NamedTuple."""
    if type(row) is not tuple:
        raise _fail(record.cls.__name__, row)
    width = record.width
    values = row[skip : width + skip]
    if len(values) < width:
        if len(values) < record.required:
            raise ProtocolError(f"{record.cls.__name__}: {len(values)} fields, needs {record.required}")
        values += record.defaults[len(values) :]
        return _convert_slowly(record, values)
    if tuple(map(type, values)) != record.types:
        return _convert_slowly(record, values)
    for index, low, high in record.bounds:
        if not low <= values[index] <= high:
            raise _out_of_bounds(record, index, low, high)
    for index, low, high in record.lengths:
        if not low <= len(values[index]) <= high:
            raise _out_of_bounds(record, index, low, high)
    if record.nested:
        changed = list(values)
        for index, check in record.nested:
            changed[index] = check(changed[index])
        return tuple.__new__(record.cls, changed)
    return tuple.__new__(record.cls, values)


def _convert_slowly(record: _Record, values: Iterable[Any]) -> Any:
    try:
        return tuple.__new__(record.cls, [check(value) for check, value in zip(record.slow, values, strict=True)])
    except ProtocolError as error:
        raise ProtocolError(f"{record.cls.__name__}: {error}") from None


def _out_of_bounds(record: _Record, index: int, low: int, high: int) -> ProtocolError:
    return ProtocolError(f"{record.cls.__name__}.{record.cls._fields[index]} is outside {low} to {high}")


class _Records(dict[Any, _Record]):
    """Schemas by tag, compiled when first needed: a client never pays for an agent's messages."""

    def __missing__(self, tag: Any) -> _Record:
        cls = TAGS.get(tag)
        if cls is None:
            raise ProtocolError(f"unknown message tag {tag}")
        record = self[tag] = _compile(cls)
        return record


_RECORDS = _Records()
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
    if len(frame) > FRAME_BYTES_MAX:
        raise ProtocolError(f"frame of {len(frame)} bytes, at most {FRAME_BYTES_MAX} are read")
    try:
        rows = msgpack.unpackb(frame, use_list=False, max_ext_len=0, object_pairs_hook=_no_map)
    except Exception as error:
        # msgpack raises its own errors, ValueError, UnicodeDecodeError, RecursionError, OverflowError, TypeError...
        raise ProtocolError(f"not MessagePack: {type(error).__name__}") from None
    if type(rows) is not tuple or len(rows) > MESSAGES_PER_FRAME_MAX:
        raise ProtocolError("a frame is an array of messages")
    records = _RECORDS
    try:
        return [_convert(records[row[0] if type(row[0]) is int else _no_tag(row[0])], row, 1) for row in rows]
    except (TypeError, IndexError, KeyError):
        # A row that is no array, an empty one, or one whose tag cannot be a tag (an array, a map).
        raise ProtocolError("a message is an array that begins with its tag") from None
