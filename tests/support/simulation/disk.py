"""The disk of a scheduler that keeps detached calls: the real journal, in a folder that is removed with the run.

What was not synced when the process ended is not there. Wall time is the virtual one, which outlives processes.
"""

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from keepwarm_scheduler import journal
from keepwarm_scheduler.core.events import Restored
from keepwarm_wire.messages import DetachedOutcome
from support.simulation.clock import Clock

__all__ = ["Disk"]

_WALL_US = 1_800_000_000_000_000


class Disk:
    """One journal for one scheduler after another."""

    is_real = True

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # In memory where that is possible: what is tested here is order, not the disk.
        shared = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="kw-", dir=shared if shared.is_dir() else None))
        self._removal = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._journal: journal.Journal | None = None
        self.epoch = 0
        self.payloads: tuple[bytes, ...] = ()
        """What this epoch's journal referred to at its start."""

    def begin_epoch(self) -> Restored:
        """A process opens the journal: it counts the start and reads what earlier ones left."""
        self._journal = journal.Journal(self._folder, lambda: _WALL_US + self._clock.now_ns // 1_000)
        opened = self._journal.begin_epoch()
        self.epoch = opened.epoch
        self.payloads = tuple(payload.payload_id for payload in opened.payloads)
        return opened.restored

    def sync(self, records: list[Any]) -> None:
        """Write what a turn has saved."""
        self._opened.sync(records, self.epoch)

    def arguments(self, number: int) -> bytes | None:
        """As the journal has them."""
        return self._opened.arguments(number)

    def outcome(self, number: int) -> DetachedOutcome | None:
        """As the journal has it."""
        return self._opened.outcome(number)

    def end_process(self) -> None:
        """The process that has it open ends."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def remove(self) -> None:
        """The run is over."""
        self.end_process()
        self._removal()

    @property
    def _opened(self) -> journal.Journal:
        assert self._journal is not None
        return self._journal
