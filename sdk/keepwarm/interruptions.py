"""Exceptions of the program's own signal handlers: they fall wherever the main thread is just then, also in here.

Rules: such an exception is the program's, and is never kept from it. Where it falls into a wait, it has interrupted
nothing. Nothing of this is on the way of an ordinary turn: what happened is read from the traceback afterwards.
"""

import enum
import functools
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any, Final, TypeVar

__all__ = ["BestEffort", "Fall", "fall_of", "handler_codes", "interruption", "is_the_programs", "waits"]

F = TypeVar("F", bound=Callable[..., Any])

_WAITS: Final[set[CodeType]] = set()


class Fall(enum.Enum):
    """Into what an exception of a signal handler fell."""

    NOT_OF_A_HANDLER = enum.auto()
    INTO_A_WAIT = enum.auto()
    INTO_WORK = enum.auto()
    """Something may be half done."""


def waits(function: F) -> F:
    """Mark a function that does nothing but wait."""
    _WAITS.add(function.__code__)
    return function


def interruption(error: BaseException) -> Fall:
    """Into what the exception fell, if a signal handler of this program has raised it."""
    if threading.current_thread() is not threading.main_thread():
        return Fall.NOT_OF_A_HANDLER
    return fall_of(error.__traceback__, handler_codes(), _WAITS)


def is_the_programs(error: BaseException) -> bool:
    """Whether a signal handler of this program has raised it: then it is to be raised on, whatever was under way."""
    return interruption(error) is not Fall.NOT_OF_A_HANDLER


def fall_of(trace: TracebackType | None, handlers: Collection[CodeType], wait_codes: Collection[CodeType]) -> Fall:
    """The same, from the traceback. ``handlers`` is the code of those that are registered.

    One that is registered no more, because it saw to that before it raised, is known by its argument: nobody else is
    handed the frame that it interrupts. The variables of the first frame are not looked at, which would tie it to the
    exception that it has caught.
    """
    was_waiting = False
    outer: list[FrameType] = []
    for frame in _frames(trace):
        if frame.f_code in handlers or (outer and _is_handed(frame, outer)):
            return Fall.INTO_A_WAIT if was_waiting else Fall.INTO_WORK
        was_waiting = was_waiting or frame.f_code in wait_codes
        outer.append(frame)
    return Fall.NOT_OF_A_HANDLER


def handler_codes() -> set[CodeType]:
    """The code of the signal handlers that are registered now and written in Python."""
    registered = (signal.getsignal(number) for number in signal.valid_signals())
    codes = (_code_of(handler) for handler in registered if callable(handler))
    return {code for code in codes if code is not None}


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    code = getattr(handler, "__code__", None)
    if code is None:
        code = getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _is_handed(frame: FrameType, others: list[FrameType]) -> bool:
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + 1  # with *arguments, if there are any
    given = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    given += [part for value in given if isinstance(value, tuple) for part in value]
    return any(value is other for value in given for other in others)


class BestEffort:
    """A ``with`` block in which whatever goes wrong goes no further, but for what is the program's own exception."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, Exception) and not is_the_programs(error)
