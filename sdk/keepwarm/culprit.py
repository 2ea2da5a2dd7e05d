"""Finding what cannot be pickled inside something large, and the path that leads to it.

Rules: it only tries (`can_dump`) and looks at attributes, closures, globals and items; it never changes anything. The
search is bounded in depth and in tries: then it names the deepest thing it knows to be at fault.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple

from keepwarm.fingerprint import global_names, is_own_thing
from keepwarm.provenance import is_own_module

__all__ = ["Culprit", "find_culprit"]

DEPTH_MAX: Final = 12
TRIES_MAX: Final = 2_000


class Culprit(NamedTuple):
    """What cannot be pickled: the path to it in words, and its type's full name."""

    path: str
    type_name: str

    def __str__(self) -> str:
        return f"{self.path} (type {self.type_name})"


def find_culprit(value: object, path: str, can_dump: Callable[[object], bool]) -> Culprit:
    """Return the innermost part of `value` that cannot be dumped; `path` is how to call `value` itself."""
    tries_left = TRIES_MAX
    seen = {id(value)}
    for _ in range(DEPTH_MAX):
        for step, part in _parts(value):
            tries_left -= 1
            if id(part) in seen or tries_left < 0 or can_dump(part):
                continue
            seen.add(id(part))
            value, path = part, f"{path}{step}"
            break
        else:
            break
    named = _named(value)
    return Culprit(path, f"{named.__module__}.{named.__qualname__}".removeprefix("builtins."))


def _named(value: object) -> type | FunctionType:
    return value if isinstance(value, type | FunctionType) else type(value)


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Yield the parts of a value that its pickle would hold, each with the step that leads there."""
    if is_own_thing(value) or is_own_module(str(_named(value).__module__)):  # refused as a whole
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{_short(key)}]", item
            yield f" key {_short(key)}", key
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield f" item {_short(item)}", item
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    else:
        yield from _attributes(value)


def _parts_of_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f" -> variable {name!r}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in global_names(function.__code__):
        if name in function.__globals__:
            yield f" -> global {name!r}", function.__globals__[name]
    yield " -> defaults", function.__defaults__
    yield " -> keyword defaults", function.__kwdefaults__
    yield " -> attributes", function.__dict__
    yield " -> annotations", function.__annotations__


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    wrapped = getattr(value, "__wrapped__", None)
    if wrapped is not None:
        yield "", wrapped
    for name, item in list(getattr(value, "__dict__", {}).items()):
        if name not in ("__dict__", "__weakref__", "__wrapped__"):
            yield f".{name}", item
    if not isinstance(value, type):
        for name in getattr(type(value), "__slots__", ()):
            if isinstance(name, str) and hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."
