"""Room on the scheduler's disk that is kept for when there is no other: a file, given up for what must be written.

While it is given up the scheduler takes nothing new to keep, so that the room lasts for what it has promised already.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["BALLAST_BYTES", "Ballast"]

BALLAST_BYTES = 4 << 20
_RETAKE_S = 5.0
"""How often it is tried to reserve the room again."""


class Ballast:
    """A file of ``size_bytes`` in the directory, once it is held. It stays over restarts.

    >>> ballast = Ballast(directory)
    >>> ballast.hold()
    >>> ballast.is_held, ballast.give_up(), ballast.is_held
    (True, True, False)
    """

    def __init__(
        self, directory: Path, size_bytes: int = BALLAST_BYTES, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = directory / "ballast"
        self._size_bytes = size_bytes
        self._clock_s = clock_s
        self._try_at_s = 0.0
        self.is_held = self._file.exists() and self._file.stat().st_size == size_bytes
        """Whether there is one; it may be from an earlier start."""

    def hold(self) -> None:
        """Reserve the room, if it is not held, there is so much, and it was not tried just now."""
        now_s = self._clock_s()
        if self.is_held or now_s < self._try_at_s:
            return
        self._try_at_s = now_s + _RETAKE_S
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
            finally:
                os.close(descriptor)
            self.is_held = True
        except OSError:
            self._remove()  # a part of it would only be in the way

    def give_up(self) -> bool:
        """Free the room; false if it was not held."""
        was_held, self.is_held = self.is_held, False
        self._try_at_s = self._clock_s() + _RETAKE_S
        self._remove()
        return was_held

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink()
