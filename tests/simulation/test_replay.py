"""A seed is a run: the same events at the same instants, in every process and under every hash seed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.simulation.cluster import replay_command, simulate

TESTS = Path(__file__).parents[1]


def digest_in_a_process(hash_seed: str) -> str:
    """Run a seed elsewhere, and return the digest it prints."""
    command = [sys.executable, "-m", "support.simulation", "--scenario", "everything", "--seed", "3"]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return next(line for line in done.stdout.splitlines() if line.startswith("digest ")).split()[1]


@pytest.mark.parametrize("scenario", ["everything", "scheduler-restart"])
def test_a_seed_replays_bit_by_bit(scenario: str) -> None:
    """Within one process, after other runs."""
    first = simulate(scenario, 5)
    simulate(scenario, 6)
    again = simulate(scenario, 5)
    assert first.history.entries == again.history.entries
    assert first.digest == again.digest


def test_looking_at_invariants_changes_nothing() -> None:
    """A checked run is the run that it checks."""
    assert simulate("everything", 2, checked=True).digest == simulate("everything", 2).digest


def test_frames_that_are_bytes_change_nothing() -> None:
    """Most runs pass the messages themselves on, to save time: they are the runs that bytes would make."""
    for scenario in ("everything", "trouble"):
        assert simulate(scenario, 2, encoded=True).digest == simulate(scenario, 2, encoded=False).digest


def test_seeds_differ() -> None:
    """Else the others would prove nothing."""
    assert simulate("everything", 1).digest != simulate("everything", 2).digest


def test_a_run_does_not_depend_on_the_hash_seed() -> None:
    """No set is iterated, nothing is ordered by a hash, in the cores or here."""
    here = simulate("everything", 3).digest
    assert {digest_in_a_process("1"), digest_in_a_process("2")} == {here}


def test_a_failing_seed_says_how_to_replay_it() -> None:
    """The command names the module, the scenario and the seed."""
    assert replay_command("losing", 7) == (
        "PYTHONPATH=tests python -m support.simulation --seed 7 --scenario losing --trace"
    )
