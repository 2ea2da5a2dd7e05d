"""Faults of the scheduler: killed, aborted, standing still, on a full or failing disk, started twice.

It runs under a supervisor that starts it again whatever ended it. Calls that run meanwhile run on, and only once.
"""

import functools
import signal
import time

from support.hosts.caller import Plan
from support.hosts.cluster import HostCluster, host_cluster, says
from support.hosts.faults.disks import FsyncShim, fill_disk
from support.hosts.faults.processes import pause
from support.hosts.recoveries import Measured, Recovery
from support.simulation.clock import SECOND
from support.waiting import until

KIND = "Scheduler"
SIGNALS = (signal.SIGKILL, signal.SIGABRT)
RESTART_S = 2.0
"""From its start to the first dispatch, when every node is back."""

PAUSE_S = 9.0
"""Longer than connections bear silence."""

DISK_FAILED = 5
DISK_BYTES = 8 << 20

LONG_CALLS = "for f in [caller.ask({seconds}) for _ in range(4)]: f.result()"


def test_a_scheduler_that_dies_is_back_at_once_and_nothing_runs_again(measured: Measured) -> None:
    """What runs runs on, what is warm stays warm; what was asked for meanwhile is served. Killed, then aborted."""
    with host_cluster(agents=2, cpu=3) as cluster, cluster.supervised():
        cluster.program(LONG_CALLS.format(seconds=6.0))
        cluster.until_running(4)
        cluster.call(Plan(in_flight=2, work_s=0.05))
        cluster.until_running(5)
        time.sleep(0.5)
        before = instances(cluster)
        for number in SIGNALS:
            with cluster.struck("crash scheduler", cluster.scheduler_host) as struck_ns:
                cluster.scheduler.send(number)
            until(functools.partial(has_ended, cluster, number))
            first = cluster.first_run_after(struck_ns + SECOND // 2)
            said = "what runs runs on and only once, what is warm stays warm; the next call is dispatched"
            after_s = (first.at_ns - struck_ns) / SECOND
            measured(Recovery(KIND, f"scheduler ends with {number.name}", said, after_s, RESTART_S))
            time.sleep(0.5)
        cluster.end_calling()
        assert cluster.check().reruns() == []
        assert before <= instances(cluster)


def has_ended(cluster: HostCluster, number: int) -> bool:
    """Whether the supervisor saw the scheduler end by that signal last."""
    return cluster.ends[-1:] == [-number]


def instances(cluster: HostCluster) -> set[int]:
    """The processes in which functions run, on all hosts."""
    return {process_id for host in cluster.agent_hosts for process_id in host.instances()}


def test_a_scheduler_that_stood_still_goes_on(measured: Measured) -> None:
    """Nothing runs again, although connections have been given up for their silence."""
    with host_cluster(agents=2, cpu=3) as cluster:
        cluster.program(LONG_CALLS.format(seconds=PAUSE_S + 1))
        cluster.until_running(4)
        cluster.call(Plan(in_flight=2, work_s=0.05))
        cluster.until_running(5)
        with cluster.struck("pause scheduler", cluster.scheduler_host, lambda: pause(cluster.scheduler.pid)):
            time.sleep(PAUSE_S)
        back_ns = time.time_ns()
        time.sleep(1.5)
        cluster.end_calling()
        story = cluster.check()
        assert story.reruns() == []
        first = story.first_run_after(back_ns)
        assert first is not None
        said = "nothing runs again; the next call is dispatched"
        after_s = (first.at_ns - back_ns) / SECOND
        measured(Recovery(KIND, f"scheduler stands still for {PAUSE_S:.0f} s", said, after_s, 3.0))


def test_a_second_scheduler_on_the_same_state_does_not_start(measured: Measured) -> None:
    """It says why; the first goes on."""
    with host_cluster(agents=1) as cluster:
        first = cluster.scheduler
        begun_s = time.monotonic()
        second = cluster.launch_scheduler()
        assert second.wait() == 2
        took_s = time.monotonic() - begun_s
        assert "Another scheduler is using the state" in second.said() or "already serving" in second.said()
        cluster.call(Plan(calls=5))
        cluster.end_calling()
        cluster.check()
        assert first.is_running
        said = "the second refuses to start and says why"
        measured(Recovery(KIND, "two schedulers on one state", said, took_s, 5.0))


def test_a_scheduler_whose_sync_fails_ends_at_once_and_recovers(measured: Measured) -> None:
    """After a failed fsync nothing in memory can be trusted; from the disk it goes on as after a kill."""
    shims: list[FsyncShim] = []

    def prepare(cluster: HostCluster) -> None:
        shims.append(FsyncShim(cluster.hosts.folder))
        cluster.scheduler_variables = shims[0].variables

    with host_cluster(agents=2, cpu=3, late="agent1", prepare=prepare) as cluster, cluster.supervised():
        cluster.program(LONG_CALLS.format(seconds=4.0))
        cluster.until_running(3)
        cluster.call(Plan(in_flight=2, work_s=0.05))
        with cluster.struck("fsync error", cluster.scheduler_host, shims[0].fail):
            cluster.start_agent(cluster.agent_hosts[1])  # a new node is something to write down
            until(lambda: len(cluster.ends) >= 1)
        back_ns = time.time_ns()
        cluster.wait_for_agent(cluster.agent_hosts[1])
        cluster.end_calling()
        story = cluster.check()
        assert story.reruns() == []
        first = story.first_run_after(back_ns)
        assert first is not None
        assert set(cluster.ends) == {DISK_FAILED}, cluster.ends
        said = "it ends at once rather than trust what it cannot keep; started again, it recovers"
        after_s = (first.at_ns - back_ns) / SECOND
        measured(Recovery(KIND, "fsync fails on the scheduler", said, after_s, RESTART_S + 2.0))


def test_a_scheduler_on_a_full_disk_goes_on(measured: Measured) -> None:
    """What has to be written goes where room was kept for that: a node joins, and nothing is lost by a kill."""
    with (
        host_cluster(
            agents=2, late="agent1", prepare=lambda cluster: cluster.scheduler_host.use_small_disk(DISK_BYTES)
        ) as cluster,
        cluster.supervised(),
    ):
        cluster.call(Plan(in_flight=2, work_s=0.05))
        cluster.until_running(1)
        with cluster.struck("disk full", cluster.scheduler_host, lambda: fill_disk(cluster.scheduler_host)) as full_ns:
            cluster.start_agent(cluster.agent_hosts[1])
            cluster.wait_for_agent(cluster.agent_hosts[1])
            joined_s = (time.time_ns() - full_ns) / SECOND
            assert cluster.ends == [], cluster.hosts.said()
            with cluster.struck("crash scheduler", cluster.scheduler_host) as killed_ns:
                cluster.scheduler.kill()
            cluster.first_run_after(killed_ns + SECOND // 2)
            assert cluster.ends == [-signal.SIGKILL], cluster.hosts.said()
        cluster.end_calling()
        story = cluster.check()
        assert story.reruns() == []
        first = story.first_run_after(killed_ns + SECOND // 2)
        assert first is not None
        said = "calls go on; what must be written goes where room was kept for it, as a node that joins"
        measured(Recovery(KIND, "disk of the scheduler full", said, joined_s, 5.0))
        said = "it starts in the room that was kept; the next call is dispatched"
        after_s = (first.at_ns - killed_ns) / SECOND
        measured(Recovery(KIND, "scheduler killed while its disk is full", said, after_s, RESTART_S))


def test_a_scheduler_without_any_room_waits_for_it(measured: Measured) -> None:
    """Its reserve is gone too: it waits instead of ending again and again, and goes on once there is room."""
    with (
        host_cluster(
            agents=2, late="agent1", prepare=lambda cluster: cluster.scheduler_host.use_small_disk(DISK_BYTES)
        ) as cluster,
        cluster.supervised(),
    ):
        cluster.call(Plan(in_flight=2, work_s=0.05))
        cluster.until_running(1)
        (cluster.scheduler_host.home / "cluster" / "scheduler" / "ballast").unlink()
        with cluster.struck("disk full", cluster.scheduler_host, lambda: fill_disk(cluster.scheduler_host)):
            cluster.start_agent(cluster.agent_hosts[1])
            until(lambda: says(cluster.scheduler, "waits until there is some"))
        back_ns = time.time_ns()
        cluster.wait_for_agent(cluster.agent_hosts[1])
        joined_s = (time.time_ns() - back_ns) / SECOND
        cluster.end_calling()
        assert cluster.ends == [], cluster.hosts.said()
        assert cluster.check().reruns() == []
        said = "what must be written waits until there is room, then it goes on, as a node that joins"
        measured(Recovery(KIND, "disk of the scheduler full, its reserve used up", said, joined_s, 5.0))
