"""The check finds what it is there to find: each test breaks one record of a healthy cluster."""

from collections.abc import Callable

import pytest

from keepwarm_scheduler.core.dispatching import park
from keepwarm_scheduler.core.invariants import check
from keepwarm_scheduler.core.transitions import CallState, InstanceState
from support.scheduler_driver import Driver, warm


def healthy() -> Driver:
    """One idle instance, one that serves call 2, and call 3 in the queue."""
    driver = Driver()
    client, agent = warm(driver)
    agent.resources["cpu"] = 2000
    client.submit()
    client.submit()
    agent.complete(min(agent.attempts))
    client.declare("module:other", cpu=4000)
    client.submit(2)
    return driver


def _queued(driver: Driver) -> None:
    next(pool for pool in driver.cluster.pools.values() if pool.queue).take()


def _busy(driver: Driver) -> None:
    next(iter(driver.cluster.pools.values())).busy -= 1


def _cpu(driver: Driver) -> None:
    driver.node().free["cpu"] += 1


def _memory(driver: Driver) -> None:
    driver.instances[0].memory_bytes += 1


def _idle_twice(driver: Driver) -> None:
    pool = next(iter(driver.cluster.pools.values()))
    pool.idle.append(pool.idle[0])


def _state(driver: Driver) -> None:
    driver.instances[0].state = InstanceState.STOPPING


def _lease(driver: Driver) -> None:
    driver.cluster.leases.cancel(next(i for i in driver.instances if i.state is InstanceState.IDLE).instance_id)


def _stale_lease(driver: Driver) -> None:
    driver.cluster.leases.schedule(12345, 1 << 60)


def _attempt(driver: Driver) -> None:
    next(iter(driver.cluster.attempts.values())).call = None


def _call(driver: Driver) -> None:
    next(c for s in driver.cluster.sessions.values() for c in s.calls.values() if c.attempt).state = CallState.QUEUED


def _peer(driver: Driver) -> None:
    driver.node().peer = b"elsewhere"


def _watch(driver: Driver) -> None:
    driver.cluster.cancel_timer("node", "a")


def _waiting(driver: Driver) -> None:
    next(pool for pool in driver.cluster.pools.values() if pool.queue).waiting.clear()


def _queue_twice(driver: Driver) -> None:
    pool = next(pool for pool in driver.cluster.pools.values() if pool.queue)
    head = pool.queue.head()
    assert head is not None
    pool.queue.push(b"another owner", 0, head)


def _silent(driver: Driver) -> None:
    pool = next(pool for pool in driver.cluster.pools.values() if pool.queue)
    head = pool.queue.head()
    assert head is not None
    head.decisions.clear()


def _attempts(driver: Driver) -> None:
    next(pool for pool in driver.cluster.pools.values() if pool.attempts).attempts.clear()


def _parked(driver: Driver) -> None:
    pool = next(pool for pool in driver.cluster.pools.values() if pool.idle)
    park(pool.idle.pop())


def _unfiled(driver: Driver) -> None:
    driver.cluster.unfiled.clear()
    driver.node().level = -1


def _built(driver: Driver) -> None:
    driver.cluster.built_on.clear()


def _siblings(driver: Driver) -> None:
    driver.cluster.pools_of.popitem()


def test_a_healthy_cluster_passes() -> None:
    check(healthy().cluster)


@pytest.mark.parametrize(
    "damage",
    [
        _queued,
        _busy,
        _cpu,
        _memory,
        _idle_twice,
        _state,
        _lease,
        _stale_lease,
        _attempt,
        _call,
        _peer,
        _watch,
        _waiting,
        _queue_twice,
        _silent,
        _attempts,
        _parked,
        _unfiled,
        _built,
        _siblings,
    ],
)
def test_damage_is_found(damage: Callable[[Driver], None]) -> None:
    driver = healthy()
    damage(driver)
    with pytest.raises(AssertionError):
        check(driver.cluster)
