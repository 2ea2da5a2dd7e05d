"""Other choices of victims, for comparison: who is ended when a call needs memory that idle processes hold.

A policy replaces the core's ``choose_victims`` for as long as ``choosing`` is entered, in this process and nowhere
else: a running scheduler has one policy, its own. Policies are told of every start, use and end of a process.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["GreedyDual", "LeastRecentlyUsed", "VictimPolicy", "choosing"]

_CORE = "keepwarm_scheduler.core."
_DEFINED_IN = f"{_CORE}placement"
_CHOICE = "choose_victims"


class _Candidate(Protocol):
    @property
    def instance_id(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...


class VictimPolicy(Protocol):
    """Ranks idle processes: the one with the lowest score goes first."""

    def started(self, instance_id: int, function: int, memory_bytes: int) -> None:
        """A process is being started for a function."""

    def used(self, instance_id: int, now_ns: int) -> None:
        """A call is sent to a process."""

    def ended(self, instance_id: int, *, evicted: bool) -> None:
        """A process is gone."""

    def score(self, instance_id: int) -> float:
        """What keeping this idle process is worth."""


class LeastRecentlyUsed:
    """The process that was used longest ago goes first."""

    def __init__(self) -> None:
        self._used_ns: dict[int, int] = {}

    def started(self, instance_id: int, function: int, memory_bytes: int) -> None:  # noqa: ARG002
        """As ``VictimPolicy``; all functions are alike."""
        self._used_ns[instance_id] = 0

    def used(self, instance_id: int, now_ns: int) -> None:
        """As ``VictimPolicy``."""
        self._used_ns[instance_id] = now_ns

    def ended(self, instance_id: int, *, evicted: bool) -> None:  # noqa: ARG002
        """As ``VictimPolicy``."""
        del self._used_ns[instance_id]

    def score(self, instance_id: int) -> float:
        """The time of the last use."""
        return self._used_ns[instance_id]


@dataclass(slots=True)
class _Held:
    function: int
    memory_bytes: int
    score: float = 0.0


@dataclass(slots=True)
class GreedyDual:
    """Clock + frequency x cost / size, as in FaasCache (Fuerst and Sharma, ASPLOS 2021).

    Frequency counts the uses of all of a function's processes and begins anew when its last one is evicted; the cost
    of a start is the same for all here; the clock moves on to the score of each process that is evicted.
    """

    clock: float = 0.0
    _held: dict[int, _Held] = field(default_factory=dict)
    _uses: dict[int, int] = field(default_factory=dict)
    _copies: dict[int, int] = field(default_factory=dict)

    def started(self, instance_id: int, function: int, memory_bytes: int) -> None:
        """As ``VictimPolicy``."""
        self._held[instance_id] = _Held(function, memory_bytes, self.clock)
        self._copies[function] = self._copies.get(function, 0) + 1

    def used(self, instance_id: int, now_ns: int) -> None:  # noqa: ARG002
        """As ``VictimPolicy``."""
        held = self._held[instance_id]
        uses = self._uses[held.function] = self._uses.get(held.function, 0) + 1
        held.score = self.clock + uses / max(1, held.memory_bytes)

    def ended(self, instance_id: int, *, evicted: bool) -> None:
        """As ``VictimPolicy``."""
        held = self._held.pop(instance_id)
        self._copies[held.function] -= 1
        if evicted:
            self.clock = max(self.clock, held.score)
            if not self._copies[held.function]:
                self._uses.pop(held.function, None)

    def score(self, instance_id: int) -> float:
        """What it was at the last use."""
        return self._held[instance_id].score


@contextmanager
def choosing(policy: VictimPolicy) -> Iterator[None]:
    """Have the core choose its victims by a policy, wherever it imported its own choice."""

    def choose(candidates: Iterable[_Candidate], memory_needed_bytes: int, gpu_needed: int = 0) -> list[int] | None:
        victims: list[int] = []
        for candidate in sorted(candidates, key=lambda each: (policy.score(each.instance_id), each.instance_id)):
            if memory_needed_bytes <= 0:
                break
            victims.append(candidate.instance_id)
            memory_needed_bytes -= candidate.memory_bytes
        return victims if memory_needed_bytes <= 0 and gpu_needed <= 0 else None

    users = [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith(_CORE) and name != _DEFINED_IN and hasattr(module, _CHOICE)
    ]
    if not users:
        raise AssertionError("no module of the core chooses victims any more: the comparison would compare nothing")
    own = [getattr(module, _CHOICE) for module in users]
    for module in users:
        setattr(module, _CHOICE, choose)
    try:
        yield
    finally:
        for module, choice in zip(users, own, strict=True):
            setattr(module, _CHOICE, choice)
