"""Cordon, drain, uncordon: what comes to a node and what does not, what is ended when, and how long an order holds."""

import json
from typing import Any

import pytest

from keepwarm_scheduler.core.cordons import CORDONS_MAX
from keepwarm_scheduler.core.effects import ForgetCordon, SaveCordon, Send
from keepwarm_scheduler.core.events import LOCAL, PeerMessage, Restored, SavedCordon
from keepwarm_scheduler.core.status import describe
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from support.scheduler_driver import Driver, warm

MINUTE_US = 60_000_000


class Operator:
    """An administrator's connection. ``say`` returns the answer."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.peer = driver, driver.new_peer()
        driver.transmit(self.peer, wire.AdminHello(1, 1, "test"))

    def say(self, message: wire.Message) -> Any:
        before = len(self.driver.other)
        self.driver.transmit(self.peer, message)
        self.driver.settle()
        (answer,) = [each for peer, each in self.driver.other[before:] if peer == self.peer]
        return answer

    def order(self, mode: str, node: str = "a", max_wait_us: int = 10 * MINUTE_US, *, stop: bool = False) -> Any:
        return self.say(wire.CordonNode(7, node, mode, max_wait_us, stop))

    def show(self, node: str = "a") -> Any:
        return self.say(wire.ShowNode(8, node))


def test_a_cordoned_node_gets_no_call_though_it_is_warm() -> None:
    driver = Driver()
    client, first = warm(driver, keep_alive=60)
    second = driver.agent("b")
    changed = Operator(driver).order("cordon")
    assert (changed.request_number, changed.state, changed.reach) == (7, "cordoned", "alive")
    call = client.submit()
    assert not first.attempts
    second.complete()
    assert client.status(call) == "succeeded"


def test_what_runs_on_a_cordoned_node_goes_on_and_its_lease_runs_out_in_time() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=5)
    call = client.submit()
    operator = Operator(driver)
    operator.order("cordon")
    driver.advance(20)
    assert agent.attempts
    agent.complete()
    assert client.status(call) == "succeeded"
    driver.advance(4.5)
    assert not agent.endings
    driver.advance(1)
    assert [ending.cause for ending in agent.endings] == ["expired"]


def test_calls_wait_while_the_only_node_that_could_run_them_is_cordoned() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=1)
    operator = Operator(driver)
    operator.order("cordon")
    driver.advance(10)
    call = client.submit()
    driver.advance(600)
    assert not client.outcomes(call), "a call failed that an uncordon would have served"
    assert operator.order("uncordon").state == "open"
    agent.complete()
    assert client.status(call) == "succeeded"


def test_an_uncordoned_node_serves_at_once_with_what_is_warm_there() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    operator = Operator(driver)
    operator.order("cordon")
    call = client.submit()
    assert not agent.attempts
    operator.order("uncordon")
    agent.complete()
    assert client.status(call) == "succeeded"
    assert len(agent.instances) == 1


def test_a_start_under_way_on_a_cordoned_node_is_given_up_for_another_node() -> None:
    driver = Driver()
    first, client = driver.agent("a", starts=False), driver.client()
    client.declare()
    call = client.submit()
    assert [one.state for one in first.instances.values()] == ["starting"]
    second = driver.agent("b")
    Operator(driver).order("cordon")
    assert not first.instances
    second.complete()
    assert client.status(call) == "succeeded"


def test_a_drain_waits_for_calls_and_for_leases() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=30)
    call = client.submit()
    operator = Operator(driver)
    now = operator.order("drain")
    assert (now.state, now.calls, now.instances, now.left_us) == ("draining", 1, 1, 10 * MINUTE_US)
    driver.advance(5)
    agent.complete()
    assert client.status(call) == "succeeded"
    driver.advance(29)
    assert operator.show().state == "draining"
    driver.advance(2)
    assert operator.show()[1:4] == ("a", "drained", "alive")
    assert [ending.cause for ending in agent.endings] == ["expired"]


def test_leases_that_last_longer_than_the_wait_are_ended_then_and_not_before() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=600)
    operator = Operator(driver)
    operator.order("drain", max_wait_us=MINUTE_US)
    driver.advance(59)
    assert not agent.endings
    driver.advance(1.5)
    assert [ending.cause for ending in agent.endings] == ["evicted: drain"]
    assert operator.show().state == "drained"
    (broken,) = client.of(wire.LeaseBroken)
    assert broken.cause == "evicted: drain"
    assert broken.functions == ("module:function",)
    assert describe(driver.cluster)["leases_ended_early"] == {"evicted (drain)": 1}


def test_a_lease_without_an_end_is_not_waited_for() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=None)
    Operator(driver).order("drain")
    assert [ending.cause for ending in agent.endings] == ["evicted: drain"]


def test_no_wait_ends_what_is_idle_at_once_and_never_what_runs() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    client.declare("module:other", env_vars=(wire.Pair("A", "b"),))
    call = client.submit(2)
    operator = Operator(driver)
    operator.order("drain", max_wait_us=0)
    assert len(agent.endings) == 1
    driver.advance(100)
    assert agent.attempts
    agent.complete()
    assert client.status(call) == "succeeded"
    assert operator.show().state == "drained"
    assert len(agent.endings) == 2


def test_a_drained_node_is_told_to_leave_only_if_that_was_asked_for() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=60)
    operator = Operator(driver)
    operator.order("drain", max_wait_us=0)
    driver.advance(10)
    assert not agent.said_goodbye
    operator.order("drain", max_wait_us=0, stop=True)
    assert agent.said_goodbye


def test_an_agent_that_left_and_is_started_again_stays_cordoned_and_is_not_sent_away() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=60)
    operator = Operator(driver)
    operator.order("drain", max_wait_us=0, stop=True)
    driver.transmit(agent.peer, wire.Goodbye("drained"))
    agent.disconnect()
    assert operator.show()[2:4] == ("drained", "absent")
    again = driver.agent("a", "a2")
    driver.advance(10)
    assert not again.said_goodbye
    call = client.submit()
    driver.advance(5)
    assert not again.instances
    operator.order("uncordon")
    again.complete()
    assert client.status(call) == "succeeded"


def test_an_order_is_on_disk_before_it_is_answered() -> None:
    driver = Driver()
    warm(driver)
    operator = Operator(driver)
    driver.effects.clear()
    operator.order("drain", max_wait_us=MINUTE_US, stop=True)
    assert driver.done(SaveCordon) == [SaveCordon("a", True, MINUTE_US, True)]
    operator.order("uncordon")
    assert driver.done(ForgetCordon) == [ForgetCordon("a")]
    answers = [e for e in driver.effects if isinstance(e, Send) and isinstance(e.message, wire.NodeChanged)]
    assert [answer.after_sync for answer in answers] == [True, True]


@pytest.mark.parametrize("is_drain", [False, True])
def test_an_order_outlives_a_restart_of_the_scheduler(is_drain: bool) -> None:
    saved = SavedCordon("a", is_drain, MINUTE_US * is_drain, False)
    driver = Driver(epoch=2, restored=Restored((), ("a",), cordons=(saved,)))
    operator = Operator(driver)
    assert operator.show()[2:4] == ("draining" if is_drain else "cordoned", "absent")
    agent, client = driver.agent("a"), driver.client()
    client.declare()
    client.submit()
    driver.advance(5)
    assert not agent.instances
    assert operator.show().state == ("drained" if is_drain else "cordoned")


def test_the_wait_for_leases_begins_anew_with_a_restart_of_the_scheduler() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=600)
    Operator(driver).order("drain", max_wait_us=MINUTE_US)
    driver.advance(50)
    driver.restart(nodes=())
    driver.feed(Restored((), ("a",), cordons=(SavedCordon("a", True, MINUTE_US, False),)))
    driver.advance(55)
    assert not agent.endings
    driver.advance(10)
    assert [ending.cause for ending in agent.endings] == ["evicted: drain"]


def test_a_later_order_replaces_an_earlier_one() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=600)
    operator = Operator(driver)
    operator.order("drain", max_wait_us=MINUTE_US)
    assert operator.order("cordon").state == "cordoned"
    driver.advance(120)
    assert not agent.endings
    operator.order("drain", max_wait_us=FOREVER_US)
    driver.advance(120)
    assert not agent.endings
    operator.order("drain", max_wait_us=0)
    assert len(agent.endings) == 1


def test_a_repeated_order_changes_nothing() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=60)
    operator = Operator(driver)
    first, second = operator.order("drain"), operator.order("drain")
    assert first == second
    assert operator.order("uncordon") == operator.order("uncordon")
    assert not agent.endings


def test_a_busy_instance_that_refuses_to_be_ended_is_left_alone_and_ended_after_its_call() -> None:
    """An agent knows of a later call than the scheduler does: the order loses that race, and wins the next."""
    driver = Driver()
    _client, agent = warm(driver, keep_alive=600)
    (instance,) = agent.instances.values()
    instance.sequence += 1
    operator = Operator(driver)
    operator.order("drain", max_wait_us=0)
    driver.advance(3)
    assert len(agent.endings) == 1
    assert operator.show().state == "drained"


def test_an_unknown_node_and_an_unknown_mode_are_refused_in_words() -> None:
    driver = Driver()
    driver.agent()
    operator = Operator(driver)
    assert operator.order("drain", "nobody").code == operator.show("nobody").code == "unknown_node"
    assert operator.order("paint").code == "bad_mode"
    assert operator.order("uncordon").state == "open"


def test_orders_are_bounded_and_can_be_undone_at_the_bound() -> None:
    names = tuple(SavedCordon(f"gone-{number}", False, 0, False) for number in range(CORDONS_MAX))
    driver = Driver(restored=Restored((), (), cordons=names))
    driver.agent()
    operator = Operator(driver)
    assert operator.order("cordon").code == "too_many"
    assert operator.order("uncordon", "gone-1").state == "open"
    assert operator.order("cordon").state == "cordoned"


def test_only_an_administrator_orders() -> None:
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    for peer in (agent.peer, client.peer):
        driver.feed(PeerMessage(peer, LOCAL, wire.CordonNode(1, "a", "cordon")))
    assert not driver.cluster.cordons


def test_status_tells_of_orders_and_labels() -> None:
    driver = Driver()
    driver.agent("a", labels=(wire.Pair("zone", "west"),))
    Operator(driver).order("drain", max_wait_us=0)
    (row,) = json.loads(json.dumps(describe(driver.cluster)))["nodes"]
    assert (row["state"], row["cordon"], row["labels"]) == ("alive", "drained", {"zone": "west"})


def test_a_node_that_makes_a_lock_is_not_drained_yet() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare(requirements=("requests",))
    client.submit()
    operator = Operator(driver)
    assert operator.order("drain").state == "draining"
    agent.finish_lock(next(iter(agent.locks)))
    driver.settle()
    assert operator.show().state == "drained"
