"""Where a call runs and when another instance is started: the policy, and nothing but the policy.

Everything here is a pure function of what it is given, so that another policy can replace this module. The rules:

1. An idle instance serves at once, the one used last first (``pools`` keeps them as a stack).
2. Otherwise wait or start: with fewer than five measured runs, start at once; else wait while the expected wait for a
   busy instance is at most 0.8 of the expected cost of a cold start. Never more starts under way than the queue needs.
3. A start goes to the feasible node where the environment is hottest, then to the least loaded, then by a hash
   of pool and node, so that equal nodes do not all get the same pools.
4. Under pressure an idle instance makes room: surplus copies first, then the one whose lease ends first.
"""

import zlib
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "COLD_START_DEFAULT_NS",
    "Candidate",
    "PoolStatistics",
    "Temperature",
    "VictimCandidate",
    "choose",
    "choose_victims",
    "fits",
    "starts_wanted",
]

MIN_SAMPLES = 5
WAIT_FRACTION_PERCENT = 80
COLD_START_DEFAULT_NS = 500_000_000
"""Assumed cost of a cold start before the first one has been measured."""

_SMOOTHING = 8
"""Weight of the past in the moving averages: each new sample counts one eighth."""


class Temperature(IntEnum):
    """How much of an environment a node already has. Higher is hotter."""

    COLD = 0
    CACHED = 1
    BUILT = 2
    WARM = 3
    READY = 4


class PoolStatistics:
    """Moving averages of one pool: how long its calls run, how long its instances take to start."""

    __slots__ = ("cold_start_ns", "run_ns", "samples")

    def __init__(self) -> None:
        self.samples = 0
        self.run_ns = 0
        self.cold_start_ns = COLD_START_DEFAULT_NS

    def add_run(self, duration_ns: int) -> None:
        """A call has run for so long."""
        self.samples += 1
        if self.samples == 1:
            self.run_ns = duration_ns
        else:
            self.run_ns += (duration_ns - self.run_ns) // _SMOOTHING

    def add_start(self, duration_ns: int) -> None:
        """An instance took so long from being wanted to being ready."""
        self.cold_start_ns += (duration_ns - self.cold_start_ns) // 2


def starts_wanted(statistics: PoolStatistics, queued: int, busy: int, starting: int, *, is_private: bool) -> int:
    """How many more instances a pool should start now. Never negative.

    Args:
        statistics: what is known of the pool's run and start times.
        queued: calls that no idle instance can take.
        busy: instances that serve a call.
        starting: instances under way.
        is_private: every call needs an instance of its own (``keep_alive=0``).
    """
    if queued <= starting:
        return 0
    if is_private or statistics.samples < MIN_SAMPLES or busy + starting == 0:
        return queued - starting
    run_ns, cold_ns = statistics.run_ns, statistics.cold_start_ns
    expected_wait_ns = queued * run_ns // (busy + starting)
    if expected_wait_ns * 100 <= cold_ns * WAIT_FRACTION_PERCENT:
        return 0
    # No more instances than would be kept busy for the time that it takes to start one.
    needed = -(-queued * run_ns // max(cold_ns, run_ns, 1))
    return max(0, min(needed, queued) - starting)


class Candidate(NamedTuple):
    """A feasible node for a start: its load is the share of its cpu promised to running calls, in thousandths."""

    node: str
    temperature: Temperature
    load_permille: int
    instances: int


def choose(pool_key: bytes, candidates: Iterable[Candidate]) -> Candidate | None:
    """The node to start an instance on: hottest, then least loaded, then fewest instances, then by hash.

    >>> cold, built = Candidate("a", Temperature.COLD, 0, 0), Candidate("b", Temperature.BUILT, 900, 7)
    >>> choose(b"pool", [cold, built]).node
    'b'
    """

    def rank(candidate: Candidate) -> tuple[int, int, int, int, str]:
        spread = zlib.crc32(candidate.node.encode(), zlib.crc32(pool_key))
        return (-candidate.temperature, candidate.load_permille, candidate.instances, spread, candidate.node)

    return min(candidates, key=rank, default=None)


class VictimCandidate(NamedTuple):
    """An idle instance that could make room."""

    instance_id: int
    surplus: int
    idle_until_ns: int
    memory_bytes: int
    gpu: int = 0


def choose_victims(
    candidates: Iterable[VictimCandidate], memory_needed_bytes: int, gpu_needed: int = 0
) -> list[int] | None:
    """The idle instances to end so that memory and GPUs become free, or None if all would not be enough.

    Instances of pools with more idle copies go first, then those whose leases end first. None is ended in vain.
    """
    victims: list[int] = []
    for candidate in sorted(candidates, key=lambda c: (-c.surplus, c.idle_until_ns, c.instance_id)):
        gives_memory = memory_needed_bytes > 0 and candidate.memory_bytes > 0
        gives_gpu = gpu_needed > 0 and candidate.gpu > 0
        if gives_memory or gives_gpu:
            victims.append(candidate.instance_id)
            memory_needed_bytes -= candidate.memory_bytes
            gpu_needed -= candidate.gpu
    return victims if memory_needed_bytes <= 0 and gpu_needed <= 0 else None


def fits(free: Mapping[str, int], need: Mapping[str, int]) -> bool:
    """Whether every needed amount is free."""
    return all(free.get(name, 0) >= amount for name, amount in need.items())
