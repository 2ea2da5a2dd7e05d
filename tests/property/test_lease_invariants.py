"""What holds of leases at every step beside the clauses: order, conservation, agreement with a naive model, liveness.

The numbers are those of the list of invariants that the contract was drawn up from; its first sixteen are the clauses
of ``test_lease_contract``.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.effects import Send
from keepwarm_scheduler.core.events import Tick
from keepwarm_scheduler.core.transitions import InstanceState
from keepwarm_wire import messages as wire
from support.leases import clauses
from support.leases.node import MILLISECOND, NEVER, SECOND
from support.leases.programs import (
    ALL,
    BAD,
    BEHAVIOURS,
    FAULTS,
    MIXED,
    SEEDS,
    Step,
    declared,
    perform,
    programs,
    settle,
)
from support.leases.world import CALM, TICK_NS, Weather, World
from support.reference import NaiveTimers, ceil_tick

COLD_NS = 300 * MILLISECOND
"""A build and a start in the lease world, and some more."""

pytestmark = pytest.mark.timeout(3600)  # the long tier tries many more programs


@given(st.lists(st.integers(0, 3_000), min_size=2, max_size=6), st.integers(0, 1 << 62))
def test_invariant_17_one_turn_expires_in_order_of_ticks(gaps_ms: list[int], offset_ns: int) -> None:
    """However long the scheduler was paused, what is due goes in the order in which it became due."""
    world = World(
        tuple(declared(number, 2.5, env_vars=(wire.Pair("N", str(number)),)) for number in range(1, 7)),
        offset_ns=offset_ns,
    )
    for number, gap_ms in enumerate(gaps_ms, 1):
        world.submit(number, run_us=1_000)
        world.run(gap_ms * MILLISECOND // len(gaps_ms))
    world.run(SECOND)
    assert world.core is not None
    cluster = world.core.cluster
    deadlines = {key: cluster.leases.deadline_ns(key) for key in cluster.instances if key in cluster.leases}
    effects = world.core.handle(world.now_ns + world.offset_ns + 60 * SECOND, Tick())
    ordered = [each.message.instance_id for each in effects if isinstance(each, Send) and _is_stop(each.message)]
    ticks = [ceil_tick(deadlines[key] or 0, TICK_NS) for key in ordered]
    assert sorted(ordered) == sorted(deadlines)
    assert ticks == sorted(ticks)


def _is_stop(message: wire.Message) -> bool:
    return isinstance(message, wire.StopInstance)


@given(programs(*FAULTS, "crash", functions=ALL, behaviours=BEHAVIOURS), st.sampled_from([CALM, BAD]), SEEDS)
def test_invariant_18_nothing_is_lost_or_counted_twice(program: list[Step], weather: Weather, seed: int) -> None:
    """Both cores' records agree after every turn; in the end so do the cores, and all that was booked is free."""
    world = World(MIXED, nodes=2, weather=weather, seed=seed, checked=True)
    perform(world, program)
    settle(world, 60 * SECOND)
    assert world.core is not None
    cluster = world.core.cluster
    states = Counter(instance.state for instance in cluster.instances.values())
    assert set(states) <= {InstanceState.IDLE}, states
    assert sorted(cluster.instances) == sorted(world.truth())
    for node in cluster.nodes.values():
        held = sum(instance.memory_bytes for instance in node.instances.values())
        assert node.free["memory"] + held == node.capacity["memory"]
        assert node.free["cpu"] == node.capacity["cpu"]


@given(programs("pause", "kill", functions=ALL, behaviours=("ok", "raise")), SEEDS)
def test_invariant_19_the_wheel_agrees_with_a_naive_model(program: list[Step], seed: int) -> None:
    """At every turn of a real run: the same keys, the same deadlines, and nothing due that it has not returned."""
    world = World(MIXED, seed=seed)

    def watch(world: World) -> None:
        assert world.core is not None
        cluster = world.core.cluster
        naive = NaiveTimers[int](TICK_NS, cluster.now_ns)
        for key, instance in cluster.instances.items():
            if instance.state is InstanceState.IDLE and not instance.lease.is_infinite:
                naive.schedule(key, instance.lease.deadline_ns)
        for key in naive.deadlines:
            assert cluster.leases.deadline_ns(key) == naive.deadline_ns(key)
        idle_or_busy = [
            key
            for key, instance in cluster.instances.items()
            if instance.state in (InstanceState.IDLE, InstanceState.BUSY)
        ]
        assert len(cluster.leases) == sum(key in cluster.leases for key in idle_or_busy)

    world.after_turn = watch
    perform(world, program)
    settle(world)


@given(programs("cancel", functions=ALL, behaviours=("ok", "raise")))
def test_invariant_20_a_call_with_room_starts_within_a_cold_start(program: list[Step]) -> None:
    """Nothing that a lease does keeps a call from a node that could run it."""
    world = World(MIXED, resources={"cpu": 64_000, "memory": 64 << 30})
    perform(world, program)
    settle(world)
    submitted = {entry[2]: entry[0] for entry in world.history.of("submit")}
    began = {entry[5]: entry[0] for entry in world.history.of("begin")}
    cancelled = {entry[2] for entry in world.history.of("cancel")}
    for call, at_ns in submitted.items():
        if call not in cancelled:
            busy_ns = 1_300 * MILLISECOND  # the longest call: one may wait for it rather than start another process
            assert began[call] - at_ns <= COLD_NS + busy_ns, f"call {call} waited {began[call] - at_ns} ns"
    assert all(account.end_ns == NEVER for account in world.truth().values())
    assert not list(clauses.answered_once(world.history))
