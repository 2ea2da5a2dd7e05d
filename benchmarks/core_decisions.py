"""How long the scheduler's core takes to decide, and whether that grows with the cluster.

For each number of nodes it builds a core whose nodes hold ten idle instances each, and then lets one client make warm
calls: the time of a call is what ``handle`` takes for its ``Submit``, its ``AttemptDone`` and its share of a
``Received``. ``--starts`` measures cold starts instead, of an environment that is on disk on some nodes (``built``) or
of new ones, that have to be resolved first (``new``). No socket, no process:

    python benchmarks/core_decisions.py --nodes 10 100 1000 10000
"""

import argparse
import gc
import statistics
import sys
import time
from typing import Any, NamedTuple

from keepwarm_scheduler.core.config import CoreConfig
from keepwarm_scheduler.core.effects import Effect, Send
from keepwarm_scheduler.core.events import LOCAL, PeerMessage
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.spec import canonical_spec

SECOND_NS = 1_000_000_000
INSTANCES_PER_NODE = 10
POOLS = 100
"""Each node holds instances of ten of them, so that a pool's instances lie on a tenth of the nodes."""
RECEIVED_AT_ONCE = 100
CLIENT = b"client"
OPTIONS = wire.FunctionOptions(
    60_000_000, FOREVER_US, FOREVER_US, FOREVER_US, FOREVER_US, wire.RetryLimits(), 1000, 64 << 20, 0
)


class Figures(NamedTuple):
    """What one size of cluster showed, in microseconds per call."""

    nodes: int
    instances: int
    submit_us: float
    done_us: float
    call_us: float
    p99_us: float


class Bench:
    """A core with its nodes and one client, fed by hand."""

    def __init__(self, nodes: int, calls: int) -> None:
        self.now_ns = SECOND_NS
        self.calls = 0
        self.beats = 0
        config = CoreConfig(credit_calls=10 * calls + 10_000, node_lost_ns=1 << 60, session_lost_ns=1 << 60)
        self.core = SchedulerCore(config, 1, b"c" * 16, self.now_ns)
        self.say(CLIENT, wire.ClientHello(1, 1, "bench", b"s" * 16, "bench", 0))
        for number in range(1, POOLS + 1):
            self.declare(number, ())
        self.nodes = [f"node{n}" for n in range(nodes)]
        for name in self.nodes:
            self.join(name)

    def say(self, peer: bytes, message: wire.Message) -> list[Effect]:
        """One turn of the core."""
        return self.core.handle(self.now_ns, PeerMessage(peer, LOCAL, message))

    def declare(self, number: int, requirements: tuple[str, ...]) -> None:
        """A function with a pool of its own."""
        spec = canonical_spec(requirements, "3.11")
        options = OPTIONS._replace(env_vars=(wire.Pair("NUMBER", str(number)),))
        version = number.to_bytes(32, "big")
        self.say(CLIENT, wire.DeclareFunction(number, f"m:f{number}", version, "cp311", spec, False, options, b"body"))

    def join(self, name: str) -> None:
        """A node says hello and tells that it is empty."""
        resources = (wire.Quantity("cpu", 64_000), wire.Quantity("memory", 64 << 30))
        hello = wire.AgentHello(
            1, 1, "bench", name, name.encode().ljust(16)[:16], "linux-x86_64-glibc", ("3.11",), resources, (), 0
        )
        self.say(name.encode(), hello)
        self.beat(name, ())

    def beat(self, name: str, instances: tuple[wire.InstanceState, ...]) -> None:
        """A node's full state."""
        self.beats += 1
        load = wire.NodeLoad(0, 0, 0)
        self.say(name.encode(), wire.AgentBeat(self.beats, 0, instances, (), (), (), load))

    def submit(self, function: int) -> list[Effect]:
        """One more call."""
        self.calls += 1
        self.now_ns += 1_000
        return self.say(CLIENT, wire.Submit(self.calls, function, 0, False, b"arguments"))

    def warm_up(self) -> None:
        """Make each pool known by one cold call, then let every node report ten instances of its pools."""
        pools: list[tuple[bytes, str]] = []
        for number in range(1, POOLS + 1):
            [(peer, start)] = _sent(self.submit(number), wire.StartInstance)
            pools.append((start.pool, start.environment_id))
            [(_, dispatch)] = _sent(
                self.say(peer, wire.InstanceReady(start.instance_id, 1, True, 0, 1000)), wire.Dispatch
            )
            self.say(peer, _done(dispatch, 1))
        existing = {name: [] for name in self.nodes}  # type: dict[str, list[Any]]
        for instance in self.core.cluster.instances.values():
            existing[instance.node.name].append(instance)
        number = 0
        for index, name in enumerate(self.nodes):
            told = [_report(one.instance_id, one.pool.key, one.pool.environment_id) for one in existing[name]]
            for place in range(INSTANCES_PER_NODE):
                number += 1
                pool, environment_id = pools[(index * INSTANCES_PER_NODE + place) % POOLS]
                told.append(_report((1 << 39) + number, pool, environment_id))
            self.beat(name, tuple(told))
        self.acknowledge()

    def acknowledge(self) -> int:
        """The client has every outcome; the time that took."""
        numbers = tuple(number for session in self.core.cluster.sessions.values() for number in session.calls)
        started_ns = time.perf_counter_ns()
        self.say(CLIENT, wire.Received(numbers))
        return time.perf_counter_ns() - started_ns


