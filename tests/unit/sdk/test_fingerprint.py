"""The version of a function: what moves it, what does not, and that it is the same in the next run."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from keepwarm.fingerprint import function_version, global_names

PROGRAM = """
import collections, dataclasses, enum, functools, logging, os, re
from keepwarm import isolated
from keepwarm.pickling import dumps_function, function_version

WORDS = {"alpha", "beta", "gamma", "delta"}
TABLE = {"key": [1, 2.5, None, b"x", ...], "set": frozenset(WORDS)}
PATTERN = re.compile("a+")
LOG = logging.getLogger("x")
Pair = collections.namedtuple("Pair", "a b")

class Names(set):
    pass

class Color(enum.Enum):
    RED = 1
    GREEN = {"x", "y", "z"}

@dataclasses.dataclass
class Point:
    x: int
    y: list = dataclasses.field(default_factory=list)

    @property
    def far(self): return self.x > 3
    @classmethod
    def make(cls): return cls(1)
    @staticmethod
    def zero(): return Point(0)

@functools.lru_cache(maxsize=3)
def cached(n): return cached(n - 1) if n else 0

def closure(words):
    def inner(x, *, default=frozenset({"one", "two", "three"})):
        if x in {"red", "green", "blue"}:
            return [w for w in words if w in WORDS]
        return TABLE, PATTERN, Point.make(), Color.RED, cached(3), os.path.join("a"), LOG, Pair(1, 2), other(1), NAMES
    return inner

NAMES = Names(WORDS)

@isolated(setup=lambda: {"p", "q", "r"})
def other(model, x): return other(x) if x else first(x)

def first(x): return other

function = closure({"u", "v", "w"})
payload = dumps_function(function, first)
print(function_version(function, first, b"").hex(), function_version(function, first, b"other").hex())
"""


def test_same_in_every_run_for_every_hash_seed(tmp_path: Path) -> None:
    """Sets in constants, defaults, closures, globals, classes and enums do not move it; nor is the payload needed."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    versions = set()
    for seed in ("0", "1", "2", "77"):
        shown = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        versions.update(shown.stdout.split())
    assert len(versions) == 1


def version_of(text: str, name: str = "f", file_name: str = "<one>") -> str:
    """Return the version of a function in a program's text."""
    values: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(textwrap.dedent(text), file_name, "exec"), values)
    return function_version(values[name], values.get("setup"), b"").hex()


def test_the_place_does_not_matter() -> None:
    """Moved down, commented, annotated, in another file: the same function."""
    one = version_of("def f(x, y=2):\n    return x + y\n")
    other = version_of("\n\n# why\ndef f(x: int, y: int = 2) -> int:\n\n    return x + y  # sum\n", file_name="<other>")
    assert one == other


BASE = """
    import json
    LIMIT = 3
    TABLE = {"a": 1, "b": 2}
    class Box:
        size = 1
        def grow(self): return self.size + 1
    def helper(x): return x + LIMIT
    def outer(step):
        def f(x, y=2, *, z=3):
            def inner(v): return v + 1
            return inner(helper(x)) + step + y + z, TABLE, Box().grow(), json.dumps(x), "text", 1.0
        return f
    f = outer(10)
    def setup(): return 1
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v + 1", "v + 2"),
        ("v + 1", "v - 1"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", "LIMIT = True"),
        ("LIMIT = 3", "LIMIT = '3'"),
        ('"a": 1', '"a": 9'),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'),
        ("size = 1", "size = 2"),
        ("self.size + 1", "self.size + 2"),
        ("def helper(x): return x + LIMIT", "def helper(x): return LIMIT + x"),
        ("outer(10)", "outer(11)"),
        ("y=2", "y=3"),
        ("z=3", "z=4"),
        ("json.dumps", "json.loads"),
        ('"text"', '"test"'),
        ("1.0", "-1.0"),
        ("return 1", "return 2"),
        ("    import json", "    import pickle as json"),
    ],
)
def test_what_it_does_matters(old: str, new: str) -> None:
    """A change anywhere in what the function does, or refers to, is a change of version."""
    assert old in BASE
    assert version_of(BASE.replace(old, new)) != version_of(BASE)


def test_pickling_an_instance_of_a_class_does_not_change_it() -> None:
    """copyreg leaves a note in the class when the first instance is pickled or copied."""
    text = "class Slotted:\n    __slots__ = ('a',)\ndef f(): return Slotted()\n"
    copied = text + "import copy\ncopy.copy(Slotted())\n"
    assert version_of(text) == version_of(copied)


def test_structure_is_not_ambiguous() -> None:
    """Values that look alike when written one after another differ."""
    values = [
        "[1, 2]",
        "[12]",
        "(1, 2)",
        "[[1], 2]",
        "[1, [2]]",
        "{1: 2}",
        "{1, 2}",
        "'12'",
        "b'12'",
        "12",
        "1.2",
        "None",
    ]
    versions = {version_of(f"V = {value}\ndef f(): return V") for value in values}
    assert len(versions) == len(values)


def test_cycles_end() -> None:
    """Functions, lists and classes that refer to themselves have a version."""
    text = "L = []\nL.append(L)\nclass C: pass\nC.me = C()\nC.me.owner = C\ndef f(): return f, L, C"
    assert version_of(text) == version_of(text)


def test_what_has_no_form_falls_back_on_the_payload() -> None:
    """Then the version is the payload's, and differs with it; so does endless depth."""
    lock = threading.Lock()
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for captured in (lock, deep, iter([lock]).__next__):
        one, other = (function_version(lambda captured=captured: captured, None, data) for data in (b"1", b"2"))
        assert one != other
        assert len(one) == 32


def test_installed_functions_go_by_name() -> None:
    """A library's function is its name: the environment has its version."""
    assert function_version(textwrap.dedent, None, b"") != function_version(textwrap.indent, None, b"")
    assert function_version(abs, None, b"") != function_version(len, None, b"")
    assert function_version([1].append, None, b"") != function_version([2].append, None, b"")


def test_setup_is_part_of_it() -> None:
    """With, without, and with another setup are three versions."""

    def function() -> None:
        """Do nothing."""

    versions = {function_version(function, setup, b"") for setup in (None, lambda: 1, lambda: 2)}
    assert len(versions) == 3


def test_global_names_include_nested_code() -> None:
    """Names that only an inner function uses are found; locals and attributes are not names of globals."""

    def function() -> Any:
        local = os.environ

        def inner() -> Any:
            return sys.argv

        return local, inner

    assert list(global_names(function.__code__)) == ["os", "sys"]
