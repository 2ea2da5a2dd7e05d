"""Scenarios, and the seeded plan of what goes wrong when.

A scenario is a row of a table: how the network behaves until it heals, what goes wrong on nodes, how far the clocks
drift, and how many faults of which kinds there are. How a fault strikes is in ``striking``.
"""

from random import Random
from typing import NamedTuple

from support.simulation.clock import MILLISECOND, SECOND
from support.simulation.network import CALM, Rates
from support.simulation.trouble import Trouble, kinds_of_trouble

__all__ = ["BRIEF_NS", "SCENARIOS", "Fault", "Scenario", "plan"]

LOSING = Rates(loss=0.15, delay_max_ns=20 * MILLISECOND)
DUPLICATING = Rates(duplicate=0.3, slow=0.1)
REORDERING = Rates(reorder=0.3, slow=0.15, delay_max_ns=50 * MILLISECOND)
BAD = Rates(loss=0.05, duplicate=0.1, reorder=0.1, slow=0.05, delay_max_ns=30 * MILLISECOND)

_RATE_KINDS = {
    "loss": "frame lost",
    "duplicate": "frame duplicated",
    "reorder": "frame overtakes",
    "slow": "frame slow",
}

BRIEF_NS = 3 * SECOND
"""Shorter than the scheduler waits for a silent node or session in these runs; most faults are."""


class Scenario(NamedTuple):
    """One way in which things go wrong. ``faults`` are the most there may be of each kind; a third of them are long."""

    rates: Rates = CALM
    faults: tuple[tuple[str, int], ...] = ()
    trouble: Trouble = Trouble()
    drift_ppm: int = 0
    """Each machine's clock gains or loses at most so many millionths."""
    agents: int = 3
    clients: int = 2
    calls: int = 14
    duration_ns: int = 20 * SECOND
    fault_max_ns: int = 20 * SECOND
    detached: int = 0
    """How many calls each client has accepted for good, beside those that it waits for."""
    lent_every: int = 0
    """Of so many runs one has loans; 0 for none."""
    trains: int = 0
    """How many trains of bursts of short calls each client then makes."""

    @property
    def fault_kinds(self) -> tuple[str, ...]:
        """Everything that goes wrong in it, by the names under which it is counted."""
        rates = tuple(kind for field, kind in _RATE_KINDS.items() if getattr(self.rates, field))
        drift = ("clock drifts",) if self.drift_ppm else ()
        return (*rates, *drift, *(kind for kind, _ in self.faults), *kinds_of_trouble(self.trouble))


class Fault(NamedTuple):
    """Something that goes wrong: to whom (a number, to be taken modulo how many there are), and for how long."""

    at_ns: int
    kind: str
    subject: int
    duration_ns: int


