"""How long the scheduler's core takes to decide, what a lease costs, and whether either grows with the cluster.

For each number of nodes it builds that cluster inside a real ``SchedulerCore``, with messages only: per node ten
instances, per two nodes one environment with twenty instances and ten functions, and every function has been called
on every instance. So 10,000 nodes hold 5,000 environments, 100,000 instances and 1,000,000 leases. Then it measures

* warm calls: what ``handle`` takes for a ``Submit`` (the decision: which instance, and why), for the ``AttemptDone``
  (which renews the lease) and for the call's share of a ``Received``. Once among 50 environments that are in use, the
  others being idle, and once scattered over all, so that what a call needs is not in the processor's cache;
* cold calls: a ``Submit`` for which a node has to be chosen, its environment on disk somewhere, or not resolved yet;
* a node's heartbeat, with all its instances and their leases; expiries, by ``Tick``;
* the timing wheel alone, with as many entries as there are leases, in the order of their keys and in random order;
* the garbage collector: its pauses are part of all times above, and are named separately.

No socket, no process; each size in an interpreter of its own, its collector set as the scheduler sets its own, or with
``--collector python`` left alone. Each message is timed by the clock; rates and all other figures are the processor's
time, so that other work on the machine counts less. Medians of the repeats; the longest is the longest of all. The exit
status is 1 if a time at the most nodes is over twice that at the fewest:

    python benchmarks/core_decisions.py [--nodes 100 1000 10000] [--calls 50000] [--repeats 3] [--json]
"""

import argparse
import contextlib
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keepwarm_scheduler.collector import quieten
from keepwarm_scheduler.core.config import SECOND_NS, CoreConfig
from keepwarm_scheduler.core.effects import Effect, Send
from keepwarm_scheduler.core.events import LOCAL, PeerMessage, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.core.wheel import TimingWheel
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.spec import canonical_spec

