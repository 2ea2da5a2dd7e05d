"""Scenarios, and the seeded plan of what goes wrong when.

A scenario is a row of a table: how the network behaves until it heals, and how many faults of which kinds there are.
"""

from random import Random
from typing import NamedTuple

from support.simulation.clock import MILLISECOND, SECOND
from support.simulation.machines import Trouble
from support.simulation.network import CALM, Rates

__all__ = ["BRIEF_NS", "SCENARIOS", "Fault", "Scenario", "plan"]

LOSING = Rates(loss=0.15, delay_max_ns=20 * MILLISECOND)
DUPLICATING = Rates(duplicate=0.3, slow=0.1)
REORDERING = Rates(reorder=0.3, slow=0.15, delay_max_ns=50 * MILLISECOND)
BAD = Rates(loss=0.05, duplicate=0.1, reorder=0.1, slow=0.05, delay_max_ns=30 * MILLISECOND)


BRIEF_NS = 3 * SECOND
"""Shorter than the scheduler waits for a silent node or session in these runs; most faults are."""


class Scenario(NamedTuple):
    """One way in which things go wrong. ``faults`` are the most there may be of each kind; a third of them are long."""

    rates: Rates = CALM
    faults: tuple[tuple[str, int], ...] = ()
    trouble: Trouble = Trouble()
    agents: int = 3
    clients: int = 2
    calls: int = 14
    duration_ns: int = 20 * SECOND
    fault_max_ns: int = 20 * SECOND


class Fault(NamedTuple):
    """Something that goes wrong: to whom (a number, to be taken modulo how many there are), and for how long."""

    at_ns: int
    kind: str
    subject: int
    duration_ns: int


SCENARIOS: dict[str, Scenario] = {
    "smooth": Scenario(agents=1, clients=1),
    "crowded": Scenario(clients=3, calls=30, duration_ns=8 * SECOND),
    "losing": Scenario(LOSING),
    "duplicating": Scenario(DUPLICATING),
    "reordering": Scenario(REORDERING),
    "breaking": Scenario(faults=(("break agent", 6), ("break client", 4))),
    "partition": Scenario(faults=(("partition agent", 3), ("partition client", 2))),
    "one-way": Scenario(
        faults=(("mute agent", 2), ("deafen agent", 2), ("mute client", 1), ("deafen client", 1)),
    ),
    "agent-crash": Scenario(faults=(("crash agent", 5), ("stop agent", 2), ("kill process", 3))),
    "scheduler-restart": Scenario(faults=(("crash scheduler", 3),)),
    "client-death": Scenario(
        faults=(("client dies", 1), ("client leaves", 1), ("break client", 3)), clients=4, calls=10
    ),
    "trouble": Scenario(trouble=Trouble(build=0.2, lock=0.2, spawn=0.2, slow_exit=0.5)),
    "absent-client": Scenario(faults=(("partition client", 2), ("crash scheduler", 2), ("partition agent", 1))),
    "brief-absence": Scenario(
        faults=(("partition client", 3), ("break client", 2), ("crash scheduler", 3)), fault_max_ns=BRIEF_NS
    ),
    "everything": Scenario(
        BAD,
        faults=(
            ("crash agent", 2), ("stop agent", 1), ("kill process", 2), ("crash scheduler", 2), ("partition agent", 2),
            ("mute agent", 1), ("deafen agent", 1), ("break agent", 2), ("partition client", 1), ("mute client", 1),
            ("deafen client", 1), ("break client", 2), ("client dies", 1),
        ),
        trouble=Trouble(build=0.1, lock=0.1, spawn=0.1, slow_exit=0.3),
        clients=3,
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
