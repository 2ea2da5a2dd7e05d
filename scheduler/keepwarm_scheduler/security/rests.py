"""Keys that rest: a connection of theirs was hung up on, for it flooded us, and new ones have to wait for a while.

Rules: a rest lasts ``REST_FIRST_NS``, for an agent half of that, and twice as long as the one before if that ended less
than ``FORGOTTEN_NS`` ago, up to ``REST_MAX_NS``: those who wait longer in handshakes that come to nothing are
told that there is no scheduler. Other connections of the key go on.
"""

from typing import NamedTuple

__all__ = ["FORGOTTEN_NS", "REST_FIRST_NS", "REST_FIRST_OF_AGENTS_NS", "REST_MAX_NS", "Rests", "first_rest_ns"]

REST_FIRST_NS = 1_000_000_000
REST_FIRST_OF_AGENTS_NS = 500_000_000
"""Less than it takes until a node that is gone counts as lost."""

REST_MAX_NS = 16_000_000_000
FORGOTTEN_NS = 60_000_000_000


def first_rest_ns(role: str) -> int:
    """How long a key of this role rests for the first time."""
    return REST_FIRST_OF_AGENTS_NS if role == "agent" else REST_FIRST_NS


class _Rest(NamedTuple):
    until_ns: int
    length_ns: int


class Rests:
    """Who rests until when.

    Example::

        rests = Rests()
        rests.begin("key", now_ns=0)
        assert rests.until_ns("key", now_ns=1) == REST_FIRST_NS
    """

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}
        """In the order of their beginnings."""

    def begin(self, key: str, now_ns: int, first_ns: int = REST_FIRST_NS) -> int:
        """A connection of this key has just been hung up on. Returns how long the key rests, in nanoseconds."""
        self._forget(now_ns)
        before = self._rests.pop(key, None)
        if before is None:
            length_ns = first_ns
        elif now_ns < before.until_ns:
            self._rests[key] = before  # another connection that was made before this rest
            return before.length_ns
        else:
            length_ns = min(REST_MAX_NS, 2 * before.length_ns)
        self._rests[key] = _Rest(now_ns + length_ns, length_ns)
        return length_ns

    def until_ns(self, key: str, now_ns: int) -> int | None:
        """When the rest of this key ends; None if it does not rest."""
        rest = self._rests.get(key)
        return None if rest is None or rest.until_ns <= now_ns else rest.until_ns

    def is_known(self, key: str, now_ns: int) -> bool:
        """Whether this key has rested not long ago, or does."""
        rest = self._rests.get(key)
        return rest is not None and now_ns - rest.until_ns < FORGOTTEN_NS

    def _forget(self, now_ns: int) -> None:
        while self._rests:
            key, rest = next(iter(self._rests.items()))
            if now_ns - rest.until_ns < FORGOTTEN_NS:
                return
            del self._rests[key]
