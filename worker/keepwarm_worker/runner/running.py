"""What runs now, written by the runner where the agent can see it: a few bytes of memory that both have mapped.

So that telling costs no system call and wakes nobody. The agent looks when it has to know: when the process has died,
or printed something. Rules: the runner writes before a call begins; whoever meets a half-written board looks again.
"""

from __future__ import annotations

import _thread
import mmap
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

__all__ = ["BOARD_BYTES", "RunningBoard"]

_LAYOUT = struct.Struct("@QQQ")
"""The attempt, when it began on CLOCK_MONOTONIC in nanoseconds, and the attempt again: equal on a whole board."""

_OUTPUTS = struct.Struct("@Q")
"""Behind that, written by the agent: how often it has begun to read what was printed. By the client of a loan: whether
that is over."""

BOARD_BYTES = _LAYOUT.size + _OUTPUTS.size
_FENCE = _thread.allocate_lock()
_READS_MAX = 100
"""Only user code that has written to the board makes it look torn for longer."""


class RunningBoard:
    """One board, by its descriptor, which may be closed afterwards."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, BOARD_BYTES)

    def begin(self, attempt: int) -> None:
        """An attempt begins now."""
        _LAYOUT.pack_into(self._memory, 0, attempt, time.monotonic_ns(), attempt)

    def read(self) -> Tuple[int, int]:
        """The attempt that began last, 0 for none, and when that was."""
        for _ in range(_READS_MAX):
            attempt, began_ns, again = _LAYOUT.unpack_from(self._memory, 0)
            if attempt == again:
                return attempt, began_ns
        return 0, 0

    def output_comes(self) -> None:
        """Some of what was printed is about to be read."""
        _OUTPUTS.pack_into(self._memory, _LAYOUT.size, (self.outputs() + 1) & 0xFFFFFFFF)

    def outputs(self) -> int:
        """A number that changes when what was printed is read: before it is gone from its pipe."""
        return int(_OUTPUTS.unpack_from(self._memory, _LAYOUT.size)[0])

    def is_over(self) -> bool:
        """Whether the client has given up the loan that this board is of: asked for each call once it has begun.

        What was written before is seen by others before this looks: to give a lock back and then take it is a fence for
        the processor.
        """
        if _FENCE.locked():  # it is not the first time, nor has a signal handler raised something in between
            _FENCE.release()
        _FENCE.acquire(False)
        return self.outputs() != 0

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()
