"""Partitions: full and one-way, short and long, of nodes and of clients. One storm, whose waits are shared by all rows.

Each node that is cut off runs calls of ``CALL_S`` when it happens; another user's short calls go on all the time, and
tell when a node that has fallen silent is given nothing new.
"""

import functools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from support.histories.checkers import objections
from support.histories.executing import origin
from support.histories.timeline import Run, Timeline
from support.hosts.cluster import HostCluster, host_cluster
from support.hosts.faults.links import deafen, mute, partition
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

STUCK_S = 1.5
"""No process takes so long to start."""

HANDLED_S = 1.0
"""A busy machine, besides."""

LONG = """
for node in range(4):
    for _ in range(2):
        caller.ask({seconds}, resources=Resources(cpu=0.1, labels={{f"zone{{node}}": "yes"}}))
caller.wait()
"""

LABELS = {f"agent{number}": f"zone{number}=yes" for number in range(4)} | {
    "agent4": " ".join(f"zone{number}=yes" for number in range(4))
}
"""Where else calls of each node could run: on agent4, which joins once they run."""

FRESH = """
number = 0
while not (caller.folder / "enough").exists():
    number += 1
    labels = {f"zone{number % 4}": "yes"}
    caller.ask(resources=Resources(cpu=0.01, labels=labels), env_vars={"NUMBER": str(number)}, keep_alive=1)
    time.sleep(0.25)
caller.wait()
"""
"""Each of these calls needs a new process: whichever node is given that is still taken for fit."""

AWAY = """
for _ in range(2):
    caller.ask({seconds}, resources=Resources(cpu=2, labels={{"node": "agent4"}}))
caller.wait()
"""

