"""Decorated functions inside other functions: plain ones that give what their decorated selves give."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import pickletools
from typing import Any

import pytest

from keepwarm import isolated
from keepwarm.function import IsolatedFunction
from keepwarm.plain_functions import plain_attributes, plain_function
from support.loopback import LoopbackClient

color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


@pytest.fixture
def client(loopback: LoopbackClient) -> LoopbackClient:
    return loopback


@isolated
async def later(number: int) -> int:
    """Be async."""
    await asyncio.sleep(0)
    if number < 0:
        raise ValueError(number)
    return number + 1


@isolated(setup=lambda: 10)
async def later_with_setup(ten: int, number: int) -> int:
    """Be async, with a setup."""
    await asyncio.sleep(0)
    return ten + number


@isolated
def square(number: int) -> int:
    """Be plain."""
    return number * number


@isolated
def uses_async(number: int) -> tuple[int, int]:
    """Call async functions as they are called outside."""
    return later(number), later_with_setup(number)


@isolated
async def uses_async_in_a_loop(number: int) -> tuple[int, int]:
    """The same while a loop runs in this very thread."""
    await asyncio.sleep(0)
    return later(number), later_with_setup(number)


@isolated
def countdown(number: int) -> int:
    """Call itself, in both ways."""
    return number if number < 1 else countdown(number - 1) if number % 2 else countdown.local(number - 1)


@isolated
def tries(name: str, number: int) -> Any:
    """Use an attribute of another decorated function."""
    return getattr(square, name)(number)


@isolated
def stays_local(number: int) -> tuple[int, int, int]:
    """Run others here, in the words of the program outside."""
    return square.local(number), later.local(number), later_with_setup.local(number)


def test_async_functions_give_their_values_inside_others(client: LoopbackClient) -> None:
    assert uses_async(1) == (2, 11)
    assert uses_async_in_a_loop(1) == (2, 11)
    with pytest.raises(ValueError, match="-1"):
        uses_async(-1)
    with pytest.raises(ValueError, match="-1"):
        uses_async_in_a_loop(-1)


def test_recursion_by_both_names(client: LoopbackClient) -> None:
    assert countdown(6) == 0


def test_what_needs_the_cluster_says_what_to_do_instead(client: LoopbackClient) -> None:
    for name in ("submit", "map", "spawn", "spawn_map", "detached", "on"):
        with pytest.raises(RuntimeError, match=r"test_plain_functions:square is the plain function: call it directly"):
            tries(name, 2)
    assert tries("local", 3) == 9


def test_local_works(client: LoopbackClient) -> None:
    assert stays_local(3) == (9, 4, 13)


def test_the_users_own_function_stays_as_it_is() -> None:
    """Its attributes are set where it is plain, not here; one that it has already is its own."""

    def odd() -> int:
        return 1

    odd.submit = "mine"  # type: ignore[attr-defined]
    decorated = isolated(odd)
    decorated.__reduce__()
    assert vars(odd) == {"submit": "mine"}
    assert "submit" not in plain_attributes(odd, "m:odd")
    assert set(plain_attributes(odd, "m:odd")) == {"local", "map", "spawn", "spawn_map", "detached", "on"}


def test_what_travels_by_name_is_left_alone(client: LoopbackClient) -> None:
    assert plain_attributes(len, "builtins:len") == {}
    assert plain_attributes(pickletools.genops, "pickletools:genops") == {}
    power: Any = isolated(pow)

    @isolated
    def look(number: int) -> object:
        return power(number, 2)

    assert look(3) == 9


def test_a_loop_in_the_thread_passes_its_context_on() -> None:
    async def colored() -> str:
        return color.get()

    inner = plain_function(colored, None)

    async def outer() -> Any:
        color.set("red")
        return inner()

    assert asyncio.run(outer()) == "red"


@pytest.mark.parametrize("function", [uses_async, countdown, tries, stays_local, later_with_setup])
def test_nothing_of_keepwarm_travels(function: IsolatedFunction[Any, Any]) -> None:
    texts = [text for _, text, _ in pickletools.genops(function.prepared.payload) if isinstance(text, str)]
    assert [text for text in texts if text.partition(".")[0].startswith("keepwarm")] == []
    assert [text for text in texts if text.endswith("keepwarm/plain_functions.py")] == []


def test_the_pickle_grows_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the attributes of functions add that another one refers to: the first, and each further one."""
    others = [isolated(_numbered(number)) for number in range(9)]
    first = others[:1]

    def sizes() -> tuple[int, int]:
        functions = (isolated(lambda: first), isolated(lambda: others))
        one, nine = (len(function.prepared.payload) for function in functions)
        return one, nine

    with_attributes = sizes()
    monkeypatch.setattr("keepwarm.function.plain_attributes", lambda plain, name: {})
    without = sizes()
    assert with_attributes[0] - without[0] < 1_000
    assert (with_attributes[1] - with_attributes[0]) - (without[1] - without[0]) < 8 * 250


def _numbered(number: int) -> Any:
    def numbered() -> int:
        return number

    return numbered


def test_it_is_itself_again_when_it_is_pickled_twice(client: LoopbackClient) -> None:
    plain, _ = pickle.loads(tries.prepared.payload)
    inner = plain.__globals__["square"]
    assert inner.local is inner
    assert inner(4) == inner.local(4) == 16
