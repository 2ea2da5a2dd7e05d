"""The lease contract, clauses 4 and 11: a promise that is broken is reported to those to whom it was made.

What was promised, and which call ran when a process went, is what the nodes of ``support.leases`` counted; who has to
be told follows from that and from who has called what.
"""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_wire.messages import Pair
from support.leases.clauses import consent
from support.leases.node import MILLISECOND, SECOND
from support.leases.programs import FAULTS, OFFSETS_NS, SEEDS, THOROUGH, Step, declared, perform, programs, settle
from support.leases.world import CALM, Weather, World

pytestmark = pytest.mark.timeout(3600)  # the long tier tries many more programs

TIGHT = {"cpu": 8000, "memory": 2 << 30}
ROOMY = {"cpu": 8000, "memory": 64 << 30}
NEIGHBOURS = tuple(
    declared(number, keep_alive, env_vars=(Pair("POOL", pool),), run_timeout=0.4)
    for number, (keep_alive, pool) in enumerate(
        [(0.3, "a"), (2.5, "a"), (None, "a"), (0.7, "b"), (30.0, "b"), (4.0, "c")], 1
    )
)
"""Three pools of functions with terms of their own; a node with ``TIGHT`` memory holds two processes in all."""
EVERYONE = tuple(range(1, len(NEIGHBOURS) + 1))
ILL_BEHAVED = ("ok", "ok", "ok", "raise", "hang", "stubborn", "crash")
LOSING = Weather(loss=0.1, slow=0.3, slow_max_ns=400 * MILLISECOND, delay_ns=MILLISECOND)


def broken_promises(world: World) -> Iterator[tuple[int, int, str, str, dict[str, int]]]:
    """Of each process that went early: where in the history, which, its cause, whose call it was, and whose terms."""
    for position, (_, kind, *fields) in enumerate(world.history.entries):
        if kind == "cut":
            _, instance, cause, culprit, left = fields
            others = {name: keep_us for name, keep_us in left.items() if name != culprit or not culprit}
            if cause in ("evicted", "killed", "died") and others:
                yield position, instance, cause, culprit, others


def callers_of(world: World, position: int) -> dict[str, set[int]]:
    """By function, the clients that had called it before that entry of the history."""
    callers: dict[str, set[int]] = {}
    for _, kind, *fields in world.history.entries[:position]:
        if kind == "submit":
            callers.setdefault(world.functions[fields[1]].name, set()).add(int(fields[0].partition(".")[0]))
    return callers


def owed(world: World) -> dict[tuple[int, int], set[str]]:
    """Who is to be told of the end of which process, and for which functions."""
    keep_alive_us = {declared.name: declared.options.keep_alive_us for declared in NEIGHBOURS}
    told: dict[tuple[int, int], set[str]] = {}
    for position, instance, _, _, others in broken_promises(world):
        callers = callers_of(world, position)
        for name, keep_us in others.items():
            # A process that has served nothing holds the lease of the function that it was started for.
            names = [name] if name else [each for each in callers if keep_alive_us[each] == keep_us]
            for function in names:
                for client in callers.get(function, ()):
                    told.setdefault((client, instance), set()).add(function)
    return told


def told(world: World) -> dict[tuple[int, int], set[str]]:
    """Who was told of the end of which process, and for which functions."""
    return {(entry[2], entry[3]): set(entry[5]) for entry in world.history.of("broken")}


def told_once(world: World) -> Iterator[str]:
    """One notice per client and process, and only of processes that are gone."""
    counts = Counter((entry[2], entry[3]) for entry in world.history.of("broken"))
    yield from (f"{key} was told {count} times" for key, count in counts.items() if count > 1)
    gone = {entry[3] for entry in world.history.of("gone")}
    yield from (f"{key} was told of a process that lives" for key in counts if key[1] not in gone)


