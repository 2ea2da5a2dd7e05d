"""No attempt runs twice, no runner runs two at once, and every run was ordered."""

from collections.abc import Iterator

from support.simulation.history import History
from support.simulation.workload import loan_of

__all__ = ["check"]


def check(history: History) -> Iterator[str]:
    """What runners ran, against what the scheduler ordered."""
    ordered = {entry[4] for entry in history.of("dispatch")}
    seen: dict[int, None] = {}
    for _, _, node, instance, attempt, uid, _, _, before in history.of("run"):
        if attempt in seen:
            yield f"attempt {attempt:#x} of call {uid} ran twice"
        if loan_of(attempt) not in ordered:
            yield f"attempt {attempt:#x} of call {uid} ran on {node} without an order"
        if before:
            yield f"instance {instance:#x} was given {attempt:#x} while it ran {before:#x}"
        seen[attempt] = None
