"""The decorator: bare and with options, and what it refuses to decorate."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from keepwarm import Resources, Retry, Timeouts, isolated
from keepwarm.errors import OptionError
from keepwarm.function import IsolatedFunction
from keepwarm.options import Options


def plain(number: int) -> int:
    """Be decorated."""
    return number


def generate() -> Iterator[int]:
    """Be refused."""
    yield 1


async def generate_async() -> AsyncIterator[int]:
    """Be refused."""
    yield 1


class Thing:
    """Be refused."""


def test_bare_and_called_are_the_same() -> None:
    """`@isolated` is `@isolated()`."""
    assert isolated(plain).options == isolated()(plain).options == Options()


def test_every_option_arrives() -> None:
    """All ten options of the docstring exist and are kept."""
    function = isolated(
        requirements=["six"],
        python=None,
        keep_alive=math.inf,
        timeout=Timeouts(run=5),
        retries=Retry(lost_node=0),
        resources=Resources(cpu=2),
        env_vars={"A": "1"},
        setup=lambda: 3,
        priority=5,
        at_most_once=True,
    )(plain)
    assert function.options.keep_alive == math.inf
    assert function.options.env_vars == {"A": "1"}
    assert set(function.options.differing()) == set(Options.__dataclass_fields__) - {"python"}
    assert all(f"\n    {option}: " in (isolated.__doc__ or "") for option in Options.__dataclass_fields__)


def test_mistakes_are_found_at_decoration() -> None:
    """Before any function is there, even."""
    with pytest.raises(OptionError, match="keep_alive=-1"):
        isolated(keep_alive=-1)
    with pytest.raises(OptionError, match="Did you mean requirements"):
        isolated(requirement=["six"])  # type: ignore[call-overload]


def test_it_catches_as_type_and_value_error() -> None:
    """The error is what Python programs expect of a bad argument."""
    for expected in (TypeError, ValueError):
        with pytest.raises(expected):
            isolated(keep_alive=math.nan)


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (generate, "it is a generator; return a list"),
        (generate_async, "it is an async generator"),
        (Thing, "it is a class"),
        (staticmethod(plain), "below @staticmethod"),
        (classmethod(lambda cls: cls), "below @staticmethod"),
        (isolated(plain), r"\.on\("),
        (60, "options are given by name"),
        ("requests", "options are given by name"),
    ],
)
def test_what_cannot_run_remotely_is_refused(wrong: Any, advice: str) -> None:
    """Bare or with options, with what to write instead."""
    with pytest.raises(OptionError, match=advice):
        isolated(wrong)
    with pytest.raises(OptionError, match=advice):
        isolated(keep_alive=1)(wrong)


def test_options_beside_the_function_are_refused() -> None:
    """`isolated(f, keep_alive=1)` is neither form."""
    with pytest.raises(OptionError, match="above the function"):
        isolated(plain, keep_alive=1)  # type: ignore[call-overload]


def test_other_callables() -> None:
    """Lambdas, partials, builtins and callable objects can be isolated."""
    for function in (lambda number: number, functools.partial(plain), abs):
        made = isolated(function)
        assert isinstance(made, IsolatedFunction)
        assert made.local(3) == 3
        assert ":" in made.name
        assert len(made.prepared.version) == 32


def test_setup_needs_a_parameter_for_its_value() -> None:
    """A function without parameters cannot receive it; one with only *args can."""
    with pytest.raises(OptionError, match="first parameter receives the setup's value"):
        isolated(setup=lambda: 1)(lambda: 2)  # type: ignore[misc, arg-type]
    assert isolated(setup=lambda: 1)(lambda *args: args).local(2) == (1, 2)
