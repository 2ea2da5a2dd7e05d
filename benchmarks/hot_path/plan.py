"""Which workloads there are, who runs them, and which of two is compared with which."""

from collections.abc import Sequence

from benchmarks.hot_path import sharing, workloads
from benchmarks.hot_path.choosing import OURS, POOL, SUBMITTED, TCP, ZEROMQ
from benchmarks.hot_path.workloads import Workload

__all__ = ["MEASURED_BY", "ONE_CLIENT", "QUICK", "WORKLOADS", "systems_of"]

COLD_START = "cold_start"

MEASURED_BY: dict[str, Workload] = {
    "round_trip": workloads.round_trip,
    "in_flight": workloads.in_flight,
    "kilobyte": workloads.kilobyte,
    "millisecond": workloads.millisecond,
    "many_clients": sharing.many_clients,
    "idle": workloads.idle,
    "growth": workloads.growth,
    "queued": workloads.queued,
    "environments": sharing.environments,
    "in_turn": sharing.in_turn,
    "requirements": workloads.requirements,
    "fairness": sharing.fairness,
    "curve": workloads.three,
    "cheapest": workloads.cheapest,
}
WORKLOADS = (*(name for name in MEASURED_BY if name != "cheapest"), COLD_START)
"""All of them; that of cold starts is timed from outside."""

QUICK = tuple(name for name in WORKLOADS if name not in ("requirements", "curve"))
"""Those of a quick look, if nothing else is said: the two others need a package index, or start many processes."""

ONE_CLIENT = {"round_trip", "in_flight", "kilobyte", "millisecond", "idle", "growth", "queued", COLD_START}
"""What peers run too: one client, one environment."""


def systems_of(workload: str, others: Sequence[str]) -> list[str]:
    """Who runs it, in turn: the two that always do, and which of the others can."""
    if workload == "curve":
        return [TCP, ZEROMQ, SUBMITTED]  # nothing is lent over TCP
    return [OURS, POOL, *(name for name in others if name == SUBMITTED or workload in ONE_CLIENT)]
