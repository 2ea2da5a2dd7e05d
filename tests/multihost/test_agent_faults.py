"""Faults of nodes: a killed agent, one that stands still, a killed or oversized process, a full disk, another clock."""

import os
import signal
import time

import pytest

from support.hosts.cluster import HostCluster, host_cluster
from support.hosts.faults.disks import fill_disk
from support.hosts.faults.processes import pause
from support.hosts.recoveries import Measured, Recovery
from support.simulation.clock import SECOND
from support.waiting import until

KIND = "Nodes"
DISK_BYTES = 128 << 20
MEMORY_BYTES = 512 << 20
PAUSE_S = 4.0
CLOCKS_S = (86_400, -100)
KEEP_ALIVE_S = 2.5
EARLY_S = 0.05
"""The program learns of the end of its call after the lease has begun."""


LEASE_LATE_S = 1.5
"""A tick of the wheel, the process's own goodbye, and a slow machine."""

GREEDY = """
import sys

@isolated(keep_alive=60, retries=Retry(out_of_memory=0), resources=Resources(memory="64MiB"))
def take(mebibytes):
    import os
    taken = []
    for _ in range(mebibytes // 8):
        taken.append(os.urandom(1 << 20) * 8)
    return len(taken)

others = [caller.ask(3.0) for _ in range(2)]
time.sleep(1.0)
begun = time.time()
try:
    take(2000)
except OutOfMemory as error:
    print("OutOfMemory", time.time() - begun)
    print(error, file=sys.stderr)
except (ProcessDied, MemoryError) as error:
    print(type(error).__name__, time.time() - begun)
for one in others:
    one.result()
print(take(8))
"""

CALLS_AT_EACH_STEP = """
def step(name, act):
    while not (caller.folder / name).exists():
        time.sleep(0.02)
    begun = time.time()
    print(act(), time.time() - begun, flush=True)

step("full", lambda: type(caller.ask().exception()).__name__)
step("room", lambda: caller.ask().exception())
step("full again", lambda: [caller.ask(0.2, retries=0) for _ in range(4)][-1].exception())
"""

ONE_LEASE = """
caller = Caller(keep_alive={keep_alive}, resources=Resources(labels={{"node": "{node}"}}))
caller.ask().result()
print(time.time(), flush=True)
time.sleep(30)
"""


def test_calls_of_a_killed_agent_run_elsewhere_at_once(measured: Measured) -> None:
    """Its processes die with it, so that nothing runs twice at the same time; calls elsewhere notice nothing."""
    with host_cluster(agents=2, cpu=4) as cluster:
        cluster.program("for f in [caller.ask(2.5) for _ in range(4)]: f.result()")
        victim = cluster.agent_hosts[0]
        cluster.until_running(4)
        hit = cluster.until_running(1, victim)
        with cluster.struck("crash agent", victim) as struck_ns:
            cluster.agents[victim.name].kill()
            until(lambda: not victim.processes(), 2)
            cluster.end_calling()
        story = cluster.check()
        again = [story.runs_of[run.call][1] for run in hit]
        assert {run.host for run in again} == {"agent1"}
        assert len(story.reruns()) == len(hit)
        said = "its processes die with it, its calls run elsewhere"
        measured(Recovery(KIND, "agent killed", said, (again[0].at_ns - struck_ns) / SECOND, 3.0))


def test_an_agent_that_stands_still_for_a_moment_loses_nothing(measured: Measured) -> None:
    """Its processes run on, and what they have finished meanwhile is told when it goes on."""
    with host_cluster(agents=2) as cluster:
        cluster.program("for f in [caller.ask(2.0) for _ in range(4)]: f.result()")
        victim = cluster.agent_hosts[0]
        hit = cluster.until_running(2, victim)
        cluster.until_running(4)
        with cluster.struck("pause agent", victim, lambda: pause(cluster.agents[victim.name].pid)):
            time.sleep(PAUSE_S)
        back_ns = time.time_ns()
        cluster.end_calling()
        story = cluster.check()
        assert story.reruns() == []
        told_s = max(0.0, max(story.ended[run.call] - back_ns for run in hit) / SECOND)
        said = "nothing runs again, what its processes have finished is told once it goes on"
        measured(Recovery(KIND, f"agent stands still for {PAUSE_S:.0f} s", said, told_s, 1.0))


