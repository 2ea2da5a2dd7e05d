"""Programs whose calls are lent: what they begin with, and how they are run."""

import subprocess
import textwrap
from pathlib import Path
from typing import Any

from support.programs import (
    Ended,
    logs_of,
    run_program,
    start_program,
)

__all__ = ["PRELUDE", "run", "said", "start", "value_of"]

VARIABLES = {"KEEPWARM_PROGRESS": "0"}

PRELUDE = """
import collections, itertools, signal, threading

@isolated(keep_alive=300)
def echo(value): return value

@isolated(keep_alive=300)
def where(value=None): return os.getpid()

def is_lent(future):
    '''Whether a call, which has ended, was given to the process directly.'''
    outcome(future)
    lent = "." in future.call_id
    if lent and not future.cancelled() and future.exception() is None and future.report is not None:
        assert future.report.temperature == "ready", future.report
    return lent

def warm(function, *arguments):
    '''Call until calls are lent.'''
    end = time.monotonic() + 30
    while not is_lent(function.submit(*arguments)):
        assert time.monotonic() < end, "nothing is lent"

def lent_of(futures): return sum(map(is_lent, futures))

def outcome(future):
    try:
        return future.result(60)
    except BaseException as error:
        return type(error).__name__
"""


def run(home: Path, text: str) -> Ended:
    return run_program(home, PRELUDE + textwrap.dedent(text), VARIABLES)


def start(home: Path, text: str, name: str) -> "subprocess.Popen[str]":
    return start_program(home, PRELUDE + textwrap.dedent(text), VARIABLES, name=name)


def value_of(home: Path, text: str) -> Any:
    """Run a program; the JSON of its last line. It says nothing on stderr."""
    ended = run(home, text)
    assert (ended.code, ended.err) == (0, ""), (ended, logs_of(home))
    return ended.value


def said(program: "subprocess.Popen[str]") -> str:
    """The next line that a program says."""
    assert program.stdout is not None
    return program.stdout.readline().strip()
