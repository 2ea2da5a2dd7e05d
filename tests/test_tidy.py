"""The repository keeps its own rules of style: sizes, names, docstrings, no sleeps, nothing left behind.

Each rule is proved on planted text before it is applied, so that a rule that has gone blind fails as well.
An exception is an entry in a table below, with its reason; an entry that is no longer needed fails too.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.tidiness import (
    declares_only,
    headings,
    junk_names,
    long_functions,
    long_module,
    machine_paths,
    markers,
    missing_docstring,
    path_of_tests,
    sleeps,
)

ROOT = Path(__file__).parents[1]
SOURCES = ("sdk", "scheduler", "worker")
PYTHON = (*SOURCES, "tests", "benchmarks", "deploy")
TEXTS = (*PYTHON, "docs", ".ci", ".github")
TEXT_SUFFIXES = {".cfg", ".ini", ".json", ".md", ".py", ".service", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}
GENERATED = {"uv.lock"}

MAY_SLEEP = {
    "tests/integration/": "real processes, awaited by condition and deadline",
    "tests/multihost/": "the same, on several machines",
    "tests/chaos/": "the same, while things are being broken",
    "tests/support/siege/": "peers that besiege a scheduler at a pace of their own",
    "scheduler/keepwarm_scheduler/journal_writer.py": "awaits room on a full disk, which nothing tells of",
    "scheduler/keepwarm_scheduler/daemon.py": "makes a flood wait: ZeroMQ cannot be told whom not to read",
    "worker/keepwarm_worker/guardian.py": "awaits the end of another process's exec, which nothing tells of",
    "tests/support/hosts/": "what those are made with",
    "tests/support/waiting.py": "is how they await a condition",
    "sdk/keepwarm/local.py": "awaits processes that are not its children, which nothing else can tell of",
    "sdk/keepwarm/cli/demo.py": "shows a lease counting down to a person",
    "tests/support/homes.py": "ends the processes of integration tests, and awaits their end",
}
"""Where it is allowed to sleep between two looks at a condition, and why."""

MIRRORED = ("sdk/keepwarm_wire", "scheduler/keepwarm_scheduler/core", "worker/keepwarm_worker/core")

WITHOUT_TESTS_OF_ITS_OWN: dict[str, str] = {}
"""Modules of the mirrored packages without a test file of the same path, and the reason."""

Rule = Callable[[str], Iterator[str]]


def files(folders: tuple[str, ...], pattern: str = "*.py") -> list[Path]:
    """The files below these folders, without caches and build outputs, in order."""
    found = [path for folder in folders for path in (ROOT / folder).rglob(pattern) if path.is_file()]
    return sorted(path for path in found if not {"__pycache__", ".hypothesis", "node_modules"} & set(path.parts))


def texts() -> list[Path]:
    """Every text file that belongs to the repository, those in its root included."""
    root = [path for path in ROOT.iterdir() if path.is_file() and path.name not in GENERATED]
    return [path for path in (*root, *files(TEXTS, "*")) if path.suffix in TEXT_SUFFIXES]


def name_of(path: Path) -> str:
    """A path as people say it."""
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    """A file's text; what is not UTF-8 becomes replacement characters."""
    return path.read_text(encoding="utf-8", errors="replace")


def offences(rule: Rule, paths: list[Path]) -> list[str]:
    """What a rule finds in these files, one line each."""
    return [f"{name_of(path)}: {found}" for path in paths for found in rule(read(path))]


def report(found: list[str]) -> str:
    """The list of offences, for the failure message."""
    return f"{len(found)} found:\n  " + "\n  ".join(found)


def expect_none(found: list[str]) -> None:
    """Fail with the whole list, not with the first of it."""
    if found:
        pytest.fail(report(found), pytrace=False)


# ---------------------------------------------------------------- the rules, applied


def test_there_is_something_to_look_at() -> None:
    """The walks find this file and the packages; an empty walk would make every rule pass."""
    python = {name_of(path) for path in files(PYTHON)}
    assert {"tests/test_tidy.py", "sdk/keepwarm_wire/codec.py"} <= python
    assert {"pyproject.toml", "README.md", "docs/reference/protocol.md"} <= {name_of(path) for path in texts()}


def test_files_are_short() -> None:
    """At most 500 lines."""
    expect_none(offences(long_module, files(PYTHON)))


def test_functions_are_short() -> None:
    """At most 60 lines."""
    expect_none(offences(long_functions, files(PYTHON)))


def test_modules_are_named_after_what_they_hold() -> None:
    """No drawers for junk."""
    paths = [path.relative_to(ROOT) for path in files(PYTHON)]
    expect_none([f"{path.as_posix()}: {found}" for path in paths for found in junk_names(path)])


def test_every_module_says_what_it_owns() -> None:
    """By a docstring, packages and tests included."""
    expect_none(offences(missing_docstring, files(PYTHON)))


def test_nothing_sleeps() -> None:
    """Not the product, and not the tests outside those of real machines."""
    paths = [path for path in files((*SOURCES, "tests")) if not name_of(path).startswith(tuple(MAY_SLEEP))]
    expect_none(offences(sleeps, paths))


def test_no_marker_is_left_over() -> None:
    """What is to be done is done or written where it is tracked."""
    expect_none(offences(markers, texts()))


