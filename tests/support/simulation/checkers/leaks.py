"""When all is answered and every finite lease is over, nothing is left, and all agree on what is not over."""

from collections.abc import Iterator

from support.simulation.history import History

__all__ = ["check"]


def check(history: History) -> Iterator[str]:
    """Judge what ``leftovers`` has counted."""
    for _, _, where, what, count in history.of("left"):
        if count:
            yield f"{where}: {count} {what} left over"
    there: dict[int, str] = {}
    for _, _, node, instance, is_endless, state in history.of("left instance"):
        there[instance] = node
        if not is_endless or state != "idle":
            yield f"{node}: instance {instance:#x} is {state} and should have ended"
    known = {entry[3]: entry for entry in history.of("known instance")}
    for instance, entry in known.items():
        if instance not in there:
            yield f"the scheduler knows instance {instance:#x} on {entry[2]}, which is gone"
        elif not entry[4]:
            yield f"the scheduler does not use instance {instance:#x} on {entry[2]}, which is idle"
    for instance, node in there.items():
        if instance not in known:
            yield f"the scheduler does not know instance {instance:#x} on {node}"
