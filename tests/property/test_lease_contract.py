"""The lease contract, clauses 1 to 11: when a lease ends, how, and for whom.

The real cores of scheduler and agent over a channel that does its worst. The table at the end of
``docs/explanation/leases.md`` says which promise each of these properties proves. What was promised is counted by the
nodes of ``support.leases`` from what their processes did, never read from a core; without weather the ends are exact
to the nanosecond.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm import isolated
from keepwarm.options import duration_us
from keepwarm_scheduler.core.events import Tick
from keepwarm_scheduler.core.leases import FOREVER_NS, Lease
from keepwarm_scheduler.core.transitions import InstanceState
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import Pair
from support.leases import clauses
from support.leases.clauses import consent, never_back
from support.leases.node import MILLISECOND, NEVER, SECOND
from support.leases.programs import (
    ALL,
    BAD,
    BEHAVIOURS,
    FAULTS,
    INFINITE,
    MIXED,
    OFFSETS_NS,
    PRIVATE,
    SEEDS,
    THOROUGH,
    WEATHERS,
    Step,
    declared,
    idle_after_one_call,
    keep_alive_ns,
    perform,
    programs,
    settle,
)
from support.leases.world import CALM, PATIENCE_NS, TICK_NS, Weather, World

TEN_YEARS_NS = 10 * 365 * 24 * 3600 * SECOND

pytestmark = pytest.mark.timeout(3600)  # the long tier tries many more programs


# ---------------------------------------------------------------- 1, 2: when a lease ends


@given(programs(*FAULTS, functions=ALL, behaviours=BEHAVIOURS), WEATHERS, SEEDS, OFFSETS_NS)
@THOROUGH
def test_clause_01_never_early(program: list[Step], weather: Weather, seed: int, offset_ns: int) -> None:
    """No process is told to go before L + K, whatever the channel, the clock's reading and the faults."""
    world = World(MIXED, weather=weather, seed=seed, offset_ns=offset_ns)
    perform(world, program)
    settle(world)
    consent(clauses.never_early(world.history))


@given(st.sampled_from([1, 2, 3]), st.integers(0, 1 << 34), st.sampled_from([-1, 0, 1]))
def test_clause_01_a_call_at_exactly_the_end_is_warm(function: int, ticks: int, off_ns: int) -> None:
    """At L + K, also when that is exactly a tick: messages come before expiries. A tick later it is cold."""
    aligned_ns = ticks * TICK_NS + off_ns + TICK_NS - 260 * MILLISECOND % TICK_NS
    world = World(MIXED, offset_ns=aligned_ns)
    instance, ended_ns = idle_after_one_call(world, function)
    due_ns = ended_ns + keep_alive_ns(function)
    world.at(due_ns, lambda: world.submit(function))
    world.run_until(due_ns)
    assert [entry[3] for entry in world.history.of("begin")] == [instance, instance], "cold at exactly L + K"
    world.run(SECOND + keep_alive_ns(function))
    world.submit(function)
    world.run(SECOND)
    assert [entry[3] == instance for entry in world.history.of("begin")] == [True, True, False]


@given(programs("kill", behaviours=("ok", "raise")), OFFSETS_NS, st.integers(1, 300))
def test_clause_02_at_most_a_tick_late_and_one_turn_catches_up(
    program: list[Step], offset_ns: int, pause_ticks: int
) -> None:
    """Told at the first tick not before L + K; after a pause of any length, at once, all that are due."""
    world = World(MIXED, offset_ns=offset_ns)
    perform(world, program)
    world.run(1_500 * MILLISECOND)  # the last call ends, some leases too
    consent(clauses.on_time(world.history, offset_ns))
    before = len(world.history.entries)
    world.weather = Weather()
    pause_ns = pause_ticks * 10 * MILLISECOND
    world.pause_scheduler(pause_ns)
    resumes_ns = world.resumes_ns
    world.run(4 * SECOND)
    del world.history.entries[:before]
    consent(clauses.on_time(world.history, offset_ns, resumes_ns))
    assert world.core is not None
    assert not world.core.cluster.leases


# ---------------------------------------------------------------- 3: one end


@given(programs(*FAULTS, "crash", functions=ALL, behaviours=BEHAVIOURS), WEATHERS, SEEDS)
@THOROUGH
def test_clause_03_every_instance_ends_exactly_once(program: list[Step], weather: Weather, seed: int) -> None:
    """One cause each, out of those that there are; and the scheduler never takes one back that has ended for it."""
    world = World(MIXED, nodes=2, clients=2, weather=weather, seed=seed, deafness=0.2)
    world.after_turn = never_back()
    perform(world, program)
    settle(world, 20 * SECOND)
    for node in world.nodes:
        world.link_of(node).is_cut = False
    settle(world, 20 * SECOND)
    consent(clauses.ends_once(world.history), clauses.nothing_after_its_end(world.history))


