"""Fixed values of wire messages, derived from their annotations: an example of each, and every way to break one.

Used by the unit tests of the codec and for the golden frames. Deterministic: no randomness, no clock.
"""

import types
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from keepwarm_wire import (
    agent_messages,
    detached_messages,
    node_messages,
    operator_messages,
    security_messages,
    session_messages,
)
from keepwarm_wire import records as wire_records
from keepwarm_wire.fields import Bounds
from keepwarm_wire.messages import TAGS

__all__ = ["BadValue", "bad_values", "edge_values", "example", "records", "row_of"]

HEAVY_BYTES = 2 * 1024 * 1024
"""Values beyond a limit above this are left to a test of their own: they would dominate the running time."""

WRONG_TYPES: tuple[Any, ...] = (None, True, 1, 1.0, float("nan"), "text", b"bytes", [], {})


class BadValue(NamedTuple):
    """A value that a field must refuse, on the wire; ``why`` is *type* or *bounds*."""

    cls: type[Any]
    field: int
    value: Any
    why: str

    @property
    def label(self) -> str:
        """How the case is called in test output."""
        return f"{self.cls.__name__}.{self.cls._fields[self.field]}-{self.why}-{type(self.value).__name__}"


def records() -> list[type[Any]]:
    """Every NamedTuple that the messages are or are made of, module by module in the order of the source."""
    modules = (
        wire_records,
        session_messages,
        agent_messages,
        security_messages,
        detached_messages,
        node_messages,
        operator_messages,
    )
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "_fields") and value.__module__ == module.__name__
    ]


def _parts(annotation: Any) -> tuple[Any, Bounds | None]:
    if get_origin(annotation) is Annotated:
        inner, bounds = get_args(annotation)
        return inner, bounds
    return annotation, None


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _value(annotation: Any, seed: int) -> Any:
    kind, bounds = _parts(annotation)
    if _is_union(kind):
        members = get_args(kind)
        return _value(members[seed % len(members)], seed)
    if kind is type(None):
        return None
    if kind is bool:
        return seed % 2 == 1
    if isinstance(kind, type) and issubclass(kind, tuple):
        return example(kind, seed)
    assert bounds is not None, annotation
    if get_origin(kind) is tuple:
        return (_value(get_args(kind)[0], seed), _value(get_args(kind)[0], seed + 1))
    if kind is int:
        return min(bounds.high, bounds.low + 100 + seed)
    length = min(bounds.high, max(bounds.low, 3))
    return bytes([97 + seed % 26]) * length if kind is bytes else chr(97 + seed % 26) * length


def example(cls: type[Any], seed: int = 0) -> Any:
    """A legal message or record with every field filled; another ``seed`` gives another, and other union members."""
    hints = get_type_hints(cls, include_extras=True)
    return cls(*[_value(hints[name], seed + index) for index, name in enumerate(cls._fields)])


def row_of(message: Any) -> list[Any]:
    """A message as its row on the wire: tag, then fields."""
    tag = next(tag for tag, cls in TAGS.items() if cls is type(message))
    return [tag, *message]


def _wire_types(kind: Any) -> set[type[Any]]:
    if _is_union(kind):
        return set().union(*[_wire_types(_parts(member)[0]) for member in get_args(kind)])
    if get_origin(kind) is tuple or (isinstance(kind, type) and issubclass(kind, tuple)):
        return {list}
    return {kind}


def _sized(kind: Any, length: int) -> Any:
    if kind is int:
        return length
    if kind is bytes:
        return b"x" * length
    return "x" * length


def _beyond(kind: Any, bounds: Bounds) -> Iterator[Any]:
    """Values one step outside the limits, where such values exist."""
    if get_origin(kind) is tuple:
        return
    if bounds.low > 0 or kind is int:
        yield _sized(kind, bounds.low - 1)
    if kind is int or bounds.high < HEAVY_BYTES:
        yield _sized(kind, bounds.high + 1)


def _scalars(annotation: Any) -> Iterator[tuple[Any, Bounds]]:
    kind, bounds = _parts(annotation)
    if _is_union(kind):
        for member in get_args(kind):
            yield from _scalars(member)
    elif bounds is not None and kind in (int, bytes, str):
        yield kind, bounds


def bad_values(cls: type[Any]) -> Iterator[BadValue]:
    """Every field of ``cls`` with every wrong type, with values just outside its limits, with bad elements."""
    hints = get_type_hints(cls, include_extras=True)
    for index, name in enumerate(cls._fields):
        kind, _ = _parts(hints[name])
        legal = _wire_types(kind)
        for value in WRONG_TYPES:
            if type(value) not in legal:
                yield BadValue(cls, index, value, "type")
        for scalar, bounds in _scalars(hints[name]):
            for value in _beyond(scalar, bounds):
                yield BadValue(cls, index, value, "bounds")
        if get_origin(kind) is tuple:
            for inner in _wire_values_of_bad_elements(get_args(kind)[0]):
                yield BadValue(cls, index, [inner], "element")


def _wire_values_of_bad_elements(element: Any) -> Iterator[Any]:
    kind, bounds = _parts(element)
    yield from (value for value in WRONG_TYPES if type(value) not in _wire_types(kind))
    if bounds is not None:
        yield from _beyond(kind, bounds)
    elif isinstance(kind, type) and issubclass(kind, tuple):
        for bad in bad_values(kind):
            fields = list(example(kind))
            fields[bad.field] = bad.value
            yield fields


def edge_values(cls: type[Any]) -> Iterator[tuple[int, Any]]:
    """Index and value of every field of ``cls`` exactly at each of its limits: all must be taken."""
    hints = get_type_hints(cls, include_extras=True)
    for index, name in enumerate(cls._fields):
        for kind, bounds in _scalars(hints[name]):
            yield index, _sized(kind, bounds.low)
            if kind is int or bounds.high < HEAVY_BYTES:
                yield index, _sized(kind, bounds.high)
