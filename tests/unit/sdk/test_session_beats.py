"""A session beats when the scheduler asks it to."""

from keepwarm.session import IDLE_BEAT_FACTOR
from keepwarm_wire.messages import ClientBeat, ClientBeatReply, ClientHello
from support.driven_session import Driven


def test_the_reply_to_a_beat_says_when_the_next_one_is_due() -> None:
    driven = Driven().open()
    driven.call()
    driven.out()
    driven.get(ClientBeatReply(1, (), 10_000_000))
    assert not driven.sent(ClientBeat, after_s=9.9)
    assert driven.sent(ClientBeat, after_s=0.2)


def test_with_nothing_unanswered_beats_are_as_much_rarer_as_ever() -> None:
    driven = Driven().open()
    driven.out()
    driven.get(ClientBeatReply(1, (), 4_000_000))
    assert not driven.sent(ClientBeat, after_s=4 * IDLE_BEAT_FACTOR - 0.1)
    assert driven.sent(ClientBeat, after_s=0.2)


def test_the_scheduler_is_not_thought_away_for_answering_at_the_pace_that_it_asked_for() -> None:
    driven = Driven().open()
    driven.call()
    driven.out()
    driven.get(ClientBeatReply(1, (), 10_000_000))
    assert driven.sent(ClientBeat, after_s=10.1)
    assert not driven.sent(ClientHello, after_s=29)
