"""The handshake's decision: who may talk with whom, and what the other is told."""

import pytest

from keepwarm_wire import version
from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.messages import ClientHello, Refused
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE, negotiate

PEER = "keepwarm 9.9.9"


@pytest.fixture
def speaks_4_to_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later scheduler: one that speaks its own protocol and the one before."""
    monkeypatch.setattr(version, "PROTOCOL_MIN", 4)
    monkeypatch.setattr(version, "PROTOCOL_MAX", 5)


def test_this_release_speaks_at_most_two_versions() -> None:
    """Its own and the one before."""
    assert 1 <= PROTOCOL_MIN <= PROTOCOL_MAX <= PROTOCOL_MIN + 1


def test_equal_peers_speak_their_version() -> None:
    """The usual case, with nothing to explain."""
    assert negotiate(PROTOCOL_MIN, PROTOCOL_MAX, SOFTWARE) == (PROTOCOL_MAX, "")


@pytest.mark.usefixtures("speaks_4_to_5")
@pytest.mark.parametrize(
    ("peer_min", "peer_max", "chosen"),
    [(4, 5, 5), (3, 4, 4), (4, 4, 4), (5, 5, 5), (3, 5, 5)],
)
def test_the_highest_common_version_is_chosen(peer_min: int, peer_max: int, chosen: int) -> None:
    """A peer a release older is met where both can talk."""
    assert negotiate(peer_min, peer_max, PEER) == (chosen, "")


@pytest.mark.usefixtures("speaks_4_to_5")
@pytest.mark.parametrize(("peer_min", "peer_max"), [(5, 6), (1, 9), (4, 6)])
def test_a_peer_that_is_newer_is_refused_though_both_might_find_words(peer_min: int, peer_max: int) -> None:
    """The scheduler is upgraded first: what a newer agent or program relies on may be missing here."""
    protocol, reason = negotiate(peer_min, peer_max, PEER)
    assert protocol == 0
    assert reason.endswith("the scheduler is too old; upgrade the scheduler.")


@pytest.mark.usefixtures("speaks_4_to_5")
@pytest.mark.parametrize(("peer_min", "peer_max", "chosen"), [(5, 6, 5), (1, 9, 5), (6, 7, 0), (3, 3, 0)])
def test_an_operators_tool_may_be_newer_where_both_find_words(peer_min: int, peer_max: int, chosen: int) -> None:
    """Else nobody could stop the scheduler that is to be upgraded."""
    assert negotiate(peer_min, peer_max, PEER, may_be_newer=True).protocol == chosen


@pytest.mark.usefixtures("speaks_4_to_5")
@pytest.mark.parametrize(("peer_min", "peer_max"), [(3, 3), (1, 2), (0, 0)])
def test_a_peer_that_is_too_old_is_told_to_upgrade(peer_min: int, peer_max: int) -> None:
    """The text names both sides, what each speaks, whose fault it is and what to do."""
    protocol, reason = negotiate(peer_min, peer_max, PEER)
    assert protocol == 0
    assert reason == (
        f"{PEER} speaks protocol {peer_min} to {peer_max}, this scheduler ({SOFTWARE}) speaks 4 to 5: "
        "it is too old; upgrade it."
    )


@pytest.mark.usefixtures("speaks_4_to_5")
@pytest.mark.parametrize(("peer_min", "peer_max"), [(6, 6), (6, 7), (100, 2**31 - 1)])
def test_a_peer_that_is_too_new_is_told_to_upgrade_the_scheduler(peer_min: int, peer_max: int) -> None:
    """Then it is the scheduler that stays behind."""
    protocol, reason = negotiate(peer_min, peer_max, PEER)
    assert protocol == 0
    assert reason == (
        f"{PEER} speaks protocol {peer_min} to {peer_max}, this scheduler ({SOFTWARE}) speaks 4 to 5: "
        "the scheduler is too old; upgrade the scheduler."
    )


@pytest.mark.parametrize(("peer_min", "peer_max"), [(5, 1), (2**31 - 1, 0), (2, 0)])
def test_a_range_that_ends_before_it_begins_is_refused(peer_min: int, peer_max: int) -> None:
    """Nonsense from a peer is a refusal, not a version."""
    assert negotiate(peer_min, peer_max, PEER).protocol == 0


def test_a_refusal_travels_for_the_longest_software_name() -> None:
    """Whatever name and range a legal hello holds, the reason fits the message that carries it."""
    hello = ClientHello(2**31 - 1, 2**31 - 1, "x" * 512, bytes(16), "", 0)
    [hello] = decode_frame(encode_frame([hello]))
    refused = Refused("protocol", negotiate(hello.protocol_min, hello.protocol_max, hello.software).reason)
    assert decode_frame(encode_frame([refused])) == [refused]
