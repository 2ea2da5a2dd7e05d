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


NODE: dict[str, Any] = {
    "name": "a",
    "state": "alive",
    "cordon": "open",
    "labels": {"node": "a", "os": "linux", "arch": "x86_64"},
    "capacity": {"cpu": 4000, "memory": 8 << 30, "gpu": 0},
    "free": {"cpu": 3000, "memory": 4 << 30, "gpu": 0},
    "instances": 2,
    "pythons": ["3.11"],
}


def test_a_node_is_shown_with_the_labels_that_it_was_given() -> None:
    labelled = NODE | {"name": "b", "labels": NODE["labels"] | {"zone": "west"}}
    plain, rich = shown(DOCUMENT | {"nodes": [NODE]}), shown(DOCUMENT | {"nodes": [NODE, labelled]})
    assert not any("labels" in line or "os=linux" in line for line in plain)
    assert any(line.startswith("b ") and line.endswith("zone=west") for line in rich)


def test_gpus_are_shown_where_there_are_any() -> None:
    assert not any("gpu" in line for line in shown(DOCUMENT | {"nodes": [NODE]}))
    gpus = {"capacity": NODE["capacity"] | {"gpu": 4000}, "free": NODE["free"] | {"gpu": 2500}}
    assert any("2.5 of 4 " in line for line in shown(DOCUMENT | {"nodes": [NODE | gpus]}))


def test_an_order_stands_beside_the_state() -> None:
    assert any("suspect, draining" in line for line in shown(DOCUMENT | {"nodes": [NODE | DRAINING]}))


def test_nodes_that_are_out_of_use_and_away_are_named() -> None:
    away = {"nodes_away": {"z": "cordoned", "b": "drained"}}
    assert "Out of use and not here: b (drained), z (cordoned)" in shown(DOCUMENT | away)


DRAINING = {"state": "suspect", "cordon": "draining"}
