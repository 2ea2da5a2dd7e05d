"""Hypothesis strategies for everything that travels, derived from the annotations of ``keepwarm_wire.messages``.

Nothing here lists messages or fields: a new message, or a new field of an old one, is covered by being written.
Values stay short (Hypothesis shrinks and stores them); the limits themselves are tested by ``support.wire_values``.
"""

import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from keepwarm_wire.fields import Bounds
from keepwarm_wire.messages import TAGS

__all__ = ["annotated", "frames", "message_of", "messages", "msgpack_values"]

LENGTH_MAX = 24
"""Longest text, bytes or collection that is generated where the annotation allows it."""

ENCODABLE = st.characters(exclude_categories=["Cs"])
"""Every character but lone surrogates, which are not UTF-8 and never travel."""


def _collection(element: Any, bounds: Bounds) -> st.SearchStrategy[Any]:
    return st.lists(annotated(element), min_size=bounds.low, max_size=min(bounds.high, bounds.low + 3)).map(tuple)


def _scalar(kind: Any, bounds: Bounds | None) -> st.SearchStrategy[Any]:
    if kind is bool:
        return st.booleans()
    if kind is type(None):
        return st.none()
    if bounds is None:
        raise TypeError(f"no strategy for {kind} without bounds")
    low, high = bounds
    if kind is int:
        return st.integers(low, high) | st.sampled_from([low, high])
    high = max(low, min(high, LENGTH_MAX))
    if kind is bytes:
        return st.binary(min_size=low, max_size=high)
    if kind is str:
        return st.text(ENCODABLE, min_size=low, max_size=high)
    raise TypeError(f"no strategy for {kind}")


def annotated(annotation: Any) -> st.SearchStrategy[Any]:
    """A strategy of legal values of one field's annotation. Raises ``TypeError`` for one it cannot read."""
    bounds = None
    if get_origin(annotation) is Annotated:
        annotation, bounds = get_args(annotation)
    if get_origin(annotation) is tuple:
        assert bounds is not None
        return _collection(get_args(annotation)[0], bounds)
    if get_origin(annotation) in (Union, types.UnionType):
        return st.one_of([annotated(member) for member in get_args(annotation)])
    if isinstance(annotation, type) and issubclass(annotation, tuple):
        return message_of(annotation)
    return _scalar(annotation, bounds)


def message_of(cls: type[Any]) -> st.SearchStrategy[Any]:
    """A strategy of one message or record, every field within its limits."""
    hints = get_type_hints(cls, include_extras=True)
    fields: tuple[str, ...] = cls._fields
    return st.builds(cls, **{name: annotated(hints[name]) for name in fields})


def messages() -> st.SearchStrategy[Any]:
    """A strategy of any message that has a tag."""
    return st.one_of([message_of(cls) for cls in TAGS.values()])


def frames() -> st.SearchStrategy[list[Any]]:
    """A strategy of what one frame may hold: up to six messages of any kinds."""
    return st.lists(messages(), max_size=6)


def msgpack_values(maps: bool = True) -> st.SearchStrategy[Any]:
    """A strategy of anything that MessagePack can say, whether or not it means something to the protocol.

    Without ``maps`` it keeps to what messages are made of now and later: arrays and scalars.
    """
    maps_of = st.dictionaries if maps else lambda *_, **__: st.nothing()
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | st.floats()
        | st.binary(max_size=LENGTH_MAX)
        | st.text(ENCODABLE, max_size=LENGTH_MAX)
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=12) | maps_of(st.text(ENCODABLE, max_size=3), inner, max_size=3),
        max_leaves=30,
    )
