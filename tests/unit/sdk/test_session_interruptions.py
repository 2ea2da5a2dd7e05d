"""An exception that a signal handler raises falls on any line of the session: no call is forgotten for that.

What a client does then is to fail every call that ``unanswered`` names, and to begin a new session.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import keepwarm
from keepwarm.session_calls import Call
from keepwarm.session_deliveries import Completion, Returned
from support.driven_session import Driven, DrivenLoans, success, welcome

SOURCES = str(Path(keepwarm.__file__).parent)


class DeadlineError(Exception):
    """What the program's handler raises."""


class Interruption:
    """Raises ``DeadlineError`` at one of the lines of keepwarm that are run inside the block; counts them."""

    def __init__(self, at_line: int) -> None:
        self.left = at_line
        self.is_raised = False

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> bool:
        sys.settrace(self._before)
        return self.is_raised

    def _trace(self, frame: FrameType, event: str, _: Any) -> "Callable[..., Any] | None":
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.is_raised = True
                raise DeadlineError
        return self._trace


def ended_and_left(driven: Driven) -> set[int]:
    ends = [each.call for each in driven.session.deliveries if isinstance(each, Returned | Completion)]
    return {id(call) for call in (*ends, *driven.session.unanswered())}


def interrupted_at_every_line(made: Callable[[], tuple[Driven, list[Call], Callable[[], object]]]) -> int:
    """Do it again and again, each time interrupted one line later. Returns how many lines there are."""
    at_line = 0
    while True:
        at_line += 1
        driven, calls, action = made()
        interruption = Interruption(at_line)
        with interruption:
            action()
        assert ended_and_left(driven) >= set(map(id, calls)), at_line
        if not interruption.is_raised:
            return at_line


def loans(count: int = 3) -> tuple[DrivenLoans, Any, list[Call]]:
    driven = DrivenLoans().learned()
    process, calls = driven.given(count)
    return driven, process, [*calls, *(driven.call(bytes([50 + place])) for place in range(2))]


def connection_ends() -> tuple[Driven, list[Call], Callable[[], object]]:
    driven, process, calls = loans()

    def action() -> None:
        process.close(begun=1)
        process.end()
        driven.session.tick(driven.now_ns)

    return driven, calls, action


def calls_are_given_and_answered() -> tuple[Driven, list[Call], Callable[[], object]]:
    driven, process, calls = loans()

    def action() -> None:
        driven.out()
        process.answer(2)
        process.answer(printed=True)

    return driven, calls, action


def calls_are_given_back() -> tuple[Driven, list[Call], Callable[[], object]]:
    driven, process, calls = loans()

    def action() -> None:
        driven.session.cancel(driven.now_ns, calls[2])
        process.loan.is_wanted = True
        process.give_back(2, 3)
        driven.session.loans.borrower.turn_off(process.loan.borrowing)

    return driven, calls, action


def the_scheduler_is_another() -> tuple[Driven, list[Call], Callable[[], object]]:
    driven, _, calls = loans()
    return driven, calls, lambda: driven.get(welcome(epoch=2, lends=True))


def calls_that_were_held_may_be_lent() -> tuple[Driven, list[Call], Callable[[], object]]:
    driven = DrivenLoans().learned()
    driven.session.connection_lost()
    driven.session.loans.borrower.is_offered = False
    calls = [driven.call() for _ in range(25)]
    return driven, calls, lambda: driven.get(welcome(known=True, lends=True))


def submitted_calls_meet_another_scheduler() -> tuple[Driven, list[Call], Callable[[], object]]:
    driven = Driven().open(welcome(calls=3))
    calls = [driven.call() for _ in range(5)]
    driven.out()
    return driven, calls, lambda: driven.get(welcome(epoch=2), success(1), success(2))


@pytest.mark.parametrize(
    "made",
    [
        connection_ends,
        calls_are_given_and_answered,
        calls_are_given_back,
        the_scheduler_is_another,
        calls_that_were_held_may_be_lent,
        submitted_calls_meet_another_scheduler,
    ],
)
def test_no_call_is_forgotten(made: Callable[[], tuple[Driven, list[Call], Callable[[], object]]]) -> None:
    assert interrupted_at_every_line(made) > 50


def test_what_a_program_submits_after_an_interrupted_submit_is_sent() -> None:
    """That falls into no turn, so that the session goes on."""
    at_line, is_raised = 0, True
    while is_raised:
        at_line += 1
        driven = DrivenLoans().learned()
        first = [driven.call(bytes([place])) for place in range(16)]
        driven.session.loans.borrower.turn_off(driven.function.borrowing)  # type: ignore[arg-type]
        interruption = Interruption(at_line)
        with interruption:
            driven.call(b"interrupted")
        is_raised = interruption.is_raised
        if is_raised:
            assert {id(call) for call in driven.session.unanswered()} <= set(map(id, first)), "nobody waits for it"
        later = [driven.call(bytes([100 + place])) for place in range(3)]
        driven.settle()
        ended = [call for call, _ in driven.ends()]
        assert {id(call) for call in (*first, *later)} <= set(map(id, ended)), at_line
