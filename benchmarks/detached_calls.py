"""Detached calls: how fast they are accepted, what that adds to a round trip, how fast a start takes a backlog in.

    python benchmarks/detached_calls.py [--calls 100000] [--sync-delay-ms 3]

A real scheduler on a local socket, its journal on the disk of the given directory (``--state``, by default a temporary
one), and clients. With ``--sync-delay-ms`` every sync takes so much longer, as on a slower disk (that needs gcc).

* accepted calls per second: submits without a pause, 2,000 under way, each acceptance after its sync;
* the latency of one acceptance at a time, beside that of an answer that needs no disk;
* whole detached calls one after another, from the submit to the outcome, of an agent whose calls end at once;
* the latency of attached calls in a warm process, without and with another client that spawns detached calls without a
  pause, some at a time, on the same node;
* after kill -9 with all these calls queued: from the start of the process to the first dispatch, and how much of that
  is reading the journal and taking the calls in.
"""

import argparse
import multiprocessing
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from keepwarm_scheduler.collector import begin
from keepwarm_scheduler.core.config import CoreConfig
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.journal import Journal
from keepwarm_wire import messages as wire
from keepwarm_wire.spec import canonical_spec
from support.hosts.faults.disks import FsyncShim
from support.raw_peers import LocalScheduler, RawPeer, RunningAgent, declaration, sockets

UNDER_WAY_MAX = 2_000
SPAWNED_AT_ONCE = 16
SETTLED_S = 1.5
WARM_UP = 50
ARGUMENTS = b"a" * 200


def submit(priority: int = 0) -> wire.SubmitDetached:
    """One detached call."""
    return wire.SubmitDetached(secrets.token_bytes(16), 1, priority, "", 0, ARGUMENTS)


def measure_rate(client: RawPeer, calls: int) -> float:
    """Accepted calls per second."""
    begin_s = time.perf_counter()
    sent = accepted = 0
    while accepted < calls:
        room = min(UNDER_WAY_MAX - (sent - accepted), calls - sent)
        if room >= 200 or (room and sent + room == calls):
            client.say(*[submit() for _ in range(room)])
            sent += room
        client.take(1_000)
        accepted += sum(type(message) is wire.DetachedAccepted for message in client.heard)
        client.heard.clear()
    return calls / (time.perf_counter() - begin_s)


def measure_latencies(client: RawPeer, times: int) -> tuple[list[float], list[float]]:
    """Milliseconds of single acceptances, and of answers that need no disk, in turn."""
    accepts, looks = [], []
    for _ in range(times):
        begin_s = time.perf_counter()
        client.say(submit())
        client.hear(wire.DetachedAccepted)
        middle_s = time.perf_counter()
        client.say(wire.ShowDetached(1, bytes(16)))
        client.hear(wire.DetachedRefused)
        accepts.append(1e3 * (middle_s - begin_s))
        looks.append(1e3 * (time.perf_counter() - middle_s))
    return accepts, looks


def measure_round_trips(context: "zmq.Context[Any]", address: str, times: int) -> float:
    """Detached calls per second, each submitted when the one before has ended."""
    client = RawPeer(context, address)
    client.hello(b"r" * 16)
    client.say(declaration())
    begin_s = time.perf_counter()
    for number in range(times + WARM_UP):
        if number == WARM_UP:
            begin_s = time.perf_counter()
        message = submit()
        client.say(message)
        client.hear(wire.DetachedAccepted)
        client.say(wire.AttachDetached((message.call_id,)))
        client.hear(wire.DetachedOutcome)
    return times / (time.perf_counter() - begin_s)


def measure_attached(context: "zmq.Context[Any]", address: str, session: bytes, times: int) -> list[float]:
    """Milliseconds of attached calls in a warm process, one after another."""
    client = RawPeer(context, address)
    client.hello(session)
    client.say(declaration(name="m:attached")._replace(spec=canonical_spec(["attached"], "3.11")))
    durations = []
    for number in range(1, times + WARM_UP):
        begin_s = time.perf_counter()
        client.say(wire.Submit(number, 1, 0, False, ARGUMENTS))
        client.hear(wire.Outcome)
        durations.append(1e3 * (time.perf_counter() - begin_s))
        client.say(wire.Received((number,)))
    return durations[WARM_UP:]


def work(address: str) -> None:
    """A process: an agent whose calls end at once."""
    with sockets() as context:
        agent = RunningAgent(context, address, cpu=8_000)
        while True:
            agent.socket.poll(100)
            agent.work()


