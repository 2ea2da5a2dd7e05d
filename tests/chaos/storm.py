"""The plan of a storm: what goes wrong with whom, when and for how long, from a seed alone.

A storm is a row of a table: so many calls, and so many faults of each kind, exactly. When a fault strikes is told in
calls that have ended by then, not in seconds: a slow machine has the same storm, only later. How long it lasts is told
in seconds, because what it is about, noticing silence, takes seconds on any machine. How a fault strikes is not told
here; the kinds are those of the simulation, so that checkers know them.
"""

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

__all__ = ["FAULTS", "LOST_S", "SCHEDULER", "STORMS", "FaultKind", "Storm", "Strike", "counts", "plan"]

SCHEDULER = -1
"""The victim of a fault of the scheduler; agents are numbered from 0."""

LOST_S = 30.0
"""A node that is silent for so long is given up."""


class FaultKind(NamedTuple):
    """How long a fault lasts: most are brief; one in ``long_every`` is long, the first of its kind included."""

    brief_s: tuple[float, float]
    long_s: tuple[float, float] = (0.0, 0.0)
    long_every: int = 0
    hits_scheduler: bool = False


_PARTITION = FaultKind((0.5, 6.0), (LOST_S + 5, LOST_S + 15), long_every=5)

FAULTS: dict[str, FaultKind] = {
    "crash agent": FaultKind((0.2, 2.0)),
    "crash scheduler": FaultKind((0.1, 1.5), (5.0, 8.0), long_every=20, hits_scheduler=True),
    "partition agent": _PARTITION,
    "mute agent": _PARTITION,
    "deafen agent": _PARTITION,
    "pause agent": FaultKind((0.5, 6.0), (LOST_S + 5, LOST_S + 15), long_every=10),
    "kill process": FaultKind((0.0, 0.0)),
    "out of memory": FaultKind((0.0, 0.0)),
    "disk full": FaultKind((2.0, 6.0), hits_scheduler=True),
}
"""Every kind of fault that a storm may have. What lasts no time is undone by nobody."""


class Storm(NamedTuple):
    """How much goes wrong over how many calls on how many agents."""

    calls: int
    agents: int
    faults: tuple[tuple[str, int], ...]


class Strike(NamedTuple):
    """One fault: it strikes when ``at_call`` calls have ended, and is undone so many seconds later."""

    at_call: int
    kind: str
    victim: int
    duration_s: float


STORMS: dict[str, Storm] = {
    "short": Storm(
        10_000,
        5,
        (
            ("crash agent", 50), ("crash scheduler", 10), ("partition agent", 5), ("mute agent", 3),
            ("deafen agent", 2), ("pause agent", 5), ("kill process", 10), ("disk full", 1),
        ),
    ),
    "long": Storm(
        50_000,
        5,
        (
            ("crash agent", 1000), ("crash scheduler", 200), ("partition agent", 100), ("mute agent", 50),
            ("deafen agent", 50), ("pause agent", 100), ("kill process", 200), ("out of memory", 50),
            ("disk full", 20),
        ),
    ),
}  # fmt: skip
"""By tier: ``short`` is for every push, ``long`` for a night."""

_CALM = 50
"""At the beginning and at the end of a storm one part in so many is calm: all is up first, and comes up again."""


def plan(storm: Storm, seed: int) -> list[Strike]:
    """All faults of a storm in the order in which they strike; the same for the same seed, anywhere.

    Of each kind there are exactly as many as the storm says, spread evenly over the agents.
    """
    random = Random(seed)
    first, last = storm.calls // _CALM, storm.calls - storm.calls // _CALM
    strikes = []
    for kind, count in storm.faults:
        fault = FAULTS[kind]
        victims = _rounds(random, storm.agents)
        for number in range(count):
            is_long = fault.long_every > 0 and number % fault.long_every == 0
            shortest_s, longest_s = fault.long_s if is_long else fault.brief_s
            victim = SCHEDULER if fault.hits_scheduler else next(victims)
            duration_s = round(random.uniform(shortest_s, longest_s), 3)
            strikes.append(Strike(random.randrange(first, last), kind, victim, duration_s))
    return sorted(strikes)


def counts(strikes: list[Strike]) -> dict[str, int]:
    """How many faults of each kind there are."""
    return dict(Counter(strike.kind for strike in strikes))


def _rounds(random: Random, agents: int) -> Iterator[int]:
    """Agents in rounds: each once per round, in a new order."""
    while True:
        yield from random.sample(range(agents), agents)
