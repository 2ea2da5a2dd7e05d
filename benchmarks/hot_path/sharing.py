"""What happens when a cluster is shared: several clients, several environments, a single call beside a long queue.

A process pool can be shared in none of these ways. It stands for what one would do instead: each client and each
environment has a pool of its own, and the operating system divides the processors among them.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.hot_path.calls import burn, nothing
from benchmarks.hot_path.choosing import OURS, POOL, SUBMITTED
from benchmarks.hot_path.client import started
from benchmarks.hot_path.systems import Keepwarm, KeepwarmSubmitted, System
from benchmarks.hot_path.tiers import Sizes
from benchmarks.hot_path.window import Window
from benchmarks.hot_path.workloads import MILLISECOND_S, Measured, timed, warm_up

__all__ = ["environments", "fairness", "in_turn", "many_clients"]

LANE_WARM_UP = 5
PATIENCE_S = 20.0
"""A single call may be slow beside a long queue; no more of them are made after so long."""


def _name(system: System) -> str:
    if isinstance(system, KeepwarmSubmitted):
        return SUBMITTED
    return OURS if isinstance(system, Keepwarm) else POOL


def many_clients(system: System, sizes: Sizes) -> Iterator[Measured]:
    """The no-ops of ``in_flight``, divided among clients that begin together."""
    warm_up(system, sizes.warm_up, nothing)
    for count in sizes.clients:
        calls = count * (sizes.calls // count)
        with started(_name(system), "burst", sizes.calls // count, count) as clients:
            time.sleep(sizes.settle_s)
            with Window() as window:
                for client in clients:
                    client.tell()
                spans = [tuple(map(float, client.hear("DONE"))) for client in clients]
            wall_s = max(end_s for _, end_s in spans) - min(begun_s for begun_s, _ in spans)
            figures = window.figures(calls) | {"calls_per_s": calls / wall_s}
            yield Measured(f"{count} client{'s' * (count > 1)}", figures, window.parts(calls))


def environments(system: System, sizes: Sizes) -> Iterator[Measured]:
    """No-ops in flight, to another environment with each call."""
    lanes: list[System] = []
    for count in sizes.environments:
        _add_lanes(system, lanes, count)
        for _ in range(2):  # first to warm up
            gc.collect()
            time.sleep(sizes.settle_s)
            with Window() as window:
                handles = [lanes[number % count].submit(nothing) for number in range(sizes.calls)]
                results = system.gather(handles)
            assert len(results) == sizes.calls
            del handles, results
        case = f"{count} environment{'s' * (count > 1)}"
        yield Measured(case, window.figures(sizes.calls), window.parts(sizes.calls))


def _add_lanes(system: System, lanes: list[System], count: int) -> None:
    """Until there are so many environments, each of which has run calls."""
    while len(lanes) < count:
        lanes.append(system.environment(len(lanes)))
        warm_up(lanes[-1], LANE_WARM_UP, nothing)


def in_turn(system: System, sizes: Sizes) -> Iterator[Measured]:
    """Round trips, each to another environment than the one before."""
    lanes: list[System] = []
    for count in sizes.in_turn:
        _add_lanes(system, lanes, count)
        calls = itertools.cycle([partial(lane.call, nothing) for lane in lanes])
        yield timed(partial(_call_next, calls), sizes, f"{count} environments")


def _call_next(calls: Iterator[Callable[[], Any]]) -> None:
    next(calls)()


def fairness(system: System, sizes: Sizes) -> Iterator[Measured]:
    """One call of 1 ms at a time, while another client has many of them queued."""
    warm_up(system, LANE_WARM_UP, burn, MILLISECOND_S)
    with started(_name(system), "queue", sizes.fair_queue, 1) as (other,):
        other.tell()
        other.hear("QUEUED")
        times_s: list[float] = []
        end_s = time.monotonic() + PATIENCE_S
        with Window() as window:
            while len(times_s) < sizes.fair_calls and time.monotonic() < end_s:
                begun_s = time.perf_counter()
                system.call(burn, MILLISECOND_S)
                times_s.append(time.perf_counter() - begun_s)
        other.tell()
        left = int(other.hear("LEFT")[0])
    percentiles = statistics.quantiles(times_s, n=100)
    figures = {"p50_ms": percentiles[49] * 1e3, "p99_ms": percentiles[98] * 1e3, "single_calls": float(len(times_s))}
    yield Measured("", figures | {"still_queued": float(left), "others_percent": window.others_percent}, {})
