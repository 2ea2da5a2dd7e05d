"""Run seeds by hand: ``PYTHONPATH=tests python -m support.simulation --scenario everything --seed 7 --trace``.

``--campaign`` runs what the tests run and prints what that amounts to; with ``--count`` other than 1, so many seeds of
each scenario.
"""

import argparse
import os
import sys
import time

from support.simulation.campaign import run_campaign, seeds_of
from support.simulation.cluster import Run, replay_command, simulate
from support.simulation.faults import SCENARIOS
from support.tiers import tier_of


def _show(run: Run, *, trace: bool) -> None:
    if trace:
        for at_ns, kind, *fields in run.history.entries:
            shown = " ".join(f"{f:#x}" if isinstance(f, int) and f > 1 << 40 else str(f)[:120] for f in fields)
            print(f"{at_ns / 1e9:11.6f}  {kind:18} {shown}")
    for violation in run.violations:
        print(f"VIOLATION  {violation}")
    if run.violations and not trace:
        print(f"  again: {replay_command(run.scenario, run.seed)}")


def _campaign(count: int) -> int:
    seeds = seeds_of(tier_of(os.environ))
    report = run_campaign(seeds if count == 1 else dict.fromkeys(seeds, range(count)))
    for line in (*report.table(), *map(str, report.failures)):
        print(line)
    return 1 if report.failures else 0


def main() -> int:
    """Run one seed, or ``--count`` of them; 1 if a checker objects."""
    parser = argparse.ArgumentParser(prog="python -m support.simulation", description=__doc__)
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print the history")
    parser.add_argument("--unchecked", action="store_true", help="without the cores' own invariants")
    parser.add_argument("--campaign", action="store_true", help="all seeds of this tier, over all processors")
    chosen = parser.parse_args()
    if chosen.campaign:
        return _campaign(chosen.count)
    failed = 0
    for name in SCENARIOS if chosen.scenario == "all" else (chosen.scenario,):
        began_s, bad, events = time.perf_counter(), 0, 0
        for seed in range(chosen.seed, chosen.seed + chosen.count):
            run = simulate(name, seed, checked=not chosen.unchecked)
            _show(run, trace=chosen.trace)
            bad += bool(run.violations)
            events += run.tally.events
            if chosen.count == 1:
                print(f"digest {run.digest}")
        spent_s = time.perf_counter() - began_s
        print(f"{name}: {chosen.count} seeds, {bad} bad, {events} events, {spent_s:.1f} s")
        failed += bad
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
