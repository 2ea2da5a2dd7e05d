"""The configured times up to 400 peers, and what becomes of them beyond. The rules are properties elsewhere."""

import pytest

from keepwarm_scheduler.core.beat_pacing import BeatPace
from keepwarm_scheduler.core.config import CoreConfig
from keepwarm_wire import messages as wire
from support.scheduler_driver import Driver


def times_s(peers: int) -> list[float]:
    """Interval, suspect, lost, session lost."""
    pace = BeatPace(CoreConfig())
    return [each(peers) / 1e9 for each in (pace.interval_ns, pace.suspect_ns, pace.lost_ns, pace.session_lost_ns)]


@pytest.mark.parametrize("peers", [0, 1, 400])
def test_up_to_four_hundred_peers_the_configured_times_hold(peers: int) -> None:
    assert times_s(peers) == [2, 6, 30, 30]


def test_with_more_peers_silence_is_borne_for_as_many_beats() -> None:
    assert times_s(4_000) == [20, 60, 100, 300]


def test_one_peer_beats_at_the_configured_interval() -> None:
    pace = BeatPace(CoreConfig())
    assert [pace.next_beat_ns(now_ns, 1) for now_ns in (0, 2_000_000_000, 9_000_000_000)] == [2_000_000_000] * 3


def test_peers_that_come_together_are_kept_apart() -> None:
    pace = BeatPace(CoreConfig())
    assert [pace.next_beat_ns(0, 3) // 1_000_000 for _ in range(3)] == [2_000, 2_005, 2_010]


def test_peers_that_are_gone_do_not_keep_the_others_waiting_for_long() -> None:
    pace = BeatPace(CoreConfig())
    for _ in range(2_000):
        pace.next_beat_ns(0, 2_000)
    assert pace.next_beat_ns(0, 100) == 4_000_000_000


def test_agents_and_clients_are_told() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.beat()
    (beat,), (reply,) = agent.of(wire.AgentBeatReply), client.of(wire.ClientBeatReply)
    assert (beat.next_beat_us, reply.next_beat_us) == (2_000_000, 2_005_000)
