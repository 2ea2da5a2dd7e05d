"""Where a call runs and when another instance is started: the policy, and nothing but the policy.

Everything here is a pure function of what it is given, so that another policy can replace this module. The rules:

1. An idle instance serves at once, the one used last first (``pools`` keep them as a stack); one on a node without
   free cpu is parked there until cpu frees.
2. Otherwise wait or start (``starts_wanted``): calls of functions with fewer than five measured runs are started for at
   once; the others wait while the expected wait for a busy instance is at most 0.8 of the expected cost of a cold
   start. Never more starts under way than would be kept busy for the time that a start takes.
3. A start goes to the feasible node where the environment is hottest, then to the least loaded, then to the one with
   the fewest instances, then by a hash of pool and node: equal nodes do not all get the same pools (``choose``).
4. Who goes first when calls of several pools want the same thing: the higher priority, then the namespace and the owner
   that were served the longest ago, then the call that came first (``Claim``).
5. Under pressure idle instances make room: surplus copies first, then those that are worth the least to keep
   (``choose_victims``; what they are worth is the matter of ``worth``).
"""

import zlib
from collections.abc import Iterable, Mapping
from enum import IntEnum
from heapq import nsmallest
from typing import NamedTuple

__all__ = [
    "Candidate",
    "Claim",
    "Demand",
    "Temperature",
    "Verdict",
    "VictimCandidate",
    "best",
    "choose",
    "choose_victims",
    "fits",
    "starts_wanted",
]

WAIT_FRACTION_PERCENT = 80


class Temperature(IntEnum):
    """How much of an environment a node already has. Higher is hotter."""

    COLD = 0
    CACHED = 1
    BUILT = 2
    WARM = 3
    READY = 4


# ---------------------------------------------------------------- wait or start


class Demand(NamedTuple):
    """What waits in a pool and what works there.

    Attributes:
        queued: calls that no idle instance can take.
        unmeasured: those of them whose functions have too few measured runs to expect anything.
        work_ns: the expected run times of the others, in sum.
        busy: instances that serve a call.
        starting: instances under way.
        is_private: every call needs an instance of its own (``keep_alive=0``).
    """

    queued: int
    unmeasured: int
    work_ns: int
    busy: int
    starting: int
    is_private: bool = False


class Verdict(NamedTuple):
    """How many more instances to start now, and the wait that was expected (0 if that was not the question)."""

    starts: int
    wait_ns: int = 0


def starts_wanted(demand: Demand, cold_ns: int, residuals_ns: Iterable[int]) -> Verdict:
    """How many more instances a pool should start now.

    Args:
        demand: what waits and what works.
        cold_ns: the expected cost of a cold start.
        residuals_ns: how much longer each busy instance is expected to be; looked at only if it matters.
    """
    queued, unmeasured, work_ns, busy, starting, is_private = demand
    if queued <= starting:
        return Verdict(0)
    if is_private:
        return Verdict(queued - starting)
    measured = queued - unmeasured
    # No more instances than would be kept busy for the time that it takes to start one.
    needed = 0 if not measured else min(measured, max(1, -(-work_ns // max(cold_ns, work_ns // measured, 1))))
    wait_ns = 0
    if needed and busy + starting:
        if unmeasured + needed > starting:
            wait_ns = work_ns * (measured - 1) // measured // (busy + starting)
            if wait_ns * 100 <= cold_ns * WAIT_FRACTION_PERCENT:
                wait_ns += min(residuals_ns, default=0)
        if wait_ns * 100 <= cold_ns * WAIT_FRACTION_PERCENT:
            needed = 0
    return Verdict(max(0, unmeasured + needed - starting), wait_ns)


# ---------------------------------------------------------------- which node


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
    return next(iter(best(pool_key, candidates, 1)), None)


def best(pool_key: bytes, candidates: Iterable[Candidate], count: int) -> list[Candidate]:
    """The first ``count`` in the order of ``choose``: the choice, and those that it was preferred to."""
    seed = zlib.crc32(pool_key)

    def rank(candidate: Candidate) -> tuple[int, int, int, int, str]:
        node, temperature, load_permille, instances = candidate
        return (-temperature, load_permille, instances, zlib.crc32(node.encode(), seed), node)

    return nsmallest(count, candidates, key=rank)


# ---------------------------------------------------------------- whose turn


class Claim(NamedTuple):
    """A pool's head call, as it compares with another's: the smallest claim goes first.

    Attributes:
        urgency: minus the call's priority.
        namespace_turn: when a call of its namespace was last sent to an instance, as a number that only grows.
        owner_turn: the same of its session.
        submitted_ns: when it came.
        number: its number in its session, for calls that came together.
    """

    urgency: int
    namespace_turn: int
    owner_turn: int
    submitted_ns: int
    number: int


# ---------------------------------------------------------------- victims


class VictimCandidate(NamedTuple):
    """An idle instance that could make room. ``spare`` is how many idle copies its pool keeps without it.

    ``value`` is what keeping it is worth: see ``worth``.
    """

    instance_id: int
    spare: int
    value: int
    memory_bytes: int
    gpu: int = 0


def choose_victims(
    candidates: Iterable[VictimCandidate], memory_needed_bytes: int, gpu_needed: int = 0
) -> list[int] | None:
    """The idle instances to end so that memory and GPUs become free, or None if all would not be enough.

    Those of pools that keep the most idle copies go first, a last copy by its value. None is ended in vain.
    """
    memory_left, gpu_left = memory_needed_bytes, gpu_needed
    victims: list[VictimCandidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.spare, c.value, c.instance_id)):
        if (memory_left > 0 and candidate.memory_bytes > 0) or (gpu_left > 0 and candidate.gpu > 0):
            victims.append(candidate)
            memory_left -= candidate.memory_bytes
            gpu_left -= candidate.gpu
    if memory_left > 0 or gpu_left > 0:
        return None
    for victim in victims[::-1]:  # the one most worth keeping first: do the others suffice?
        if memory_left + victim.memory_bytes <= 0 and gpu_left + victim.gpu <= 0:
            victims.remove(victim)
            memory_left += victim.memory_bytes
            gpu_left += victim.gpu
    return [victim.instance_id for victim in victims]


def fits(free: Mapping[str, int], need: Mapping[str, int]) -> bool:
    """Whether every needed amount is free."""
    return all(free.get(name, 0) >= amount for name, amount in need.items())
