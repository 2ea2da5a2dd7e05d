"""Whose exception is it: read from tracebacks of exceptions that signal handlers raised, and of others."""

import functools
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from keepwarm import pickling
from keepwarm.errors import FailureContext
from keepwarm.failures import rebuild_failure
from keepwarm.futures import Future
from keepwarm.interruptions import BestEffort, Fall, fall_of, handler_codes, interruption, waits

NUMBER = signal.SIGUSR1


class DeadlineError(Exception):
    """What the handlers raise."""


def strike(*_: object) -> None:
    """A handler."""
    raise DeadlineError


class Handler:
    """Handlers of other kinds."""

    def method(self, number: int, frame: FrameType | None) -> None:
        """A bound method."""
        raise DeadlineError

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """An object."""
        raise DeadlineError


def strike_with(_text: str, number: int, frame: FrameType | None) -> None:
    """A partial's function."""
    raise DeadlineError


def strike_and_resign(number: int, frame: FrameType | None) -> None:
    """Is not registered any more when its exception is looked at."""
    signal.signal(NUMBER, signal.SIG_DFL)
    raise DeadlineError


def resign_and_strike(*arguments: object) -> None:
    """The same, without names for what it is given."""
    signal.signal(NUMBER, signal.SIG_DFL)
    raise DeadlineError


HANDLERS: list[Callable[..., Any]] = [
    strike, Handler().method, Handler(), functools.partial(strike_with, "text"), strike_and_resign, resign_and_strike,
    lambda number, frame: strike(),
]  # fmt: skip


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = signal.getsignal(NUMBER)
    yield
    signal.signal(NUMBER, before)


@waits
def wait() -> None:
    os.kill(os.getpid(), NUMBER)


def work() -> None:
    os.kill(os.getpid(), NUMBER)


def caught(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("handler", HANDLERS)
def test_what_a_handler_raises_is_the_programs_and_where_it_fell_is_seen(handler: Callable[..., Any]) -> None:
    for function, fall in ((wait, Fall.INTO_A_WAIT), (work, Fall.INTO_WORK)):
        signal.signal(NUMBER, handler)
        error = caught(function)
        assert isinstance(error, DeadlineError)
        assert interruption(error) is fall


def test_what_a_handler_makes_others_raise_is_the_programs_too() -> None:
    signal.signal(NUMBER, lambda number, frame: int("no number"))
    assert interruption(caught(wait)) is Fall.INTO_A_WAIT


def test_a_defect_is_no_interruption() -> None:
    signal.signal(NUMBER, strike)

    @waits
    def fail() -> None:
        raise DeadlineError

    assert interruption(caught(fail)) is Fall.NOT_OF_A_HANDLER
    assert interruption(caught(lambda: 1 // 0)) is Fall.NOT_OF_A_HANDLER


def test_a_defect_in_a_call_that_a_handler_makes_is_none_where_the_call_is_made() -> None:
    """Seen from the outer turn it comes from the handler, from the inner one it does not."""
    inner: list[Fall] = []

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            raise ValueError  # what a turn in here runs into
        except ValueError as error:
            trace = error.__traceback__
            assert trace is not None
            inner.append(fall_of(trace.tb_next, handler_codes(), ()))
            raise

    signal.signal(NUMBER, handler)
    assert interruption(caught(wait)) is Fall.INTO_A_WAIT
    assert inner == [Fall.NOT_OF_A_HANDLER]


def test_other_threads_have_no_handlers() -> None:
    signal.signal(NUMBER, strike)
    found: list[Fall] = []
    thread = threading.Thread(target=lambda: found.append(interruption(caught(strike))))
    thread.start()
    thread.join()
    assert found == [Fall.NOT_OF_A_HANDLER]


def test_handlers_that_are_not_python_have_no_code() -> None:
    signal.signal(NUMBER, signal.default_int_handler)
    assert all(code is not None for code in handler_codes())
    signal.signal(NUMBER, strike)
    assert strike.__code__ in handler_codes()


def test_best_effort_swallows_what_goes_wrong_but_not_what_is_the_programs() -> None:
    with BestEffort():
        raise RuntimeError("of a stream that the program has put in the place of standard output")
    signal.signal(NUMBER, strike)
    with pytest.raises(DeadlineError), BestEffort():
        work()
    with pytest.raises(KeyboardInterrupt), BestEffort():
        raise KeyboardInterrupt


class Odd:
    """Takes a signal while it is pickled, and while it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        work()
        return work, ()


def test_what_falls_into_pickling_is_not_taken_for_something_that_cannot_travel() -> None:
    signal.signal(NUMBER, strike)
    with pytest.raises(DeadlineError):
        pickling.dumps_arguments((Odd(),), {})
    holder = Odd()
    with pytest.raises(DeadlineError):
        pickling.dumps_function(lambda: holder, None)


def test_what_falls_into_loading_is_not_taken_for_a_result_that_cannot_be_loaded() -> None:
    """The next look at the future loads it again."""
    results: list[object] = []
    future: Future[object] = Future()

    def load(data: object) -> object:
        if not results:
            results.append(data)
            work()
        return data

    signal.signal(NUMBER, strike)
    future._finish_with(load, "encoded")
    with pytest.raises(DeadlineError):
        future.result()
    assert future.result() == "encoded"
    signal.signal(NUMBER, signal.SIG_IGN)
    data = pickle.dumps(Odd())
    signal.signal(NUMBER, strike)
    with pytest.raises(DeadlineError):
        pickling.loads_result(data)
    with pytest.raises(DeadlineError):
        rebuild_failure("user_exception", "", "", data, FailureContext())
