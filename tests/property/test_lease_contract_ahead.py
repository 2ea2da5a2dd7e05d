"""The lease contract where calls are sent ahead to busy processes: each clause as for calls that wait their turn here.

Every function is known to be short, whatever its calls then do: so that some are asked back, and some come too late.
"""

from hypothesis import given
from hypothesis import strategies as st

from support.leases import clauses
from support.leases.clauses import consent
from support.leases.node import MILLISECOND, SECOND
from support.leases.programs import (
    ALL,
    BEHAVIOURS,
    FAULTS,
    MIXED,
    OFFSETS_NS,
    SEEDS,
    WEATHERS,
    Step,
    perform,
    programs,
    settle,
)
from support.leases.world import CALM, Weather, World

AHEAD_MAX = 6
CROWDED = {"cpu": 200, "memory": 8 << 30}
"""Room for two calls at a time."""


def bursts(calls: int = 40) -> st.SearchStrategy[list[Step]]:
    """Many calls at almost the same time, to the functions that share processes."""
    gaps_ns = st.sampled_from([0, 0, 0, 7, 14, 21, MILLISECOND, 30 * MILLISECOND])
    call = st.builds(Step, gaps_ns, st.just("call"), st.sampled_from((1, 2, 3)), st.sampled_from(("ok", "ok", "raise")))
    return st.lists(call, min_size=10, max_size=calls)


def crowded(weather: Weather = CALM, seed: int = 0, offset_ns: int = 1_000 * SECOND, nodes: int = 1) -> World:
    return World(
        MIXED, weather=weather, seed=seed, offset_ns=offset_ns, nodes=nodes, resources=CROWDED, ahead_max=AHEAD_MAX,
        checked=True, deafness=0.2,
    )  # fmt: skip


def test_calls_are_sent_ahead_in_these_worlds_and_some_are_given_back() -> None:
    """Else nothing here proves anything."""
    world = crowded()
    for number in range(30):
        world.submit(1, "ok", 200_000 if number == 25 else 1_000)
    world.run(10 * SECOND)
    assert world.history.of("ahead")
    assert world.history.of("given back")
    consent(clauses.answered_once(world.history), clauses.never_early(world.history))


@given(bursts(), OFFSETS_NS)
def test_in_calm_weather_leases_end_on_time_and_no_call_runs_twice(program: list[Step], offset_ns: int) -> None:
    """Also of processes that are asked for calls back: what only waited leaves no trace."""
    world = crowded(offset_ns=offset_ns)
    perform(world, program)
    settle(world)
    consent(
        clauses.answered_once(world.history),
        clauses.never_early(world.history),
        clauses.on_time(world.history, offset_ns),
        clauses.busy_left_alone(world.history),
        clauses.current_attempt_counts(world.history),
    )


@given(bursts(20), programs(*FAULTS, "crash", functions=ALL, behaviours=BEHAVIOURS), WEATHERS, SEEDS)
def test_in_all_weathers_and_with_all_faults_the_contract_holds(
    burst: list[Step], program: list[Step], weather: Weather, seed: int
) -> None:
    world = crowded(weather, seed, nodes=2)
    perform(world, burst + program + burst)
    settle(world, 40 * SECOND)
    for node in world.nodes:
        world.link_of(node).is_cut = False
    settle(world, 40 * SECOND)
    consent(
        clauses.ends_once(world.history),
        clauses.never_early(world.history),
        clauses.busy_left_alone(world.history),
        clauses.nothing_after_its_end(world.history),
        clauses.answered_once(world.history, runs_max=None),
        clauses.private_once(world.history),
        clauses.orders_only_when_reported(world.history),
    )
