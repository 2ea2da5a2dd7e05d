"""What ``keepwarm status`` shows of a cluster's description."""

import io
from typing import Any

from rich.console import Console

from keepwarm.cli.status_view import render

DOCUMENT: dict[str, Any] = {
    "local": True,
    "uptime_s": 4.0,
    "epoch": 1,
    "nodes": [],
    "environments": [],
    "instances": [],
    "calls": [],
    "calls_unfinished": 0,
}


def shown(document: dict[str, Any]) -> list[str]:
    """The lines as they are printed."""
    text = io.StringIO()
    Console(width=100, file=text).print(render(document, "ipc://here"))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_leases_that_ended_early_are_counted_by_cause() -> None:
    counts = {"killed (timeout)": 1, "evicted (memory)": 3}
    lines = shown(DOCUMENT | {"leases_ended_early": counts})
    assert "Leases ended early: 3 evicted (memory), 1 killed (timeout)" in lines


def test_nothing_is_said_where_all_leases_were_kept() -> None:
    """Also of a scheduler that does not count them."""
    for document in (DOCUMENT, DOCUMENT | {"leases_ended_early": {}}):
        assert not any("early" in line for line in shown(document))
