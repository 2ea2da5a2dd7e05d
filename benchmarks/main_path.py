"""The figures of the main path: first calls, warm calls, and what an idle cluster costs.

    python benchmarks/main_path.py                # all of it, about two minutes; needs a package index
    python benchmarks/main_path.py --only warm,idle --json figures.json

Every figure is the median of several runs, with its minimum and maximum. Where something is compared, both sides are
measured in the same run, in turn. Linux only: it reads /proc.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

SCRIPT_FIRST = """
import time
started = time.perf_counter()
from keepwarm import isolated

@isolated(keep_alive=300)
def get_two():
    return 1 + 1

assert get_two() == 2
print(time.perf_counter() - started)
"""

SCRIPT_WARM = """
import json, time
from keepwarm import isolated

@isolated(keep_alive=300)
def get_two():
    return 1 + 1

for _ in range(200):
    get_two()
times = []
for _ in range(CALLS):
    started = time.perf_counter()
    get_two()
    times.append(time.perf_counter() - started)
print(json.dumps(times))
"""

SCRIPT_COLD = """
import time
from keepwarm import isolated

@isolated(keep_alive=300)
def get_two():
    return 1 + 1

@isolated(keep_alive=300, requirements=["requests"])
def first(url):
    import requests
    return requests.__name__

