"""How fast a warm call is, and what it costs, measured against a process pool on this machine.

    python -m benchmarks.hot_path                          # all of it, about a quarter of an hour
    python -m benchmarks.hot_path --quick                  # a small part of it, in less than a minute
    python -m benchmarks.hot_path --only in_flight,idle --submitted --peer loky --json figures.json --chart charts
    python -m benchmarks.hot_path --check-baseline         # is a call still as cheap as benchmarks/baseline.json says?
    python -m benchmarks.hot_path --write-baseline         # what is measured now is what is held to from now on

Run it from the root of the repository. Keepwarm and ``ProcessPoolExecutor(2)`` run on the same two processors, in turn,
each time in fresh processes; a figure is the median of the repetitions with the smallest and largest, a ratio that of
the pairs. Linux only: it reads /proc.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.hot_path import baseline, chart
from benchmarks.hot_path.choosing import OURS, POOL, SUBMITTED, TCP, ZEROMQ
from benchmarks.hot_path.figures import Sample, spread
from benchmarks.hot_path.peers import PEERS, is_importable
from benchmarks.hot_path.plan import QUICK, WORKLOADS
from benchmarks.hot_path.processes import adopt_orphans
from benchmarks.hot_path.running import Failed, run_all, say
from benchmarks.hot_path.table import report

ABOVE, INTERRUPTED = 1, 130


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hot_path",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_names, help=f"some of {','.join(WORKLOADS)}")
    parser.add_argument("--quick", action="store_true", help=f"few calls of {','.join(QUICK)}")
    parser.add_argument("--peer", type=_names, default=[], help=f"also some of {','.join(PEERS)}, if importable here")
    parser.add_argument("--submitted", action="store_true", help="also with KEEPWARM_LENDING=0: no process is lent")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to a file")
    parser.add_argument("--chart", type=Path, metavar="DIR", help="draw hot_path.png and hot_path.svg there")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--check-baseline", action="store_true", help="exit 1 if a call costs over 15 %% more")
    way.add_argument("--check-memory", action="store_true", help="exit 1 if calls leave too much memory behind")
    way.add_argument("--write-baseline", action="store_true", help="measure, and renew benchmarks/baseline.json")
    options = parser.parse_args(arguments)
    if options.only is None:
        options.only = list(QUICK if options.quick else WORKLOADS)
    for given, known in ((options.only, WORKLOADS), (options.peer, PEERS)):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return options


def measure(options: argparse.Namespace) -> int:
    """Run workloads and print the report."""
    peers = [peer for peer in options.peer if is_importable(peer)]
    for peer in set(options.peer) - set(peers):
        say(f"{peer}: left out, for {sys.executable} cannot import {PEERS[peer]}")
    others = [SUBMITTED] * options.submitted + peers
    samples: list[Sample] = []
    try:
        samples.extend(run_all(options.only, others, "quick" if options.quick else "full"))
    finally:
        if options.json:
            options.json.write_text(json.dumps([sample._asdict() for sample in samples], indent=1), encoding="utf-8")
    print(report(samples, (OURS, POOL), (TCP, SUBMITTED, ZEROMQ)), end="")
    if options.chart:
        for file in chart.draw(samples, options.chart, [OURS, POOL, *others]):
            say(f"drawn: {file}")
    return 0


def check_baseline() -> int:
    """Print a line for each ratio; 1 if one is above what is allowed."""
    known = baseline.read()
    if known is None:
        print(f"no baseline for Python {baseline.interpreter()}: run it with --write-baseline")
        return 0
    allowed = baseline.limits(known)
    is_within = True
    for case, (passed, ratios) in baseline.check(allowed).items():
        median, low, high = spread(ratios)
        is_within &= passed
        measured = f"{median:.2f} times a pool's processor time per call ({low:.2f} to {high:.2f}, {len(ratios)} pairs)"
        limit = f"{allowed[case]:.2f} = {baseline.ALLOWED[case]} x {known[case]:.2f}"
        print(f"{case}: {measured}, {'within' if passed else 'ABOVE'} {limit}")
    return 0 if is_within else ABOVE


def check_memory() -> int:
    """Print what many calls left behind in each part; 1 if it is more than what is allowed."""
    figures, calls = baseline.growth(), baseline.TIER_SIZES.growth
    gained_mib = figures.pop("growth_mib")
    is_within = gained_mib <= baseline.GROWTH_MIB_MAX
    parts = ", ".join(f"{name} {value:.1f}" for name, value in figures.items() if name.startswith("growth_mib."))
    limit = f"{'within' if is_within else 'ABOVE'} {baseline.GROWTH_MIB_MAX} MiB"
    print(f"{calls:,} calls left {gained_mib:.1f} MiB behind, {limit}: {parts}")
    return 0 if is_within else ABOVE


def write_baseline() -> int:
    """Measure and renew the file."""
    medians = baseline.measure()
    baseline.write(medians)
    print(f"{baseline.FILE}: " + ", ".join(f"{case} {median:.3f}" for case, median in medians.items()))
    return 0


def main() -> int:
    """Do as the command line says."""
    options = options_of()
    adopt_orphans()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything is ended on the way out
    try:
        if options.check_baseline:
            return check_baseline()
        if options.check_memory:
            return check_memory()
        return write_baseline() if options.write_baseline else measure(options)
    except Failed as error:
        say(f"failed: {error}")
        return ABOVE
    except KeyboardInterrupt:
        say("interrupted: all processes are ended")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
