"""A storm's plan is the same for the same seed, and has what its table says: no more, no less, fairly spread."""

from collections import Counter

import pytest

from chaos.storm import FAULTS, LOST_S, SCHEDULER, STORMS, Storm, counts, plan
from support.histories.checkers import RERUN_FAULTS

SEEDS = range(20)

SEED_1 = [(28, "crash scheduler", SCHEDULER, 6.955), (62, "crash agent", 1, 1.57), (65, "crash agent", 0, 0.659)]


@pytest.mark.parametrize("name", STORMS)
def test_the_same_seed_is_the_same_storm(name: str) -> None:
    """And another seed is another."""
    storm = STORMS[name]
    assert plan(storm, 7) == plan(storm, 7)
    assert len({tuple(plan(storm, seed)) for seed in SEEDS}) == len(SEEDS)


def test_a_plan_does_not_depend_on_the_machine() -> None:
    """A seed that failed anywhere can be replayed: these strikes are those of seed 1 for ever."""
    storm = Storm(100, 2, (("crash agent", 2), ("crash scheduler", 1)))
    assert [tuple(strike) for strike in plan(storm, 1)] == SEED_1


@pytest.mark.parametrize("name", STORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_has_exactly_its_faults(name: str, seed: int) -> None:
    """In order, within the calls, each of a length that its kind allows."""
    storm = STORMS[name]
    strikes = plan(storm, seed)
    assert counts(strikes) == dict(storm.faults)
    assert strikes == sorted(strikes)
    for strike in strikes:
        kind = FAULTS[strike.kind]
        assert 0 < strike.at_call < storm.calls
        assert (strike.victim == SCHEDULER) == kind.hits_scheduler
        assert strike.victim < storm.agents
        ranges = [kind.brief_s, *([kind.long_s] if kind.long_every else [])]
        assert any(shortest_s <= strike.duration_s <= longest_s for shortest_s, longest_s in ranges)


@pytest.mark.parametrize("name", STORMS)
def test_no_agent_is_spared_and_none_is_singled_out(name: str) -> None:
    """Of each kind every agent has its share, give or take one."""
    storm = STORMS[name]
    for kind, count in storm.faults:
        victims = Counter(strike.victim for strike in plan(storm, 3) if strike.kind == kind)
        if not FAULTS[kind].hits_scheduler:
            assert all(abs(victims[agent] - count / storm.agents) < 1 for agent in range(storm.agents))


@pytest.mark.parametrize("name", STORMS)
def test_half_of_the_partitions_are_one_way(name: str) -> None:
    """And some of each kind outlast the patience that a silent node is given."""
    storm = STORMS[name]
    numbers = dict(storm.faults)
    assert numbers["partition agent"] == numbers["mute agent"] + numbers["deafen agent"]
    for kind in ("partition agent", "mute agent", "deafen agent"):
        lengths = [strike.duration_s for strike in plan(storm, 5) if strike.kind == kind]
        assert min(lengths) < LOST_S < max(lengths)


def test_the_checkers_know_every_fault_of_an_agent() -> None:
    """Each of them is a reason to run a call again, and none of the scheduler's is, by the name it has here."""
    by_name = {name for name, kind in FAULTS.items() if not kind.hits_scheduler}
    assert by_name <= RERUN_FAULTS
    assert "crash scheduler" not in RERUN_FAULTS