@given(st.sampled_from(["expired", "evicted", "released", "killed", "died", "orphan"]), st.integers(0, 99))
def test_clause_03_the_cause_says_what_happened(cause: str, off_ms: int) -> None:
    """Each way to end, and its name."""
    functions = (*MIXED, declared(6, 2.5, memory_bytes=8 << 30))
    world = World(functions)
    world.run(off_ms * MILLISECOND)
    function, behaviour = {"released": (PRIVATE, "ok"), "killed": (1, "stubborn"), "died": (1, "crash")}.get(
        cause, (3, "ok")
    )
    world.submit(function, behaviour)
    world.run(SECOND)
    if cause == "evicted":
        world.submit(6)
    elif cause == "orphan":
        world.crash_scheduler(60 * SECOND)
    world.run(70 * SECOND)
    ended = world.history.of("ended")
    assert [entry[4].partition(":")[0] for entry in ended][:1] == [cause]
    consent(clauses.ends_once(world.history), clauses.never_early(world.history))


@given(st.integers(3, 6), st.integers(0, 99))
def test_clause_03_a_death_is_no_failed_start(crashes: int, off_ms: int) -> None:
    """However many calls kill their processes, one after the other, the next in the queue gets a process that works."""
    world = World(MIXED, resources={"cpu": 8000, "memory": 1 << 30})
    world.run(off_ms * MILLISECOND)
    calls = [world.submit(1, "crash") for _ in range(crashes)] + [world.submit(1)]
    world.run(10 * SECOND)
    statuses = {entry[2]: entry[3] for entry in world.history.of("answered")}
    assert [statuses[call] for call in calls] == ["failed"] * crashes + ["succeeded"]
    assert [entry[4] for entry in world.history.of("ended")] == ["died"] * crashes + ["expired"]
    consent(clauses.ends_once(world.history), clauses.answered_once(world.history))


# ---------------------------------------------------------------- 4, 5, 6: calls and terms


SAME_NAME = (*MIXED[:3], declared(6, 0.7, name="app:f2"), declared(7, 4.0, name="app:f2"))
"""Function 2 asked for with other terms by other callers: the last call's counts."""


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 6, 7]), st.integers(0, 900)), min_size=1, max_size=8), OFFSETS_NS)
@THOROUGH
def test_clause_04_every_call_restarts_the_term(calls: list[tuple[int, int]], offset_ns: int) -> None:
    """Never a sum; in a shared process the longest of all functions' terms; a changed K counts from the next call."""
    world = World(SAME_NAME, offset_ns=offset_ns)
    for function, gap_ms in calls:
        world.submit(function)
        world.run(260 * MILLISECOND + gap_ms * MILLISECOND)
    settle(world, 6 * SECOND)
    assert world.history.of("ended"), "no lease ended"
    consent(clauses.on_time(world.history, offset_ns), clauses.answered_once(world.history))
    assert {entry[4] for entry in world.history.of("ended")} == {"expired"}


@given(st.integers(0, 1_200), st.sampled_from([1, 2, 6]))
def test_clause_04_a_short_term_never_shortens_a_longer_one(gap_ms: int, short: int) -> None:
    """The process lives to the end of the long term, however often the short one begins and ends meanwhile."""
    world = World(SAME_NAME)
    instance, ended_ns = idle_after_one_call(world, 3)
    world.run(gap_ms * MILLISECOND)
    world.submit(short)
    world.run_until(ended_ns + keep_alive_ns(3) - 1)
    assert instance in world.truth()
    assert len(world.history.of("spawn")) == 1
    consent(clauses.never_early(world.history))


TIGHT = {"cpu": 8000, "memory": 2 << 30}
CROWD = tuple(
    declared(number, keep_alive, env_vars=(Pair("POOL", pool),), run_timeout=None)
    for number, (keep_alive, pool) in enumerate([(0.3, "a"), (2.5, "a"), (0.3, "b"), (None, "b"), (30.0, "c")], 1)
)
"""Three pools, of which a node with ``TIGHT`` memory holds two instances in all."""


@given(programs("pause", functions=(1, 2, 3, 4, 5), size=16), st.sampled_from([CALM, BAD]), SEEDS)
@THOROUGH
def test_clause_05_no_deadline_while_a_call_runs(program: list[Step], weather: Weather, seed: int) -> None:
    """Calls longer than any lease, others waiting for their places: nothing ends a busy process, nor is asked to."""
    world = World(CROWD, resources=TIGHT, weather=weather, seed=seed)

    def watch(world: World) -> None:
        assert world.core is not None
        for instance in world.core.cluster.instances.values():
            if instance.state is InstanceState.BUSY:
                assert not instance.stop_cause or instance.sequence, "a busy instance was stopped"

    world.after_turn = watch
    perform(world, program)
    settle(world)
    consent(clauses.busy_left_alone(world.history))
    if weather is CALM:
        orders = [entry for entry in world.history.of("order") if entry[4]]
        assert not orders, f"ordered to stop with a call under way: {orders}"


