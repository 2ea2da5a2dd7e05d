"""What one client does with one system: calls one at a time, many at once, and nothing at all.

A workload is a generator of what it has measured. Rules: it warms up before it measures, keeps the results until the
stretch is over, and gives the same work to every system.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from benchmarks.hot_path.calls import burn, name_of_requests, nothing, same
from benchmarks.hot_path.processes import pss_bytes, rss_bytes, tree
from benchmarks.hot_path.systems import WORKERS, Keepwarm, System
from benchmarks.hot_path.tiers import Sizes
from benchmarks.hot_path.window import Window

__all__ = [
    "MIB",
    "cheapest",
    "Measured",
    "Skipped",
    "Workload",
    "three",
    "growth",
    "idle",
    "in_flight",
    "kilobyte",
    "millisecond",
    "queued",
    "requirements",
    "round_trip",
    "timed",
    "trips",
]

STRETCHES = 6
KIB, MIB = 1 << 10, 1 << 20
MILLISECOND_S = 0.001
BATCH_MAX = 10_000


class Measured(NamedTuple):
    """Figures by name, which says the unit last; processor time per call by part, in microseconds."""

    case: str
    figures: dict[str, float]
    parts: dict[str, float]


class Skipped(Exception):  # noqa: N818  # nobody's error
    """A workload that cannot run here; the text says why."""


Workload = Callable[[System, Sizes], Iterator[Measured]]


def burst(system: System, function: Callable[..., Any], arguments: tuple[Any, ...], calls: int, sizes: Sizes) -> Window:
    """Submit all these calls, then gather them: the stretch, measured."""
    gc.collect()
    time.sleep(sizes.settle_s)
    with Window() as window:
        results = system.gather([system.submit(function, *arguments) for _ in range(calls)])
    assert len(results) == calls
    return window


def warm_up(system: System, calls: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Have processes started and everything imported."""
    system.call(function, *arguments)
    system.gather([system.submit(function, *arguments) for _ in range(calls)])


def trips(system: System, function: Callable[..., Any], sizes: Sizes, case: str = "") -> Measured:
    """Round trips, one at a time."""
    warm_up(system, sizes.warm_up, function)
    return timed(partial(system.call, function), sizes, case)


