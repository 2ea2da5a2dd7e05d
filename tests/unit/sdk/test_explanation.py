"""What a program is told about a call: reading the scheduler's document, and how it prints."""

import json
from typing import Any

import pytest

from keepwarm.errors import InternalError
from keepwarm.explanation import explanation_of, not_sent
from keepwarm.futures import Future

DOCUMENT: dict[str, Any] = {
    "call": "1f2e3d4c-17",
    "function": "shop:price",
    "state": "done",
    "status": "succeeded",
    "summary": "It succeeded after 64 ms. It was cold.",
    "cold": "the lease of the last warm process, on a, had run out 4 s before",
    "cold_code": "expired",
    "node": "a",
    "temperature": "built",
    "phases": {"waiting": 1.5, "start": 62.0, "run": 1500.0},
    "steps": [
        {"after_ms": -3.5, "code": "start", "text": "a process was started on a.", "node": "a", "candidates": 2},
        {"after_ms": 62.0, "code": "idle", "text": "sent to the idle process used last.", "uses_before": 0},
    ],
    "a field of a newer scheduler": 1,
}


def test_the_document_becomes_an_explanation() -> None:
    told = explanation_of(json.dumps(DOCUMENT).encode())
    assert (told.call, told.function, told.state, told.node, told.temperature) == (
        "1f2e3d4c-17",
        "shop:price",
        "done",
        "a",
        "built",
    )
    assert (told.cold_code, told.cold) == ("expired", DOCUMENT["cold"])
    assert told.phases_s == {"waiting": 0.0015, "start": 0.062, "run": 1.5}
    start, idle = told.steps
    assert (start.code, start.after_s, start.node, start.details) == ("start", -0.0035, "a", {"candidates": 2})
    assert (idle.node, idle.details) == ("", {"uses_before": 0})


def test_it_reads_well() -> None:
    assert str(explanation_of(json.dumps(DOCUMENT).encode())).splitlines() == [
        "shop:price (1f2e3d4c-17): It succeeded after 64 ms. It was cold.",
        "     -3.5 ms  a process was started on a.",
        "      +62 ms  sent to the idle process used last.",
        "  took waiting 1.5 ms, start 62 ms, run 1.5 s",
    ]


def test_a_refusal_is_an_explanation_of_the_unknown() -> None:
    refusal = {"call": "17", "error": "unknown", "summary": "No call 17 is known here.", "steps": []}
    told = explanation_of(json.dumps(refusal).encode())
    assert (told.state, told.steps) == ("unknown", ())
    assert str(told) == "No call 17 is known here."


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"null", b'{"call": 1, "summary": "", "steps": [1]}', b"\xff"])
def test_what_is_no_explanation_is_a_fault_of_ours(document: bytes) -> None:
    with pytest.raises(InternalError, match="cannot be read"):
        explanation_of(document)


def test_a_call_that_was_not_sent_says_so() -> None:
    told = not_sent("shop:price")
    assert told.state == "held"
    assert str(told).startswith("shop:price (): It has not been sent yet") or "has not been sent yet" in str(told)


def test_a_future_of_no_call_has_neither_id_nor_explanation() -> None:
    future: Future[int] = Future()
    assert future.call_id == ""
    with pytest.raises(NotImplementedError):
        future.explain()


@pytest.mark.parametrize(
    ("cold_code", "is_told"), [("died", True), ("evicted", True), ("expired", False), (None, False)]
)
def test_a_lease_that_was_not_kept_is_told_of_where_it_made_the_call_cold(cold_code: str | None, is_told: bool) -> None:
    document = json.dumps(DOCUMENT | {"cold_code": cold_code}).encode()
    told = explanation_of(document, "the warm process of shop:price ended early")
    assert bool(told.early_end) == is_told
    assert ("  the warm process of shop:price ended early" in str(told).splitlines()) == is_told