SCENARIOS: dict[str, Scenario] = {
    "smooth": Scenario(agents=1, clients=1),
    "crowded": Scenario(clients=3, calls=24, duration_ns=8 * SECOND),
    "losing": Scenario(LOSING),
    "duplicating": Scenario(DUPLICATING),
    "reordering": Scenario(REORDERING),
    "breaking": Scenario(faults=(("break agent", 6), ("break client", 4))),
    "drifting": Scenario(drift_ppm=5_000, calls=20),
    "partition": Scenario(faults=(("partition agent", 3), ("partition client", 2))),
    "one-way": Scenario(
        faults=(("mute agent", 2), ("deafen agent", 2), ("mute client", 1), ("deafen client", 1)),
    ),
    "pauses": Scenario(faults=(("pause agent", 3), ("pause scheduler", 2), ("pause client", 2))),
    "agent-crash": Scenario(faults=(("crash agent", 5), ("stop agent", 2), ("kill process", 3))),
    "process-death": Scenario(
        faults=(
            ("kill process", 3), ("kill busy process", 4), ("out of memory", 4), ("lose runner", 3),
            ("lose environments", 3),
        ),
        trouble=Trouble(load=0.1, rude=0.1),
    ),
    "scheduler-restart": Scenario(faults=(("crash scheduler", 3),)),
    "operator": Scenario(faults=(("stop cluster", 2), ("stop scheduler", 1), ("stop agent", 2))),
    "power-cut": Scenario(faults=(("crash all", 2), ("client restarts", 1)), trouble=Trouble(slow_exit=0.3)),
    "client-death": Scenario(
        faults=(("client dies", 1), ("client leaves", 1), ("client restarts", 2), ("break client", 3)),
        clients=4,
        calls=10,
    ),
    "trouble": Scenario(
        trouble=Trouble(build=0.2, lock=0.2, spawn=0.2, slow_exit=0.5, disk=0.3),
        faults=(("lose environments", 2),),
    ),
    "slow": Scenario(trouble=Trouble(build=0.1, slow_build=0.5, slow_lock=0.3, slow_exit=0.3)),
    "absent-client": Scenario(faults=(("partition client", 2), ("crash scheduler", 2), ("partition agent", 1))),
    "brief-absence": Scenario(
        faults=(("partition client", 3), ("break client", 2), ("crash scheduler", 3)), fault_max_ns=BRIEF_NS
    ),
    "everything": Scenario(
        BAD,
        faults=(
            ("crash agent", 2), ("stop agent", 1), ("kill process", 2), ("crash scheduler", 2), ("partition agent", 2),
            ("mute agent", 1), ("deafen agent", 1), ("break agent", 2), ("partition client", 1), ("mute client", 1),
            ("deafen client", 1), ("break client", 2), ("client dies", 1), ("client restarts", 1), ("pause agent", 1),
            ("pause scheduler", 1), ("pause client", 1), ("kill busy process", 1), ("out of memory", 1),
            ("lose environments", 1), ("lose runner", 1), ("stop scheduler", 1), ("crash all", 1),
        ),
        trouble=Trouble(
            build=0.1, slow_build=0.1, lock=0.1, slow_lock=0.1, spawn=0.1, slow_exit=0.3, load=0.03, rude=0.03,
            disk=0.15,
        ),
        drift_ppm=5_000,
        clients=3,
        lent_every=3, trains=1,
    ),
    "lending": Scenario(
        faults=(
            ("give up loans", 16), ("kill busy process", 2), ("pause client", 2), ("client dies", 1),
            ("lose runner", 1),
        ),
        agents=2, calls=4, duration_ns=15 * SECOND, fault_max_ns=BRIEF_NS, lent_every=1, trains=2,
    ),
    "lending-restarts": Scenario(
        faults=(("crash scheduler", 3), ("pause client", 1), ("break client", 1)),
        agents=2, calls=4, duration_ns=15 * SECOND, fault_max_ns=BRIEF_NS, lent_every=1, trains=2,
    ),
    "lending-outages": Scenario(
        faults=(
            ("crash scheduler", 2), ("crash agent", 1), ("partition agent", 2), ("partition client", 1),
            ("pause agent", 1), ("client restarts", 1), ("stop agent", 1), ("break client", 1),
        ),
        calls=4, lent_every=1, trains=2,
    ),
    "detached": Scenario(
        faults=(("crash scheduler", 3), ("crash at sync", 3), ("client restarts", 3), ("break client", 2)),
        clients=3, calls=2, detached=8, fault_max_ns=BRIEF_NS,
    ),
    "detached-everything": Scenario(
        BAD,
        faults=(
            ("crash scheduler", 2), ("crash at sync", 2), ("crash all", 1), ("crash agent", 2), ("stop agent", 1),
            ("kill busy process", 2), ("partition agent", 1), ("partition client", 1), ("client restarts", 2),
            ("client leaves", 1), ("pause scheduler", 1), ("stop scheduler", 1),
        ),
        trouble=Trouble(build=0.05, lock=0.05, spawn=0.05),
        clients=3, calls=3, detached=8,
    ),
}  # fmt: skip


def plan(scenario: Scenario, random: Random) -> list[Fault]:
    """What goes wrong in one run: of each kind at least one, if there may be any."""
    faults = []
    for kind, most in scenario.faults:
        for _ in range(random.randint(1, most)):
            longest_ns = random.choice((BRIEF_NS, BRIEF_NS, scenario.fault_max_ns))
            at_ns = random.randrange(SECOND, scenario.duration_ns)
            faults.append(Fault(at_ns, kind, random.randrange(1 << 16), random.randrange(SECOND // 2, longest_ns)))
    return sorted(faults)
