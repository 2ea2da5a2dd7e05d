"""Faults of the network do to plain TCP and UDP what their names say, to nobody else, and can be undone."""

import socket
from collections.abc import Callable, Iterator

import pytest

from support.hosts.faults.fault import Fault
from support.hosts.faults.links import (
    cut_off,
    deafen,
    link_down,
    lose_packets,
    mute,
    partition,
    reset_connections,
)
from support.hosts.host import Host
from support.hosts.network import Hosts
from support.hosts.probes import ECHO_PORT, answers, echo, packet_passes, packets_that_pass, start_echo

BREAKS = [
    (partition, (False, False)),
    (mute, (False, True)),
    (deafen, (True, False)),
    (lambda a, b: cut_off(a), (False, False)),
    (lambda a, b: link_down(a), (False, False)),
]
"""A fault between a and b; whether packets pass from a to b, and from b to a."""

NAMES = ["partition", "mute", "deafen", "cut off", "link down"]


@pytest.fixture
def connection(pair: Hosts) -> Iterator[socket.socket]:
    """From a to an echo server on b."""
    start_echo(pair["b"])
    with pair["a"].connect(pair["b"].address, ECHO_PORT) as opened:
        assert answers(opened, 10)
        yield opened


@pytest.mark.parametrize(("strike", "passes"), BREAKS, ids=NAMES)
def test_a_break_stops_packets_in_its_directions_only(
    pair: Hosts, strike: Callable[[Host, Host], Fault], passes: tuple[bool, bool]
) -> None:
    """Also while it lasts, b and c reach each other; afterwards all do."""
    a, b, c = pair
    assert packet_passes(a, b)
    with strike(a, b):
        assert (packet_passes(a, b), packet_passes(b, a)) == passes
        assert packet_passes(b, c)
        assert packet_passes(c, b)
    assert all(packet_passes(one, other) for one in pair for other in pair if one is not other)


@pytest.mark.parametrize(("strike", "passes"), BREAKS, ids=NAMES)
def test_a_break_silences_an_open_connection_which_goes_on_afterwards(
    connection: socket.socket, pair: Hosts, strike: Callable[[Host, Host], Fault], passes: tuple[bool, bool]
) -> None:
    """TCP sends again what was lost: one direction is enough to stop an echo, and nothing is missing after all."""
    with strike(pair["a"], pair["b"]):
        assert not answers(connection)
    connection.settimeout(20)
    assert connection.recv(1) == b"?"
    assert echo(connection) == b"hello"


def test_a_partition_of_one_pair_spares_the_others(pair: Hosts) -> None:
    """Unlike being cut off."""
    a, b, c = pair
    with partition(a, b):
        assert packet_passes(a, c)
        assert packet_passes(c, a)
    with cut_off(a):
        assert not packet_passes(a, c)
        assert not packet_passes(c, a)
        assert packet_passes(a, a)


def test_nobody_can_connect_through_a_partition(connection: socket.socket, pair: Hosts) -> None:
    """The attempt is not refused: it is not answered."""
    with partition(pair["b"], pair["a"]), pytest.raises(TimeoutError):
        pair["a"].connect(pair["b"].address, ECHO_PORT, limit_s=0.3)
    pair["a"].connect(pair["b"].address, ECHO_PORT).close()


def test_faults_add_up_and_are_undone_one_by_one(pair: Hosts) -> None:
    """Undoing one of two leaves the other in force; undoing it again changes nothing."""
    a, b, _ = pair
    first, second = mute(a, b), partition(a, b)
    second.undo()
    second.undo()
    assert (packet_passes(a, b), packet_passes(b, a)) == (False, True)
    first.undo()
    assert packet_passes(a, b)


def test_about_the_given_share_of_packets_is_lost(pair: Hosts) -> None:
    """Within five standard deviations, in one direction; none are lost before or after."""
    a, b, _ = pair
    count, share = 2000, 0.3
    assert packets_that_pass(a, b, count) == count
    with lose_packets(a, b, share):
        deviation = (count * share * (1 - share)) ** 0.5
        assert abs(packets_that_pass(a, b, count) - count * (1 - share)) < 5 * deviation
        assert packets_that_pass(b, a, count) == count
    assert packets_that_pass(a, b, count) == count


def test_an_open_connection_is_reset_when_it_is_used(connection: socket.socket, pair: Hosts) -> None:
    """A new one is refused; afterwards it is not."""
    with reset_connections(pair["a"], pair["b"]):
        with pytest.raises(ConnectionResetError):
            echo(connection)
        with pytest.raises(ConnectionRefusedError):
            pair["a"].connect(pair["b"].address, ECHO_PORT)
        pair["c"].connect(pair["b"].address, ECHO_PORT).close()
    with pair["a"].connect(pair["b"].address, ECHO_PORT) as again:
        assert answers(again, 10)


def test_a_host_notices_that_its_own_link_is_down(pair: Hosts) -> None:
    """Its programs get an error at once, where a partition gives them silence."""
    with link_down(pair["a"]), pytest.raises(OSError, match="unreachable"):
        pair["a"].connect(pair["b"].address, ECHO_PORT, limit_s=10)
