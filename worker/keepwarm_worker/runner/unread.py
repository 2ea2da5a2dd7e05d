"""Whether something that was printed is still in its pipe.

Asked of descriptors of our own: user code may close or redirect 1 and 2.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

__all__ = ["Outputs", "unread_bytes"]

_INT_BYTES = 4
_NONE_UNREAD = bytes(_INT_BYTES)


def unread_bytes(descriptor: int) -> int:
    """How much is in a pipe now; 0 for what is no pipe any more."""
    answer = bytearray(_INT_BYTES)
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, answer)
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


class Outputs:
    """The write ends of the pipes that are this process's standard output and error."""

    def __init__(self, descriptors: Tuple[int, ...]) -> None:
        self._own: List[int] = []
        for descriptor in descriptors:
            try:  # noqa: SIM105 - contextlib would be one more import at start
                self._own.append(os.dup(descriptor))
            except OSError:
                pass  # started without it, by hand
        self._answer = bytearray(_INT_BYTES)

    def are_unread(self) -> bool:
        """Whether the agent has yet to read some of what was printed."""
        answer = self._answer
        for descriptor in self._own:
            fcntl.ioctl(descriptor, termios.FIONREAD, answer)
            if answer != _NONE_UNREAD:
                return True
        return False
