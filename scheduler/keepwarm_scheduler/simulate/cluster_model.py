"""Nodes as the scheduler sees them: they obey its commands, and every process is ready after the same time.

What a node would do with a command is known when the command is sent, because nothing here fails and messages do not
overtake one another: so each answer is computed at once and told when it is due. Counted on the way: processes
started, memory held idle, evictions, and how long each call waited for its first instruction.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from keepwarm_scheduler.simulate.victims import VictimPolicy
from keepwarm_wire.messages import (
    AgentBeat,
    AgentHello,
    AttemptDone,
    Dispatch,
    InstanceEnded,
    InstanceReady,
    LockMade,
    MakeLock,
    Message,
    NodeLoad,
    Quantity,
    StartInstance,
    Status,
    StopInstance,
)
from keepwarm_wire.spec import environment_id
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE

__all__ = ["PLATFORM", "PYTHON", "ClusterModel", "ClusterSettings", "Ledger", "Said"]

PLATFORM = "linux-x86_64-glibc"
PYTHON = "3.11"
_GIB_NS = float(1 << 30) * 1e9
_MILLI = 1_000


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The cluster that is described.

    Args:
        nodes: how many, all alike.
        cpu: cpus of a node, each runs one call.
        memory_bytes: of a node, for processes.
        cold_ns: from the order to start a process until it takes calls, its environment being on the node's disk.
        build_ns: added where an environment is wanted on a node for the first time.
        delay_ns: of every message, one way.
    """

    nodes: int = 1
    cpu: float = 16
    memory_bytes: int = 64 << 30
    cold_ns: int = 500_000_000
    build_ns: int = 5_000_000_000
    delay_ns: int = 0


class Said(NamedTuple):
    """What a node says, and when the scheduler hears of it. ``number`` orders what is heard at one instant."""

    due_ns: int
    number: int
    peer: bytes
    message: Message


class Ledger:
    """What a replay counts. Durations in ns; ``idle_gib_s`` is memory held by idle processes, in GiB times seconds."""

    __slots__ = ("evictions", "failed", "functions", "idle_gib_s", "starts", "starts_of", "waits_ns")

    def __init__(self, invocations: int, functions: int) -> None:
        self.waits_ns: array[int] = array("q", [-1]) * invocations
        self.starts_of: array[int] = array("l", [0]) * functions
        self.starts = 0
        self.evictions = 0
        self.failed = 0
        self.idle_gib_s = 0.0


@dataclass(slots=True, eq=False)
class _Process:
    memory_bytes: int
    function: int
    sequence: int = 0
    idle_since_ns: int = 0


