"""Schemas: how a row of a decoded frame becomes the NamedTuple that it stands for, every field checked.

Owns: reading the annotations of a message class, and the two ways of checking a row by them. ``schema_of`` compiles a
class, once, into a function of the row. What such a function returns has every field within its limits (type, range,
length, nesting), and for any other row it raises ``ProtocolError``, nothing else.

How that stays cheap: for each class a function is written out in Python that tests all fields of the common row (every
field there, and of its common type) in one expression. Rows for which that expression does not hold, be it for a field
that is absent, optional or wrong, take the slow way, which alone says what is refused and why. So the expression may
hold for fewer rows than are legal, never for more.

Only the annotations of our own classes are ever written into such a function: nothing that a peer sent.
"""

import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from keepwarm_wire.fields import Bounds

__all__ = ["Decoder", "ProtocolError", "schema_of"]

Decoder = Callable[[Any], Any]
"""Gives the checked form of what was unpacked from a frame, or raises ``ProtocolError``."""

SIZED = (bytes, str)


class ProtocolError(Exception):
    """A peer sent bytes that are no message of this protocol. The message says which rule was broken."""


class _Field(NamedTuple):
    """One compiled annotation: its full check, and what is known of it in the common case.

    Of the common type ``wire_type``, with ``bounds`` kept, the value needs only ``convert``, where that is not None.
    """

    check: Decoder
    wire_type: type[Any]
    bounds: Bounds | None
    convert: Decoder | None


def schema_of(cls: type[Any], *, tagged: bool) -> Decoder:
    """Compile a class of messages or records. The rows of messages begin with their tag: they are ``tagged``."""
    hints = get_type_hints(cls, include_extras=True)
    fields = {name: _field(hints[name]) for name in cls._fields}
    slowly = _slow_decoder(cls, fields, 1 if tagged else 0)
    return _fast_decoder(cls, list(fields.values()), slowly, tagged=tagged)


# ---------------------------------------------------------------- whole rows


def _slow_decoder(cls: type[Any], fields: dict[str, _Field], skip: int) -> Decoder:
    """The rules: fields of a newer peer are ignored, absent ones get their defaults, each one is checked."""
    defaults = cls._field_defaults
    required = len(fields) - len(defaults)
    absent = tuple(defaults.get(name) for name in fields)
    checks = tuple((name, field.check) for name, field in fields.items())

    def decode(row: Any) -> Any:
        if type(row) is not tuple:
            raise ProtocolError(f"{cls.__name__}: unexpected {type(row).__name__}")
        values = row[skip : len(checks) + skip]
        if len(values) < required:
            raise ProtocolError(f"{cls.__name__}: {len(values)} fields, needs {required}")
        values += absent[len(values) :]
        checked = []
        for (name, check), value in zip(checks, values, strict=True):
            try:
                checked.append(check(value))
            except ProtocolError as error:
                raise ProtocolError(_placed(cls.__name__, name, str(error))) from None
        return tuple.__new__(cls, checked)

    return decode


def _placed(cls: str, field: str, text: str) -> str:
    """A refusal with its place. That of a nested record names its own place first, as ``Failure.kind is ...``."""
    return f"{cls}: {text}" if text[0].isupper() else f"{cls}.{field} {text}"


def _fast_decoder(cls: type[Any], fields: list[_Field], slowly: Decoder, *, tagged: bool) -> Decoder:
    """A function that takes the common row by one test, and leaves all others to ``slowly``."""
    names = [f"f{index}" for index in range(len(fields))]
    row = ["_", *names] if tagged else names
    tests = [f"type(row) is tuple and len(row) == {len(row)}"]
    parts = []
    scope: dict[str, Any] = {"cls": cls, "new": tuple.__new__, "slowly": slowly}
    for name, field in zip(names, fields, strict=True):
        tests += _tests(name, field)
        parts.append(name if field.convert is None else f"{name}_convert({name})")
        scope[f"{name}_convert"] = field.convert
    source = f"""
def decode(row):
    if {tests[0]}:
        {", ".join(row)}, = row
        if {" and ".join(tests[1:])}:
            return new(cls, ({", ".join(parts)},))
    return slowly(row)
"""
    exec(compile(source, f"<decoder of {cls.__name__}>", "exec"), scope)  # noqa: S102  # our own annotations only
    decode: Decoder = scope["decode"]
    return decode


def _tests(name: str, field: _Field) -> Iterator[str]:
    """What must hold of a field in the common row, as Python."""
    if field.wire_type is type(None):
        yield f"{name} is None"
        return
    yield f"type({name}) is {field.wire_type.__name__}"
    if field.bounds is not None:
        low, high = field.bounds
        measure = name if field.wire_type is int else f"len({name})"
        yield f"{low} <= {measure} <= {high}"


# ---------------------------------------------------------------- single fields


def _field(annotation: Any) -> _Field:
    bounds: Bounds | None = None
    if get_origin(annotation) is Annotated:
        annotation, bounds = get_args(annotation)
    origin = get_origin(annotation)
    if origin is tuple:
        if bounds is None:
            raise TypeError(f"{annotation} needs bounds")
        check = _collection(_field(get_args(annotation)[0]), bounds)
        return _Field(check, tuple, None, check)
    if origin in (Union, types.UnionType):
        members = [_field(member) for member in get_args(annotation)]
        return members[0]._replace(check=_union({member.wire_type: member.check for member in members}))
    if annotation is type(None):
        return _Field(lambda value: value, annotation, None, None)
    if issubclass(annotation, tuple):
        decode = schema_of(annotation, tagged=False)
        return _Field(decode, tuple, None, decode)
    return _Field(_scalar(annotation, bounds), annotation, bounds, None)


def _scalar(kind: type[Any], bounds: Bounds | None) -> Decoder:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise ProtocolError(f"is no {kind.__name__} but {type(value).__name__}")
        if bounds is not None and not bounds.low <= (len(value) if kind in SIZED else value) <= bounds.high:
            raise ProtocolError(f"is outside {bounds.low} to {bounds.high}")
        return value

    return check


def _collection(element: _Field, bounds: Bounds) -> Decoder:
    """A check of arrays. Long ones of integers, such as acknowledgements, are compared as a whole first."""
    decode = element.check
    numbers = element.bounds if element.wire_type is int else None

    def check(value: Any) -> Any:
        if type(value) is not tuple:
            raise ProtocolError(f"is no array but {type(value).__name__}")
        if not bounds.low <= len(value) <= bounds.high:
            wrong = f"shorter than {bounds.low}" if len(value) < bounds.low else f"longer than {bounds.high}"
            raise ProtocolError(f"is an array {wrong}")
        if (
            numbers is not None
            and set(map(type, value)) == {int}
            and min(value) >= numbers.low
            and max(value) <= numbers.high
        ):
            return value
        return tuple(map(decode, value))

    return check


def _union(choices: dict[type[Any], Decoder]) -> Decoder:
    def check(value: Any) -> Any:
        choice = choices.get(type(value))
        if choice is None:
            raise ProtocolError(f"is {type(value).__name__}, which is none of its types")
        return choice(value)

    return check