@given(st.sampled_from([1, 2, 3]), st.sampled_from(["ok", "raise", "hang", "cancel"]), st.integers(0, 99), OFFSETS_NS)
def test_clause_06_failed_cancelled_and_timed_out_calls_end_their_pin(
    function: int, how: str, off_ms: int, offset_ns: int
) -> None:
    """The term begins at their end, like that of any call."""
    world = World(MIXED, offset_ns=offset_ns)
    world.run(off_ms * MILLISECOND)
    call = world.submit(function, "hang" if how == "cancel" else how)
    world.run(400 * MILLISECOND)
    if how == "cancel":
        world.cancel(call)
    world.run(8 * SECOND)
    expected = {"ok": "succeeded", "raise": "failed", "hang": "timed_out", "cancel": "cancelled"}[how]
    assert [entry[3].replace(" ", "_") for entry in world.history.of("answered")] == [expected]
    assert [entry[4] for entry in world.history.of("ended")] == ["expired"]
    assert len(world.history.of("end")) == 1
    consent(clauses.on_time(world.history, offset_ns))


# ---------------------------------------------------------------- 7: races


RACE = Weather(slow=0.5, slow_max_ns=30 * MILLISECOND, delay_ns=MILLISECOND)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(-60, 160)), min_size=2, max_size=6), SEEDS)
@THOROUGH
def test_clause_07_a_call_never_loses_a_race(calls: list[tuple[int, int]], seed: int) -> None:
    """Calls that cross an expiry on the way run once each: on the process, or placed again; none on one that went."""
    world = World(MIXED, weather=RACE, seed=seed)
    for function, off_ms in calls:
        world.submit(function)
        world.run(keep_alive_ns(function) + (260 + off_ms) * MILLISECOND)
    settle(world, 10 * SECOND)
    assert {entry[3] for entry in world.history.of("answered")} == {"succeeded"}
    consent(
        clauses.answered_once(world.history),
        clauses.current_attempt_counts(world.history),
        clauses.nothing_after_its_end(world.history),
        clauses.busy_left_alone(world.history),
        clauses.never_early(world.history),
    )


@given(programs("pause", functions=(1, 2, 3, 4, 5), size=14), SEEDS)
@THOROUGH
def test_clause_07_a_call_never_loses_a_race_against_eviction(program: list[Step], seed: int) -> None:
    """The same where the places are too few."""
    world = World(CROWD, resources=TIGHT, weather=RACE, seed=seed)
    perform(world, program)
    settle(world, 40 * SECOND)
    consent(clauses.answered_once(world.history), clauses.nothing_after_its_end(world.history))


# ---------------------------------------------------------------- 8, 9, 10: the special terms


@given(programs("cancel", functions=ALL, behaviours=("ok", "raise")), OFFSETS_NS)
@THOROUGH
def test_clause_08_keep_alive_0_is_private_and_released(program: list[Step], offset_ns: int) -> None:
    """One call each, nobody else's; the others on the same environment keep their leases to the nanosecond."""
    world = World(MIXED, offset_ns=offset_ns)
    perform(world, program)
    settle(world)
    consent(clauses.private_once(world.history), clauses.never_early(world.history))
    left = [account for account in world.truth().values() if account.end_ns != NEVER]
    assert not left, "a process for one call is still there"
    served = {entry[3] for entry in world.history.of("begin") if entry[7] == 0}
    ends = {entry[3]: entry[0] for entry in world.history.of("end")}
    for at_ns, _, _, instance, *_rest in world.history.of("stop"):
        if instance in served and instance in ends:
            assert at_ns == ends[instance], "released later than its call ended"


