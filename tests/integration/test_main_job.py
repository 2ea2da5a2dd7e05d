"""The main job: two functions in a file, run with plain python, cold once and warm from then on."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.programs import (
    Ended,
    environment_of,
    lives,
    logs_of,
    pages,
    run_program,
    start_program,
    status,
    until_gone,
    wait_for_program,
)
from support.waiting import until

SCRIPT = """
@isolated(keep_alive=300)
def get_two():
    return 1 + 1

@isolated(keep_alive=60, requirements=["requests"])
def get_response(url):
    import requests
    return requests.get(url, timeout=10).text

@isolated(keep_alive=60, requirements=["requests"])
def uses():
    import os, requests
    requests.uses = getattr(requests, "uses", 0) + 1
    return os.getpid(), requests.uses

def report_of(future):
    future.result(60)
    report = future.report
    phases = {phase.name: phase.duration_us for phase in report.phases}
    return {"node": report.node, "pid": report.process_id, "temperature": report.temperature, "phases": phases}

base = sys.argv[1] if len(sys.argv) > 1 else os.environ["PAGES"]
two = get_two()
reports = []
for path in ("/one", "/two"):
    future = get_response.submit(base + path)
    assert future.result(60) == "page " + path
    reports.append(report_of(future))
counts = [uses() for _ in range(2)]
print(json.dumps({"two": two, "reports": reports, "counts": counts}))
"""

TICKING = """
@isolated(keep_alive=2, requirements=["six"])
def where():
    import os, six
    return os.getpid()

pids = [where()]
for _ in range(4):
    time.sleep(1)
    pids.append(where())
print(json.dumps(pids))
"""

AFTERWARDS = (
    TICKING.partition("pids =")[0]
    + """
future = where.submit()
print(json.dumps([future.result(60), future.report.temperature, [phase.name for phase in future.report.phases]]))
"""
)


@pytest.fixture(scope="module")
def first(shared_home: Path) -> dict[str, Any]:
    """What the script says when nothing has run before."""
    with pages() as base:
        ended = run_program(shared_home, SCRIPT, {"PAGES": base, "KEEPWARM_PROGRESS": "0"})
    assert ended.err == "", ended
    value: dict[str, Any] = ended.value
    return value


def test_the_first_call_is_cold_and_the_second_is_warm(first: dict[str, Any]) -> None:
    """In the same process, whose modules keep what they know."""
    assert first["two"] == 2
    cold, warm = first["reports"]
    assert cold["temperature"] == "cold"
    assert {"lock", "build", "start", "run"} <= cold["phases"].keys()
    assert warm["temperature"] == "ready"
    assert warm["phases"].keys() <= {"waiting", "setup", "run"}
    assert warm["pid"] == cold["pid"]
    assert first["counts"] == [[cold["pid"], 1], [cold["pid"], 2]]


def test_the_environment_is_not_the_programs(first: dict[str, Any], shared_home: Path) -> None:
    """What the function imports is installed in its own environment, not where the program runs."""
    assert list((shared_home / "nodes").glob("**/site-packages/requests"))
    ended = run_program(shared_home, "import importlib.util; print(importlib.util.find_spec('requests') is None)")
    assert ended.out == "True\n", "the test means nothing where the program has requests itself"


def test_the_same_file_run_again_is_warm_from_its_first_call(first: dict[str, Any], shared_home: Path) -> None:
    """The local cluster outlived the program that started it."""
    with pages() as base:
        again = run_program(shared_home, SCRIPT, {"PAGES": base}).value
    process_id = first["reports"][0]["pid"]
    assert [(each["temperature"], each["pid"]) for each in again["reports"]] == [("ready", process_id)] * 2
    assert again["counts"] == [[process_id, 3], [process_id, 4]]


def test_every_call_starts_the_time_again_and_then_the_process_ends_and_the_directory_stays(home: Path) -> None:
    """keep_alive=2: four calls a second apart keep the process; two seconds after the last it is gone."""
    ticking = start_program(home, TICKING)
    ended = wait_for_program(ticking)
    over_s = time.monotonic()
    pids = ended.value
    assert len(set(pids)) == 1, pids
    assert lives(pids[0])
    until_gone(pids[0], limit_s=6)
    lived_s = time.monotonic() - over_s
    assert 1.0 < lived_s < 3.1, f"keep_alive=2, but it ended {lived_s:.2f} s after the program"
    process_id, temperature, phases = run_program(home, AFTERWARDS).value
    assert process_id != pids[0]
    assert temperature == "built"
    assert "build" not in phases
    assert "lock" not in phases


class Byhand:
    """A scheduler and agents started by hand, each in a home of its own, and what a program needs to find them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.address = f"ipc://{home}/c/s.sock"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> None:
        log = (self.home / f"{len(self.processes)}.log").open("wb")
        with log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "keepwarm", *words],
                    env=environment_of(self.home),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def nodes(self) -> list[str]:
        document = status(self.home, {"KEEPWARM_ADDRESS": self.address})
        return [node["name"] for node in document["nodes"] if node["state"] == "alive"]

    def run(self, text: str, variables: dict[str, str]) -> Ended:
        return run_program(self.home, text, {"KEEPWARM_ADDRESS": self.address, **variables})


@pytest.fixture
def by_hand(home: Path) -> Iterator[Byhand]:
    """A scheduler and the two nodes a and b."""
    cluster = Byhand(home)
    cluster.start("scheduler", "--bind", cluster.address, "--state", f"{home}/c/state")
    for name in "ab":
        cluster.start("agent", "--scheduler", cluster.address, "--home", f"{home}/n{name}", "--node", name)
    try:
        until((home / "c/s.sock").exists)
        until(lambda: sorted(cluster.nodes()) == ["a", "b"])
        yield cluster
    finally:
        for process in cluster.processes:
            process.terminate()
        for process in cluster.processes:
            process.wait(20)


def test_the_same_file_on_a_cluster_of_two_nodes_goes_to_the_warm_node(by_hand: Byhand) -> None:
    """The second call, and a second program's calls, run where the first has left its process."""
    with pages() as base:
        once = by_hand.run(SCRIPT, {"PAGES": base}).value
        again = by_hand.run(SCRIPT, {"PAGES": base}).value
    cold, *warm = once["reports"] + again["reports"]
    assert cold["temperature"] == "cold"
    assert cold["node"] in ("a", "b")
    assert [(each["node"], each["pid"], each["temperature"]) for each in warm] == [
        (cold["node"], cold["pid"], "ready")
    ] * 3
    assert not list(by_hand.home.glob("logs/*")), "KEEPWARM_ADDRESS is set: no local cluster is started"
    assert [process.poll() for process in by_hand.processes] == [None] * 3, logs_of(by_hand.home)
