"""The rules of a tidy repository, each a function from a file's text to what is wrong with it.

``tests/test_tidy.py`` applies them to the repository and proves each of them on planted text. Markers and paths that
must not appear anywhere are spelled here so that this file does not contain them either.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "FUNCTION_LINES_MAX",
    "MODULE_LINES_MAX",
    "declares_only",
    "headings",
    "junk_names",
    "long_functions",
    "long_module",
    "machine_paths",
    "markers",
    "missing_docstring",
    "sleeps",
    "path_of_tests",
]

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

JUNK_NAMES = {
    "base",
    "common",
    "commons",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "util",
    "utilities",
    "utils",
}

MARKER = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X)\b")

MACHINE_PATH = re.compile(r"(?<![\w.~$}>*-])/(?:w[o]rk|r[o]ot)(?![\w-])|sh[a]red/facts")
"""An absolute path below the folders of the machine that something was written on, or notes that are not published."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def long_module(text: str) -> Iterator[str]:
    """A file that should be several."""
    lines = text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{lines} lines, at most {MODULE_LINES_MAX}"


def long_functions(text: str) -> Iterator[str]:
    """Functions that do too much, by name; from ``def`` to the last line, docstring included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def junk_names(path: Path) -> Iterator[str]:
    """Module and folder names that say nothing about what is inside."""
    for part in (*path.parent.parts, path.stem):
        words = part.lstrip("_")
        if words in JUNK_NAMES or words.rpartition("_")[2] in JUNK_NAMES:
            yield f"{part} says nothing about its content"


def missing_docstring(text: str) -> Iterator[str]:
    """A module opens with what it owns and its rules."""
    if not ast.get_docstring(ast.parse(text)):
        yield "no module docstring"


def sleeps(text: str) -> Iterator[str]:
    """Uses of ``time.sleep`` under whatever name: waiting is for conditions and deadlines."""
    tree = ast.parse(text)
    clocks = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "time"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time" and any(a.name == "sleep" for a in node.names):
            yield f"{node.lineno}: imports time.sleep"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {f"{clock}.sleep" for clock in clocks}:
            yield f"{node.lineno}: time.sleep"


def markers(text: str) -> Iterator[str]:
    """Notes to self that were left behind."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := MARKER.search(line):
            yield f"{number}: {found.group()}"


def machine_paths(text: str) -> Iterator[str]:
    """Paths of somebody's machine, which mean nothing to anybody else."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := MACHINE_PATH.search(line):
            yield f"{number}: {found.group()}"


def headings(text: str) -> Iterator[str]:
    """A page has one title: exactly one heading of the first level, outside code blocks."""
    titles = 0
    fence = ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and (not fence or mark.group(1).startswith(fence)):
            fence = "" if fence else mark.group(1)
        elif not fence and re.match(r"#\s", line):
            titles += 1
    if titles != 1:
        yield f"{titles} headings of the first level"


def declares_only(text: str) -> bool:
    """Whether a module holds declarations (events, effects, constants) and no function: nothing to test."""
    runs = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return not any(isinstance(node, runs) for node in ast.walk(ast.parse(text)))


def path_of_tests(source: Path) -> Path:
    """Where the tests of a source module lie, both relative to the repository.

    >>> path_of_tests(Path("scheduler/keepwarm_scheduler/core/wheel.py")).as_posix()
    'tests/unit/scheduler/core/test_wheel.py'
    """
    package = source.parts[1].removeprefix("keepwarm_")
    folder = "sdk" if package == "keepwarm" else package
    return Path("tests", "unit", folder, *source.parts[2:-1], f"test_{source.name.lstrip('_')}")