@given(programs("pause", "restart", functions=(1, 3, INFINITE)), OFFSETS_NS)
def test_clause_09_an_endless_lease_is_in_no_wheel(program: list[Step], offset_ns: int) -> None:
    """At no time; and ten years later nobody has been told to go for it."""
    world = World(MIXED, offset_ns=offset_ns // 2)

    def watch(world: World) -> None:
        assert world.core is not None
        cluster = world.core.cluster
        for key, instance in cluster.instances.items():
            is_held = instance.lease.is_infinite and instance.state is InstanceState.IDLE
            assert not (is_held and key in cluster.leases), "an endless lease is in the wheel"

    world.after_turn = watch
    perform(world, program)
    settle(world)
    assert world.core is not None
    endless = [key for key, account in world.truth().items() if account.end_ns == NEVER]
    assert sorted(endless) == sorted(world.core.cluster.instances), "something with an end is left, or the reverse"
    assert world.core.cluster.leases.entry_count() == 0
    later = world.core.handle(world.now_ns + world.offset_ns + TEN_YEARS_NS, Tick())
    assert not any(isinstance(getattr(each, "message", None), wire.StopInstance) for each in later)


@given(st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e11), st.sampled_from([0, 1 << 62]))
def test_clause_10_negative_and_nan_are_refused_and_huge_saturates(keep_alive: float, now_ns: int) -> None:
    """At decoration; whatever is accepted never ends earlier than it says, and never wraps."""
    if math.isnan(keep_alive) or keep_alive < 0:
        with pytest.raises(ValueError, match="keep_alive"):
            isolated(keep_alive=keep_alive)(lambda: None)
        return
    isolated(keep_alive=keep_alive)(lambda: None)
    term_us = duration_us(keep_alive)
    assert 0 <= term_us <= FOREVER_US
    lease = Lease()
    lease.restart("f", now_ns, term_us)
    if keep_alive * 1e6 >= FOREVER_US:
        assert lease.is_infinite
    else:
        assert now_ns <= lease.deadline_ns < FOREVER_NS + FOREVER_US * 1000
        assert (lease.deadline_ns - now_ns) / 1e9 >= keep_alive * (1 - 1e-12)


# ---------------------------------------------------------------- 11: pressure


@given(programs(functions=(1, 2, 3, 4, 5), size=16), SEEDS, st.sampled_from([CALM, RACE]))
@THOROUGH
def test_clause_11_evicted_under_pressure_only(program: list[Step], seed: int, weather: Weather) -> None:
    """A call has waited for ``patience`` and fits nowhere; the victim is idle; and every call gets its place."""
    world = World(CROWD, resources=TIGHT, weather=weather, seed=seed)
    perform(world, program)
    settle(world, 40 * SECOND)
    consent(
        clauses.evictions_are_pressed(world.history),
        clauses.answered_once(world.history),
        clauses.busy_left_alone(world.history),
    )


@given(programs(functions=(1, 2, 3, 4, 5), size=12))
def test_clause_11_never_evicted_while_there_is_room(program: list[Step]) -> None:
    """With room for all, no lease is ended early, merely to save a cold start or anything else."""
    world = World(CROWD, resources={"cpu": 8000, "memory": 64 << 30})
    perform(world, program)
    settle(world)
    assert {entry[4] for entry in world.history.of("ended")} <= {"expired"}


@given(st.integers(460, 1_290))
def test_clause_11_patience_is_each_calls_own(late_ms: int) -> None:
    """A pool whose first call had lost patience, and was served since, is not owed another's lease for its next one."""
    world = World(CROWD, resources=TIGHT)
    world.submit(3, run_us=1_200_000)
    world.submit(1, run_us=1_100_000)
    world.run(300 * MILLISECOND)
    world.submit(1, run_us=300_000)
    world.run_until(late_ms * MILLISECOND)
    world.submit(1)
    world.submit(3)
    world.run(6 * SECOND)
    assert len(world.history.of("answered")) == 5
    consent(clauses.evictions_are_pressed(world.history))


@given(st.integers(0, 900), st.integers(2, 4))
def test_clause_11_patience_then_surplus_first(gap_ms: int, copies: int) -> None:
    """The place is made when patience is over, not sooner; and the pool with more idle copies gives it."""
    functions = tuple(
        declared(number, 60.0, env_vars=(Pair("POOL", str(number)),), memory_bytes=1 << 30) for number in (1, 2, 3)
    )
    world = World(functions, resources={"cpu": 8000, "memory": (copies + 1) << 30})
    for _ in range(copies):
        world.submit(1, run_us=300_000)
    world.submit(2)
    world.run(3 * SECOND + gap_ms * MILLISECOND)
    assert len(world.truth()) == copies + 1
    pools = {entry[3]: entry[5] for entry in world.history.of("begin")}
    waits_ns = world.now_ns
    world.submit(3)
    world.run(4 * SECOND)
    stops = world.history.of("stop")
    assert [entry[4].partition(":")[0] for entry in stops] == ["evicted"]
    assert PATIENCE_NS <= stops[0][0] - waits_ns <= PATIENCE_NS + TICK_NS
    assert int(pools[stops[0][3]].split(".")[1]) <= copies, "the last copy of a pool went before a surplus one"
    assert len(world.history.of("answered")) == copies + 2
