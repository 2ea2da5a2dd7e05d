"""How often peers beat, and how long their silence is borne: beats never take more than a share of the scheduler.

Up to ``beats_per_second_max`` beats per second arrive, however many nodes and clients there are: every reply to a beat
says when the next one is due, and these instants are kept apart. With few peers that is the configured interval, with
many ``peers / beats_per_second_max`` seconds. Silence is borne for the configured times, or for so many beats,
whichever is longer. Rules: an instant that is not used, because its peer is gone, is lost and nothing else; peers that
beat uninvited delay the others by no more than one interval.
"""

from typing import Final

from keepwarm_scheduler.core.config import SECOND_NS, CoreConfig

__all__ = ["LOST_BEATS", "SESSION_LOST_BEATS", "BeatPace"]

LOST_BEATS: Final = 5
"""A node is lost no earlier than after this many intervals without a word."""
SESSION_LOST_BEATS: Final = 15
"""The same for sessions, whose beats are five intervals apart while nothing is unanswered."""


class BeatPace:
    """The instants at which beats are due, of all peers together.

    >>> pace = BeatPace(CoreConfig())
    >>> pace.interval_ns(peers=10) // 1_000_000, pace.interval_ns(peers=2_000) // 1_000_000
    (2000, 10000)
    """

    __slots__ = ("_config", "_free_ns", "_gap_ns")

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self._gap_ns = SECOND_NS // config.beats_per_second_max
        self._free_ns = 0
        """The first instant at which no beat is due yet."""

    def interval_ns(self, peers: int) -> int:
        """How far apart the beats of one peer are when there are so many."""
        return max(self._config.beat_interval_ns, peers * self._gap_ns)

    def next_beat_ns(self, now_ns: int, peers: int) -> int:
        """In how long the peer that has just been heard is to beat again; that instant is its own."""
        latest_ns = now_ns + 2 * self.interval_ns(peers)
        due_ns = max(now_ns + self._config.beat_interval_ns, min(self._free_ns, latest_ns))
        self._free_ns = due_ns + self._gap_ns
        return due_ns - now_ns

    def suspect_ns(self, peers: int) -> int:
        """A node silent for so long is suspect: nothing new is placed there."""
        return self._config.suspect_beats * self.interval_ns(peers)

    def lost_ns(self, peers: int) -> int:
        """A node silent for so long is lost: its calls are placed elsewhere."""
        return max(self._config.node_lost_ns, LOST_BEATS * self.interval_ns(peers))

    def session_lost_ns(self, peers: int) -> int:
        """A session silent for so long has ended."""
        return max(self._config.session_lost_ns, SESSION_LOST_BEATS * self.interval_ns(peers))
