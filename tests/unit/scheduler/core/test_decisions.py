"""What is remembered, and how much of it."""

import sys
from typing import Any

import pytest

from keepwarm_scheduler.core import decisions
from keepwarm_scheduler.core.decisions import (
    DECISIONS_KEPT,
    NUMBERS,
    Coldness,
    Decision,
    Ending,
    Finished,
    History,
    Reason,
    note,
)
from support.scheduler_driver import Driver, warm


class Noted:
    """Whatever decisions are noted on."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []


def test_the_last_decisions_are_kept() -> None:
    call = Noted()
    for at_ns in range(DECISIONS_KEPT + 3):
        note(call, Decision(Reason.LOST, at_ns))
    assert [one.at_ns for one in call.decisions] == list(range(3, DECISIONS_KEPT + 3))


def test_of_decisions_taken_again_and_again_the_last_one_is_kept() -> None:
    call = Noted()
    for at_ns, reason in enumerate((Reason.START, Reason.WAIT, Reason.WAIT, Reason.NO_ROOM, Reason.WAIT)):
        note(call, Decision(reason, at_ns))
    assert [(one.reason, one.at_ns) for one in call.decisions] == [
        (Reason.START, 0),
        (Reason.WAIT, 2),
        (Reason.NO_ROOM, 3),
        (Reason.WAIT, 4),
    ]


def _finished(number: int) -> Finished:
    return Finished(f"module:f{number}", 0, "", 0, 0, None, [])


def test_the_last_finished_calls_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "FINISHED_KEPT", 3)
    history = History()
    for number in range(5):
        history.finished((b"\xab\xcd", number), _finished(number))
    assert history.counts() == (3, 0)
    assert not history.find("abcd", 1)
    assert list(history.find("ab", 4)) == [(b"\xab\xcd", 4)]
    assert not history.find("cd", 4)


def test_the_last_endings_are_remembered_by_when_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "ENDINGS_KEPT", 2)
    history = History()
    for at_ns, pool in enumerate((b"a", b"b", b"a", b"c")):
        history.ended(pool, Ending(Coldness.EXPIRED, at_ns, "n"))
    assert history.ending(b"b") is None
    assert history.ending(b"a") == (Coldness.EXPIRED, 2, "n")


def _size(value: Any, seen: set[int]) -> int:
    """Bytes of a value and of what only it refers to: numbers and texts of its own, tuples, lists."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    parts = value if isinstance(value, tuple | list) else ()
    return sys.getsizeof(value) + sum(_size(part, seen) for part in parts)


def test_a_finished_warm_call_takes_about_a_kibibyte_and_keeps_no_payload() -> None:
    driver = Driver()
    client, agent = warm(driver)
    call = client.submit()
    record = driver.cluster.sessions[client.session_id].calls[call]
    agent.complete()
    client.acknowledge(call)
    (finished,) = driver.cluster.history.find(client.session_id.hex(), call).values()
    assert _size(finished, set()) < 2048
    assert record not in finished
    assert not any(isinstance(part, bytes) for part in finished)


def test_every_number_of_a_decision_has_a_name() -> None:
    driver = Driver()
    client, agent = warm(driver)
    for _ in range(7):
        client.submit()
    agent.complete()
    driver.advance(3)
    noted = [
        one for session in driver.cluster.sessions.values() for call in session.calls.values() for one in call.decisions
    ]
    assert {one.reason for one in noted} >= {Reason.START, Reason.NO_ROOM, Reason.IDLE}
    for one in noted:
        assert len(one.numbers) == len(NUMBERS.get(one.reason, ()))
