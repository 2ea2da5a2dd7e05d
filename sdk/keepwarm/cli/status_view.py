"""A cluster's description as tables for a terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["lease_text", "render"]

_STATE_STYLES = {
    "alive": "green",
    "idle": "green",
    "busy": "yellow",
    "starting": "cyan",
    "suspect": "yellow",
    "lost": "red",
}
_ENVIRONMENT_ID_SHOWN = 12
_REQUIREMENTS_SHOWN = 4
_OWN_LABELS = ("node", "os", "arch")


def render(document: dict[str, Any], address: str) -> RenderableType:
    """Everything that ``keepwarm status`` shows."""
    kind = "local cluster" if document["local"] else "cluster"
    up = _duration(document["uptime_s"])
    title = Text.assemble((kind, "bold"), f" at {address}, up {up}, epoch {document['epoch']}")
    return Group(
        title,
        _nodes(document["nodes"]),
        *_away(document.get("nodes_away", {})),
        _environments(document["environments"]),
        _instances(document["instances"]),
        *_ended_early(document.get("leases_ended_early", {})),
        _calls(document["calls"], document["calls_unfinished"]),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    return table


def _state(state: str) -> Text:
    return Text(state, style=_STATE_STYLES.get(state, ""))


def _nodes(rows: list[dict[str, Any]]) -> RenderableType:
    has_gpus = any(row["capacity"].get("gpu") for row in rows)
    has_labels = any(_labels(row) for row in rows)
    columns = ["node", "state", "cpu free", "memory free", *["gpu free"] * has_gpus, "instances", "python"]
    table = _table("Nodes", *columns, *["labels"] * has_labels)
    for row in rows:
        free, capacity = row["free"], row["capacity"]
        table.add_row(
            Text(row["name"]),
            _standing(row),
            f"{free['cpu'] / 1000:g} of {capacity['cpu'] / 1000:g}",
            f"{_size(free['memory'])} of {_size(capacity['memory'])}",
            *[f"{free.get('gpu', 0) / 1000:g} of {capacity.get('gpu', 0) / 1000:g}"] * has_gpus,
            str(row["instances"]),
            Text(" ".join(row["pythons"])),
            *[Text(_labels(row))] * has_labels,
        )
    return table if rows else Text("No node has joined yet: start one with `keepwarm agent`.")


def _standing(row: dict[str, Any]) -> Text:
    """Whether a node is within reach, and what an operator has ordered."""
    cordon = row.get("cordon", "open")
    return _state(row["state"]) if cordon == "open" else Text.assemble(_state(row["state"]), ", ", (cordon, "yellow"))


def _labels(row: dict[str, Any]) -> str:
    """The labels that were given; those that every node has by itself are left out."""
    given = {name: value for name, value in row.get("labels", {}).items() if name not in _OWN_LABELS}
    return " ".join(f"{name}={value}" for name, value in given.items())


def _away(orders: dict[str, str]) -> list[RenderableType]:
    """Nodes that are not here and have been taken out of use, should they come back."""
    told = ", ".join(f"{name} ({word})" for name, word in sorted(orders.items()))
    return [Text(f"Out of use and not here: {told}", style="yellow")] if told else []


def _environments(rows: list[dict[str, Any]]) -> RenderableType:
    table = _table("Environments", "environment", "python", "requirements", "temperature by node")
    for row in rows:
        requirements = row["requirements"]
        shown = ", ".join(requirements[:_REQUIREMENTS_SHOWN])
        if len(requirements) > _REQUIREMENTS_SHOWN:
            shown += f" and {len(requirements) - _REQUIREMENTS_SHOWN} more"
        places = "  ".join(
            f"{node}: {place['temperature']}{_known_size(place['size_bytes'])}" for node, place in row["nodes"].items()
        )
        table.add_row(
            row["environment_id"][:_ENVIRONMENT_ID_SHOWN],
            Text(row["python"]),
            Text(shown or "-"),
            Text(places or "cold"),
        )
    return table if rows else Text("No environment yet.", style="dim")


def _instances(rows: list[dict[str, Any]]) -> RenderableType:
    table = _table("Instances", "instance", "node", "pid", "state", "environment", "lease", "calls", "serving")
    for row in rows:
        table.add_row(
            Text(row["instance"]),
            Text(row["node"]),
            str(row["pid"] or "-"),
            _state(row["state"]) if not row["phase"] else Text(f"{row['state']}: {row['phase']}", style="cyan"),
            row["environment_id"][:_ENVIRONMENT_ID_SHOWN],
            lease_text(row["lease_s"]),
            str(row["uses"]),
            Text(row["function"] or "-"),
        )
    return table if rows else Text("No instance is alive.", style="dim")


def _ended_early(counts: dict[str, int]) -> list[RenderableType]:
    """The leases that were not kept, since the scheduler started; nothing if there were none."""
    told = ", ".join(f"{count} {cause}" for cause, count in sorted(counts.items()))
    return [Text(f"Leases ended early: {told}", style="yellow")] if told else []


def _calls(rows: list[dict[str, Any]], unfinished: int) -> RenderableType:
    if not unfinished:
        return Text("No call is unfinished.", style="dim")
    table = _table(f"Calls ({unfinished} unfinished)", "call", "function", "state", "node", "age")
    for row in rows[:50]:
        state = f"{row['state']}: {row['reason']}" if row["reason"] else row["state"]
        texts = (row["call"], row["function"], state, row["node"] or "-", _duration(row["age_s"]))
        table.add_row(*map(Text, texts))
    return table


def lease_text(lease_s: float | str | None) -> str:
    """What is left of a lease: ``4.2 s``, ``forever``, or ``-`` for an instance that is not idle."""
    if lease_s is None:
        return "-"
    return lease_s if isinstance(lease_s, str) else _duration(lease_s)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"


def _known_size(size_bytes: int) -> str:
    return f" ({size_bytes / (1 << 20):.1f} MiB)" if size_bytes else ""
