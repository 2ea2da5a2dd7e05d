"""The lease contract, clauses 12 to 17: clocks, messages, restarts, the wheel, and what is left.

As ``test_lease_contract``, of which this is the second half.
"""

import gc
import sys
import time
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm_scheduler.core.wheel import TimingWheel
from support.leases import clauses
from support.leases.clauses import consent, never_back
from support.leases.node import EXIT_NS, MILLISECOND, NEVER, ORPHAN_GRACE_NS, ORPHAN_TTL_NS, SECOND
from support.leases.programs import (
    ALL,
    BAD,
    BEHAVIOURS,
    FAULTS,
    INFINITE,
    MIXED,
    OFFSETS_NS,
    PRIVATE,
    REPLAYING,
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
from support.leases.world import CALM, TICK_NS, Weather, World
from support.reference import ceil_tick

pytestmark = pytest.mark.timeout(3600)  # the long tier tries many more programs


# ---------------------------------------------------------------- 12, 13: clocks and messages


class NoClock:
    """Any reading of any clock of this machine is wrong while it is in use."""

    NAMES = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")

    def __enter__(self) -> None:
        self.real = {name: getattr(time, name) for name in self.NAMES}
        for name in self.NAMES:
            setattr(time, name, self._read)

    def __exit__(self, *_: object) -> None:
        for name, real in self.real.items():
            setattr(time, name, real)

    @staticmethod
    def _read() -> int:
        raise AssertionError("a core has read a clock")


@given(programs(*FAULTS, functions=ALL, behaviours=BEHAVIOURS), SEEDS, OFFSETS_NS)
@settings(max_examples=25)
def test_clause_12_clocks_may_jump(program: list[Step], seed: int, offset_ns: int) -> None:
    """No clock of the machine is read; and where the monotonic clock began changes nothing, to the nanosecond."""
    digests = []
    for offset in (offset_ns // TICK_NS * TICK_NS, 0):
        with NoClock():
            world = World(MIXED, seed=seed, offset_ns=offset)
            perform(world, program)
            settle(world)
        digests.append(world.history.digest())
    assert digests[0] == digests[1]


ON_NODES = ("spawn", "ready", "begin", "end", "stop", "gone", "ended")


@given(programs("cancel", functions=ALL, behaviours=("ok", "raise", "hang")), SEEDS)
@THOROUGH
def test_clause_13_stale_and_repeated_messages_change_nothing(program: list[Step], seed: int) -> None:
    """With everything said again, at once and seconds later, every node does exactly what it did without."""
    told = []
    for weather in (CALM, REPLAYING):
        world = World(MIXED, weather=weather, seed=seed)
        perform(world, program)
        world.run(12 * SECOND)
        told.append(world.history.of(*ON_NODES))
    assert told[0] == told[1]


@given(programs(*FAULTS, "crash", functions=ALL, behaviours=BEHAVIOURS, size=16), SEEDS)
@THOROUGH
def test_clause_13_every_loss_is_repaired(program: list[Step], seed: int) -> None:
    """After the weather both sides agree on what lives; every call has one answer; nothing ran on what had ended."""
    world = World(MIXED, nodes=2, clients=2, weather=BAD, seed=seed)
    perform(world, program)
    settle(world, 60 * SECOND)
    consent(
        clauses.answered_once(world.history, runs_max=None),
        clauses.nothing_after_its_end(world.history),
        clauses.never_early(world.history),
        clauses.private_once(world.history),
    )
    assert world.core is not None
    assert sorted(world.core.cluster.instances) == sorted(world.truth())
    assert all(account.end_ns == NEVER for account in world.truth().values())


@given(st.integers(0, 900), st.integers(0, 950))
def test_clause_13_an_overtaken_beat_brings_nothing_back(off_ms: int, delay_ms: int) -> None:
    """It was said while the process lived, and arrives after the word of its end."""
    world = World(MIXED)
    world.after_turn = never_back()
    world.run(off_ms * MILLISECOND)
    world.submit(1)
    world.run_until(SECOND - 1)
    world.weather = Weather(delay_ns=delay_ms * MILLISECOND)
    world.run(2)
    world.weather = CALM
    world.run(5 * SECOND)
    consent(clauses.ends_once(world.history), clauses.never_early(world.history))
    assert not world.truth()


@given(st.integers(0, 400), st.integers(0, 5_000), st.booleans())
def test_clause_13_only_the_current_attempt_counts(off_ms: int, longer_ms: int, is_noticed: bool) -> None:
    """A node that was out of reach while its call was placed elsewhere ends it there: nobody is told of that one."""
    world = World((declared(1, 2.5, run_timeout=None),), nodes=2)
    world.run(off_ms * MILLISECOND)
    call = world.submit(1, run_us=7_500_000)
    world.run(SECOND)
    (first,) = [node for node in world.nodes if node.accounts]
    world.cut(world.link_of(first), 7 * SECOND + longer_ms * MILLISECOND)
    if is_noticed:
        world.break_connection(world.link_of(first))
    world.run(30 * SECOND)
    assert [entry[2:4] for entry in world.history.of("answered")] == [(call, "succeeded")]
    assert len(world.history.of("end")) == 2, "it did not run twice"
    consent(clauses.current_attempt_counts(world.history), clauses.never_early(world.history))


# ---------------------------------------------------------------- 14: restarts, and no scheduler


@given(programs("restart", "kill", functions=(1, 2, 3, PRIVATE), behaviours=("ok", "raise")), WEATHERS, SEEDS)
@THOROUGH
def test_clause_14_a_restart_shortens_no_lease(program: list[Step], weather: Weather, seed: int) -> None:
    """Crashed at any step, twice at once too; nothing is ended on a node that has not reported; nothing stays."""
    world = World(MIXED, weather=weather, seed=seed)
    perform(world, program)
    settle(world, 50 * SECOND)
    consent(clauses.never_early(world.history), clauses.orders_only_when_reported(world.history))
    assert not world.truth(), "a lease was lengthened without end"


@given(st.sampled_from([1, 2, 3]), st.integers(0, 3_000), st.integers(0, 1_500))
def test_clause_14_deadlines_are_rebuilt_from_idle_times(function: int, wait_ms: int, away_ms: int) -> None:
    """After a restart the process ends when it would have, or a tick after its node has reported."""
    world = World(MIXED)
    _, ended_ns = idle_after_one_call(world, function)
    world.run(min(wait_ms * MILLISECOND, keep_alive_ns(function) // 2))
    world.crash_scheduler(away_ms * MILLISECOND)
    world.run(20 * SECOND)
    (stop,) = world.history.of("stop")
    due_ns = ended_ns + keep_alive_ns(function)
    # A beat at the old scheduler's interval finds the new one, which takes the agent in and hears its report at once.
    reported_ns = world.history.of("scheduler started")[1][0] + SECOND
    assert stop[4] == "expired"
    assert due_ns <= stop[0] <= max(due_ns, reported_ns) + TICK_NS


@given(st.sampled_from([1, 2, 3, INFINITE]), st.integers(0, 999), st.integers(0, 2_000))
def test_clause_14_without_a_scheduler_leases_end_after_a_grace(function: int, off_ms: int, wait_ms: int) -> None:
    """Exactly at K + grace by the agent's own clock, endless ones at ``orphan_ttl`` of silence; never before."""
    world = World(MIXED)
    world.run(off_ms * MILLISECOND)
    _, ended_ns = idle_after_one_call(world, function)
    world.run(min(wait_ms * MILLISECOND, keep_alive_ns(function) // 2 if function != INFINITE else wait_ms))
    heard_ns = world.nodes[0].core.state.link.heard_ns - world.nodes[0].offset_ns
    world.crash_scheduler(60 * SECOND)
    world.run(70 * SECOND)
    (stop,) = world.history.of("stop")
    assert stop[4] == "orphan"
    if function == INFINITE:
        assert stop[0] == max(ended_ns, heard_ns) + ORPHAN_TTL_NS
    else:
        assert stop[0] == ended_ns + keep_alive_ns(function) + ORPHAN_GRACE_NS
    consent(clauses.never_early(world.history), clauses.ends_once(world.history))


@given(st.integers(0, 7_000), st.sampled_from([2, 3, INFINITE]))
def test_clause_14_a_scheduler_that_comes_back_within_the_grace_finds_everything(away_ms: int, function: int) -> None:
    """The orphan timer stops when the agent is taken in again: a call finds its process warm."""
    world = World(MIXED)
    instance, _ = idle_after_one_call(world, function)
    world.crash_scheduler(away_ms * MILLISECOND)
    world.run(away_ms * MILLISECOND)
    assert instance in world.truth()
    world.run(40 * SECOND)
    if function == INFINITE:
        assert instance in world.truth()
    else:
        assert [entry[4] for entry in world.history.of("ended")] == ["expired"]


@given(st.integers(0, 999))
def test_clause_14_a_call_sent_again_goes_on_once_all_nodes_have_reported(off_ms: int) -> None:
    """Its dispatch was lost with the old scheduler: nobody runs it, so it takes the warm process, before any grace."""
    world = World(MIXED)
    world.run(off_ms * MILLISECOND)
    instance, _ = idle_after_one_call(world, 3)
    world.cut(world.link_of(world.nodes[0]), MILLISECOND)
    world.submit(3)
    world.run(2 * MILLISECOND)
    world.crash_scheduler()
    world.run(2_300 * MILLISECOND)
    assert [entry[3] for entry in world.history.of("begin")] == [instance, instance]
    assert len(world.history.of("answered")) == 2


# ---------------------------------------------------------------- 15, 16: the wheel


@given(programs("pause", "kill", "cancel", functions=ALL, behaviours=("ok", "raise")), OFFSETS_NS)
def test_clause_15_no_more_entries_than_live_leases(program: list[Step], offset_ns: int) -> None:
    """After every turn, however often leases were renewed; none is left when all have ended."""
    world = World(MIXED, offset_ns=offset_ns)

    def watch(world: World) -> None:
        assert world.core is not None
        cluster = world.core.cluster
        living = sum(instance.ready_ns > 0 for instance in cluster.instances.values())
        assert cluster.leases.entry_count() == len(cluster.leases) <= living

    world.after_turn = watch
    perform(world, program)
    settle(world)
    assert world.core is not None
    assert world.core.cluster.leases.entry_count() == 0


def lines_run(action: Any) -> int:
    """How many lines of Python an action runs: a cost that no other process can change."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    gc.disable()  # what others have hung onto the collector is Python too
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@given(st.integers(0, 499), st.integers(0, 1 << 60))
@settings(max_examples=10)
def test_clause_15_cancel_costs_the_same_however_many_leases_there_are(which: int, start_ns: int) -> None:
    """And so does a renewal: it changes the deadline, and the old bucket files it anew."""
    costs = []
    for count in (500, 5_000):
        wheel = TimingWheel[int](TICK_NS, start_ns)
        for key in range(count):
            wheel.schedule(key, start_ns + (1 + key % 500) * SECOND)
        renewal = lines_run(lambda wheel=wheel: wheel.schedule(which, start_ns + 600 * SECOND))
        costs.append((renewal, lines_run(lambda wheel=wheel: wheel.cancel(which))))
        assert wheel.entry_count() == count - 1
    (renewal, cancel), (renewal_of_many, cancel_of_many) = costs
    assert renewal == renewal_of_many
    assert max(cancel, cancel_of_many) < 60


@given(programs("pause", "kill", functions=ALL, behaviours=("ok", "raise")), OFFSETS_NS)
@THOROUGH
def test_clause_16_the_next_deadline_is_never_late(program: list[Step], offset_ns: int) -> None:
    """After every turn: not after the earliest lease's tick, None without one, early only if a lease was renewed."""
    world = World(MIXED, offset_ns=offset_ns)

    def watch(world: World) -> None:
        assert world.core is not None
        cluster = world.core.cluster
        deadlines = [cluster.leases.deadline_ns(key) for key in cluster.instances if key in cluster.leases]
        due_ns = min((ceil_tick(each, TICK_NS) * TICK_NS for each in deadlines if each is not None), default=None)
        wakes_ns = cluster.leases.next_deadline()
        if due_ns is None or wakes_ns is None:
            assert wakes_ns is due_ns
            return
        assert wakes_ns <= due_ns, "overslept"
        used = any(instance.uses for instance in cluster.instances.values())
        assert wakes_ns == due_ns or used, "early, and nothing was renewed"
        assert world.core.next_deadline() is not None

    world.after_turn = watch
    perform(world, program)
    settle(world)


# ---------------------------------------------------------------- 17: demotion


@given(st.sampled_from([1, 2, 3]), st.booleans(), st.integers(0, 300))
def test_clause_17_expiry_demotes_and_asks_first(function: int, is_deaf: bool, off_ms: int) -> None:
    """Asked, then SIGTERM after two seconds, then SIGKILL after two more; the environment stays and is used again."""
    world = World(MIXED, deafness=1.0 if is_deaf else 0.0)
    world.run(off_ms * MILLISECOND)
    instance, _ = idle_after_one_call(world, function)
    world.run(keep_alive_ns(function) + 6 * SECOND)
    told = [(entry[0], entry[4]) for entry in world.history.of("told") if entry[3] == instance]
    asked_ns = told[0][0]
    ladder = [(asked_ns, "asked"), (asked_ns + 2 * SECOND, "SIGTERM"), (asked_ns + 4 * SECOND, "SIGKILL")]
    assert told == (ladder if is_deaf else ladder[:1])
    (gone,) = world.history.of("gone")
    assert gone[0] == told[-1][0] + EXIT_NS
    world.submit(function)
    world.run(SECOND)
    assert len(world.history.of("build")) == 1, "the environment was built again"
    assert len(world.history.of("spawn")) == 2
