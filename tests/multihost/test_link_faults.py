"""Faults of the network that are no partition: resets, lost packets, slow, corrupting and half-open connections."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.hosts.caller import Plan
from support.hosts.cluster import PORT, WELCOMED, HostCluster, host_cluster
from support.hosts.faults.links import lose_packets, reset_connections
from support.hosts.faults.slow_link import Direction, SlowLink
from support.hosts.recoveries import Measured, Recovery
from support.simulation.clock import SECOND
from support.waiting import until

KIND = "Network"
LOSS = 0.2
DELAY_S = 0.05
BEATS_S = 3 * 2.0
RECONNECT_S = 3.0
RESET_S = 0.2
GREETING_S = 0.5
UNCONNECTED_S = 10.0
"""So long there may be no connection before another socket tries."""

GRACE_S = 1.0
"""A node whose connection broke has this long to come back."""

STALLED_S = 14.0
"""A bit may turn the length of a message into a larger one: then the next beats are awaited in vain."""


def test_reset_connections_are_made_anew(measured: Measured) -> None:
    """Of a node and of a client: nothing is lost, and nothing runs again unless the node took longer than a second."""
    with host_cluster(agents=2) as cluster:
        cluster.call(Plan(in_flight=4, work_s=0.1))
        agent, user, center = cluster.agent_hosts[0], cluster.user_hosts[0], cluster.scheduler_host
        cluster.until_running(1, agent)
        program = cluster.agents[agent.name]
        welcomes = program.err.read_text().count(WELCOMED)
        with (
            cluster.struck("reset connections", agent, lambda: reset_connections(agent, center)) as struck_ns,
            cluster.struck("reset connections", user, lambda: reset_connections(user, center)),
        ):
            time.sleep(RESET_S)
        until(lambda: program.err.read_text().count(WELCOMED) > welcomes)
        back_s = (time.time_ns() - struck_ns) / SECOND
        cluster.first_end_after(struck_ns + int(back_s * SECOND))
        cluster.end_calling()
        story = cluster.check()
        assert back_s > GRACE_S or story.reruns() == []
        said = "connections are made anew, nothing is lost or runs again; the node is back"
        measured(Recovery(KIND, f"connections reset for {RESET_S:g} s", said, back_s, RESET_S + RECONNECT_S))


def test_lost_packets_only_make_it_slower(measured: Measured) -> None:
    """One in five, each way, between the scheduler and a node."""
    with host_cluster(agents=1) as cluster:
        agent, center = cluster.agent_hosts[0], cluster.scheduler_host
        cluster.call(Plan(in_flight=4, work_s=0.01))
        cluster.until_running(1)
        with (
            cluster.struck("lose packets", agent, lambda: lose_packets(agent, center, LOSS)) as struck_ns,
            cluster.struck("lose packets", center, lambda: lose_packets(center, agent, LOSS)),
        ):
            time.sleep(3.0)
            cluster.end_calling()
        story = cluster.check()
        assert story.reruns() == []
        said = "calls take longer; nothing is lost or runs again. The longest wait of a call"
        measured(Recovery(KIND, f"{LOSS:.0%} of packets lost", said, story.longest_wait_s(struck_ns, 1 << 62), 10.0))


@contextmanager
def linked(cluster: HostCluster) -> Iterator[tuple[SlowLink, SlowLink]]:
    """The agent's and the user's links to the scheduler, with the agent started behind its own."""
    agent, user, center = cluster.agent_hosts[0], cluster.user_hosts[0], cluster.scheduler_host
    target = (center.address, PORT)
    with SlowLink(agent, target) as near, SlowLink(user, target) as far:
        cluster.start_agent(agent, at=f"127.0.0.1:{near.port}")
        cluster.log_in(user, f"127.0.0.1:{far.port}")
        cluster.wait_for_agent(agent)
        yield near, far
        cluster.end_calling()
        cluster.agents[agent.name].terminate()
        cluster.agents[agent.name].wait()


def test_a_slow_link_delays_a_call_by_its_round_trips(measured: Measured) -> None:
    """50 ms each way, to the user and to the node: a warm call is two round trips."""
    with host_cluster(agents=1, late="agent0") as cluster, linked(cluster) as (near, far):
        with near.delay(DELAY_S), far.delay(DELAY_S):
            program = cluster.program(
                "caller.ask().result()\nbegun = time.time()\nfor _ in range(5): caller.ask().result()\n"
                "print((time.time() - begun) / 5)",
                at=f"127.0.0.1:{far.port}",
            )
            assert program.wait() == 0, program.said()
        cluster.check()
        took_s = float(program.out.read_text())
        assert took_s >= 4 * DELAY_S
        said = "a warm call takes two round trips"
        measured(Recovery(KIND, f"link slow by {DELAY_S * 1000:.0f} ms each way", said, took_s, 4 * DELAY_S + 0.1))


@pytest.mark.parametrize("direction", Direction)
def test_corruption_on_the_wire_is_noticed_and_never_delivered(measured: Measured, direction: Direction) -> None:
    """A flipped bit costs the connection, which is made anew; nothing wrong reaches anybody."""
    with host_cluster(agents=1, late="agent0") as cluster, linked(cluster) as (near, far):
        cluster.call(Plan(in_flight=4, work_s=0.02), at=f"127.0.0.1:{far.port}")
        cluster.until_running(1)
        connections, struck_ns = (near.connections, far.connections), time.time_ns()
        for link in (near, far):
            link.flip_bit(direction)
        until(lambda: near.flipped_bits == far.flipped_bits == 1)
        until(lambda: near.connections > connections[0] and far.connections > connections[1], STALLED_S)
        end_ns = cluster.first_end_after(time.time_ns() - SECOND // 4)
        cluster.end_calling()
        story = cluster.check()
        assert story.reruns() == []
        assert set(story.ways.values()) == {"returned"}
        towards = "towards" if direction is Direction.FORTH else "from"
        said = "rejected by its seal, the connection is made anew, nothing wrong is delivered; the next answer"
        measured(
            Recovery(
                KIND, f"bit flipped on the way {towards} the scheduler", said, (end_ns - struck_ns) / SECOND, STALLED_S
            )
        )


def test_a_damaged_handshake_is_no_end(measured: Measured) -> None:
    """ZeroMQ never tries again after a greeting that makes no sense, and does not tell: node and client have to."""
    with host_cluster(agents=1, late="agent0") as cluster, linked(cluster) as (near, far):
        cluster.call(Plan(in_flight=2, work_s=0.05), at=f"127.0.0.1:{far.port}")
        cluster.until_running(1)
        connections = near.connections, far.connections
        with cluster.struck("partition agent", cluster.agent_hosts[0]):
            with near.damage_greetings(), far.damage_greetings():
                for link in (near, far):
                    link.cut().undo()
                until(lambda: near.connections > connections[0] and far.connections > connections[1])
                time.sleep(GREETING_S)
            back_ns = time.time_ns()
            end_ns = cluster.first_end_after(back_ns)
        cluster.end_calling()
        cluster.check()
        said = "another connection is tried; the next answer"
        measured(Recovery(KIND, "handshakes damaged", said, (end_ns - back_ns) / SECOND, UNCONNECTED_S + RECONNECT_S))


def test_a_half_open_connection_is_noticed_by_missing_beats(measured: Measured) -> None:
    """Everything sent is swallowed, and no end is told: both sides notice, and connect anew once that is possible."""
    with host_cluster(agents=1, late="agent0") as cluster, linked(cluster) as (near, far):
        cluster.call(Plan(in_flight=2, work_s=0.05), at=f"127.0.0.1:{far.port}")
        cluster.until_running(1)
        before = near.connections
        with cluster.struck("partition agent", cluster.agent_hosts[0], near.swallow) as struck_ns:
            until(lambda: near.connections > before, 20)
            noticed_s = (time.time_ns() - struck_ns) / SECOND
        cluster.end_calling()
        cluster.check()
        said = "noticed by missing beats, and another connection is tried"
        measured(Recovery(KIND, "connection half open", said, noticed_s, BEATS_S + 2.0 + RECONNECT_S))
