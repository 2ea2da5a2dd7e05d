"""When Python's garbage collector runs in the scheduler's process: seldom, and over little.

The core keeps its records in dictionaries and breaks the one cycle that a call makes (a call and its attempt know
each other) when the call is forgotten, so that reference counts free everything. With Python's own thresholds the
collector would all the same look through every lease of the cluster again and again, and stop every call meanwhile:
for 0.6 s with a million leases. It stays on, as a guard against a cycle that somebody adds one day.
"""

import gc
from typing import Final

__all__ = ["THRESHOLDS", "begin", "quieten"]

THRESHOLDS: Final = (10_000, 10, 10_000)
"""Net new objects before the youngest are looked at, such looks before the next older are, and before the oldest."""


def begin() -> None:
    """Hold the collector off while the scheduler takes in what is on disk: all of that is there to stay."""
    gc.collect()
    gc.disable()


def quieten() -> None:
    """Take what has been loaded so far out of the collector's sight, and have it look seldom. Once per process."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.enable()