def test_a_killed_process_fails_its_own_call_only(measured: Measured) -> None:
    """Others on the same node go on, and the next call gets a new process. Killed, then crashed."""
    with host_cluster(agents=1, cpu=4) as cluster:
        cluster.program("for f in [caller.ask(2.5, retries=0) for _ in range(3)]: f.exception()\ncaller.ask().result()")
        host = cluster.agent_hosts[0]
        cluster.until_running(3)
        for number, process_id in zip((signal.SIGKILL, signal.SIGSEGV), host.instances(), strict=False):
            with cluster.struck("kill process", host) as struck_ns:
                os.kill(process_id, number)
                told_ns = cluster.first_end_after(struck_ns)
            said = "`ProcessDied` to its call only"
            told_s = (told_ns - struck_ns) / SECOND
            measured(Recovery(KIND, f"process of a call killed ({number.name})", said, told_s, 1.0))
        cluster.end_calling()
        story = cluster.check()
        assert sorted(story.ways.values()) == ["ProcessDied", "ProcessDied", "returned", "returned"]


def test_a_process_over_the_memory_of_its_node_ends_alone(measured: Measured) -> None:
    """The kernel chooses it, being the largest, and its caller is told so; the agent and the calls beside it go on."""
    with host_cluster(agents=1, cpu=4, prepare=limit_memory) as cluster:
        program = cluster.program(GREEDY)
        host = cluster.agent_hosts[0]
        cluster.until_running(2)
        cluster.recorder.fault("out of memory", host.name)
        cluster.end_calling()
        cluster.check()
        (how, took_s), last = (line.split() for line in program.out.read_text().splitlines())
        assert how == "OutOfMemory"
        said = program.err.read_text()
        assert "killed by the kernel for lack of memory" in said, said
        assert "64 MiB were booked for it" in said, said
        assert last == ["1"]
        assert cluster.agents[host.name].is_running
        measured(Recovery(KIND, "process over the memory limit", f"`{how}` to its call only", float(took_s), 20.0))


def limit_memory(cluster: HostCluster) -> None:
    """Give the only agent's host little."""
    if not cluster.agent_hosts[0].limit_memory(MEMORY_BYTES).kills:
        pytest.skip("this machine has no memory controller")


def test_a_node_with_a_full_disk_fails_builds_and_goes_on(measured: Measured) -> None:
    """With room again the same environment is built; once it is, a full disk does not keep calls from running."""
    with host_cluster(agents=1, prepare=lambda cluster: cluster.agent_hosts[0].use_small_disk(DISK_BYTES)) as cluster:
        host = cluster.agent_hosts[0]
        program = cluster.program(CALLS_AT_EACH_STEP)

        def step(name: str) -> tuple[str, float]:
            done = program.out.read_text().count("\n")
            (cluster.folder / name).touch()
            until(lambda: program.out.read_text().count("\n") > done or not program.is_running)
            what, took_s = program.out.read_text().splitlines()[-1].split()
            return what, float(took_s)

        with cluster.struck("disk full", host, lambda: fill_disk(host)):
            refused, refused_s = step("full")
        built, built_s = step("room")
        with cluster.struck("disk full", host, lambda: fill_disk(host)):
            ran, _ = step("full again")
        cluster.end_calling()
        cluster.check()
        assert (refused, built, ran) == ("NodeDiskFull", "None", "None")
        said = "`NodeDiskFull` to what needs a new environment; what is built goes on"
        measured(Recovery(KIND, "disk of a node full", said, refused_s, 10.0))
        measured(Recovery(KIND, "disk of a node has room again", "what could not be built is built", built_s, 10.0))


def test_a_lease_does_not_depend_on_the_clocks_of_hosts(measured: Measured) -> None:
    """It is never early and hardly late, however far apart the clocks of scheduler and nodes are."""

    def prepare(cluster: HostCluster) -> None:
        for host, offset_s in zip(cluster.agent_hosts, CLOCKS_S, strict=True):
            host.set_clock(offset_s)

    with host_cluster(agents=2, users=2, prepare=prepare) as cluster:
        programs = [
            cluster.program(ONE_LEASE.format(keep_alive=KEEP_ALIVE_S, node=host.name), user=user)
            for user, host in enumerate(cluster.agent_hosts)
        ]
        for program, host, offset_s in zip(programs, cluster.agent_hosts, CLOCKS_S, strict=True):
            until(lambda program=program: program.out.read_text().endswith("\n"))  # type: ignore[misc]
            ended_s = float(program.out.read_text())
            until(lambda host=host: not host.instances())  # type: ignore[misc]
            late_s = time.time() - ended_s - KEEP_ALIVE_S
            assert late_s > -EARLY_S
            said = f"a lease of {KEEP_ALIVE_S:g} s ends no earlier, and late by as much as was measured"
            late_s = max(0.0, late_s)
            measured(Recovery(KIND, f"clock of a node off by {offset_s} s", said, late_s, LEASE_LATE_S))
        cluster.check()
