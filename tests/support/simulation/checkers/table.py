"""All checkers, by name."""

from collections.abc import Callable, Iterable

from support.simulation.checkers import (
    detached,
    executions,
    leaks,
    leases,
    loans,
    outcomes,
    recording,
    reruns,
    resources,
)
from support.simulation.history import History

__all__ = ["CHECKERS"]

CHECKERS: dict[str, Callable[[History], Iterable[str]]] = {
    "outcomes": outcomes.check,
    "executions": executions.check,
    "recording": recording.check,
    "leases": leases.check,
    "loans": loans.check,
    "resources": resources.check,
    "leaks": leaks.check,
    "reruns": reruns.check,
    "detached": detached.check,
}
