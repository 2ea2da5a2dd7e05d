"""A real journal whose disk is as slow as a test wants: each commit waits until it is let through."""

import threading
from pathlib import Path

from keepwarm_scheduler.journal import Journal
from keepwarm_scheduler.journal_calls import Statement

__all__ = ["GatedJournal"]

LIMIT_S = 20.0


class GatedJournal(Journal):
    """Its epoch has begun. ``commits`` counts the transactions that are on disk."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.commits = 0
        self.fails_with: Exception | None = None
        self._gate = threading.Semaphore(0)
        self.opened = self.begin_epoch()

    def let_through(self, count: int = 1) -> None:
        """The disk has done so many transactions more."""
        self._gate.release(count)

    def commit(self, statements: list[Statement]) -> None:
        """In the writer's thread."""
        assert self._gate.acquire(timeout=LIMIT_S), "nobody let the commit through"
        if self.fails_with is not None:
            raise self.fails_with
        super().commit(statements)
        self.commits += 1
