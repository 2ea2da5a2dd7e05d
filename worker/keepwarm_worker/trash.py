"""Directories of ended instances: out of the way at once, deleted by a thread of their own.

User code may leave millions of files, whose deletion takes a minute: the event loop must not wait for that.

Rules: one rename, or nothing, happens in the caller's thread; whatever is not deleted when the agent ends is deleted by
the next one, which empties the spool; nothing here raises.
"""

import logging
import os
import threading
from pathlib import Path
from queue import SimpleQueue

from keepwarm_worker.environments import disk

__all__ = ["Trash"]

CLOSE_S = 1.0
"""So long the end of the agent may wait for what is to be deleted."""

_log = logging.getLogger(__name__)


class Trash:
    """A directory, made when it is needed, in which others wait to be deleted.

    trash = Trash(spool / "trash")
    trash.discard(spool / "instance-7")
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: SimpleQueue[Path | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def discard(self, path: Path) -> None:
        """Take a directory away, and have it deleted. Absent is fine."""
        aside = self._directory / f"{path.name}.{os.urandom(8).hex()}"
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            path.rename(aside)
        except FileNotFoundError:
            return
        except OSError as error:  # user code has taken its permissions away, or the disk does not work
            _log.debug("%s is deleted where it is: %s", path, error)
            aside = path
        self._waiting.put(aside)
        if self._thread is None:
            self._thread = threading.Thread(target=self._delete, name="trash", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Delete no more than what takes a moment."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(CLOSE_S)
            self._thread = None

    def _delete(self) -> None:
        while (path := self._waiting.get()) is not None:
            try:
                disk.delete_tree(path)
            except Exception:
                _log.exception("%s cannot be deleted", path)
