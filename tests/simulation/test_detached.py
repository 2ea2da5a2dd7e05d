"""Detached calls in the whole cluster, in this process: as in the campaign, for those who break a core by hand."""

from functools import cache

import pytest

from support.simulation.cluster import simulate

SEEDS = 8
"""Few, for they are the campaign's; each run ends with a start of the scheduler and a look at every call."""

run = cache(simulate)


@pytest.mark.parametrize("scenario", ["detached", "detached-everything"])
def test_what_was_accepted_ends_once_whatever_is_killed(scenario: str) -> None:
    """And whoever attaches gets the outcome, and nothing runs more often than the faults allow."""
    violations = [each for seed in range(SEEDS) for each in run(scenario, seed).violations]
    assert violations == []


def test_there_is_something_of_everything_to_judge() -> None:
    """Calls by key, of one that is known, awaited by others than their program, cancelled, expired, at most once."""
    kinds: dict[str, None] = {}
    for seed in range(SEEDS):
        history = run("detached", seed).history
        kinds |= dict.fromkeys(entry[1] for entry in history.entries)
        spawned_by = {entry[5]: entry[2] for entry in history.of("detach")}
        found = {
            "same key": any(entry[3] != entry[4] for entry in history.of("accepted")),
            "of another": any(spawned_by[entry[3]] != entry[2] for entry in history.of("attach")),
            "once": any(entry[7] for entry in history.of("detach")),
        }
        kinds |= {what: None for what, is_there in found.items() if is_there}
    wanted = {"kept call", "kept outcome", "forgot call", "told", "not told", "cancel", "withdrawn", "client gone"}
    assert wanted | {"same key", "of another", "once"} <= set(kinds)
