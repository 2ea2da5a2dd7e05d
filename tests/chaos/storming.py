"""A storm carried out: a real cluster on hosts of its own, programs that call, and faults that strike as planned.

Each victim has a thread that strikes it in the order of the plan; what is undone later is undone by a timer, so that
faults of one victim overlap. Programs may run ahead of the plan by a few calls only: a slow machine has the same storm.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from chaos.storm import SCHEDULER, Storm, Strike, plan
from support.histories.checkers import objections
from support.histories.reading import executions_per_call, tally_of_ends
from support.histories.timeline import Timeline
from support.hosts.caller import GATE, Plan
from support.hosts.cluster import HostCluster, host_cluster
from support.hosts.faults.disks import fill_disk
from support.hosts.faults.fault import Fault
from support.hosts.faults.links import deafen, mute, partition
from support.hosts.faults.processes import pause
from support.hosts.host import Host

__all__ = ["Weather", "carry_out"]

CLIENTS = 3
IN_FLIGHT = 10
WORK_S = 0.004
LONG_EVERY, LONG_S = 10, 0.4
"""Some calls are long enough for a fault to find them running wherever it strikes."""

AHEAD_CALLS = 200
"""How far all programs together may run ahead of a fault that has not struck yet."""

DISK_BYTES = 24 << 20
_LOOK_S = 0.05
_ANSWERS_S = 150.0
"""A storm in which no call has ended for so long is stuck."""
_SETTLE_S = 20.0

_LINKS: dict[str, Callable[[Host, Host], Fault]] = {
    "partition agent": partition,
    "mute agent": mute,
    "deafen agent": deafen,
}


class Weather(NamedTuple):
    """How a storm went. ``wrong``: what checkers object to; empty if all held."""

    seed: int
    calls: int
    faults: int
    duration_s: float
    executions_per_call: float
    longest_wait_s: float
    tally: dict[str, int]
    scheduler_ends: int
    wrong: list[str]

    def line(self) -> str:
        """The figures, for people."""
        ends = ", ".join(f"{count} {way}" for way, count in self.tally.items())
        return (
            f"storm, seed {self.seed}: {self.calls} calls ({ends}) through {self.faults} faults in "
            f"{self.duration_s:.0f} s; {self.executions_per_call:.4f} executions per call, the longest wait for an "
            f"answer {self.longest_wait_s:.1f} s; {len(self.wrong)} violations"
        )


class _Progress:
    """How many calls have ended, counted as the programs note it, and which faults are still to come."""

    def __init__(self, cluster: HostCluster, strikes: list[Strike]) -> None:
        self._cluster = cluster
        self._offsets: dict[str, int] = {}
        self._pending = sorted(strike.at_call for strike in strikes)
        self._changed = threading.Condition()
        self.ended = 0
        self.is_over = False

    def look(self, calls: int) -> None:
        """Count, and let the programs go on as far as the plan allows."""
        for file in self._cluster.folder.glob("c*.history"):
            with file.open("rb") as history:
                history.seek(self._offsets.get(file.name, 0))
                whole, newline, _ = history.read().rpartition(b"\n")
            self._offsets[file.name] = self._offsets.get(file.name, 0) + len(whole) + len(newline)
            self.ended += whole.count(b'"end"')
        with self._changed:
            allowed = min(calls, self._pending[0] + AHEAD_CALLS) if self._pending else calls
            self._changed.notify_all()
        gate = self._cluster.folder / GATE
        fresh = gate.with_suffix(".new")
        fresh.write_text(str(-(-allowed // CLIENTS)))
        fresh.rename(gate)

    def wait_for(self, strike: Strike) -> bool:
        """Wait until it is due; false if the storm is broken off."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_over or self.ended >= strike.at_call)
        return not self.is_over

    def struck(self, strike: Strike) -> None:
        """It has struck: the programs may go on to the next."""
        with self._changed:
            self._pending.remove(strike.at_call)

    def break_off(self) -> None:
        """No more faults."""
        with self._changed:
            self.is_over = True
            self._changed.notify_all()


