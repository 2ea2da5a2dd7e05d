"""Handshakes that lead to nothing: keys that are let in again and again, and of which no message ever comes.

Whoever sends what ZeroMQ itself refuses (a frame beyond any size) is hung up on by ZeroMQ, unseen by everybody else,
and may come back at once: each time that costs the decryption of what it sent. So a key with many connections that
have said nothing is to rest.

Rules: a connection counts once it has had ``PATIENCE_NS`` to say something, and not after its first message; of a key
that has rested not long ago a single one is too many, and has little time.
"""

from collections import deque

__all__ = ["FORGOTTEN_NS", "PATIENCE_NS", "PATIENCE_WITH_SUSPECTS_NS", "SILENT_MAX", "Handshakes"]

SILENT_MAX = 8
PATIENCE_NS = 1_000_000_000
PATIENCE_WITH_SUSPECTS_NS = 50_000_000
FORGOTTEN_NS = 30_000_000_000


class Handshakes:
    """Who was let in and has said nothing yet.

    Example::

        handshakes = Handshakes()
        assert not handshakes.are_too_many("key", now_ns=0, is_suspect=False)
        handshakes.begun("key", now_ns=0)
        assert handshakes.are_too_many("key", now_ns=PATIENCE_NS, is_suspect=True)
        handshakes.spoke("key")
        assert not handshakes.are_too_many("key", now_ns=PATIENCE_NS, is_suspect=True)
    """

    def __init__(self) -> None:
        self._silent: dict[str, deque[int]] = {}
        """By key, when each was let in, the oldest first."""

    def begun(self, key: str, now_ns: int) -> None:
        """A connection of this key has been let in."""
        self._silent.setdefault(key, deque(maxlen=2 * SILENT_MAX)).append(now_ns)

    def spoke(self, key: str) -> None:
        """The first message of a connection of this key has come: which of them it is does not matter."""
        silent = self._silent.get(key)
        if silent:
            silent.popleft()
            if not silent:
                del self._silent[key]

    def are_too_many(self, key: str, now_ns: int, *, is_suspect: bool) -> bool:
        """Whether another connection of this key is to wait."""
        silent = self._silent.get(key)
        while silent and now_ns - silent[0] >= FORGOTTEN_NS:
            silent.popleft()
        if not silent:
            self._silent.pop(key, None)
            return False
        if is_suspect:
            return now_ns - silent[0] >= PATIENCE_WITH_SUSPECTS_NS
        return len(silent) >= SILENT_MAX and now_ns - silent[SILENT_MAX - 1] >= PATIENCE_NS

    def forget(self, key: str) -> None:
        """The key rests for it."""
        self._silent.pop(key, None)
