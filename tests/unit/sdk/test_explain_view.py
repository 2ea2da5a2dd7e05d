"""The explanation of a call on a terminal."""

import io
from typing import Any

from rich.console import Console

from keepwarm.cli.explain_view import render

DOCUMENT: dict[str, Any] = {
    "call": "1f2e3d4c-17",
    "function": "shop:price",
    "state": "done",
    "status": "succeeded",
    "summary": "It succeeded after 64 ms. [It] was cold.",
    "node": "a",
    "temperature": "built",
    "phases": {"waiting": 1.5, "start": 1062.0},
    "steps": [
        {"after_ms": 0.0, "code": "no_room", "text": "no node had room for it."},
        {"after_ms": 1062.0, "code": "start", "text": "a process was started on [a]."},
    ],
}


def shown(document: dict[str, Any]) -> list[str]:
    """The lines as they are printed, without what colours them."""
    text = io.StringIO()
    Console(width=100, file=text).print(render(document), highlight=False)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_finished_call_shows_its_decisions_and_its_time() -> None:
    assert shown(DOCUMENT) == [
        "1f2e3d4c-17  shop:price  succeeded",
        "It succeeded after 64 ms. [It] was cold.",
        "Decisions",
        " after  decision  why",
        "  0 ms  no room   no node had room for it.",
        "1.06 s  start     a process was started on [a].",
        "Time  waiting 1.5 ms  start 1.06 s   built on a",
    ]


def test_a_waiting_call_shows_its_state_and_no_times() -> None:
    waiting = {"call": "ab-1", "function": "f:f", "state": "queued", "summary": "It waits.", "steps": []}
    assert shown(waiting) == ["ab-1  f:f  queued", "It waits."]


def test_a_refusal_is_its_sentence() -> None:
    assert shown({"call": "x", "error": "unknown", "summary": "No call x.", "steps": []}) == ["No call x."]
