"""The search for what cannot be pickled: every kind of path, and its bounds."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

from keepwarm.culprit import DEPTH_MAX, find_culprit

BAD = threading.Lock()


class Plain:
    """Holds something in its dictionary."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def method(self) -> Any:
        """Be bound."""
        return self.part


class Slotted:
    """Holds something in a slot."""

    __slots__ = ("part", "unset")

    def __init__(self, part: Any) -> None:
        self.part = part


class WithClassAttribute:
    """Holds something as a class."""

    part = BAD


class Unprintable:
    """Cannot even be shown, as a key."""

    def __repr__(self) -> str:
        raise ValueError


def uses_global() -> Any:
    """Refer to the culprit."""
    return BAD


def make_closure(part: Any) -> Any:
    """Capture the culprit, beside a variable that has no value yet."""

    def closure() -> Any:
        return part, unset

    if part is None:
        unset = 1
    return closure


def make_default(part: Any = BAD) -> Any:
    """Have it as a default."""
    return part


def holds_bad(value: Any) -> bool:
    """Tell whether a value can be dumped, without a pickler: whether no culprit is in its text."""
    seen: list[Any] = []

    def walk(part: Any) -> bool:
        if part is BAD:
            return True
        if any(part is other for other in seen):
            return False
        seen.append(part)
        from keepwarm.culprit import _parts

        return any(walk(inner) for _, inner in _parts(part))

    return not walk(value)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (BAD, "x"),
        ([1, BAD], "x[1]"),
        ((BAD,), "x[0]"),
        ({"a": {"b": [0, BAD]}}, "x['a']['b'][1]"),
        ({BAD: 1}, "x key <unlocked _thread.lock"),
        ({"k" * 100: BAD}, "x['kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk...]"),
        ({Unprintable(): BAD}, "x[<Unprintable>]"),
        ({BAD}, "x item <unlocked"),
        (Plain([BAD]), "x.part[0]"),
        (Plain(BAD).method, "x.__self__.part"),
        (Slotted(BAD), "x.part"),
        (WithClassAttribute, "x.part"),
        (uses_global, "x -> global 'BAD'"),
        (make_closure([BAD]), "x -> variable 'part'[0]"),
        (make_default, "x -> defaults[0]"),
        (functools.partial(make_default, 1), "x.func -> defaults[0]"),
        (functools.lru_cache(uses_global), "x -> global 'BAD'"),
    ],
)
def test_paths(value: Any, path: str) -> None:
    """The path reads like the code that would reach the culprit; the type is named in full."""
    culprit = find_culprit(value, "x", holds_bad)
    assert culprit.path.startswith(path)
    assert culprit.type_name == "_thread.lock"
    assert str(culprit) == f"{culprit.path} (type _thread.lock)"


def test_what_fails_as_a_whole_is_itself() -> None:
    """When every part is fine alone, the whole is named."""
    culprit = find_culprit([1, 2], "x", lambda value: not isinstance(value, list))
    assert str(culprit) == "x (type list)"


def test_bounds() -> None:
    """Neither a cycle, nor depth, nor width makes it run long: it names what it knows by then."""
    cycle: list[Any] = []
    cycle.append(cycle)
    assert find_culprit(cycle, "x", lambda value: False).path == "x"
    deep: Any = BAD
    for _ in range(100):
        deep = [deep]
    assert find_culprit(deep, "x", lambda value: value is None).path == "x" + "[0]" * DEPTH_MAX
    tries: list[Any] = []
    find_culprit(list(range(100_000)), "x", lambda value: not tries.append(value))  # type: ignore[func-returns-value]
    assert len(tries) <= 2_001
