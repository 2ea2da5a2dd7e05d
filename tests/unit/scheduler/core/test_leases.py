"""What keep_alive means: when idle instances end, and when not."""

import pytest

from keepwarm_scheduler.core.leases import FOREVER_NS, Lease
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from support.scheduler_driver import SECOND_NS, Driver, warm

TICK_NS = 100_000_000


def test_an_unused_lease_ends_at_once() -> None:
    assert Lease().deadline_ns == 0
    assert not Lease().is_infinite


def test_a_functions_shorter_term_shortens_no_others() -> None:
    lease = Lease()
    lease.restart("long", 0, 300)
    lease.restart("short", 1_000, 1)
    assert lease.deadline_ns == 300_000


def test_the_terms_that_run_are_told_with_what_is_left_of_them() -> None:
    lease = Lease()
    for function, keep_alive_us in (("over", 1), ("runs", 300), ("endless", FOREVER_US)):
        lease.restart(function, 0, keep_alive_us)
    assert lease.left_us(1_000) == {"runs": 299, "endless": FOREVER_US}
    assert lease.left_us(300_000) == {"endless": FOREVER_US}


def test_a_function_may_shorten_its_own_term() -> None:
    lease = Lease()
    lease.restart("f", 0, 300)
    lease.restart("g", 0, 200)
    lease.restart("f", 1_000, 1)
    assert lease.deadline_ns == 200_000


def test_terms_are_restarted_and_never_summed() -> None:
    lease = Lease()
    for ended_ns in (0, 1_000, 2_000):
        lease.restart("f", ended_ns, 300)
    assert lease.deadline_ns == 302_000


def test_an_endless_lease_has_all_time_left() -> None:
    lease = Lease()
    lease.restart("f", 5, FOREVER_US)
    assert lease.is_infinite
    assert lease.deadline_ns == FOREVER_NS
    assert lease.remaining_us(1 << 60) == FOREVER_US


def test_an_endless_lease_ends_when_its_function_asks_for_less() -> None:
    lease = Lease()
    lease.restart("f", 5, FOREVER_US)
    lease.restart("f", 6, 1)
    assert lease.deadline_ns == 1_006
    assert lease.remaining_us(2_000) == 0


def test_the_instance_ends_at_most_one_tick_after_its_deadline() -> None:
    driver = Driver(now_ns=1_000 * SECOND_NS + 123_456_789)
    _client, agent = warm(driver, keep_alive=10)
    deadline_ns = driver.instances[0].lease.deadline_ns
    assert deadline_ns == driver.now_ns + 10 * SECOND_NS
    driver.advance(11)
    (ending,) = agent.endings
    assert ending.cause == "expired"
    assert deadline_ns <= ending.at_ns < deadline_ns + TICK_NS
    assert not driver.instances


def test_a_call_that_arrives_at_exactly_the_end_of_the_lease_is_warm() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=10)
    driver.now_ns = driver.instances[0].lease.deadline_ns
    client.submit()
    driver.tick()
    agent.complete()
    assert not agent.endings
    assert len(driver.of(wire.StartInstance)) == 1


def test_every_call_restarts_the_term() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=10)
    for _ in range(5):
        driver.advance(9)
        client.submit()
        agent.complete()
    assert driver.instances[0].lease.deadline_ns == driver.now_ns + 10 * SECOND_NS
    assert not agent.endings
    driver.advance(10.2)
    assert len(agent.endings) == 1


def test_the_longest_term_of_a_shared_instance_counts() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=10)
    client.submit(client.declare("module:quick", keep_alive=1))
    agent.complete()
    driver.advance(9)
    assert not agent.endings
    driver.advance(1.2)
    assert len(agent.endings) == 1


def test_an_endless_lease_is_in_no_wheel() -> None:
    driver = Driver()
    _client, agent = warm(driver, keep_alive=None)
    assert len(driver.cluster.leases) == 0
    driver.advance(4 * 3600)
    assert not agent.endings
    assert len(driver.instances) == 1


def test_an_instance_that_serves_nobody_lives_for_the_term_it_was_started_for() -> None:
    driver = Driver()
    agent, client = driver.agent(starts=False), driver.client()
    client.declare(keep_alive=10)
    client.cancel(client.submit())
    driver.advance(5)
    agent.started()
    driver.advance(9.9)
    assert not agent.endings
    driver.advance(0.3)
    assert [ending.cause for ending in agent.endings] == ["expired"]


@pytest.mark.parametrize("how", ["fails", "is cancelled", "dies with a retry"])
def test_a_call_that_does_not_succeed_restarts_the_term_too(how: str) -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=10)
    driver.advance(5)
    call = client.submit()
    if how == "is cancelled":
        client.cancel(call)
    agent.complete(status=1, failure=wire.Failure("user_exception", "no"))
    assert driver.instances[0].lease.deadline_ns == driver.now_ns + 10 * SECOND_NS


def test_a_call_that_nobody_waits_for_any_more_restarts_its_functions_own_term() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=10)
    long = client.declare("module:long", keep_alive=300, overall_timeout=1)
    call = client.submit(long)
    driver.advance(2)
    assert client.status(call) == "timed out"
    agent.complete()
    driver.advance(299)
    assert not agent.endings
    driver.advance(1.2)
    assert len(agent.endings) == 1


def test_one_turn_catches_up_after_a_long_pause() -> None:
    driver = Driver()
    client, agent = warm(driver, keep_alive=10)
    driver.now_ns += 3600 * SECOND_NS
    agent.beats()
    client.beat()
    driver.tick()
    assert [ending.cause for ending in agent.endings] == ["expired"]


def test_expiry_and_dispatch_cross_each_other_and_the_call_is_not_lost() -> None:
    driver = Driver()
    client, agent = warm(driver)
    (instance_id,) = agent.instances
    agent._end(instance_id, "orphan", None, False)
    agent.outbox.clear()  # nobody knows yet
    call = client.submit()
    assert driver.of(wire.StartInstance)[-1].instance_id != instance_id
    agent.complete()
    assert client.status(call) == "succeeded"
    assert len(driver.instances) == 1


def test_a_node_that_says_hello_again_has_its_leases_ended_on_time() -> None:
    """Its new report is still to come; what its processes are for was said since this scheduler began."""
    driver = Driver()
    _client, agent = warm(driver, keep_alive=10)
    driver.lose(wire.AgentBeat)
    agent.hello()
    driver.settle()
    assert not driver.node("a").has_reported
    driver.advance(9.9)
    assert not agent.of(wire.StopInstance)
    driver.advance(0.3)
    assert [order.cause for order in agent.of(wire.StopInstance)] == ["expired"]
