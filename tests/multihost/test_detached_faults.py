"""Faults under detached calls: what was accepted is run and answered, whatever is killed or full."""

import time

from support.hosts.cluster import host_cluster
from support.hosts.faults.disks import fill_disk
from support.hosts.recoveries import Measured, Recovery
from support.simulation.clock import SECOND
from support.waiting import until

KIND = "Detached calls"
CALLS = 8
DISK_BYTES = 12 << 20
COLLECT = "caller.collect(60)"

SPAWN_AND_STAY = f"""
for _ in range({CALLS}):
    caller.spawn(1.0)
print("spawned", flush=True)
time.sleep(60)
"""

SPAWN_ON_A_FULL_DISK = """
caller.spawn(2.0)
print("spawned", flush=True)
while not (caller.folder / "full").exists():
    time.sleep(0.02)
begun = time.time()
try:
    for _ in range(100):
        caller.spawn()
except KeepwarmError as error:
    print(type(error).__name__, time.time() - begun, flush=True)
"""


def test_accepted_calls_survive_everything_being_killed_at_once(measured: Measured) -> None:
    """Their program, the scheduler and every agent: after a restart all are run, and anybody has their outcomes."""
    with host_cluster(agents=2, users=2) as cluster, cluster.supervised():
        program = cluster.program(SPAWN_AND_STAY, name="gone")
        until(lambda: program.out.read_text() == "spawned\n")
        cluster.until_running(2)
        for host in cluster.agent_hosts:
            cluster.recorder.fault("power off", host.name)
        program.kill()
        cluster.recorder.client_gone("gone")
        cluster.scheduler.kill()
        for host in cluster.agent_hosts:
            host.power_off()
        back_ns = time.time_ns()
        for host in cluster.agent_hosts:
            cluster.start_agent(host)
            cluster.recorder.healed("power off", host.name)
        cluster.program(COLLECT, user=1, name="other")
        cluster.end_calling()
        story = cluster.check()
        assert len(story.ended) == CALLS
        first = story.first_run_after(back_ns)
        assert first is not None
        said = "what was accepted is run; anybody of the namespace has the outcomes"
        after_s = (first.at_ns - back_ns) / SECOND
        measured(Recovery(KIND, "client, scheduler and all agents killed at once", said, after_s, 15.0))


def test_a_full_disk_refuses_new_calls_and_keeps_what_was_accepted(measured: Measured) -> None:
    """The outcome of an accepted call is recorded in the room that was kept, and survives a kill."""
    with (
        host_cluster(users=2, prepare=lambda cluster: cluster.scheduler_host.use_small_disk(DISK_BYTES)) as cluster,
        cluster.supervised(),
    ):
        program = cluster.program(SPAWN_ON_A_FULL_DISK, name="early")
        until(lambda: program.out.read_text() == "spawned\n")
        cluster.until_running(1)
        with cluster.struck("disk full", cluster.scheduler_host, lambda: fill_disk(cluster.scheduler_host)):
            (cluster.folder / "full").touch()
            assert program.wait() == 0, program.said()
            cluster.require(lambda _: cluster.story().ran)
            with cluster.struck("crash scheduler", cluster.scheduler_host):
                cluster.scheduler.kill()
            collector = cluster.program(COLLECT, user=1, name="other")
            assert collector.wait() == 0, collector.said()
        story = cluster.check()
        assert set(story.ways.values()) == {"returned"}
        refusal, took_s = program.out.read_text().splitlines()[-1].split()
        said = f"new calls are refused with `{refusal}`; what was accepted is run and its outcome kept"
        measured(Recovery(KIND, "disk of the scheduler full", said, float(took_s), 5.0))