get_two()
started = time.perf_counter()
future = first.submit("")
assert future.result() == "requests"
print(time.perf_counter() - started)
"""

BY_HAND_RUN = "import requests; print(requests.__name__)"


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A home of its own for a local cluster, which is stopped at the end."""
    home = Path(tempfile.mkdtemp(prefix="kwb", dir="/tmp"))
    try:
        yield home
    finally:
        run_keepwarm(home, "stop", "--force")
        deadline_s = time.monotonic() + 10
        while daemons(home) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        shutil.rmtree(home, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """The environment variables of a program that uses this home."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("KEEPWARM_", "PYTHON"))}
    return kept | {"KEEPWARM_HOME": str(home), "KEEPWARM_PROGRESS": "0"}


def run_keepwarm(home: Path, *arguments: str) -> None:
    """Run the command line tool."""
    command = [sys.executable, "-m", "keepwarm", *arguments]
    subprocess.run(command, env=environment(home), capture_output=True, timeout=60, check=False)


def run_script(home: Path, text: str) -> Any:
    """Run a program and return what its last line says, decoded."""
    script = home / "program.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)], env=environment(home), capture_output=True, text=True, timeout=300, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def daemons(home: Path) -> dict[str, psutil.Process]:
    """The processes of the cluster in this home, by their part."""
    found: dict[str, psutil.Process] = {}
    for process in psutil.process_iter(["cmdline", "ppid"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(home) not in line:
            continue
        if "keepwarm_scheduler" in line:
            found["scheduler"] = process
        elif "keepwarm_worker" in line:
            is_agent = any(thread for thread in process.threads()) and process.num_threads() > 1
            found["agent" if is_agent else "guardian"] = process
        elif "main.py" in line:
            found[f"instance {process.pid}"] = process
    return found


def first_call(runs: int) -> dict[str, list[float]]:
    """First call ever, no requirements, nothing running: from before the import to the result, in seconds."""
    times = []
    for _ in range(runs):
        with temporary_home() as home:
            times.append(run_script(home, SCRIPT_FIRST))
    return {"first call ever, no requirements (s)": times}


def cold_call(runs: int) -> dict[str, list[float]]:
    """First call of the example with its packages in uv's cache and no lock yet, against doing it by hand."""
    ours: list[float] = []
    by_hand: list[float] = []
    with temporary_home() as warm_home:
        run_script(warm_home, SCRIPT_COLD)
        (cache,) = (path for path in (warm_home / "nodes" / "local").iterdir() if path.name == "uv-cache")
        for _ in range(runs):
            with temporary_home() as home:
                copied = home / "nodes" / "local" / "uv-cache"
                shutil.copytree(cache, copied, symlinks=True)
                ours.append(run_script(home, SCRIPT_COLD))
                by_hand.append(do_by_hand(home, copied))
    ratios = [mine / theirs for mine, theirs in zip(ours, by_hand, strict=True)]
    return {"cold call of the example (s)": ours, "the same by hand (s)": by_hand, "ratio": ratios}


def do_by_hand(home: Path, cache: Path) -> float:
    """Compile, make a venv, sync, start and import, as one would in a shell."""
    import uv

    binary, place = uv.find_uv_bin(), home / "by-hand"
    place.mkdir()
    (place / "in.txt").write_text("requests\n")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_", "PYTHON"))}
    kept |= {"UV_CACHE_DIR": str(cache), "UV_NO_CONFIG": "1", "UV_NO_PROGRESS": "1"}
    python = str(place / "env" / "bin" / "python")
    steps = (
        [binary, "pip", "compile", "-q", "--python", sys.executable, "--generate-hashes", "in.txt", "-o", "lock.txt"],
        [binary, "venv", "-q", "--python", sys.executable, "env"],
        [binary, "pip", "sync", "-q", "--link-mode", "copy", "--require-hashes", "--python", python, "lock.txt"],
        [python, "-I", "-c", BY_HAND_RUN],
    )
    started = time.perf_counter()
    for step in steps:
        subprocess.run(step, cwd=place, env=kept, check=True, capture_output=True, timeout=120)
    return time.perf_counter() - started


def warm_call(runs: int) -> dict[str, list[float]]:
    """Round trips of a no-op, one at a time, in milliseconds: the median and the 99th percentile of each run."""
    medians, tails = [], []
    with temporary_home() as home:
        for _ in range(runs):
            times = run_script(home, SCRIPT_WARM.replace("CALLS", "2000"))
            medians.append(statistics.median(times) * 1e3)
            tails.append(statistics.quantiles(times, n=100)[98] * 1e3)
    return {"warm round trip p50 (ms)": medians, "warm round trip p99 (ms)": tails}


def idle(runs: int) -> dict[str, list[float]]:
    """What an idle local cluster with one warm instance costs: cpu in percent of one core, memory (PSS) in MiB."""
    shares: list[float] = []
    figures: dict[str, list[float]] = {}
    with temporary_home() as home:
        run_script(home, SCRIPT_FIRST)
        time.sleep(3)  # the client's goodbye and the first beats are over
        processes = daemons(home)
        for _ in range(runs):
            before, started = cpu_s(processes), time.monotonic()
            time.sleep(10)
            shares.append((cpu_s(processes) - before) / (time.monotonic() - started) * 100)
        for name, process in processes.items():
            figures[f"PSS of {name.split()[0]} (MiB)"] = [process.memory_full_info().pss / 2**20]
    figures["PSS of scheduler and agent (MiB)"] = [
        sum(figures[f"PSS of {name} (MiB)"][0] for name in ("scheduler", "agent"))
    ]
    return {"idle cluster, all processes (% of a core)": shares, **figures}


def cpu_s(processes: dict[str, psutil.Process]) -> float:
    """Seconds of cpu that these processes have used, from the scheduler's exact account."""
    total_ns = 0
    for process in processes.values():
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


PARTS: dict[str, tuple[Callable[[int], dict[str, list[float]]], int]] = {
    "first": (first_call, 5),
    "cold": (cold_call, 5),
    "warm": (warm_call, 5),
    "idle": (idle, 3),
}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts to run (default: {','.join(PARTS)})")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    figures: dict[str, list[float]] = {}
    for name in options.only.split(","):
        part, runs = PARTS[name]
        for figure, values in part(runs).items():
            figures[figure] = values
            low, high = min(values), max(values)
            print(f"{figure:<44} {statistics.median(values):8.3f}   ({low:.3f} to {high:.3f}, {len(values)} runs)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