def test_no_path_of_a_machine_is_written_down() -> None:
    """The repository speaks of itself alone."""
    expect_none(offences(machine_paths, texts()))


def test_every_page_has_one_title() -> None:
    """In docs/ and in the root."""
    pages = [*files(("docs",), "*.md"), *sorted(ROOT.glob("*.md"))]
    expect_none(offences(headings, pages))


def test_every_pure_module_has_tests_at_the_same_path() -> None:
    """Cores and wire: the tests of a module are found without searching. Mere declarations need none."""
    sources = [path.relative_to(ROOT) for path in files(MIRRORED) if not declares_only(read(path))]
    tests = {path.as_posix(): path_of_tests(path).as_posix() for path in sources if path.name != "__init__.py"}
    alone = {source: test for source, test in tests.items() if not (ROOT / test).exists()}
    missing = [f"{source}: no {test}" for source, test in alone.items() if source not in WITHOUT_TESTS_OF_ITS_OWN]
    stale = [f"{source}: its exception is not needed" for source in WITHOUT_TESTS_OF_ITS_OWN if source not in alone]
    expect_none(missing + stale)


# ---------------------------------------------------------------- the rules, proved


def test_only_modules_without_functions_need_no_tests() -> None:
    """Constants and plain records declare; methods, properties and lambdas run."""
    assert declares_only("LIMIT = 3\nclass Event(NamedTuple):\n    number: int\n")
    assert not declares_only("class Event(NamedTuple):\n    def double(self): return 2 * self.number\n")
    assert not declares_only("TABLE = {1: lambda state: state}\n")


def _function(lines: int) -> str:
    return "def planted() -> None:\n" + "    pass\n" * (lines - 1)


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (long_module, "x\n" * 501, "x\n" * 500),
        (long_functions, _function(61), _function(60)),
        (long_functions, "class A:\n" + re.sub("(?m)^", "    ", _function(61)).rstrip(), _function(2)),
        (long_functions, "async " + _function(61), "async " + _function(60)),
        (missing_docstring, "import os\n", '"""What this owns."""\n'),
        (missing_docstring, "", "'x'"),
        (missing_docstring, "# a comment\n", "# a comment\n'''x'''\n"),
        (sleeps, "import time\ntime.sleep(1)\n", "import time\ntime.monotonic()\n"),
        (sleeps, "import time as clock\ndef f(): clock.sleep(1)\n", "class A:\n    sleep = 1\nA.sleep\n"),
        (sleeps, "from time import sleep\n", "from time import monotonic\n"),
        (sleeps, "from time import monotonic, sleep as nap\n", "import asyncio\nasyncio.sleep(0)\n"),
        (sleeps, "def f():\n    import time\n    wait = time.sleep\n", "TEXT = 'time.sleep(1)'\n"),
        (markers, "# TO" + "DO: more\n", "# a todo list is a list\n"),
        (markers, "x = 1  # FIX" + "ME\n", "PREFIX" + "MEASURE = 1\n"),
        (markers, "<!-- XX" + "X -->", "size XX" + "XL\n"),
        (machine_paths, 'open("/wo' + 'rk/main/x")\n', 'open("/worker/x")\n'),
        (machine_paths, "cd /ro" + "ot\n", "docs/wo" + "rk/plan.md, ~/ro" + "ot and $HOME/wo" + "rk\n"),
        (machine_paths, "see sha" + "red/facts/policies.md\n", "shared facts\n"),
        (machine_paths, "`/ro" + "ot/.cache`", "the /root-finding page"),
        (headings, "text\n", "# One\n\n## Two\n"),
        (headings, "# One\n\n# Two\n", "# One\n\n```sh\n# a comment\n```\n"),
        (headings, "# One\n~~~\n# code\n~~~\n# Two\n", "# One\n````md\n```\n# inside\n```\n````\n"),
    ],
)
def test_a_rule_finds_what_it_forbids_and_nothing_else(rule: Rule, bad: str, good: str) -> None:
    """Each rule on text that breaks it, and on text that only looks like it."""
    assert list(rule(bad))
    assert not list(rule(good))


@pytest.mark.parametrize("name", ["utils.py", "wire_utils.py", "_helpers.py", "common/x.py", "manager.py", "base.py"])
def test_junk_names_are_found(name: str) -> None:
    """As a module, as a folder, as the last word of a name."""
    assert list(junk_names(Path("sdk/keepwarm") / name))


@pytest.mark.parametrize("name", ["baseline.py", "commonality.py", "utility_curve.py", "codec.py", "__init__.py"])
def test_other_names_are_not(name: str) -> None:
    """Words that merely begin alike."""
    assert not list(junk_names(Path("sdk/keepwarm") / name))


@pytest.mark.parametrize(
    ("source", "tests"),
    [
        ("sdk/keepwarm_wire/codec.py", "tests/unit/wire/test_codec.py"),
        ("sdk/keepwarm/futures.py", "tests/unit/sdk/test_futures.py"),
        ("scheduler/keepwarm_scheduler/core/wheel.py", "tests/unit/scheduler/core/test_wheel.py"),
        ("worker/keepwarm_worker/environments/uv.py", "tests/unit/worker/environments/test_uv.py"),
    ],
)
def test_tests_lie_where_their_source_lies(source: str, tests: str) -> None:
    """The one rule that maps a module to its tests."""
    assert path_of_tests(Path(source)) == Path(tests)
