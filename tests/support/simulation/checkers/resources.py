"""What runs on a node never needs more than the node has."""

from collections import Counter
from collections.abc import Iterator

from support.simulation.history import History

__all__ = ["check"]


def check(history: History) -> Iterator[str]:
    """Follow memory and GPUs of live processes, and cpu of running calls."""
    capacity = {entry[2]: dict(entry[3:]) for entry in history.of("node")}
    used: dict[str, Counter[str]] = {node: Counter() for node in capacity}
    processes: dict[int, tuple[int, int]] = {}
    running: dict[int, int] = {}
    cpus = {entry[3]: entry[4] for entry in history.of("submit")}
    for entry in history.of("spawn", "gone", "run", "ran"):
        node, instance = entry[2], entry[3]
        on_node = used[node]
        if entry[1] == "spawn":
            processes[instance] = entry[4:6]
            on_node.update(memory=entry[4], gpu=entry[5])
        elif entry[1] == "gone":
            memory, gpu = processes.pop(instance)
            on_node.subtract(memory=memory, gpu=gpu)
        elif entry[1] == "run":
            running[entry[4]] = cpus[entry[5]]
            on_node.update(cpu=running[entry[4]])
        else:
            on_node.subtract(cpu=running.pop(entry[4]))
        for name, amount in on_node.items():
            if amount > capacity[node][name]:
                yield f"{node} has {capacity[node][name]} {name} and uses {amount} at {entry[0] / 1e9:g} s"