def timed(call: Callable[[], object], sizes: Sizes, case: str) -> Measured:
    """Make a call again and again, and time each."""
    for _ in range(sizes.round_trips // 10):
        call()
    time.sleep(sizes.settle_s)
    times_s: list[float] = []
    with Window() as window:
        for _ in range(sizes.round_trips):
            begun_s = time.perf_counter()
            call()
            times_s.append(time.perf_counter() - begun_s)
    percentiles = statistics.quantiles(times_s, n=100)
    figures = window.figures(sizes.round_trips) | {"p50_ms": percentiles[49] * 1e3, "p99_ms": percentiles[98] * 1e3}
    return Measured(case, figures, window.parts(sizes.round_trips))


def round_trip(system: System, sizes: Sizes) -> Iterator[Measured]:
    """No-ops, one at a time."""
    yield trips(system, nothing, sizes)


def in_flight(system: System, sizes: Sizes, case: str = "") -> Iterator[Measured]:
    """No-ops, all submitted before the first is asked for."""
    warm_up(system, max(sizes.warm_up, sizes.calls // 4), nothing)
    window = burst(system, nothing, (), sizes.calls, sizes)
    yield Measured(case, window.figures(sizes.calls), window.parts(sizes.calls))


def kilobyte(system: System, sizes: Sizes, case: str = "") -> Iterator[Measured]:
    """The same with 1 KiB in and 1 KiB out."""
    arguments = (os.urandom(KIB),)
    warm_up(system, max(sizes.warm_up, sizes.calls // 4), same, *arguments)
    window = burst(system, same, arguments, sizes.calls, sizes)
    yield Measured(case, window.figures(sizes.calls), window.parts(sizes.calls))


def three(system: System, sizes: Sizes) -> Iterator[Measured]:
    """The three above in one tree of processes, each a case."""
    yield trips(system, nothing, sizes, "round_trip")
    yield from in_flight(system, sizes, "in_flight")
    yield from kilobyte(system, sizes, "kilobyte")


def cheapest(system: System, sizes: Sizes) -> Iterator[Measured]:
    """The same several times over in turn; of each, the stretch that took the least processor time per call.

    What others do at the same time makes calls dearer, by cold caches and by turns that are cut short, so that the
    cheapest is the least disturbed.
    """
    warm_up(system, STRETCHES * sizes.warm_up, nothing)
    found: dict[str, Measured] = {}
    for _ in range(STRETCHES):
        for one in three(system, sizes):
            best = found.setdefault(one.case, one)
            found[one.case] = min(one, best, key=lambda measured: measured.figures["cpu_us_per_call"])
    yield from found.values()


def millisecond(system: System, sizes: Sizes) -> Iterator[Measured]:
    """A map of calls that use 1 ms of processor time: how much of two processors is left for them."""
    calls = sizes.millisecond
    warm_up(system, sizes.warm_up, burn, MILLISECOND_S)
    time.sleep(sizes.settle_s)
    with Window() as window:
        system.map(burn, [MILLISECOND_S] * calls)
    efficiency = calls * MILLISECOND_S / WORKERS / window.wall_s
    overhead_us = (window.cpu_s / calls - MILLISECOND_S) * 1e6
    shown = {"efficiency": efficiency, "overhead_us_per_call": overhead_us, "others_percent": window.others_percent}
    yield Measured("", shown, {})


def idle(system: System, sizes: Sizes) -> Iterator[Measured]:
    """Nothing, after some work: processor time, and memory by part."""
    warm_up(system, sizes.warm_up, nothing)
    gc.collect()
    time.sleep(3 * sizes.settle_s)
    with Window() as window:
        time.sleep(sizes.idle_s)
    memory: dict[str, float] = {}
    for process in tree(os.getpid()):
        name = f"pss_mib.{process.part}"
        memory[name] = memory.get(name, 0) + pss_bytes(process.pid) / MIB
    figures = {"core_percent": 100 * window.cpu_s / window.wall_s, "pss_mib": sum(memory.values())}
    yield Measured("", figures | memory | {"others_percent": window.others_percent}, {})


def resident() -> dict[int, tuple[str, int]]:
    """Part and resident bytes of each process of this tree."""
    return {process.pid: (process.part, rss_bytes(process.pid)) for process in tree(os.getpid())}


def growth(system: System, sizes: Sizes) -> Iterator[Measured]:
    """Resident memory gained over many calls whose results are dropped; what began meanwhile counts in full."""
    batch = min(BATCH_MAX, sizes.growth)
    for _ in range(2):  # what is kept of finished calls, up to a bound, is full then
        warm_up(system, batch, nothing)
    gc.collect()
    time.sleep(2 * sizes.settle_s)
    before = resident()
    begun_s = time.perf_counter()
    for _ in range(sizes.growth // batch):
        system.gather([system.submit(nothing) for _ in range(batch)])
        gc.collect()
    rate = sizes.growth / (time.perf_counter() - begun_s)
    time.sleep(2 * sizes.settle_s)
    gained: dict[str, float] = {}
    for pid, (part, size) in resident().items():
        name = f"growth_mib.{part}"
        gained[name] = gained.get(name, 0) + (size - before.get(pid, (part, 0))[1]) / MIB
    yield Measured("", {"growth_mib": sum(gained.values()), "calls_per_s": rate} | gained, {})


def queued(system: System, sizes: Sizes) -> Iterator[Measured]:
    """Everything submitted at once. The memory of the whole tree meanwhile is sampled from outside."""
    warm_up(system, sizes.warm_up, nothing)
    window = burst(system, nothing, (), sizes.queued, sizes)
    yield Measured("", window.figures(sizes.queued), {})


def requirements(system: System, sizes: Sizes) -> Iterator[Measured]:
    """Round trips through an environment with packages; a system without environments runs no-ops."""
    if not isinstance(system, Keepwarm):
        yield trips(system, nothing, sizes)
        return
    from keepwarm import EnvironmentBuildError, IndexUnreachable

    packaged = system.with_requirements("requests")
    try:
        assert packaged.call(name_of_requests) == "requests"
    except IndexUnreachable:
        raise Skipped("no package index can be reached from here") from None
    except EnvironmentBuildError as error:
        raise Skipped(f"requests cannot be installed here: {str(error).splitlines()[0]}") from None
    yield trips(packaged, name_of_requests, sizes)
