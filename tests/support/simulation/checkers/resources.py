"""What runs on a node never needs more than the node has."""

from collections.abc import Iterator

from keepwarm_wire.identifiers import epoch_of
from support.simulation.history import History
from support.simulation.workload import loan_of

__all__ = ["check"]


def check(history: History) -> Iterator[str]:
    """Follow memory and GPUs of live processes, and cpu of running calls.

    A scheduler that has just started does not know what cpu and GPUs an instance of an earlier epoch holds until a
    client declares its function again: those of the same epoch alone must fit. A call whose process is being killed
    no longer counts for cpu.
    """
    capacity = {entry[2]: dict(entry[3:]) for entry in history.of("node")}
    used: dict[tuple[str, str, int], int] = {}
    lent: dict[int, int] = {}
    amounts: dict[tuple[str, int], int] = {}
    cpus = {entry[3]: entry[4] for entry in history.of("submit", "detach")}
    for entry in history.of("spawn", "gone", "run", "ran", "stop"):
        at_ns, kind, node, instance = entry[:4]
        if kind == "stop":
            stopped: int = entry[5]
            token = lent.get(stopped, stopped)
            place = (node, "cpu", epoch_of(loan_of(token)))
            used[place] = used.get(place, 0) - amounts.get(("cpu", token), 0)
            amounts["cpu", token] = 0
            continue
        if kind == "spawn":
            amounts["memory", instance], amounts["gpu", instance] = entry[4:6]
        elif kind == "run":
            amounts["cpu", entry[4]] = cpus[entry[5]]
            lent[loan_of(entry[4])] = entry[4]
        names = ("memory", "gpu") if kind in ("spawn", "gone") else ("cpu",)
        for name in names:
            token = instance if name != "cpu" else entry[4]
            place = (node, name, 0 if name == "memory" else epoch_of(loan_of(token)))
            sign = 1 if kind in ("spawn", "run") else -1
            used[place] = used.get(place, 0) + sign * amounts[name, token]
            if used[place] > capacity[node][name]:
                yield f"{node} has {capacity[node][name]} {name} and uses {used[place]} at {at_ns / 1e9:g} s"