NODES_PER_ENVIRONMENT = 2
INSTANCES_PER_ENVIRONMENT = 20
FUNCTIONS_PER_ENVIRONMENT = 10
CLIENTS = range(FUNCTIONS_PER_ENVIRONMENT)
INSTANCE_BYTES = 64 << 20
NODE_BYTES = 16 * INSTANCE_BYTES  # room for sixteen: a cluster in use, not a full one
NODE_CPU = 4_000  # thousandths
PLATFORM = "linux-x86_64-glibc"
BATCH = 100
HISTORY = 10_000  # finished calls that the core remembers: made first, so that they count for no lease
SCATTER = 7_919  # a prime: in steps of it, every environment is met once before any is met again
SAMPLES = 2_000  # cold calls, and heartbeats
TERM_NS = 600 * SECOND_NS
OPTIONS = wire.FunctionOptions(TERM_NS // 1_000, *(FOREVER_US,) * 4, wire.RetryLimits(), 1_000, INSTANCE_BYTES, 0)
BUSY = 50  # environments
FLAT = 2.0
LIMITS = {"wheel_random_us": 1.0, "wheel_expire_us": 3.0, "busy_p50_us": 15.0, "call_p50_us": 15.0}
"""What the project wants of a machine of today: said in the table, no failure on a slower one."""


class Row(NamedTuple):
    """One figure: its name in JSON, its name for people, how many decimals, and whether it has to be flat."""

    name: str
    title: str
    decimals: int = 2
    is_flat: bool = False


ROWS = (
    Row("instances", "instances", 0),
    Row("leases", "leases", 0),
    Row("environments", "environments", 0),
    Row("build_s", "seconds to build it, by messages", 1),
    Row("busy_p50_us", "warm call among 50 environments, median, us", is_flat=True),
    Row("busy_p99_us", "    99th percentile, us", is_flat=True),
    Row("busy_per_s", "    calls per second", 0, is_flat=True),
    Row("busy_decision_p50_us", "    its decision alone (Submit), median, us", is_flat=True),
    Row("busy_decision_p99_us", "    99th percentile, us", is_flat=True),
    Row("busy_decision_per_s", "    decisions per second", 0, is_flat=True),
    Row("call_p50_us", "warm call scattered over all, median, us", is_flat=True),
    Row("call_p99_us", "    99th percentile, us"),
    Row("call_max_us", "    longest, us", 0),
    Row("call_per_s", "    calls per second", 0, is_flat=True),
    Row("call_decision_p50_us", "    its decision alone (Submit), median, us"),
    Row("call_decision_per_s", "    decisions per second", 0),
    Row("built_p50_us", "cold, environment on disk, median, us", is_flat=True),
    Row("new_p50_us", "cold, environment new, median, us", is_flat=True),
    Row("beat_p50_us", "a node's heartbeat, median, us", is_flat=True),
    Row("expire_us", "expiry through the core, us", is_flat=True),
    Row("turn_max_ms", "    longest turn of expiries, ms", 1),
    Row("wheel_renew_us", "wheel alone, renewal, in order, us", is_flat=True),
    Row("wheel_random_us", "    in random order, us"),
    Row("wheel_expire_us", "wheel alone, expiry, us", is_flat=True),
    Row("lease_bytes", "bytes per lease", 0),
    Row("instance_bytes", "bytes per instance, with its first lease", 0),
    Row("rss_mib", "memory of the process, MiB", 0),
    Row("gc_percent", "collector, % of the time of scattered calls", 1),
    Row("gc_young_max_us", "    longest pause but for full collections, us", 0),
    Row("gc_full_ms", "    a full collection, ms", 0),
    Row("garbage", "    objects in cycles left by 1,000 warm calls", 0),
)


# ---------------------------------------------------------------- the cluster


class Cluster:
    """A core with nodes, clients and history, fed by hand. Client number *i* has declared each pool's function *i*."""

    def __init__(self, nodes: int) -> None:
        self.now_ns = SECOND_NS
        self.environments = nodes // NODES_PER_ENVIRONMENT
        self.beats = 0
        self.calls = [0 for _ in CLIENTS]
        self.unread: list[list[int]] = [[] for _ in CLIENTS]
        config = CoreConfig(node_lost_ns=1 << 60, session_lost_ns=1 << 60, node_forgotten_ns=1 << 60)
        self.core = SchedulerCore(config, 1, b"c" * 16, self.now_ns)
        self.nodes = [f"node{n}" for n in range(nodes)]
        for client in CLIENTS:
            self.say(session_id(client), wire.ClientHello(1, 1, "bench", session_id(client), "bench", 0))

    def say(self, peer: bytes, message: wire.Message) -> list[Effect]:
        """One turn of the core."""
        return self.core.handle(self.now_ns, PeerMessage(peer, LOCAL, message))

    def join(self, name: str) -> None:
        """A node says hello and tells that it is empty."""
        peer, resources = name.encode(), (wire.Quantity("cpu", NODE_CPU), wire.Quantity("memory", NODE_BYTES))
        incarnation = peer.ljust(16)[:16]
        self.say(peer, wire.AgentHello(1, 1, "bench", name, incarnation, PLATFORM, ("3.11",), resources, (), 0))
        self.say(peer, self.beat_of(name))

    def beat_of(self, name: str) -> wire.AgentBeat:
        """A node's full state, its strings its own, as if they had come over a wire."""
        self.beats += 1
        node = self.core.cluster.nodes[name]
        terms = tuple(wire.FunctionLease(function_name(client), TERM_NS // 1_000, 1_000) for client in CLIENTS)
        states, environments = [], {}
        for one in node.instances.values():
            key, environment_id = one.pool.key, one.pool.environment_id.encode().decode()
            environments[environment_id] = wire.EnvironmentState(environment_id, 100 << 20)
            idle = (environment_id, "idle", one.sequence, 1, INSTANCE_BYTES, 1_000, terms, ())
            states.append(wire.InstanceState(one.instance_id, key, *idle))
        built, load = tuple(environments.values()), wire.NodeLoad(0, 0, 0)
        return wire.AgentBeat(self.beats, node.last_command, tuple(states), (), (), built, load)

    def declare(self, client: int, number: int, requirements: tuple[str, ...], *, variant: str = "") -> None:
        """A function of a client; with a ``variant`` in a pool of its own."""
        options = OPTIONS._replace(env_vars=(wire.Pair("VARIANT", variant),) if variant else ())
        spec, name = canonical_spec(requirements, "3.11"), function_name(client)
        version = (client * 1_000_000 + number).to_bytes(32, "big")
        declared = wire.DeclareFunction(number, name, version, "cp311", spec, False, options, b"body")
        self.say(session_id(client), declared)

    def submit(self, client: int, number: int) -> tuple[bytes, wire.Submit]:
        """One more call of a client, to be said."""
        self.calls[client] += 1
        self.now_ns += 1_000
        self.unread[client].append(self.calls[client])
        return session_id(client), wire.Submit(self.calls[client], number, 0, False, b"arguments")

    def round(self, client: int, number: int, copies: int) -> list[tuple[bytes, wire.Dispatch]]:
        """So many calls of one function at once, on as many instances; those that are missing are started."""
        dispatched: list[tuple[bytes, wire.Dispatch]] = []
        for _ in range(copies):
            dispatched += self.settle(self.say(*self.submit(client, number)))
        assert len(dispatched) == copies, "not every call was sent to an instance"
        for peer, dispatch in dispatched:
            self.now_ns += 1_000
            self.say(peer, done_of(dispatch))
        self.acknowledge(client)
        return dispatched

    def settle(self, effects: list[Effect]) -> list[tuple[bytes, wire.Dispatch]]:
        """Do as agents do until calls are dispatched: make locks, start processes."""
        dispatched: list[tuple[bytes, wire.Dispatch]] = []
        while effects:
            following: list[Effect] = []
            for effect in effects:
                if type(effect) is not Send:
                    continue
                order = effect.message
                if type(order) is wire.Dispatch:
                    dispatched.append((effect.peer, order))
                elif type(order) is wire.MakeLock:
                    following += self.say(effect.peer, wire.LockMade(order.spec_key, PLATFORM, order.spec, 1_000))
                elif type(order) is wire.StartInstance:
                    ready = wire.InstanceReady(order.instance_id, 1, True, 0, 1_000)
                    following += self.say(effect.peer, ready)
            effects = following
        return dispatched

    def acknowledge(self, client: int) -> None:
        """The client has every outcome."""
        numbers, self.unread[client] = tuple(self.unread[client]), []
        self.say(session_id(client), wire.Received(numbers))


def session_id(client: int) -> bytes:
    """Sixteen bytes, which name the connection as well."""
    return b"session%09d" % client


def function_name(client: int) -> str:
    """Every message from a wire brings a string of its own."""
    return f"package.module:function{client}"


def done_of(dispatch: wire.Dispatch) -> wire.AttemptDone:
    """The agent's word that a call has succeeded."""
    _, instance_id, attempt, session, number, *_ = dispatch
    succeeded = (wire.Status.SUCCEEDED, b"result", None, 0, 500, True)
    return wire.AttemptDone(attempt, session, number, instance_id, attempt, *succeeded)


def build(nodes: int) -> tuple[Cluster, dict[str, float]]:
    """The whole cluster, and what memory each part of it took."""
    before_s = time.thread_time()
    cluster = Cluster(nodes)
    for name in cluster.nodes:
        cluster.join(name)
    for environment in range(cluster.environments):
        for client in CLIENTS:
            cluster.declare(client, environment + 1, (f"package{environment}",))
    cluster.declare(0, 0, ("package0",), variant="history")
    for _ in range(HISTORY):
        [(agent, dispatch)] = cluster.round(0, 0, 1)
    cluster.say(agent, wire.InstanceEnded(dispatch.instance_id, "died", None, False))
    memory = [rss_bytes()]
    for environment in range(cluster.environments):
        cluster.round(0, environment + 1, INSTANCES_PER_ENVIRONMENT)
    memory.append(rss_bytes())
    for environment in range(cluster.environments):
        for client in CLIENTS[1:]:
            cluster.round(client, environment + 1, INSTANCES_PER_ENVIRONMENT)
    memory.append(rss_bytes())
    instances = cluster.environments * INSTANCES_PER_ENVIRONMENT
    leases = sum(len(one.lease.left_us(cluster.now_ns)) for one in cluster.core.cluster.instances.values())
    assert (len(cluster.core.cluster.instances), leases) == (instances, instances * FUNCTIONS_PER_ENVIRONMENT)
    return cluster, {
        "instances": instances,
        "leases": leases,
        "environments": len(cluster.core.cluster.environments),
        "build_s": time.thread_time() - before_s,
        "instance_bytes": (memory[1] - memory[0]) / instances,
        "lease_bytes": (memory[2] - memory[1]) / (leases - instances),
        "rss_mib": memory[-1] / (1 << 20),
    }


def rss_bytes() -> int:
    """The memory that the process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# ---------------------------------------------------------------- measuring


@contextlib.contextmanager
def collector_watched() -> Iterator[list[tuple[int, int]]]:
    """The garbage collector's pauses meanwhile: generation, nanoseconds."""
    pauses: list[tuple[int, int]] = []
    started: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            started.append(time.thread_time_ns())
        else:
            pauses.append((info["generation"], time.thread_time_ns() - started.pop()))

    gc.callbacks.append(note)
    yield pauses
    gc.callbacks.remove(note)


def warm_calls(cluster: Cluster, calls: int, environments: int, name: str = "call") -> dict[str, float]:
    """Warm calls to so many environments in turn, in batches, as the daemon reads them."""
    submits: list[int] = []
    dones: list[int] = []
    submits_ns = dones_ns = received_ns = 0
    with collector_watched() as pauses:
        for first in range(0, calls, BATCH):
            client = first // BATCH % FUNCTIONS_PER_ENVIRONMENT
            numbers = [1 + index * SCATTER % environments for index in range(first, first + BATCH)]
            effects, busy_ns = timed(cluster, [cluster.submit(client, number) for number in numbers], submits)
            submits_ns += busy_ns
            cluster.now_ns += 500_000
            outcomes = [(agent, done_of(dispatch)) for agent, dispatch in cluster.settle(effects)]
            dones_ns += timed(cluster, outcomes, dones)[1]
            received_ns -= time.thread_time_ns()
            cluster.acknowledge(client)
            received_ns += time.thread_time_ns()
    share_ns, whole_ns = received_ns // calls, submits_ns + dones_ns + received_ns
    whole = [submit + done + share_ns for submit, done in zip(submits, dones, strict=True)]
    gc_percent = 100 * sum(pause_ns for _, pause_ns in pauses) / whole_ns
    gc_young_us = max((pause_ns for age, pause_ns in pauses if age < 2), default=0) / 1e3
    collector = {"gc_percent": gc_percent, "gc_young_max_us": gc_young_us}
    return figures(f"{name}_decision", submits, submits_ns) | figures(name, whole, whole_ns) | collector


def timed(
    cluster: Cluster, messages: Sequence[tuple[bytes, wire.Message]], each: list[int]
) -> tuple[list[Effect], int]:
    """Say these messages; note what each took by the clock. All effects, and the processor's time for all of it."""
    clock, handle, now_ns = time.perf_counter_ns, cluster.core.handle, cluster.now_ns
    events = [PeerMessage(peer, LOCAL, message) for peer, message in messages]
    results: list[list[Effect]] = []
    began_ns = time.thread_time_ns()
    for event in events:
        started_ns = clock()
        effects = handle(now_ns, event)
        each.append(clock() - started_ns)
        results.append(effects)
    busy_ns = time.thread_time_ns() - began_ns
    return [effect for effects in results for effect in effects], busy_ns


def figures(name: str, times_ns: list[int], whole_ns: int) -> dict[str, float]:
    """Median, 99th percentile and longest, in microseconds, and how many in a second."""
    return {
        f"{name}_per_s": len(times_ns) / whole_ns * 1e9,
        f"{name}_p50_us": statistics.median(times_ns) / 1e3,
        f"{name}_p99_us": statistics.quantiles(times_ns, n=100)[98] / 1e3,
        f"{name}_max_us": max(times_ns) / 1e3,
    }


def cold_calls(cluster: Cluster, name: str, packages: list[str]) -> dict[str, float]:
    """Calls that need an instance of a new pool, in an environment that is there or that has to be resolved first."""
    taken: list[int] = []
    client = FUNCTIONS_PER_ENVIRONMENT - 1
    first = 1 + max(cluster.core.cluster.sessions[session_id(client)].functions)
    for number, package in enumerate(packages, first):
        cluster.declare(client, number, (package,), variant=f"{name}{number}")
        peer, message = cluster.submit(client, number)
        started_ns = time.thread_time_ns()
        effects = cluster.say(peer, message)
        taken_ns = time.thread_time_ns() - started_ns
        for effect in effects:
            if type(effect) is Send and type(effect.message) is wire.MakeLock:
                made = wire.LockMade(effect.message.spec_key, PLATFORM, effect.message.spec, 1_000)
                started_ns = time.thread_time_ns()
                effects = cluster.say(effect.peer, made)
                taken_ns += time.thread_time_ns() - started_ns
        taken.append(taken_ns)
        [(agent, dispatch)] = cluster.settle(effects)
        cluster.say(agent, done_of(dispatch))
        cluster.acknowledge(client)
        cluster.say(agent, wire.InstanceEnded(dispatch.instance_id, "died", None, False))
    return figures(name, taken, sum(taken))


def beats(cluster: Cluster) -> dict[str, float]:
    """Heartbeats of nodes, one after another."""
    taken: list[int] = []
    for index in range(SAMPLES):
        name = cluster.nodes[index * SCATTER % len(cluster.nodes)]
        message = cluster.beat_of(name)
        started_ns = time.thread_time_ns()
        cluster.say(name.encode(), message)
        taken.append(time.thread_time_ns() - started_ns)
    return figures("beat", taken, sum(taken))


def expiries(cluster: Cluster) -> dict[str, float]:
    """Let every lease run out, in turns as the daemon has them, until all instances have been told to stop."""
    core, turns, stopped = cluster.core, list[int](), 0
    while (deadline_ns := core.next_deadline()) is not None and len(core.cluster.leases):
        started_ns = time.thread_time_ns()
        effects = core.handle(deadline_ns, Tick())
        turns.append(time.thread_time_ns() - started_ns)
        stopped += len(effects)
    return {"expire_us": sum(turns) / stopped / 1e3, "turn_max_ms": max(turns) / 1e6}


def wheel(entries: int) -> dict[str, float]:
    """The wheel alone: renewals, then expiries in steps of a tick, each filed anew once because it was renewed."""
    chooser, tick_ns, times_ns = random.Random(1), SECOND_NS // 10, dict[str, int]()
    timers = TimingWheel[int](tick_ns, 0)
    in_order, deadlines = range(entries), [chooser.randrange(10 * SECOND_NS, TERM_NS) for _ in range(entries)]
    at_random = chooser.sample(in_order, entries)
    orders: list[tuple[str, Sequence[int]]] = [("", in_order), ("renew", in_order), ("random", at_random)]
    for longer, (name, order) in enumerate(orders):
        renewals = [(key, deadlines[key] + longer * TERM_NS) for key in order]
        started_ns = time.thread_time_ns()
        for key, deadline_ns in renewals:
            timers.schedule(key, deadline_ns)
        times_ns[name] = time.thread_time_ns() - started_ns
    started_ns = time.thread_time_ns()
    for now_ns in range(0, 3 * TERM_NS + tick_ns, tick_ns):
        timers.advance(now_ns)
    times_ns["expire"] = time.thread_time_ns() - started_ns
    assert len(timers) == 0
    return {f"wheel_{name}_us": time_ns / entries / 1e3 for name, time_ns in times_ns.items() if name}


def measure(nodes: int, calls: int, repeats: int) -> dict[str, float]:
    """Everything about one size."""
    cluster, result = build(nodes)
    result |= middle([warm_calls(cluster, calls, min(BUSY, cluster.environments), "busy") for _ in range(repeats)])
    result |= middle([warm_calls(cluster, calls, cluster.environments) for _ in range(repeats)])
    result |= garbage(cluster)
    result |= beats(cluster)
    result |= cold_calls(cluster, "built", [f"package{index % cluster.environments}" for index in range(SAMPLES)])
    result |= cold_calls(cluster, "new", [f"other{index}" for index in range(SAMPLES)])
    result |= expiries(cluster)
    entries = round(result["leases"])
    del cluster
    gc.collect()
    return result | middle([wheel(entries) for _ in range(repeats)])


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of every figure, of the longest ones the longest."""
    return {name: (max if "_max_" in name else statistics.median)(run[name] for run in runs) for name in runs[0]}


def garbage(cluster: Cluster) -> dict[str, float]:
    """What calls leave to the collector, and how long it takes when it looks at everything."""
    gc.collect()
    gc.disable()
    warm_calls(cluster, 1_000, cluster.environments)
    left = gc.collect()
    gc.unfreeze()
    started_ns = time.thread_time_ns()
    gc.collect()
    full_ns = time.thread_time_ns() - started_ns
    gc.enable()
    return {"garbage": left, "gc_full_ms": full_ns / 1e6}


# ---------------------------------------------------------------- all sizes


def in_its_own_process(nodes: int, options: list[str]) -> dict[str, Any]:
    """The figures of one size, measured by an interpreter in which no other size was."""
    command = [sys.executable, __file__, *options, "--alone", "--nodes", str(nodes)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(ended.stdout))


def growth(row: Row, first: dict[str, Any], last: dict[str, Any]) -> float:
    """How much dearer it is at the most nodes than at the fewest."""
    ratio: float = last[row.name] / first[row.name]
    return 1 / ratio if row.name.endswith("_per_s") else ratio


def show(nodes: list[int], sizes: list[dict[str, Any]]) -> None:
    """The table: a line for each figure, a column for each size."""
    print(f"{'nodes':48}" + "".join(f"{count:>12,}" for count in nodes) + f"{'ratio':>8}")
    for row in ROWS:
        values = "".join(f"{size[row.name]:>12,.{row.decimals}f}" for size in sizes)
        ratio = f"{growth(row, sizes[0], sizes[-1]):>8.2f}" if row.is_flat else " " * 8
        limit = LIMITS.get(row.name)
        verdict = "" if limit is None else f"  {'under' if sizes[-1][row.name] < limit else 'NOT under'} {limit:g}"
        print(f"{row.title:48}{values}{ratio}{verdict}")


def main() -> int:
    """Measure each size and print a table. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1_000, 10_000], metavar="N")
    parser.add_argument("--calls", type=int, default=50_000, help="warm calls of a repeat (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of the warm calls and the wheel (default: 3)")
    parser.add_argument("--collector", choices=["scheduler", "python"], default="scheduler", help="whose settings")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.nodes) < 100 or arguments.calls < BATCH or arguments.repeats < 1:
        parser.error(f"at least 100 nodes, {BATCH} calls and one repeat")
    if arguments.alone:
        if arguments.collector == "scheduler":
            quieten()
        print(json.dumps(measure(arguments.nodes[0], arguments.calls, arguments.repeats)))
        return 0
    nodes = sorted(arguments.nodes)
    sizes = [in_its_own_process(count, sys.argv[1:]) for count in nodes]
    grown = {row.name: round(growth(row, sizes[0], sizes[-1]), 3) for row in ROWS if row.is_flat}
    if arguments.json:
        print(json.dumps({"nodes": dict(zip(nodes, sizes, strict=True)), "ratios": grown}, indent=2))
    else:
        show(nodes, sizes)
    too_steep = [name for name, ratio in grown.items() if ratio > FLAT]
    if too_steep:
        print(
            f"not flat: over {FLAT:g} times as dear with {nodes[-1]:,} nodes: {', '.join(too_steep)}", file=sys.stderr
        )
    return 1 if too_steep else 0


if __name__ == "__main__":
    sys.exit(main())
