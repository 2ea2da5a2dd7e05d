"""The explanation of a call for a terminal."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["render"]

_TEMPERATURE_STYLES = {"ready": "green", "warm": "green", "built": "yellow", "cold": "cyan"}
_STATE_STYLES = {"succeeded": "green", "queued": "yellow", "running": "cyan", "dispatched": "cyan"}


def render(document: dict[str, Any]) -> RenderableType:
    """Everything that ``keepwarm explain`` shows."""
    if "error" in document:
        return Text(document["summary"])
    state = document.get("status") or document["state"]
    title = Text.assemble(
        (document["call"], "bold"), f"  {document['function']}  ", (state, _STATE_STYLES.get(state, "red"))
    )
    parts: list[RenderableType] = [title, Text(document["summary"])]
    if document["steps"]:
        parts.append(_steps(document["steps"]))
    if document.get("phases"):
        parts.append(_phases(document))
    return Group(*parts)


def _steps(steps: list[dict[str, Any]]) -> RenderableType:
    table = Table(title="Decisions", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("after", justify="right", header_style="dim", no_wrap=True)
    table.add_column("decision", header_style="dim", no_wrap=True)
    table.add_column("why", header_style="dim", overflow="fold")
    for step in steps:
        table.add_row(_length(step["after_ms"]), Text(step["code"].replace("_", " ")), Text(step["text"]))
    return table


def _phases(document: dict[str, Any]) -> RenderableType:
    temperature = document["temperature"]
    spent = "  ".join(f"{name} {_length(ms)}" for name, ms in document["phases"].items())
    return Text.assemble(
        ("Time  ", "bold"),
        spent,
        "   ",
        (temperature, _TEMPERATURE_STYLES.get(temperature, "")),
        f" on {document['node']}",
    )


def _length(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if abs(milliseconds) < 1000 else f"{milliseconds / 1000:.3g} s"
