"""Runs workloads, each in a fresh tree of processes with a home of its own, and collects what they measured.

Rules: systems take turns, and every other round the turn is reversed. Whatever was started is ended at once when its
workload is over, and also when this process is interrupted: it has adopted all of it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.hot_path.figures import Sample
from benchmarks.hot_path.plan import COLD_START, systems_of
from benchmarks.hot_path.processes import end_descendants, rss_bytes, tree
from benchmarks.hot_path.tiers import TIERS
from benchmarks.hot_path.workloads import MIB, Measured, Skipped

__all__ = ["Failed", "run_all", "run_once"]

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600.0
LOOK_S = 0.2
"""How often the end of a workload is looked for, and memory is sampled where that is asked for."""

LOG_CHARACTERS = 3_000
KEPT_OUT = ("KEEPWARM_", "PYTHON")
"""Variables of whoever runs this that would change what is measured begin so."""

SAMPLED = "queued"


class Failed(Exception):  # noqa: N818  # it is what happened
    """A workload ended with an error; the text has the end of its log."""


def say(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def fresh_tree() -> Iterator[Path]:
    """A home whose processes are ended when it is left."""
    home = Path(tempfile.mkdtemp(prefix="kwb-", dir="/tmp"))  # a short path, for sockets lie below it
    try:
        yield home
    finally:
        end_descendants()
        shutil.rmtree(home, ignore_errors=True)


def _start(home: Path, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(KEPT_OUT)}
    with (home / "child.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=kept | {"KEEPWARM_HOME": str(home), "KEEPWARM_PROGRESS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the others
        )


def _await(home: Path, child: "subprocess.Popen[bytes]", is_sampled: bool) -> int:
    """Wait for the end; the most resident memory that its tree was seen to have, if that is asked for."""
    peak_bytes, deadline_s = 0, time.monotonic() + LIMIT_S
    while True:
        try:
            status = child.wait(LOOK_S if is_sampled else LIMIT_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline_s:
                raise Failed(f"not over after {LIMIT_S:.0f} s") from None
            peak_bytes = max(peak_bytes, sum(rss_bytes(process.pid) for process in tree(child.pid)))
            continue
        if status:
            log = (home / "child.log").read_text(errors="replace")
            raise Failed(f"it ended with status {status}:\n{log[-LOG_CHARACTERS:]}")
        return peak_bytes


def run_once(workload: str, system: str, tier: str) -> list[Measured]:
    """One repetition. Raises ``Failed``, or ``Skipped`` where it cannot run."""
    if workload == COLD_START:
        return _first_results(system)
    with fresh_tree() as home:
        file = home / "measured.json"
        arguments = ["-m", "benchmarks.hot_path.child", workload, system, tier, str(file)]
        peak_bytes = _await(home, _start(home, arguments), workload == SAMPLED)
        answer = json.loads(file.read_text(encoding="utf-8"))
    if "skipped" in answer:
        raise Skipped(answer["skipped"])
    measured = [Measured(**one) for one in answer["measured"]]
    if workload == SAMPLED:
        measured = [one._replace(figures=one.figures | {"peak_rss_mib": peak_bytes / MIB}) for one in measured]
    return measured


def _first_results(system: str) -> list[Measured]:
    """Two programs, one after the other: the second may find what the first has left running."""
    measured = []
    with fresh_tree() as home:
        for case in ("nothing running", "run again"):
            file = home / "ended"
            begun_s = time.monotonic()
            child = _start(home, [str(Path(__file__).with_name("first_result.py")), system, str(file)])
            _await(home, child, is_sampled=False)
            measured.append(Measured(case, {"first_result_s": float(file.read_text()) - begun_s}, {}))
    return measured


def run_all(names: Sequence[str], peers: Sequence[str], tier: str) -> Iterator[Sample]:
    """All repetitions of these workloads, as they are measured; one that fails or cannot run is told and left out."""
    for workload in names:
        try:
            yield from _repeat(workload, systems_of(workload, peers), tier)
        except Skipped as reason:
            say(f"{workload}: left out, for {reason}")


def _repeat(workload: str, systems: Sequence[str], tier: str) -> Iterator[Sample]:
    for repetition in range(TIERS[tier].repetitions):
        for system in systems if repetition % 2 == 0 else systems[::-1]:
            begun_s = time.monotonic()
            try:
                measured = run_once(workload, system, tier)
            except Failed as reason:
                say(f"{workload} with {system} FAILED: {reason}")
                continue
            say(f"{workload} with {system}, round {repetition + 1}: {time.monotonic() - begun_s:.1f} s")
            for case, figures, parts in measured:
                yield Sample(workload, case, system, repetition, figures, parts)
