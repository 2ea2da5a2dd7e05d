"""An environment whose platform is gone is resolved anew, for one that is there."""

import pytest

from keepwarm_wire import messages as wire
from support.scheduler_driver import Agent, Client, Driver

ARM = "linux-aarch64-glibc"


def served_and_left(requirements: tuple[str, ...]) -> tuple[Driver, Client, Agent]:
    """A call has run on the only node, which is lost; a call more waits, and a node of another platform has come."""
    driver = Driver()
    first, client = driver.agent("a"), driver.client()
    client.declare(requirements=requirements)
    client.submit()
    first.complete()
    first.disconnect()
    driver.advance(60)
    return driver, client, driver.agent("b", platform=ARM)


@pytest.mark.parametrize("requirements", [(), ("requests",)])
def test_calls_go_on_where_only_another_platform_is_left(requirements: tuple[str, ...]) -> None:
    driver, client, second = served_and_left(requirements)
    calls = [client.submit() for _ in range(3)]
    driver.advance(driver.cluster.config.infeasible_ns / 1e9 + 1)
    for _ in calls:
        second.complete()
    assert [client.status(call) for call in calls] == ["succeeded"] * 3
    assert [pool.platform for pool in driver.cluster.pools.values() if pool.users] == [ARM]


def test_a_lock_that_was_made_there_before_is_used_again() -> None:
    driver, client, second = served_and_left(("requests",))
    client.submit()
    driver.advance(driver.cluster.config.infeasible_ns / 1e9 + 1)
    second.complete()
    second.disconnect()
    driver.advance(60)
    third = driver.agent("c")
    call = client.submit()
    driver.advance(driver.cluster.config.infeasible_ns / 1e9 + 1)
    third.complete()
    assert client.status(call) == "succeeded"
    assert not third.of(wire.MakeLock)
    assert sorted(next(iter(driver.cluster.environments.values())).locks) == [ARM, "linux-x86_64-glibc"]


def test_a_platform_that_is_there_is_kept_though_its_nodes_cannot_run_the_call() -> None:
    driver = Driver()
    driver.agent("a")
    client = driver.client()
    client.declare(requirements=("requests",), gpu=1000)
    call = client.submit()
    driver.agent("b", platform=ARM, gpu=1000)
    driver.advance(driver.cluster.config.infeasible_ns / 1e9 + 1)
    assert client.status(call) == "failed"
    failure = client.outcome(call).failure
    assert failure is not None
    assert failure.kind == "no_feasible_node"
    assert "linux-x86_64-glibc" in failure.message
    assert ARM in failure.message
