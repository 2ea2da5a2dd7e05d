"""Runs mutants: each in a process of its own, two at a time, and tells which tests noticed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mutants.patching import StaleEditError, edited
from mutants.table import Mutant

__all__ = ["UNMUTATED", "Verdict", "hunt", "hunt_all", "table_of"]

TESTS = Path(__file__).parents[1]
LIMIT_S = 90
"""A mutant that hangs its tests for so long has been noticed."""

UNMUTATED = "(none)"
UNMUTATED_LIMIT_S = 900

_NOTICED, _PASSED = 1, 0


class Verdict(NamedTuple):
    """What became of a mutant: ``killed``, ``survived``, ``hung`` (killed too), or ``unusable`` (no test ran)."""

    name: str
    outcome: str
    seconds: float
    said: str

    @property
    def is_killed(self) -> bool:
        """Whether its tests noticed it."""
        return self.outcome in ("killed", "hung")


def hunt(name: str, sources: Mapping[str, str], tests: Sequence[str], limit_s: float = LIMIT_S) -> Verdict:
    """Run tests with these sources in the place of their modules; no sources for an unmutated run."""
    began_s = time.perf_counter()
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "KEEPWARM_TIER": "ci", "PYTHONHASHSEED": "0"}
    wanted = json.dumps({"sources": dict(sources), "tests": list(tests)})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mutants.child"],
            input=wanted,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(name, "hung", time.perf_counter() - began_s, "")
    lines = done.stdout.splitlines()
    failed = [line.removeprefix("FAILED ").partition(" - ")[0] for line in lines if line.startswith("FAILED ")]
    if done.returncode == _NOTICED and failed:
        outcome, said = "killed", failed[0]
    elif done.returncode == _PASSED:
        outcome, said = "survived", lines[-1]
    else:
        outcome, said = "unusable", " / ".join([*lines, *done.stderr.splitlines()][-3:])
    return Verdict(name, outcome, time.perf_counter() - began_s, said)


def hunt_all(mutants: Mapping[str, Mutant], processes: int = 2) -> list[Verdict]:
    """``UNMUTATED`` against all of the tests, then every mutant against its own, in the order of the table."""
    tests = sorted({test for mutant in mutants.values() for test in mutant.tests})
    with ThreadPoolExecutor(processes) as pool:
        unmutated = pool.submit(hunt, UNMUTATED, {}, tests, UNMUTATED_LIMIT_S)
        verdicts = list(pool.map(_hunt_named, mutants, mutants.values()))
        return [unmutated.result(), *verdicts]


def _hunt_named(name: str, mutant: Mutant) -> Verdict:
    try:
        sources = edited(mutant.edits)
    except StaleEditError as error:
        return Verdict(name, "unusable", 0.0, str(error))
    return hunt(name, sources, mutant.tests)


def table_of(verdicts: Iterable[Verdict]) -> str:
    """For people: one line per mutant."""
    return "\n".join(f"{each.outcome:9} {each.seconds:5.1f} s  {each.name:52} {each.said}" for each in verdicts)
