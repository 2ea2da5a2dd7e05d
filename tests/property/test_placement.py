"""Placement of the whole core, under random programs: capacity, work conservation, need, and fairness.

Everything that the scheduler says is obeyed at once and nothing is lost: what remains is the policy. After every turn
the driver also checks the core's own invariants.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm_scheduler.core import invariants, sessions
from keepwarm_scheduler.core.dispatching import has_cpu
from keepwarm_scheduler.core.transitions import InstanceState
from keepwarm_wire import messages as wire
from support.scheduler_driver import Client, Driver

MIB = 1 << 20
SHAPES: tuple[dict[str, Any], ...] = (
    {"cpu": 1000, "memory_bytes": 256 * MIB, "keep_alive": 5.0},
    {"cpu": 2000, "memory_bytes": 1024 * MIB, "keep_alive": 60.0},
    {"cpu": 0, "memory_bytes": 512 * MIB, "keep_alive": 60.0},
    {"cpu": 500, "memory_bytes": 700 * MIB, "keep_alive": 0.0},
    {"cpu": 1000, "memory_bytes": 256 * MIB, "keep_alive": 60.0, "custom": (wire.Quantity("license", 1000),)},
    {"cpu": 1000, "memory_bytes": 0, "keep_alive": 60.0},
)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 2), st.integers(0, len(SHAPES) - 1), st.sampled_from([0, 0, 0, 5])),
        st.tuples(st.just("burst"), st.integers(0, 2), st.integers(0, len(SHAPES) - 1), st.integers(2, 8)),
        st.tuples(st.just("finish"), st.integers(0, 2), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("ready"), st.integers(0, 2), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 2), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("advance"), st.sampled_from([1, 4, 12, 30]), st.just(0), st.just(0)),
    ),
    max_size=40,
)


class World:
    """Three nodes that start processes when told to by the program, and three clients."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.agents = [
            self.driver.agent(name, starts=False, cpu=cpu, memory=memory * MIB, license=1000 if name == "a" else 0)
            for name, cpu, memory in (("a", 2000, 2048), ("b", 3000, 1024), ("c", 1000, 4096))
        ]
        self.clients = [self.driver.client(name) for name in ("s", "t", "u")]
        for client in self.clients:
            for number, shape in enumerate(SHAPES):
                client.declare(f"module:f{number}", **shape)

    def do(self, kind: str, who: int, what: int, how: int) -> None:
        """One step of a program."""
        if kind in ("submit", "burst"):
            for _ in range(how if kind == "burst" else 1):
                self.clients[who].submit(what + 1, priority=0 if kind == "burst" else how)
                self.check()
        elif kind == "cancel":
            client = self.clients[who]
            if client.last:
                client.cancel(what % client.last + 1)
        elif kind == "advance":
            self.driver.advance(who / 10)
        else:
            agent = self.agents[who]
            agent.now_ns = self.driver.now_ns
            starting = [key for key, each in agent.instances.items() if each.state == "starting"]
            choices = agent.runnable() if kind == "finish" else starting
            if choices:
                (agent.complete if kind == "finish" else agent.started)(choices[what % len(choices)])
        self.check()

    def check(self) -> None:
        """What holds whatever happens."""
        for node in self.driver.cluster.nodes.values():
            assert all(amount >= 0 for amount in node.free.values()), f"{node.name} is over its capacity: {node.free}"
        for pool in self.driver.cluster.pools.values():
            if pool.queue:
                idle = [one.node for one in pool.instances.values() if one.state is InstanceState.IDLE]
                # One that saves is looked at again soon: who deserves its cpu most may be another by then.
                free = [node for node in idle if has_cpu(node, pool) and node.saved_for is None]
                assert not free, "a call waits beside an idle instance"

    def finish_everything(self) -> None:
        """Let every process start and every call end."""
        for _ in range(150):
            for agent in self.agents:
                agent.started()
                agent.complete()
            self.check()
            unanswered = any(not client.outcomes(number) for client in self.clients for number in client.submitted)
            if not unanswered:
                return
            self.driver.advance(0.5)
        raise AssertionError("calls are left that nothing serves")


