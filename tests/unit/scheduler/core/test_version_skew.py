"""Peers of other releases at a scheduler: one older is welcome, a newer one is refused and told what to do."""

import pytest

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_wire import messages as wire
from keepwarm_wire import version
from support.scheduler_driver import Driver

CLIENT = wire.ClientHello(1, 1, "keepwarm 0.9.0", b"s" * 16, "test", 0)
AGENT = wire.AgentHello(1, 1, "keepwarm 0.9.0", "a", b"i" * 16, "p", ("3.11",), (), (), 0)
ADMIN = wire.AdminHello(1, 1, "keepwarm 0.9.0")


@pytest.fixture(autouse=True)
def speaks_4_to_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "PROTOCOL_MIN", 4)
    monkeypatch.setattr(version, "PROTOCOL_MAX", 5)


def answer(hello: wire.Message, low: int, high: int) -> object:
    driver = Driver()
    driver.transmit(driver.new_peer(), hello._replace(protocol_min=low, protocol_max=high))
    heard = driver.other[-1][1]
    assert isinstance(driver.cluster, Cluster)
    is_in = bool(driver.cluster.peers or driver.cluster.admins)
    assert is_in == isinstance(heard, wire.Welcome), "who is refused is not taken in"
    return heard


@pytest.mark.parametrize("hello", [CLIENT, AGENT, ADMIN], ids=lambda hello: type(hello).__name__)
@pytest.mark.parametrize(("low", "high"), [(4, 5), (3, 4), (4, 4)])
def test_a_peer_of_this_release_or_the_one_before_is_welcome(hello: wire.Message, low: int, high: int) -> None:
    assert isinstance(answer(hello, low, high), wire.Welcome)


@pytest.mark.parametrize("hello", [CLIENT, AGENT], ids=lambda hello: type(hello).__name__)
@pytest.mark.parametrize(("low", "high"), [(5, 6), (6, 7)])
def test_a_newer_peer_is_refused_and_told_to_upgrade_the_scheduler_first(
    hello: wire.Message, low: int, high: int
) -> None:
    refused = answer(hello, low, high)
    assert isinstance(refused, wire.Refused)
    assert refused.code == "version"
    assert refused.reason.startswith(f"keepwarm 0.9.0 speaks protocol {low} to {high}")
    assert refused.reason.endswith("upgrade the scheduler.")


@pytest.mark.parametrize("hello", [CLIENT, AGENT, ADMIN], ids=lambda hello: type(hello).__name__)
def test_a_peer_two_releases_old_is_refused_and_told_to_upgrade(hello: wire.Message) -> None:
    refused = answer(hello, 2, 3)
    assert isinstance(refused, wire.Refused)
    assert refused.reason.endswith("it is too old; upgrade it.")


def test_an_operators_newer_command_line_is_understood_where_that_is_possible() -> None:
    assert isinstance(answer(ADMIN, 5, 6), wire.Welcome)
    assert isinstance(answer(ADMIN, 6, 7), wire.Refused)