def _sent(effects: list[Effect], kind: type[Any]) -> list[tuple[bytes, Any]]:
    return [(one.peer, one.message) for one in effects if isinstance(one, Send) and isinstance(one.message, kind)]


def _done(dispatch: wire.Dispatch, sequence: int) -> wire.AttemptDone:
    return wire.AttemptDone(
        dispatch.attempt,
        dispatch.session_id,
        dispatch.call_number,
        dispatch.instance_id,
        sequence,
        wire.Status.SUCCEEDED,
        b"result",
        None,
        0,
        500,
        True,
    )


def _report(instance_id: int, pool: bytes, environment_id: str) -> wire.InstanceState:
    lease = wire.FunctionLease("m:f", 3600 * 1_000_000, 0)
    return wire.InstanceState(instance_id, pool, environment_id, "idle", 1, 1, 64 << 20, 0, (lease,), ())


def measure_warm(nodes: int, calls: int) -> Figures:
    """Warm calls, one after another, over all pools in turn."""
    bench = Bench(nodes, calls)
    bench.warm_up()
    submits: list[int] = []
    dones: list[int] = []
    received_ns = 0
    clock, handle = time.perf_counter_ns, bench.core.handle
    for index in range(calls):
        bench.calls += 1
        bench.now_ns += 1_000
        event = PeerMessage(CLIENT, LOCAL, wire.Submit(bench.calls, 1 + index % POOLS, 0, False, b"arguments"))
        started_ns = clock()
        effects = handle(bench.now_ns, event)
        submits.append(clock() - started_ns)
        [(peer, dispatch)] = _sent(effects, wire.Dispatch)
        bench.now_ns += 500_000
        event = PeerMessage(peer, LOCAL, _done(dispatch, index + 2))
        started_ns = clock()
        handle(bench.now_ns, event)
        dones.append(clock() - started_ns)
        if index % RECEIVED_AT_ONCE == RECEIVED_AT_ONCE - 1:
            received_ns += bench.acknowledge()
    share_ns = received_ns // calls
    whole = [submit + done + share_ns for submit, done in zip(submits, dones, strict=True)]
    return _figures(nodes, len(bench.core.cluster.instances), submits, dones, whole)


def measure_starts(nodes: int, calls: int, *, is_built: bool) -> Figures:
    """Cold calls, each of a pool of its own, so that a node has to be chosen for it.

    The environment is on disk on some nodes (``is_built``), or is new: then a node to lock it is chosen as well.
    """
    bench = Bench(nodes, calls)
    bench.warm_up()
    submits: list[int] = []
    for index in range(calls):
        number = POOLS + 1 + index
        bench.declare(number, () if is_built else (f"package{number}",))
        bench.calls += 1
        event = PeerMessage(CLIENT, LOCAL, wire.Submit(bench.calls, number, 0, False, b"arguments"))
        started_ns = time.perf_counter_ns()
        effects = bench.core.handle(bench.now_ns, event)
        taken_ns = time.perf_counter_ns() - started_ns
        for peer, order in _sent(effects, wire.MakeLock):
            made = wire.LockMade(order.spec_key, "linux-x86_64-glibc", order.spec, 1000)
            event = PeerMessage(peer, LOCAL, made)
            started_ns = time.perf_counter_ns()
            effects = bench.core.handle(bench.now_ns, event)
            taken_ns += time.perf_counter_ns() - started_ns
        submits.append(taken_ns)
        assert _sent(effects, wire.StartInstance), "no start"
    return _figures(nodes, len(bench.core.cluster.instances), submits, [0, 0], submits)


def _figures(nodes: int, instances: int, submits: list[int], dones: list[int], whole: list[int]) -> Figures:
    p99_ns = statistics.quantiles(whole, n=100)[98]
    submit_us, done_us, call_us = (statistics.median(values) / 1e3 for values in (submits, dones, whole))
    return Figures(nodes, instances, submit_us, done_us, call_us, p99_ns / 1e3)


def main() -> int:
    """Measure each size and print a table. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1_000, 10_000], metavar="N")
    parser.add_argument("--calls", type=int, default=20_000, help="calls measured per size (default %(default)s)")
    parser.add_argument("--starts", choices=["built", "new"], help="measure cold starts instead of warm calls")
    arguments = parser.parse_args()
    rows: list[Figures] = []
    for nodes in arguments.nodes:
        if arguments.starts:
            rows.append(measure_starts(nodes, arguments.calls, is_built=arguments.starts == "built"))
        else:
            rows.append(measure_warm(nodes, arguments.calls))
        gc.collect()
    reference_us = next((row.call_us for row in rows if row.nodes == 100), rows[0].call_us)
    of = 100 if any(row.nodes == 100 for row in rows) else rows[0].nodes
    print(
        f"{'nodes':>7} {'instances':>10} {'submit us':>10} {'done us':>9} {'call us':>9} {'p99 us':>8} "
        f"{'calls/s':>9} {f'to {of} nodes':>13}"
    )
    for row in rows:
        print(
            f"{row.nodes:>7,} {row.instances:>10,} {row.submit_us:>10.2f} {row.done_us:>9.2f} {row.call_us:>9.2f} "
            f"{row.p99_us:>8.2f} {1e6 / row.call_us:>9,.0f} {row.call_us / reference_us:>13.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
