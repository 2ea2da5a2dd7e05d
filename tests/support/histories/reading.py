"""The history of a run with real processes, put together from the files of its programs, in order of time."""

import json
from pathlib import Path
from typing import Any

from support.histories.recorder import SUFFIX
from support.simulation.history import History

__all__ = ["executions_per_call", "read_history", "tally_of_ends"]


def read_history(folder: Path) -> History:
    """Read all files of a folder. A last line that was cut off by its writer's death does not count.

    Raises ``ValueError`` for any other line that is none.
    """
    entries: list[tuple[Any, ...]] = []
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        whole, _, _ = file.read_text().rpartition("\n")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entries.append(tuple(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{file.name}:{number} is no entry: {line!r}") from error
    history = History()
    for entry in sorted(entries, key=lambda entry: entry[0]):
        history.add(*entry)
    return history


def executions_per_call(history: History) -> float:
    """How often a call ran, on average of those that ran at all; 0 if none did."""
    runs = history.of("run")
    return len(runs) / len({entry[3] for entry in runs}) if runs else 0.0


def tally_of_ends(history: History) -> dict[str, int]:
    """How many calls ended in which way, each counted once."""
    ways = {entry[3]: entry[4] for entry in history.of("end")}
    return {way: list(ways.values()).count(way) for way in sorted(set(ways.values()))}
