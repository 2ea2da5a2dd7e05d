"""Many schedules over all processors: which promises broke, what struck, how often each row of a table was used.

A worker process runs batches of (scenario, seed) and returns a summary of each run; a run is the same wherever it
runs. In every twelfth run the cores' own invariants are checked after every event, which makes it cost four times as
much.
"""

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from support.simulation import rows
from support.simulation.cluster import replay_command, simulate
from support.simulation.faults import SCENARIOS
from support.simulation.rows import Row

__all__ = ["Failure", "Report", "ScenarioReport", "run_campaign", "seeds_of"]

SEEDS = {"default": 230, "ci": 230, "long": 960}
"""Per scenario and tier."""

SEEDS_FACTOR = {
    "everything": 2, "lending": 0.4, "lending-restarts": 0.4, "lending-outages": 0.4, "detached": 0.2,
    "detached-everything": 0.2,
}  # fmt: skip
"""Where faults of all kinds meet there is more to find; a real journal takes time, and so do many calls."""

CHECKED_EVERY = 12

_BATCH = 16
_COLLECT_AFTER = 50_000
_SHOWN = 8

Schedule = tuple[str, int]


class Failure(NamedTuple):
    """A schedule in which promises broke."""

    scenario: str
    seed: int
    violations: tuple[str, ...]

    def __str__(self) -> str:
        shown = self.violations[:_SHOWN]
        more = len(self.violations) - len(shown)
        lines = [f"scenario {self.scenario}, seed {self.seed}:", *shown, *([f"and {more} more"] if more else [])]
        return "\n  ".join([*lines, f"replay with: {replay_command(self.scenario, self.seed)}"])


class _Summary(NamedTuple):
    scenario: str
    seed: int
    messages: int
    timers: int
    faults: dict[str, int]
    met: dict[str, int]
    rows: dict[Row, int]
    violations: tuple[str, ...]


@dataclass
class ScenarioReport:
    """The runs of one scenario, added up."""

    schedules: int = 0
    messages: int = 0
    timers: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    @property
    def events(self) -> int:
        """Messages handled and timers fired, by all cores together."""
        return self.messages + self.timers


@dataclass
class Report:
    """A whole campaign."""

    scenarios: dict[str, ScenarioReport]
    rows: Counter[Row] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    """What schedules are meant to lead to, and how often they did."""
    processes: int = 0
    spent_s: float = 0.0

    @property
    def schedules(self) -> int:
        """How many runs there were."""
        return sum(each.schedules for each in self.scenarios.values())

    @property
    def events(self) -> int:
        """Messages handled and timers fired, in all runs together."""
        return sum(each.events for each in self.scenarios.values())

    @property
    def faults(self) -> Counter[str]:
        """How often each kind of fault did harm."""
        return sum((each.faults for each in self.scenarios.values()), Counter[str]())

    @property
    def failures(self) -> list[Failure]:
        """Every schedule in which promises broke."""
        return [failure for each in self.scenarios.values() for failure in each.failures]

    def add(self, summary: _Summary) -> None:
        """Count one run."""
        into = self.scenarios[summary.scenario]
        into.schedules += 1
        into.messages += summary.messages
        into.timers += summary.timers
        into.faults.update(summary.faults)
        self.rows.update(summary.rows)
        self.met.update(summary.met)
        if summary.violations:
            into.failures.append(Failure(summary.scenario, summary.seed, summary.violations))

    def line(self) -> str:
        """All of it in one line."""
        known = sum(map(len, rows.TABLES.values()))
        return (
            f"simulation: {self.schedules:,} schedules, {self.events / 1e6:.1f} M events, "
            f"{len(self.faults)} fault kinds struck {sum(self.faults.values()):,} times, "
            f"{len(self.rows)} of {known} transition rows, "
            f"{len(self.failures)} failures, {self.spent_s:.0f} s in {self.processes} processes"
        )

    def table(self) -> Iterator[str]:
        """All of it, line by line: scenarios with their faults, and the rows of the transition tables."""
        yield f"{'scenario':20} {'schedules':>9} {'messages':>10} {'timers':>10} {'failures':>8}  faults"
        for name, each in self.scenarios.items():
            faults = ", ".join(f"{kind} {each.faults[kind]}" for kind in SCENARIOS[name].fault_kinds)
            counts = f"{each.schedules:9,} {each.messages:10,} {each.timers:10,} {len(each.failures):8}"
            yield f"{name:20} {counts}  {faults}"
        for table, entries in rows.TABLES.items():
            yield ""
            yield f"{table:34} {'count':>10}"
            for was, to in entries:
                yield f"  {was.value:>14} -> {to.value:14} {self.rows[(table, was.value, to.value)]:10,}"
        yield ""
        yield from (f"{kind:45} {count:10,}" for kind, count in sorted(self.met.items()))
        yield ""
        yield self.line()


def seeds_of(tier: str, scenarios: Iterable[str] = SCENARIOS) -> dict[str, range]:
    """Which seeds of which scenarios a tier runs."""
    return {name: range(int(SEEDS[tier] * SEEDS_FACTOR.get(name, 1))) for name in scenarios}


def run_campaign(seeds: Mapping[str, range], processes: int | None = None) -> Report:
    """Run all seeds, in as many processes as there are processors for us, or in this one for ``processes=0``."""
    began_s = time.perf_counter()
    count = len(os.sched_getaffinity(0)) if processes is None else processes
    report = Report({name: ScenarioReport() for name in seeds}, processes=max(1, count))
    # Seed by seed, not scenario by scenario: all processes are busy to the end.
    longest = max((each.stop for each in seeds.values()), default=0)
    schedules = iter([(name, seed) for seed in range(longest) for name in seeds if seed in seeds[name]])
    batches = list(iter(lambda: list(islice(schedules, _BATCH)), []))
    for summary in _summaries(batches, count):
        report.add(summary)
    for each in report.scenarios.values():
        each.failures.sort()
    report.spent_s = time.perf_counter() - began_s
    return report


def _summaries(batches: list[list[Schedule]], processes: int) -> Iterator[_Summary]:
    if processes == 0:
        rows.install()
        for batch in batches:
            yield from _run_batch(batch)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin) as pool:
        for summaries in pool.map(_run_batch, batches):
            yield from summaries


def _begin() -> None:
    rows.install()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def _run_batch(batch: list[Schedule]) -> list[_Summary]:
    return [_run_one(scenario, seed) for scenario, seed in batch]


def _run_one(scenario: str, seed: int) -> _Summary:
    rows.take()
    run = simulate(scenario, seed, checked=seed % CHECKED_EVERY == 0)
    tally = run.tally
    return _Summary(
        scenario, seed, tally.messages, tally.timers, tally.faults, tally.met, rows.take(), tuple(run.violations)
    )
