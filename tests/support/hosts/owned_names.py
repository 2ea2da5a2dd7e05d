"""Names of what must be removed from the machine afterwards, and whose it is: ``kwh.<process>.<its start>.<number>``.

Network namespaces, folders and cgroups carry such a name. What belongs to a process that is gone was left over by a
crash; the start time keeps a later process with the same number from being taken for it.
"""

import itertools
import os
from pathlib import Path
from typing import NamedTuple

__all__ = ["OwnedName", "new_name"]

_PREFIX = "kwh"
_numbers = itertools.count(1)


class OwnedName(NamedTuple):
    """A prefix that no other process, and no other network of this one, uses."""

    process_id: int
    started_ticks: int
    number: int

    def __str__(self) -> str:
        return f"{_PREFIX}.{self.process_id}.{self.started_ticks}.{self.number}"

    @property
    def is_left_over(self) -> bool:
        """Whether its owner has ended."""
        return _started_ticks(self.process_id) != self.started_ticks

    @classmethod
    def parse(cls, name: str) -> "OwnedName | None":
        """Read the owner from a name that begins with one; None for a name of something else."""
        prefix, *numbers = name.partition("-")[0].split(".")
        if prefix != _PREFIX or len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            return None
        return cls(*map(int, numbers))


def new_name() -> OwnedName:
    """The next unused name of this process."""
    process_id = os.getpid()
    started_ticks = _started_ticks(process_id)
    assert started_ticks is not None
    return OwnedName(process_id, started_ticks, next(_numbers))


def _started_ticks(process_id: int) -> int | None:
    """When a process was started, in clock ticks since boot, by the kernel's own clock; None if it is gone."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
