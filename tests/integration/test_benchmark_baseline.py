"""A warm call costs no more processor time than it did, as a ratio to a process pool in the same run; nor memory.

Times differ between machines and with what else they do, so nothing here is a time. Keepwarm and a pool are measured in
turn, a pair after the other, and the median of up to nine ratios is judged. More pairs are measured as long as those to
come could still change that median, and none after that: a disturbed pair costs time, and no verdict is asked for
again because it was not liked. ``python -m benchmarks.hot_path --write-baseline`` renews what is compared with.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.programs import lives
from support.waiting import until

ROOT = Path(__file__).parents[2]
LIMIT_S = 900
FEW_PROCESSORS = len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else True

pytestmark = pytest.mark.skipif(FEW_PROCESSORS, reason="two workers need Linux and two processors")


def start(*arguments: str) -> "subprocess.Popen[str]":
    """The benchmarks, as a user starts them."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.hot_path", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str) -> tuple[int, str, str]:
    """Their exit status, and what they said."""
    process = start(*arguments)
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.timeout(LIMIT_S + 60)
def test_a_call_costs_no_more_than_the_baseline_says() -> None:
    """Fifteen percent more are allowed, and forty for a single round trip, which is mostly the waking of processors."""
    known = json.loads((ROOT / "benchmarks" / "baseline.json").read_text(encoding="utf-8"))
    if f"{sys.version_info.major}.{sys.version_info.minor}" not in known:
        pytest.skip("no baseline for this version of Python, and that of another says nothing of it")
    status, out, err = run("--check-baseline")
    assert status == 0, f"{out}\n{err}"
    assert out.count("within") == 6, out


@pytest.mark.timeout(LIMIT_S + 60)
def test_calls_leave_no_memory_behind() -> None:
    """All processes together, after 20,000 calls."""
    status, out, err = run("--check-memory")
    assert status == 0, f"{out}\n{err}"
    assert out.startswith("20,000 calls left")


@pytest.mark.timeout(LIMIT_S + 60)
def test_a_quick_run_prints_a_table_and_writes_what_it_measured(tmp_path: Path) -> None:
    """One workload stands for all; the chart is drawn too."""
    file, folder = tmp_path / "figures.json", tmp_path / "charts"
    status, out, err = run("--quick", "--only", "round_trip", "--json", str(file), "--chart", str(folder))
    assert status == 0, err
    assert "| workload | figure | keepwarm | pool | ratio |" in out
    samples = json.loads(file.read_text())
    assert {(sample["system"], sample["repetition"]) for sample in samples} == {
        (system, repetition) for system in ("keepwarm", "pool") for repetition in range(3)
    }
    parts = {"client", "scheduler", "agent", "instance"}
    assert all(parts <= sample["parts"].keys() for sample in samples if sample["system"] == "keepwarm")
    assert sorted(path.name for path in folder.iterdir()) == ["hot_path.png", "hot_path.svg"]


def test_an_unknown_workload_and_a_missing_peer_are_told() -> None:
    """The first is a mistake; the second is left out."""
    status, _, err = run("--only", "nonsense")
    assert status == 2
    assert "nonsense" in err
    status, out, err = run("--quick", "--only", "cold_start", "--peer", "ray")
    assert status == 0, err
    assert "ray: left out" in err or "| ray |" in out


def below(process_id: int) -> list[psutil.Process]:
    """Its descendants, orphans that it has adopted included."""
    found: list[psutil.Process] = psutil.Process(process_id).children(recursive=True)
    return found


def is_instance(process: psutil.Process) -> bool:
    """Whether it runs calls; not if it has just ended."""
    try:
        return "KEEPWARM_INSTANCE" in process.environ()
    except psutil.Error:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process(number: signal.Signals) -> None:
    """Daemons have detached themselves by then; they are ended all the same."""
    process = start("--only", "idle")
    started: list[psutil.Process] = []
    try:
        until(lambda: any(map(is_instance, below(process.pid))), 60)
        started = below(process.pid)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert not [one.pid for one in started if lives(one.pid)]
    finally:
        for left in (process, *started):
            with contextlib.suppress(psutil.Error):
                left.kill()
        process.communicate()