class ClusterModel:
    """All nodes of a simulated cluster. ``obey`` returns what a node answers to one message.

    Args:
        settings: the cluster.
        ledger: where to count.
        times_ns: when each call was made, by its number less one.
        durations_us: how long each call runs, by its number less one.
    """

    def __init__(
        self, settings: ClusterSettings, ledger: Ledger, times_ns: "array[int]", durations_us: "array[int]"
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.processes: dict[int, _Process] = {}
        self.function_of: dict[str, int] = {}
        """The function that an environment belongs to, by environment id."""
        self.policy: VictimPolicy | None = None
        """A choice of victims that is to be told what happens."""
        self._times_ns, self._durations_us = times_ns, durations_us
        self._built_ns: dict[tuple[bytes, str], int] = {}
        self._locked: dict[bytes, int] = {}
        self._number = 0
        self._obey: dict[type, Callable[[int, bytes, Any], Said]] = {
            MakeLock: self._make_lock,
            StartInstance: self._start,
            StopInstance: self._stop,
            Dispatch: self._dispatch,
        }

    def expect(self, spec_key: bytes, function: int) -> None:
        """The environment of this spec will belong to that function."""
        self._locked[spec_key] = function

    def introductions(self) -> list[tuple[bytes, tuple[Message, Message]]]:
        """Each node's peer, with what it says when it joins: hello, and that it holds nothing."""
        settings = self.settings
        resources = (Quantity("cpu", round(settings.cpu * _MILLI)), Quantity("memory", settings.memory_bytes))
        beat = AgentBeat(1, 0, (), (), (), (), NodeLoad(0, 0, 0))
        return [
            (
                b"node %d" % number,
                (
                    AgentHello(
                        PROTOCOL_MIN,
                        PROTOCOL_MAX,
                        SOFTWARE,
                        f"node-{number}",
                        number.to_bytes(16, "big"),
                        PLATFORM,
                        (PYTHON,),
                        resources,
                        (),
                        0,
                    ),
                    beat,
                ),
            )
            for number in range(settings.nodes)
        ]

    def obey(self, now_ns: int, peer: bytes, message: Any) -> Said | None:
        """Take one message that the scheduler sends now; None where a node says nothing to it."""
        handle = self._obey.get(type(message))
        return None if handle is None else handle(now_ns + self.settings.delay_ns, peer, message)

    def end(self, now_ns: int) -> None:
        """The replay is over: count what is still held."""
        for process in self.processes.values():
            self._count_idle(process, now_ns)

    def _say(self, at_ns: int, peer: bytes, message: Message) -> Said:
        self._number += 1
        return Said(at_ns + self.settings.delay_ns, self._number, peer, message)

    def _make_lock(self, now_ns: int, peer: bytes, message: MakeLock) -> Said:
        lock = message.spec_key.hex()
        self.function_of[environment_id(lock, PYTHON, PLATFORM)] = self._locked[message.spec_key]
        return self._say(now_ns, peer, LockMade(message.spec_key, PLATFORM, lock.encode(), 0))

    def _start(self, now_ns: int, peer: bytes, message: StartInstance) -> Said:
        settings, place = self.settings, (peer, message.environment_id)
        built_ns = self._built_ns.setdefault(place, now_ns + settings.build_ns)
        build_ns = max(0, built_ns - now_ns)  # who comes while it is being built waits for the rest
        ready_ns = now_ns + build_ns + settings.cold_ns
        function = self.function_of[message.environment_id]
        self.processes[message.instance_id] = _Process(message.memory_bytes, function, 0, ready_ns)
        if self.policy is not None:
            self.policy.started(message.instance_id, function, message.memory_bytes)
        self.ledger.starts += 1
        self.ledger.starts_of[function] += 1
        ready = InstanceReady(message.instance_id, 1, build_ns == 0, build_ns // 1_000, settings.cold_ns // 1_000)
        return self._say(ready_ns, peer, ready)

    def _stop(self, now_ns: int, peer: bytes, message: StopInstance) -> Said:
        process = self.processes.pop(message.instance_id)
        self._count_idle(process, now_ns)
        is_evicted = message.cause == "evicted"
        self.ledger.evictions += is_evicted
        if self.policy is not None:
            self.policy.ended(message.instance_id, evicted=is_evicted)
        return self._say(now_ns, peer, InstanceEnded(message.instance_id, message.cause, None, False))

    def _dispatch(self, now_ns: int, peer: bytes, message: Dispatch) -> Said:
        process, index = self.processes[message.instance_id], message.call_number - 1
        self._count_idle(process, now_ns)
        self.ledger.waits_ns[index] = now_ns - self._times_ns[index]
        run_us = self._durations_us[index]
        if self.policy is not None:
            self.policy.used(message.instance_id, now_ns)
        process.sequence += 1
        process.idle_since_ns = done_ns = now_ns + run_us * 1_000
        done = AttemptDone(
            message.attempt,
            message.session_id,
            message.call_number,
            message.instance_id,
            process.sequence,
            Status.SUCCEEDED,
            b"",
            None,
            0,
            run_us,
            process.sequence > 1,
        )
        return self._say(done_ns, peer, done)

    def _count_idle(self, process: _Process, now_ns: int) -> None:
        if now_ns > process.idle_since_ns:
            self.ledger.idle_gib_s += process.memory_bytes * (now_ns - process.idle_since_ns) / _GIB_NS