def spawn(address: str) -> None:
    """A process: a client that has so many detached calls under way, always."""
    with sockets() as context:
        client = RawPeer(context, address)
        client.hello(b"s" * 16)
        client.say(declaration())
        client.say(*[submit() for _ in range(SPAWNED_AT_ONCE)])
        while True:
            client.take(1_000)
            said: list[Any] = []
            while client.heard:
                message = client.heard.popleft()
                if type(message) is wire.DetachedAccepted:
                    said.append(wire.AttachDetached((message.call_id,)))
                elif type(message) is wire.DetachedOutcome:
                    said += [wire.ForgetDetached((message.call_id,)), submit()]
            if said:
                client.say(*said)


@contextmanager
def helper(program: Callable[[str], None], address: str) -> Iterator[None]:
    """A process beside this one."""
    process = multiprocessing.get_context("spawn").Process(target=program, args=(address,), daemon=True)
    process.start()
    time.sleep(SETTLED_S)
    yield
    process.kill()
    process.join()


def show_calls(context: "zmq.Context[Any]", address: str, times: int) -> None:
    """Measure whole calls, detached and attached, and print."""
    with helper(work, address):
        print(f"detached calls one after another: {measure_round_trips(context, address, times):,.0f} per second")
        alone = measure_attached(context, address, b"1" * 16, times)
        with helper(spawn, address):
            beside = measure_attached(context, address, b"2" * 16, times)
    for what, durations in (("alone", alone), ("while another client spawns", beside)):
        durations.sort()
        p50, p99 = statistics.median(durations), durations[int(len(durations) * 0.99)]
        print(f"an attached call, {what}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def measure_restart(scheduler: LocalScheduler, context: "zmq.Context[Any]") -> float:
    """Seconds from the start of the process to the first dispatch, an agent being there and waiting."""
    agent = RunningAgent(context, scheduler.address)
    scheduler.kill()
    begin_s = time.perf_counter()
    scheduler.start()
    while not agent.model.executed and not agent.model.attempts:
        agent.take(2)
        agent.work()
    return time.perf_counter() - begin_s


def measure_loading(state: Path) -> tuple[int, float, float]:
    """Calls, seconds to read the journal, seconds to take them in; the scheduler has to be stopped."""
    begin_s = time.perf_counter()
    begin()
    journal = Journal(state)
    opened = journal.begin_epoch()
    read_s = time.perf_counter()
    core = SchedulerCore(CoreConfig(), opened.epoch, opened.cluster_id, 0)
    core.handle(1, opened.restored._replace(nodes=()))
    end_s = time.perf_counter()
    journal.close()
    return len(opened.restored.detached.calls), read_s - begin_s, end_s - read_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--state", type=Path, default=None, help="a directory on the disk to measure")
    parser.add_argument("--times", type=int, default=2_000, help="how many whole calls are measured")
    parser.add_argument("--sync-delay-ms", type=float, default=0, help="how much slower the disk is to be")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keepwarm-", dir=options.state) as home, sockets() as context:
        shim = FsyncShim(Path(home)) if options.sync_delay_ms else None
        if shim is not None:
            os.environ.update(shim.variables)
            shim.slow(options.sync_delay_ms / 1e3)
        scheduler = LocalScheduler(Path(home))
        show_calls(context, scheduler.address, options.times)
        client = RawPeer(context, scheduler.address)
        client.hello()
        client.say(declaration())
        accepts, looks = measure_latencies(client, 500)
        rate = measure_rate(client, options.calls)
        more_accepts, _ = measure_latencies(client, 200)
        print(f"accepted calls per second: {rate:,.0f}")
        print(f"one acceptance: p50 {statistics.median(accepts):.2f} ms, p99 {sorted(accepts)[-5]:.2f} ms")
        print(f"  behind {options.calls:,} queued: p50 {statistics.median(more_accepts):.2f} ms")
        print(f"an answer that needs no disk: p50 {statistics.median(looks):.2f} ms")
        print(f"restart to first dispatch: {measure_restart(scheduler, context):.2f} s")
        scheduler.stop()
        calls, read_s, taken_s = measure_loading(scheduler.state)
        print(f"  of {calls:,} calls: reading the journal {read_s:.2f} s, taking them in {taken_s:.2f} s")


if __name__ == "__main__":
    main()
