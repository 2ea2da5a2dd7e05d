"""How many functions a client has in a session, however many the program makes."""

import gc
import weakref
from typing import Any

import pytest

from keepwarm import declaring, isolated
from keepwarm.declaring import Declarations
from keepwarm.errors import TooManyCalls
from keepwarm.function import IsolatedFunction
from keepwarm.session import Session
from keepwarm.session_calls import Call, Function


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session, and limits that are soon reached."""
    monkeypatch.setattr(declaring, "FUNCTIONS_KEPT", 20)
    monkeypatch.setattr(declaring, "FUNCTIONS_MAX", 40)
    monkeypatch.setattr(declaring, "FORGET_BATCH", 10)
    return Session(b"s" * 16, "test")


def made(number: int) -> IsolatedFunction[[], int]:
    """A closure of its own."""

    @isolated
    def closure() -> int:
        return number

    return closure


def known(declarations: Declarations, function: IsolatedFunction[Any, Any], session: Session) -> Function:
    return declarations.known(declarations.of(function), session, 0)


def test_closures_and_options_without_end_are_forgotten_in_batches(session: Session) -> None:
    declarations = Declarations()
    for number in range(500):
        known(declarations, made(number), session)
        assert len(session.functions) <= 20
        assert len(declarations._functions) == len(session.functions)
    one = made(0)
    for number in range(500):
        known(declarations, one.on(timeout=1 + number), session)
    assert len(session.functions) <= 20
    assert len(declarations._functions) == len(session.functions)


def test_what_is_forgotten_is_declared_anew_when_it_is_used_again(session: Session) -> None:
    declarations = Declarations()
    function = made(-1)
    before = known(declarations, function, session)
    assert known(declarations, function, session) is before
    for number in range(20):
        known(declarations, made(number), session)
    after = known(declarations, function, session)
    assert (before.is_forgotten, after.is_forgotten) == (True, False)
    assert after.number > before.number
    assert (before.body, after.body) == (b"", function.prepared.payload)
    assert known(declarations, function, session) is after


def test_what_is_used_is_not_forgotten(session: Session) -> None:
    declarations = Declarations()
    function = made(-1)
    used = known(declarations, function, session)
    session.submit(Call(used, b"", None))
    for number in range(100):
        known(declarations, made(number), session)
    assert known(declarations, function, session) is used


def test_more_functions_with_unanswered_calls_than_a_scheduler_takes_are_refused_in_words(session: Session) -> None:
    declarations = Declarations()
    calls = []
    for number in range(40):
        calls.append(Call(known(declarations, made(number), session), b"", None))
        session.submit(calls[-1])
    with pytest.raises(TooManyCalls, match="unanswered calls of 40 functions"):
        known(declarations, made(40), session)
    session.cancel(0, calls[0])
    assert known(declarations, made(40), session).number == 41
    assert len(session.functions) == 40


def test_another_session_knows_nothing_of_it(session: Session) -> None:
    declarations = Declarations()
    function = made(1)
    first = known(declarations, function, session)
    other = Session(b"t" * 16, "test")
    second = declarations.known(declarations.of(function), other, 1)
    assert second is not first
    assert list(other.functions) == [second]


def test_nothing_keeps_what_is_forgotten(session: Session) -> None:
    declarations = Declarations()
    function = made(1)
    reference = weakref.ref(function)
    known(declarations, function, session)
    del function
    for number in range(100):
        known(declarations, made(number), session)
    gc.collect()
    assert reference() is None
    bodies = sum(len(each.body) for each in session.functions)
    assert bodies <= 20 * len(made(1).prepared.payload) * 2