@settings(max_examples=60)
@given(steps)
def test_never_over_capacity_and_no_call_waits_beside_an_idle_instance(
    program: list[tuple[str, int, int, int]],
) -> None:
    """And in the end everything was served, whatever had to make room for whom."""
    world = World()
    for step in program:
        world.do(*step)
    world.finish_everything()


@settings(max_examples=60)
@given(steps)
def test_no_start_is_under_way_that_was_not_needed_when_it_was_decided(
    program: list[tuple[str, int, int, int]],
) -> None:
    world = World()
    for step in program:
        world.do(*step)
        for instance in list(world.driver.cluster.instances.values()):
            start = instance.start
            if start is None or start.at_ns != world.driver.now_ns or instance.state is not InstanceState.STARTING:
                continue
            queued, _, starting, *_ = start.numbers
            assert queued > starting, f"{starting} under way for {queued} calls, and another was started"


def _order(driver: Driver, clients: list[Client]) -> list[int]:
    """Whose calls were sent to instances, in order, by the clients' places."""
    places = {client.session_id: place for place, client in enumerate(clients)}
    return [places[dispatch.session_id] for dispatch in driver.of(wire.Dispatch)]


@settings(max_examples=40)
@given(
    crowds=st.lists(st.integers(1, 25), min_size=2, max_size=4),
    cpu=st.integers(1, 3),
    is_shared=st.booleans(),
)
def test_a_client_waits_for_no_more_turns_of_another_than_it_has_calls(
    crowds: list[int], cpu: int, is_shared: bool
) -> None:
    """In one pool, and in pools that compete for a node's only cpu: a client with many calls delays nobody."""
    cpu = cpu if is_shared else 1  # with more, one warm process of its own would be what a client waits for
    driver = Driver()
    agent = driver.agent(cpu=cpu * 1000)
    clients = [driver.client(name) for name in "stuv"[: len(crowds)]]
    for place, client in enumerate(clients):
        client.declare("module:f", keep_alive=600, memory_bytes=(256 if is_shared else 256 + place) * MIB)
    for client in clients:  # everybody has a warm process, where pools are their own
        client.submit()
        while agent.attempts:
            agent.complete()
    begun = len(driver.of(wire.Dispatch))
    for client, count in zip(clients, crowds, strict=True):
        for _ in range(count):
            client.submit()
    while agent.attempts:
        agent.complete(min(agent.attempts))
    order = _order(driver, clients)[begun:]
    assert len(order) == sum(crowds)
    for place, count in enumerate(crowds):
        last = [index for index, who in enumerate(order) if who == place][-1]
        # With n calls of its own, a client waits for at most n turns of each other, and what ran when it came.
        others = sum(min(other, count) for who, other in enumerate(crowds) if who != place)
        assert last < count + others + cpu, f"client {place} with {count} calls waited for {last} of {crowds}"


def test_a_hundred_thousand_calls_delay_nobodys_single_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in turns, not in time."""
    driver = Driver(credit_calls=200_000)
    agent = driver.agent(cpu=1000)
    greedy, modest = driver.client("greedy"), driver.client("modest")
    for client in (greedy, modest):
        client.declare(keep_alive=600)
    greedy.submit()
    cluster = driver.cluster
    session = cluster.sessions[greedy.session_id]
    for number in range(2, 100_001):
        sessions.submit_call(cluster, session, wire.Submit(number, 1, 0, False, b""))
    cluster.effects.clear()
    assert driver.pool().queued == 99_999
    before = len(driver.of(wire.Dispatch))
    cluster.now_ns = driver.now_ns
    monkeypatch.setattr(invariants, "check", lambda _cluster: None)  # it would look at each of them, each time
    call = modest.submit()
    for _ in range(3):
        agent.complete()
    assert modest.status(call) == "succeeded"
    assert len(driver.of(wire.Dispatch)) - before <= 4
