"""Replay one day of the Azure Functions 2019 trace on the scheduler's core: keep_alive, then victims under pressure.

    python benchmarks/trace_replay.py --trace DIRECTORY [--part terms|victims|speed] [--caps 30 45 60 70 85] [--seeds 5]

The directory holds ``inv.csv``, ``run.csv`` and ``mem.csv`` (each may be ``.gz``) of the day as sampled by the vHive
"invitro" sampler (1,350 functions, 996,503 invocations). One process for each function and calls that take no time, so
that cold starts are those of the policy and of nothing else.

terms: all calls of a minute at its beginning, memory without end. The cold starts of each keep_alive have to be the
expected ones exactly; idle memory is compared too. victims: keep_alive without end, a cap on memory, the calls of a
function in a minute together at a random instant of it; who is ended for whom? Means over the seeds 1, 2, ...
speed: run times and start costs of the trace on ten nodes of 64 GiB, calls spread over their minutes.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from keepwarm_scheduler.simulate.cluster_model import ClusterSettings, Ledger
from keepwarm_scheduler.simulate.engine import KeepAlive, replay
from keepwarm_scheduler.simulate.report import percentile, shares_of
from keepwarm_scheduler.simulate.traces import Trace, read_minutes
from keepwarm_scheduler.simulate.victims import GreedyDual, LeastRecentlyUsed, VictimPolicy

GIB = 1 << 30
ENDLESS_BYTES = 1 << 50
COLD_NS = 100_000_000
"""What every start costs where victims are chosen: the core weighs what it has measured, and nothing weighs nothing."""
EXPECTED = {
    1: (85_040, 52.0),
    5: (18_977, 88.7),
    10: (11_406, 101.0),
    20: (6_298, 113.8),
    60: (3_044, 139.5),
    240: (1_744, 182.4),
    math.inf: (1_350, 256.7),
}
"""By keep_alive in minutes: cold starts, and idle memory in thousands of GiB minutes."""

POLICIES: dict[str, Callable[[], VictimPolicy | None]] = {
    "least recently used": LeastRecentlyUsed,
    "greedy dual": GreedyDual,
    "the core's own": lambda: None,
}


def one_process_each(memory_bytes: int, cold_ns: int = 0) -> ClusterSettings:
    """A node with one cpu: a second process of a function could not run beside the first, so none is started."""
    return ClusterSettings(nodes=1, cpu=1, memory_bytes=memory_bytes, cold_ns=cold_ns, build_ns=0)


def timed(
    trace: Trace, cluster: ClusterSettings, keep_alive_s: float, policy: VictimPolicy | None
) -> tuple[Ledger, float]:
    begun_s = time.process_time()
    patience_ns = 0 if cluster.memory_bytes < ENDLESS_BYTES else 1_000_000_000
    ledger = replay(trace, cluster, KeepAlive(keep_alive_s), patience_ns=patience_ns, victims=policy)
    return ledger, time.process_time() - begun_s


def terms(directory: Path) -> bool:
    trace = read_minutes(directory, "minute", run_times=False)
    print(f"{len(trace):,} invocations of {len(trace.functions):,} functions\n")
    titles = ("keep_alive", "cold", "expected", "% cold", "median/p75 %", "k GiB min", "expected", "seconds")
    print("".join(f"{title:>14}" for title in titles))
    is_right = True
    for minutes, (cold, idle) in EXPECTED.items():
        ledger, seconds = timed(trace, one_process_each(ENDLESS_BYTES), minutes * 60, None)
        shares = shares_of(trace, ledger)
        is_right &= ledger.starts == cold
        cells = (
            f"{minutes:g} min",
            f"{ledger.starts:,}",
            f"{cold:,}",
            f"{100 * ledger.starts / len(trace):.2f}",
            f"{100 * percentile(shares, 0.5):.1f} / {100 * percentile(shares, 0.75):.0f}",
            f"{ledger.idle_gib_s / 60_000:.1f}",
            f"{idle:.1f}",
            f"{seconds:.0f}",
        )
        print("".join(f"{cell:>14}" for cell in cells), flush=True)
    print("\ncold starts as expected" if is_right else "\nCOLD STARTS ARE NOT AS EXPECTED")
    return is_right


def victims(directory: Path, caps: list[int], seeds: int) -> None:
    print(f"cold starts, % of invocations / the median function's % / p75; means of {seeds} seeds\n")
    print(f"{'cap':>6}" + "".join(f"{name:>24}" for name in POLICIES))
    for cap in caps:
        cells = []
        for make in POLICIES.values():
            figures = []
            for seed in range(1, seeds + 1):
                trace = read_minutes(directory, "jitter", seed, run_times=False)
                ledger, _ = timed(trace, one_process_each(cap * GIB, COLD_NS), math.inf, make())
                shares = shares_of(trace, ledger)
                figures.append((ledger.starts / len(trace), percentile(shares, 0.5), percentile(shares, 0.75)))
            means = [100 * sum(column) / seeds for column in zip(*figures, strict=True)]
            cells.append("{:.2f} / {:.1f} / {:.0f}".format(*means))
        print(f"{cap:>6}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


def speed(directory: Path) -> None:
    begun_s = time.process_time()
    trace = read_minutes(directory)
    read_s = time.process_time() - begun_s
    cluster = ClusterSettings(nodes=10, cpu=64, memory_bytes=64 * GIB)
    ledger, seconds = timed(trace, cluster, 60, None)
    print(f"read in {read_s:.1f} s; {len(trace):,} calls in {seconds:.0f} s of cpu time")
    print(f"{ledger.starts:,} starts, {ledger.evictions:,} evictions, {ledger.failed:,} failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="the directory of the trace")
    parser.add_argument("--part", choices=["terms", "victims", "speed"], default="terms", help="default: terms")
    parser.add_argument("--caps", type=int, nargs="+", default=[30, 45, 60, 70, 85], help="GiB, for victims")
    parser.add_argument("--seeds", type=int, default=5, help="for victims (default: 5)")
    options = parser.parse_args()
    if options.part == "terms":
        sys.exit(0 if terms(options.trace) else 1)
    elif options.part == "victims":
        victims(options.trace, options.caps, options.seeds)
    else:
        speed(options.trace)


if __name__ == "__main__":
    main()
