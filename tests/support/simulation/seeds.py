"""How many seeds the tests run, and what they say when one fails."""

import os
from collections.abc import Iterable

from support.simulation.cluster import Run, replay_command, simulate
from support.tiers import tier_of

__all__ = ["assert_holds", "seeds"]

SEEDS = {"default": 20, "ci": 20, "long": 2000}
"""Per scenario and tier."""

CHECKED_EVERY = 5
"""In every fifth run the cores' own invariants are checked after every event, which costs as much as the run."""

_SHOWN = 8


def seeds() -> range:
    """The seeds of this tier."""
    return range(SEEDS[tier_of(os.environ)])


def assert_holds(scenario: str, chosen: Iterable[int] | None = None) -> None:
    """Run every seed of a scenario; fail with the first one that a checker objects to, and how to replay it."""
    for seed in seeds() if chosen is None else chosen:
        run = simulate(scenario, seed, checked=seed % CHECKED_EVERY == 0)
        assert not run.violations, _words(run)


def _words(run: Run) -> str:
    shown = run.violations[:_SHOWN]
    more = len(run.violations) - len(shown)
    lines = [f"scenario {run.scenario}, seed {run.seed}:", *shown, *([f"and {more} more"] if more else [])]
    return "\n  ".join([*lines, f"replay with: {replay_command(run.scenario, run.seed)}"])
