"""How long the answers of a stream of calls are left to gather before they are read.

A turn of the client costs what the reading of ten answers does, so where thousands of calls are under way it pays to
read many answers at once. Rules: answers that come slowly, or of few calls, are read as they come; a pause is a small
part of the time that the calls under way will still take, so that nobody notices and the scheduler never runs dry; it
is short in itself as well. Pure: no clock, ``now_ns`` is an argument.
"""

from typing import Final

__all__ = ["Gathering"]

STREAM_NS: Final = 1_000_000
"""Only messages that come faster than one in this time are a stream."""

PART: Final = 20
"""A pause is at most this part of the time that the calls under way will take at the pace of late."""

PAUSE_NS_MIN: Final = 1_000_000
"""A poll knows no shorter time."""

PAUSE_NS_MAX: Final = 10_000_000


class Gathering:
    """The pace at which messages came lately, and the pause that follows from it."""

    __slots__ = ("_apart_ns", "_arrived_ns")

    def __init__(self) -> None:
        self._apart_ns = STREAM_NS
        self._arrived_ns = 0

    def arrived(self, now_ns: int, messages: int) -> None:
        """So many messages, one at least, have been read at once."""
        self._apart_ns = (self._apart_ns + (now_ns - self._arrived_ns) // messages) // 2
        self._arrived_ns = now_ns

    def pause_ns(self, calls: int) -> int:
        """How long to wait before the next look, while the scheduler has so many unanswered calls; 0 for not at all."""
        if self._apart_ns >= STREAM_NS:
            return 0
        pause_ns = min(calls * self._apart_ns // PART, PAUSE_NS_MAX)
        return pause_ns if pause_ns >= PAUSE_NS_MIN else 0
