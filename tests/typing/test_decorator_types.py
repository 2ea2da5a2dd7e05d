"""What type checkers see of the decorator: assert_type for what is right, mypy on snippets for what must fail."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import pytest
from mypy import api

from keepwarm import DetachedCall, Future, Resources, isolated
from keepwarm.function import IsolatedFunction


class Model:
    """What a setup makes."""


def load() -> Model:
    """Be a setup."""
    return Model()


@isolated
def bare(number: int, *, text: str = "") -> bytes:
    """Be decorated bare."""
    return b""


@isolated(keep_alive=10, requirements=["six"], resources=Resources(cpu=2))
def with_options(number: int) -> bytes:
    """Be decorated with options."""
    return b""


@isolated
async def asynchronous(number: int) -> bytes:
    """Be awaited remotely."""
    return b""


@isolated(timeout=3)
async def asynchronous_with_options(number: int) -> bytes:
    """Be awaited remotely."""
    return b""


@isolated(setup=load)
def with_setup(model: Model, number: int) -> bytes:
    """Receive the setup's value."""
    return b""


@isolated(setup=load, keep_alive=3)
async def asynchronous_with_setup(model: Model, number: int) -> bytes:
    """Receive the setup's value, and be awaited remotely."""
    return b""


def calls() -> Iterator[object]:
    """Never run: what the checker says of each form is the test."""
    assert_type(bare(1, text=""), bytes)
    assert_type(bare.submit(1), Future[bytes])
    assert_type(bare.submit(1).result(), bytes)
    assert_type(bare.spawn(1, text=""), DetachedCall[bytes])
    assert_type(bare.spawn(1).result(), bytes)
    assert_type(bare.spawn(1).future(), Future[bytes])
    assert_type(bare.spawn_map([1]), list[DetachedCall[bytes]])
    assert_type(with_setup.detached(key="k", result_ttl=60).spawn(1), DetachedCall[bytes])
    assert_type(bare.local(1), bytes)
    assert_type(next(bare.map([1])), bytes)
    assert_type(bare.on(keep_alive=1)(1), bytes)
    assert_type(with_options(1), bytes)
    assert_type(asynchronous(1), bytes)
    assert_type(asynchronous_with_options(1), bytes)
    assert_type(with_setup(1), bytes)
    assert_type(with_setup.submit(1), Future[bytes])
    assert_type(asynchronous_with_setup(1), bytes)
    assert_type(isolated(lambda: 1)(), int)
    yield bare


async def awaits() -> None:
    """Never run either."""
    assert_type(await bare.submit(1), bytes)
    assert_type(await asynchronous.spawn(1), bytes)


def test_the_forms_above_are_isolated_functions() -> None:
    """At run time they are what they look like."""
    assert isinstance(next(iter([bare])), IsolatedFunction)
    assert with_setup.local(1) == b""


WRONG = {
    "bare('1')": "arg-type",
    "bare()": "call-arg",
    "bare(1, txt='')": "call-arg",
    "bare.submit('1')": "arg-type",
    "bare.local(b'')": "arg-type",
    "bare.spawn('1')": "arg-type",
    "bare.spawn(1, key='k')": "call-arg",
    "bare.detached(key=1)": "arg-type",
    "bare.detached(key='k').spawn()": "call-arg",
    "x: str = bare(1)": "assignment",
    "y: Future[str] = bare.submit(1)": "assignment",
    "with_setup(Model(), 1)": "call-arg",
    "with_setup('1')": "arg-type",
    "isolated(keepalive=1)": "call-overload",
    "isolated(keep_alive='1')": "call-overload",
    "isolated(priority='high')": "call-overload",
    "bare.on(keepalive=1)": "call-arg",
    "bare.on(keep_alive='1')": "arg-type",
    "isolated(setup=load)(lambda: b'')": "misc",
    "isolated(setup=str)(bare_with_model)": "arg-type",
}
PRELUDE = """
from keepwarm import Future, isolated
class Model: ...
def load() -> Model: return Model()
@isolated
def bare(number: int, *, text: str = "") -> bytes: return b""
@isolated(setup=load)
def with_setup(model: Model, number: int) -> bytes: return b""
def bare_with_model(model: Model) -> bytes: return b""
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Run mypy once on all wrong lines; return its words by line, counted from the first of them."""
    folder = tmp_path_factory.mktemp("typing")
    snippet = folder / "snippet.py"
    prelude = textwrap.dedent(PRELUDE).strip().split("\n")
    snippet.write_text("\n".join([*prelude, *WRONG, ""]))
    root = Path(__file__).parents[2]
    shown, trouble, _ = api.run(
        [
            "--strict",
            "--config-file",
            str(root / "pyproject.toml"),
            "--cache-dir",
            str(root / ".mypy_cache"),
            str(snippet),
        ]
    )
    assert not trouble
    found: dict[int, str] = {}
    for line in shown.splitlines():
        parts = line.split(":", 3)
        if len(parts) == 4 and parts[0].endswith("snippet.py") and "error" in parts[2]:
            found.setdefault(int(parts[1]) - len(prelude) - 1, parts[3])
    return found


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_is_an_error(line: str, report: dict[int, str]) -> None:
    """Each wrong line is refused, for the right reason."""
    assert f"[{WRONG[line]}]" in report.get(list(WRONG).index(line), "no error")


def test_the_prelude_is_right(report: dict[int, str]) -> None:
    """Errors come from the wrong lines only."""
    assert min(report) >= 0
