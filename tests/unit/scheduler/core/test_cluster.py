"""Numbers, sending, settling and timers of the cluster."""

from keepwarm_scheduler.config import CoreConfig
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.effects import ClaimPayload, DropPayload, Send
from keepwarm_wire.identifiers import token
from keepwarm_wire.messages import Final, Goodbye, Reference
from support.scheduler_driver import Driver


def test_tokens_carry_the_epoch_and_are_never_given_twice() -> None:
    cluster = Cluster(CoreConfig(), 3, b"c" * 16, 0)
    assert [cluster.next_attempt(), cluster.next_attempt()] == [token(3, 1), token(3, 2)]
    assert [cluster.next_instance(), cluster.next_instance()] == [token(3, 1), token(3, 2)]


def test_settled_attempts_travel_in_one_message_per_node() -> None:
    driver = Driver()
    agent = driver.agent()
    cluster = driver.cluster
    for attempt in (1, 2):
        cluster.settle(driver.node(), attempt)
    cluster.flush_finals()
    cluster.flush_finals()
    assert cluster.effects == [Send(agent.peer, Final((1, 2)), after_sync=True)]


def test_nothing_is_sent_to_who_is_not_connected() -> None:
    driver = Driver()
    driver.agent().disconnect()
    driver.cluster.send(driver.node(), Goodbye(""))
    assert driver.cluster.effects == []


def test_only_references_are_claimed_and_dropped() -> None:
    cluster = Cluster(CoreConfig(), 1, b"c" * 16, 0)
    for payload in (b"inline", Reference(b"r" * 16, 1, b"d" * 32)):
        cluster.claim(payload)
        cluster.drop(payload)
    assert cluster.effects == [ClaimPayload(b"r" * 16), DropPayload(b"r" * 16)]


def test_setting_a_timer_again_moves_it() -> None:
    cluster = Cluster(CoreConfig(), 1, b"c" * 16, 0)
    cluster.timer("a", 1, 10_000_000)
    cluster.timer("a", 1, 50_000_000)
    assert cluster.timers.advance(40_000_000, 10) == []
    assert cluster.timers.advance(50_000_000, 10) == [(("a", 1), 50_000_000)]
    cluster.cancel_timer("a", 1)
