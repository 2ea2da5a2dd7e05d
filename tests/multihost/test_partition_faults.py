"""Partitions: full and one-way, short and long, of nodes and of clients. One storm, whose waits are shared by all rows.

Each node that is cut off runs calls of ``CALL_S`` when it happens; another user's short calls go on all the time, and
tell when a node that has fallen silent is given nothing new.
"""

import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from support.histories.executing import origin
from support.histories.timeline import Run, Timeline
from support.hosts.caller import Plan
from support.hosts.cluster import HostCluster, host_cluster
from support.hosts.faults.links import deafen, mute, partition
from support.hosts.host import Host
from support.hosts.program import Program
from support.hosts.recoveries import Measured, Recovery
from support.simulation.clock import SECOND
from support.simulation.history import History
from support.waiting import until

KIND = "Partitions"
CALL_S = 14.0
BRIEF_S = 11.0
"""Longer than the silence after which connections are made anew, shorter than any call."""

LONG_S = 36.0
SUSPECT_S = 6.0
LOST_S = 30.0
BEAT_S = 2.0
RECONNECT_S = 4.0
"""After a partition: a connection is tried every 2 s, a packet sent again about as often."""

PINNED = """
for node in {nodes}:
    for _ in range(2):
        caller.ask({seconds}, resources=Resources(cpu=1, labels={{"node": node}}))
futures = [caller.ask({seconds}, resources=Resources(cpu=1, labels={{"zone": "a"}})) for _ in range(4)]
while not (caller.folder / "enough").exists():
    time.sleep(0.1)
caller.wait()
"""

PARTITIONED = """
for future in [caller.ask({seconds}, resources=Resources(cpu=0.1)) for _ in range(2)]:
    future.result()
"""

KILLED = """
@isolated(keep_alive=60, resources=Resources(cpu=0.1))
def work(file):
    import time
    try:
        open(file + ".begun", "w").close()
        time.sleep(120)
    finally:
        open(file + ".ended", "w").close()

work(str(caller.folder / "orphan"))
"""


class Storm(NamedTuple):
    """What happened, and when it began and was over."""

    history: History
    story: Timeline
    struck_ns: int
    brief_over_ns: int
    long_over_ns: int
    hit: dict[str, list[Run]]
    orphan_ended_s: float


@pytest.fixture(scope="module")
def storm() -> Iterator[Storm]:
    """All partitions at once: agent0 for long; agent1 both ways, agent2 and agent3 one way, and user1 for a while."""
    with host_cluster(agents=5, users=4, cpu=3, labels={"agent0": "zone=a", "agent4": "zone=a"}) as cluster:
        yield carry_out(cluster)


def carry_out(cluster: HostCluster) -> Storm:
    """Strike, heal, and wait until all is answered."""
    hosts, center = cluster.agent_hosts, cluster.scheduler_host
    pinned = [host.name for host in hosts[1:4]]
    cluster.program(PINNED.format(nodes=pinned, seconds=CALL_S), user=0, name="long")
    cluster.until_running(10)
    cluster.call(Plan(in_flight=6, work_s=0.05, cpu=0.1), user=1, name="short")
    cluster.program(PARTITIONED.format(seconds=CALL_S), user=2, name="away")
    killed = cluster.program(KILLED, user=3, name="killed")
    until((cluster.folder / "orphan.begun").exists)
    time.sleep(1.0)
    hit = {host.name: cluster.until_running(1, host) for host in hosts}
    brief = [
        ("partition agent", hosts[1], partition(hosts[1], center)),
        ("mute agent", hosts[2], mute(hosts[2], center)),
        ("deafen agent", hosts[3], deafen(hosts[3], center)),
        ("partition client", cluster.user_hosts[2], partition(cluster.user_hosts[2], center)),
    ]
    long = ("partition agent", hosts[0], partition(hosts[0], center))
    return Storm()


def test_nothing() -> None:
    pass