def causes_agree(world: World) -> Iterator[str]:
    """The word is that of the end; a call that took the process with it is named."""
    causes = {instance: (cause, culprit) for _, instance, cause, culprit, _ in broken_promises(world)}
    for _, _, client, instance, text, _ in world.history.of("broken"):
        cause, culprit = causes[instance]
        if text.partition(":")[0] != cause:
            yield f"client {client} was told {text!r} of {instance:#x}, which was {cause}"
        if cause != "evicted" and culprit and not text.endswith(f" {culprit}"):
            yield f"client {client} was told {text!r} of {instance:#x}, which went with a call of {culprit}"


@given(programs("kill", "cancel", functions=EVERYONE, behaviours=ILL_BEHAVED, size=16), OFFSETS_NS)
@THOROUGH
def test_clause_04_a_broken_promise_is_told_to_each_other_holder(program: list[Step], offset_ns: int) -> None:
    """A timeout, a cancellation or a crash takes a process: every client with a term there hears of it, nobody else."""
    world = World(NEIGHBOURS, clients=3, resources=ROOMY, offset_ns=offset_ns)
    perform(world, program)
    settle(world)
    assert told(world) == owed(world)
    consent(told_once(world), causes_agree(world))


@given(st.integers(0, 1_500), st.sampled_from(["stubborn", "crash"]), st.booleans())
def test_clause_04_the_culprit_is_told_nothing_of_itself(gap_ms: int, behaviour: str, is_owner: bool) -> None:
    """Its own function has lost its lease by its own call; its neighbours', also in the same program, by another's."""
    world = World(NEIGHBOURS, clients=2, resources=ROOMY)
    world.submit(5, client=0 if is_owner else 1)
    world.run(SECOND)
    world.submit(4, client=0)
    world.run(gap_ms * MILLISECOND)
    world.submit(4, behaviour, client=0)
    world.run(12 * SECOND)
    (entry,) = world.history.of("broken")
    assert entry[2] == (0 if is_owner else 1)
    assert entry[5] == ("app:f5",)
    assert entry[4].endswith(" app:f4")


@given(programs(functions=EVERYONE, behaviours=("ok", "raise"), size=16))
@THOROUGH
def test_clause_11_an_eviction_is_told_to_each_holder(program: list[Step]) -> None:
    """Where the places are too few: every client with a term on the process that made room, nobody else."""
    world = World(NEIGHBOURS, clients=3, resources=TIGHT)
    perform(world, program)
    settle(world, 40 * SECOND)
    assert told(world) == owed(world)
    consent(told_once(world), causes_agree(world))


@given(programs("cancel", functions=EVERYONE, behaviours=("ok", "raise", "hang"), size=12), SEEDS)
def test_clause_04_a_promise_that_was_kept_is_not_told(program: list[Step], seed: int) -> None:
    """Leases that end, calls that fail and are stopped in time, the end of the cluster: no notice."""
    world = World(NEIGHBOURS, clients=2, resources=ROOMY, seed=seed)
    perform(world, program)
    settle(world)
    assert world.core is not None
    world.core.stop("the end")
    settle(world, SECOND)
    assert not world.history.of("broken")
    assert not world.core.cluster.leases_broken


@given(programs(*FAULTS, "crash", functions=EVERYONE, behaviours=ILL_BEHAVED, size=14), SEEDS)
@THOROUGH
def test_clause_04_nobody_is_told_twice_whatever_is_lost(program: list[Step], seed: int) -> None:
    """A notice may be lost. It never comes twice, and never for a process that lives."""
    world = World(NEIGHBOURS, nodes=2, clients=2, resources=TIGHT, weather=LOSING, seed=seed)
    perform(world, program)
    settle(world, 30 * SECOND)
    consent(told_once(world))


def test_clause_11_what_is_told_is_counted() -> None:
    """Also when nobody is there to be told."""
    world = World(NEIGHBOURS, clients=1, resources=TIGHT, weather=CALM)
    for function in (3, 5, 6):
        world.submit(function)
        world.run(2 * SECOND)
    assert world.core is not None
    assert world.core.cluster.leases_broken == {"evicted (memory)": 1}
    assert len(world.history.of("broken")) == 1