KILLED = """
@isolated(keep_alive=60, resources=Resources(cpu=0.1, labels={"node": "agent4"}))
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
    """What happened. ``hit``: the executions that were under way at each host when it all began."""

    history: History
    story: Timeline
    struck_ns: int
    brief_over_ns: int
    hit: dict[str, list[Run]]
    orphan_s: float
    said: str


@pytest.fixture(scope="module")
def storm() -> Iterator[Storm]:
    """All at once: agent0 is cut off for long; agent1 both ways, agent2 and agent3 one way, and user2 for a while."""
    with host_cluster(agents=5, users=4, cpu=8, labels=LABELS, late="agent4") as cluster:
        yield carry_out(cluster)


def carry_out(cluster: HostCluster) -> Storm:
    """Strike, heal, and wait until all is answered."""
    agents, users, center = cluster.agent_hosts, cluster.user_hosts, cluster.scheduler_host
    orphan = cluster.folder / "orphan"
    killed = cluster.program(KILLED, user=3, name="killed")
    cluster.program(LONG.format(seconds=CALL_S), user=0, name="long")
    cluster.until_running(8)
    cluster.start_agent(agents[4])
    cluster.wait_for_agent(agents[4])
    cluster.program(AWAY.format(seconds=CALL_S), user=2, name="away")
    cluster.until_running(10)
    hit = {host.name: cluster.until_running(2, host) for host in agents[:4]}
    cluster.program(FRESH, user=1, name="fresh")
    until(orphan.with_suffix(".begun").exists)
    with ExitStack() as long, ExitStack() as brief:
        struck_ns = time.time_ns()
        long.enter_context(cluster.struck("partition agent", agents[0], lambda: partition(agents[0], center)))
        for kind, host, strike in (
            ("partition agent", agents[1], partition),
            ("mute agent", agents[2], mute),
            ("deafen agent", agents[3], deafen),
            ("partition client", users[2], partition),
        ):
            brief.enter_context(cluster.struck(kind, host, functools.partial(strike, host, center)))
        killed.kill()
        sleep_until(struck_ns, BRIEF_S)
        brief.close()
        brief_over_ns = time.time_ns()
        until(orphan.with_suffix(".ended").exists, 40)
        orphan_s = (time.time_ns() - struck_ns) / SECOND
        sleep_until(struck_ns, LONG_S)
        long.close()
    time.sleep(RECONNECT_S)
    cluster.end_calling()
    history = cluster.history()
    return Storm(history, Timeline(history), struck_ns, brief_over_ns, hit, orphan_s, cluster.hosts.said())


def sleep_until(begun_ns: int, after_s: float) -> None:
    time.sleep(max(0.0, after_s - (time.time_ns() - begun_ns) / SECOND))


def test_every_call_had_one_outcome_whatever_was_cut(storm: Storm) -> None:
    """No outcome of a superseded attempt was taken, and nothing ran again that had no reason to."""
    assert objections(storm.history) == [], storm.said


def test_a_node_that_falls_silent_is_soon_given_nothing_new(storm: Storm, measured: Measured) -> None:
    """Calls that were given to it before wait; no later one does."""
    given = {call: at_ns for call, at_ns in storm.story.submitted.items() if call.startswith("fresh")}
    stuck = [
        call
        for call, at_ns in given.items()
        if at_ns < storm.brief_over_ns and (storm.story.ended[call] - at_ns) / SECOND > STUCK_S
    ]
    last_ns = max((storm.story.submitted[call] for call in stuck), default=storm.struck_ns)
    after_s = max(0.0, (last_ns - storm.struck_ns) / SECOND)
    said = "it is suspect: it is given nothing new"
    measured(Recovery(KIND, "node cut off", said, after_s, SUSPECT_S + BEAT_S + HANDLED_S))


def test_a_node_cut_off_for_long_is_lost_and_its_calls_run_elsewhere(storm: Storm, measured: Measured) -> None:
    """What it comes back with is too late: the outcomes that were recorded are those of the other node."""
    hit = storm.hit["agent0"]
    again = [storm.story.runs_of[run.call] for run in hit]
    assert all(len(runs) == 2 and runs[1].host == "agent4" for runs in again), again
    outcomes = {entry[3]: origin(entry[5])[1] for entry in storm.history.of("end") if entry[3] in storm.story.runs_of}
    assert all(outcomes[runs[0].call] == runs[1].execution for runs in again)
    after_s = (min(runs[1].at_ns for runs in again) - storm.struck_ns) / SECOND
    said = "it is lost: its calls run elsewhere; their outcomes count, not those that it comes back with"
    measured(Recovery(KIND, f"node cut off for {LONG_S:.0f} s", said, after_s, LOST_S + BEAT_S + HANDLED_S))


@pytest.mark.parametrize(
    ("host", "what"),
    [("agent1", "both ways"), ("agent2", "only what it sends is lost"), ("agent3", "only what it is sent is lost")],
)
def test_calls_of_a_node_that_is_back_in_time_go_on(storm: Storm, measured: Measured, host: str, what: str) -> None:
    """They are found where they run, and do not run again."""
    calls = [run.call for run in storm.hit[host]]
    assert [len(storm.story.runs_of[call]) for call in calls] == [1] * len(calls), storm.said
    finished_ns = max(storm.story.ran[storm.story.runs_of[call][0].execution] for call in calls)
    told_ns = max(storm.story.ended[call] for call in calls)
    after_s = max(0.0, (told_ns - max(finished_ns, storm.brief_over_ns)) / SECOND)
    said = "its calls go on and do not run again"
    fault = f"node cut off for {BRIEF_S:.0f} s, {what}"
    measured(Recovery(KIND, fault, said, after_s, RECONNECT_S))


def test_a_client_that_is_back_in_time_is_told_what_it_missed(storm: Storm, measured: Measured) -> None:
    """Its calls have run once."""
    calls = [call for call in storm.story.submitted if call.startswith("away")]
    assert len(calls) == 2
    assert [len(storm.story.runs_of[call]) for call in calls] == [1, 1]
    finished_ns = max(storm.story.ran[storm.story.runs_of[call][0].execution] for call in calls)
    told_ns = max(storm.story.ended[call] for call in calls)
    after_s = (told_ns - max(finished_ns, storm.brief_over_ns)) / SECOND
    said = "its calls go on; it is told their outcomes when it is back"
    measured(Recovery(KIND, f"client cut off for {BRIEF_S:.0f} s", said, after_s, RECONNECT_S))


def test_calls_of_a_killed_client_are_cancelled(storm: Storm, measured: Measured) -> None:
    """After it was unheard for half a minute: until then it could have come back."""
    said = "its attached calls are cancelled"
    measured(Recovery(KIND, "client killed", said, storm.orphan_s, LOST_S + BEAT_S + HANDLED_S))
