"""What a run of the lease world consists of: functions, and Hypothesis strategies of what happens to them."""

from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st

from keepwarm_wire import messages as wire
from keepwarm_wire.spec import canonical_spec
from support.leases.node import MILLISECOND, SECOND
from support.leases.world import CALM, TICK_NS, Weather, World
from support.scheduler_driver import options

__all__ = [
    "ALL", "BAD", "BEHAVIOURS", "FAULTS", "INFINITE", "MIXED", "OFFSETS_NS", "PRIVATE", "REPLAYING", "SEEDS", "SLOW",
    "THOROUGH", "WEATHERS", "Step", "declared", "idle_after_one_call", "keep_alive_ns", "perform", "programs", "settle",
]  # fmt: skip

BAD = Weather(loss=0.08, twice=0.15, replay=0.05, slow=0.3, slow_max_ns=400 * MILLISECOND, delay_ns=MILLISECOND)
"""Loses, doubles, delays and therefore reorders, and says old things again."""
SLOW = Weather(slow=0.3, slow_max_ns=3 * SECOND, delay_ns=MILLISECOND)
"""Loses nothing, but lets some messages overtake many others."""
REPLAYING = Weather(twice=0.4, replay=0.5)
"""Loses and reorders nothing, but says everything again and again."""

OFFSETS_NS = st.one_of(st.integers(0, 1 << 62), st.integers(0, 1 << 34).map(lambda ticks: ticks * TICK_NS))
"""Readings of the scheduler's clock at its start, some of them exactly on a tick."""
SEEDS = st.integers(0, 1 << 32)
WEATHERS = st.sampled_from([CALM, REPLAYING, BAD, SLOW])
THOROUGH = settings(max_examples=max(200, settings().max_examples))
"""For programs whose every step may meet every fault."""

KEEP_ALIVES_S: tuple[float | None, ...] = (0.3, 1.0, 2.5, 0.0, None)
"""By function number less 1; None is without end."""
BEHAVIOURS = ("ok", "ok", "ok", "raise", "hang", "crash")


def declared(number: int, keep_alive: float | None, **changes: Any) -> wire.DeclareFunction:
    """A function as clients declare it. Equal ``changes`` share processes; ``keep_alive`` in seconds, None for inf."""
    name = changes.pop("name", f"app:f{number}")
    version = name.encode().ljust(32, b"v")[:32]
    spec = canonical_spec((), "3.11")
    changes = {"keep_alive": keep_alive, "run_timeout": 2.0, "cpu": 100, "memory_bytes": 1 << 30} | changes
    return wire.DeclareFunction(number, name, version, "cp311", spec, False, options(**changes), b"body")


MIXED = tuple(declared(number, keep_alive) for number, keep_alive in enumerate(KEEP_ALIVES_S, 1))
"""keep_alive finite, 0 and infinite on one environment."""
PRIVATE, INFINITE = 4, 5
ALL = (1, 2, 3, PRIVATE, INFINITE)
FAULTS = ("cancel", "restart", "pause", "break", "cut", "kill")


class Step(NamedTuple):
    """One thing that happens, ``gap_ns`` after the one before. ``which`` and ``how`` mean what the verb makes of it."""

    gap_ns: int
    verb: str
    which: int = 0
    how: str = "ok"


GAPS_NS = st.one_of(
    st.sampled_from([0, 1, MILLISECOND, 99 * MILLISECOND, 100 * MILLISECOND]),
    st.integers(0, 400).map(lambda ms: ms * MILLISECOND),
    st.integers(0, 4 * SECOND),
)


def programs(
    *verbs: str, functions: tuple[int, ...] = (1, 2, 3), behaviours: tuple[str, ...] = ("ok",), size: int = 12
) -> st.SearchStrategy[list[Step]]:
    """Runs of calls to these functions, with some of these other verbs in between."""
    calls = st.builds(Step, GAPS_NS, st.just("call"), st.sampled_from(functions), st.sampled_from(behaviours))
    others = [st.builds(Step, GAPS_NS, st.just(verb), st.integers(0, 9), st.just("")) for verb in verbs]
    return st.lists(st.one_of(calls, calls, calls, *others), min_size=1, max_size=size)


def perform(world: World, steps: list[Step]) -> list[str]:
    """Do all of them, each at its time; the names of the calls."""
    calls: list[str] = []
    for step in steps:
        world.run(step.gap_ns)
        if step.verb == "call":
            run_us = (1_000, 10_000, 150_000, 1_200_000)[(step.gap_ns // 7) % 4]
            calls.append(world.submit(step.which, step.how, run_us, client=len(calls)))
        elif step.verb == "cancel":
            if calls:
                world.cancel(calls[-1 - step.which % len(calls)])
        else:
            _FAULTS[step.verb](world, step.which)
    return calls


_FAULTS = {
    "restart": lambda world, which: world.crash_scheduler(which * 100 * MILLISECOND),
    "long restart": lambda world, which: world.crash_scheduler(which * 5 * SECOND),
    "pause": lambda world, which: world.pause_scheduler((which + 1) * 130 * MILLISECOND),
    "break": lambda world, which: world.break_connection(
        world.links[which % len(world.links)], is_noticed=which % 2 == 0
    ),
    "cut": lambda world, which: world.cut(world.links[which % len(world.links)], (which + 1) * SECOND // 2),
    "kill": lambda world, which: world.nodes[which % len(world.nodes)].kill_process(which),
    "crash": lambda world, which: world.crash_node(which),
}
"""What may happen besides calls, and to whom (a number)."""


def settle(world: World, duration_ns: int = 12 * SECOND) -> None:
    """The weather clears up, and everything that is going to end has the time to."""
    world.weather = Weather()
    world.run(duration_ns)


def idle_after_one_call(world: World, function: int, behaviour: str = "ok") -> tuple[int, int]:
    """Let one call end; its instance, and the instant at which it ended there."""
    world.submit(function, behaviour)
    while not (ends := world.history.of("end")):
        world.run(10 * MILLISECOND)
    return ends[-1][3], ends[-1][0]


def keep_alive_ns(function: int) -> int:
    """K of one of the functions with an end."""
    keep_alive_s = KEEP_ALIVES_S[function - 1]
    assert keep_alive_s is not None
    return round(keep_alive_s * SECOND)