class _Striker:
    """Strikes one victim after another's calls."""

    def __init__(self, cluster: HostCluster, progress: _Progress, seed: int) -> None:
        self._cluster, self._progress, self._random = cluster, progress, random.Random(seed)
        self._timers: list[threading.Timer] = []
        self.errors: list[BaseException] = []

    def strike_all(self, strikes: list[Strike]) -> None:
        """The thread of one victim."""
        try:
            for strike in strikes:
                if not self._progress.wait_for(strike):
                    return
                self._strike(strike)
        except BaseException as error:
            self.errors.append(error)
            self._progress.break_off()

    def _strike(self, strike: Strike) -> None:
        cluster, kind = self._cluster, strike.kind
        host = cluster.scheduler_host if strike.victim == SCHEDULER else cluster.agent_hosts[strike.victim]
        cluster.recorder.fault(kind, host.name)
        if kind in _LINKS:
            self._undo_later(strike, host, _LINKS[kind](host, cluster.scheduler_host))
        elif kind == "pause agent":
            self._undo_later(strike, host, pause(cluster.agents[host.name].pid))
        elif kind == "disk full":
            self._undo_later(strike, host, fill_disk(host))
        elif kind == "crash agent":
            cluster.agents[host.name].kill()
            self._progress.struck(strike)
            time.sleep(strike.duration_s)
            cluster.start_agent(host)
            cluster.recorder.healed(kind, host.name)
        elif kind == "crash scheduler":
            with cluster.unsupervised():
                cluster.scheduler.kill()
                self._progress.struck(strike)
                time.sleep(strike.duration_s)
                cluster.launch_scheduler()
            cluster.recorder.healed(kind, host.name)
        else:  # what the kernel does to a process over its memory is the same
            self._kill_an_instance(host)
            self._progress.struck(strike)
            cluster.recorder.healed(kind, host.name)

    def _undo_later(self, strike: Strike, host: Host, fault: Fault) -> None:
        self._progress.struck(strike)

        def undo() -> None:
            fault.undo()
            self._cluster.recorder.healed(strike.kind, host.name)

        timer = threading.Timer(strike.duration_s, undo)
        self._timers.append(timer)
        timer.start()

    def _kill_an_instance(self, host: Host) -> None:
        instances = host.instances()
        if instances:
            try:
                os.kill(self._random.choice(instances), signal.SIGKILL)
            except ProcessLookupError:
                return  # it has just ended

    def wait(self) -> None:
        """Until everything is undone."""
        for timer in self._timers:
            timer.join()


@contextmanager
def _striking(cluster: HostCluster, progress: _Progress, strikes: list[Strike], seed: int) -> Iterator[_Striker]:
    striker = _Striker(cluster, progress, seed)
    by_victim: dict[int, list[Strike]] = {}
    for strike in strikes:
        by_victim.setdefault(strike.victim, []).append(strike)
    threads = [threading.Thread(target=striker.strike_all, args=(each,), daemon=True) for each in by_victim.values()]
    for thread in threads:
        thread.start()
    try:
        yield striker
    finally:
        progress.break_off()
        for thread in threads:
            thread.join()
        striker.wait()


def carry_out(storm: Storm, seed: int) -> Weather:
    """Let a storm pass over a cluster, wait until all is answered, and look at what has been recorded."""
    strikes = plan(storm, seed)
    share = -(-storm.calls // CLIENTS)
    with (
        host_cluster(
            agents=storm.agents, users=CLIENTS, prepare=lambda made: made.scheduler_host.use_small_disk(DISK_BYTES)
        ) as cluster,
        cluster.supervised(),
    ):
        progress = _Progress(cluster, strikes)
        begun_s = time.monotonic()
        with _striking(cluster, progress, strikes, seed) as striker:
            plans = Plan(share, IN_FLIGHT, work_s=WORK_S, long_every=LONG_EVERY, long_s=LONG_S, minds_gate=True)
            programs = [cluster.call(plans, user=user, name=f"c{user}") for user in range(CLIENTS)]
            ended, ended_s = 0, time.monotonic()
            while any(program.is_running for program in programs) and time.monotonic() < ended_s + _ANSWERS_S:
                progress.look(share * CLIENTS)
                if progress.ended > ended:
                    ended, ended_s = progress.ended, time.monotonic()
                time.sleep(_LOOK_S)
            assert not striker.errors, striker.errors
        duration_s = time.monotonic() - begun_s
        codes = [program.code for program in programs]
        assert codes == [0] * CLIENTS, (codes, progress.ended, cluster.hosts.said())
        _note_what_is_left(cluster)
        history = cluster.history()
        story = Timeline(history)
        wrong = objections(history)
        return Weather(
            seed,
            share * CLIENTS,
            len(strikes),
            duration_s,
            executions_per_call(history),
            story.longest_wait_s(0, time.time_ns()),
            tally_of_ends(history),
            len(cluster.ends),
            wrong + ([cluster.hosts.said()] if wrong else []),
        )


def _note_what_is_left(cluster: HostCluster) -> None:
    """Calls that nobody waits for any more, once every node is back."""
    deadline_s = time.monotonic() + _SETTLE_S
    while True:
        document = cluster.status()
        busy = [one for one in document["instances"] if one["state"] not in ("idle", "ready")]
        if not (document["calls_unfinished"] or busy) or time.monotonic() > deadline_s:
            break
        time.sleep(1.0)
    cluster.recorder.left("scheduler", "unfinished calls", document["calls_unfinished"])
    cluster.recorder.left("scheduler", "busy instances", len(busy))
    running = sum(program.is_running for program in cluster.agents.values())
    cluster.recorder.left("hosts", "ended agents", len(cluster.agents) - running)
