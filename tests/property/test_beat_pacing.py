"""The pace of beats: never more per second than the scheduler bears, however many peers come, go and disobey."""

from collections import deque
from heapq import heappop, heappush

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.beat_pacing import BeatPace
from keepwarm_scheduler.core.config import SECOND_NS, CoreConfig

RATE = 20
CONFIG = CoreConfig(beats_per_second_max=RATE)
WINDOW_NS = SECOND_NS

arrivals = st.lists(st.integers(0, 60 * SECOND_NS), min_size=1, max_size=150)


def beats_of(arrivals_ns: list[int], until_ns: int) -> list[tuple[int, bool]]:
    """When obedient peers beat; true for the beat with which each begins, which nobody has asked for."""
    pace, said = BeatPace(CONFIG), list[tuple[int, bool]]()
    due: list[tuple[int, int]] = []
    for number, at_ns in enumerate(arrivals_ns):
        heappush(due, (at_ns, number))
    begun = 0
    first = set(range(len(arrivals_ns)))
    while due and due[0][0] <= until_ns:
        now_ns, number = heappop(due)
        is_first = number in first
        first.discard(number)
        begun += is_first
        said.append((now_ns, is_first))
        heappush(due, (now_ns + pace.next_beat_ns(now_ns, begun), number))
    return said


@given(arrivals)
def test_no_second_has_more_beats_than_that_but_for_the_first_of_each_peer(arrivals_ns: list[int]) -> None:
    window: deque[int] = deque()
    for now_ns, is_first in beats_of(arrivals_ns, 150 * SECOND_NS):
        if not is_first:
            window.append(now_ns)
        while window and window[0] <= now_ns - WINDOW_NS:
            window.popleft()
        assert len(window) <= RATE


@given(arrivals)
def test_nobody_beats_more_often_than_configured_or_waits_longer_than_twice_the_interval(
    arrivals_ns: list[int],
) -> None:
    pace, due = BeatPace(CONFIG), [(at_ns, number) for number, at_ns in enumerate(sorted(arrivals_ns))]
    peers = len(due)
    for now_ns, _ in due:
        delay_ns = pace.next_beat_ns(now_ns, peers)
        assert CONFIG.beat_interval_ns <= delay_ns <= 2 * pace.interval_ns(peers)


@given(st.integers(1, 100), st.integers(1, 2_000))
def test_peers_that_beat_uninvited_keep_the_others_waiting_no_longer_than_that(peers: int, uninvited: int) -> None:
    pace = BeatPace(CONFIG)
    for _ in range(uninvited):
        assert pace.next_beat_ns(0, peers) <= 2 * pace.interval_ns(peers)
    assert pace.next_beat_ns(0, peers) <= 2 * pace.interval_ns(peers)


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_silence_is_borne_the_longer_the_more_peers_there_are(one: int, other: int) -> None:
    pace = BeatPace(CoreConfig())
    fewer, more = sorted((one, other))
    for bound in (pace.interval_ns, pace.suspect_ns, pace.lost_ns, pace.session_lost_ns):
        assert bound(fewer) <= bound(more)
    assert pace.interval_ns(more) < pace.suspect_ns(more) < pace.lost_ns(more)
    assert pace.suspect_ns(more) >= 3 * pace.interval_ns(more)
