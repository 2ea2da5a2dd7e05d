"""`@isolated`: the decorator.

Rules: usable bare or with options; every mistake in them, and every kind of thing that cannot run remotely, is refused
here, with what to write instead. It imports nothing heavy and touches no network.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypedDict, TypeVar, overload

from keepwarm.errors import OptionError
from keepwarm.function import IsolatedFunction
from keepwarm.options import Options, Resources, Retry, Timeouts

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["GivenOptions", "isolated"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class _PlainOptions(TypedDict, total=False):
    """All options but the setup, which changes the function's type."""

    requirements: Sequence[str]
    python: str | None
    keep_alive: float
    timeout: float | Timeouts | None
    retries: int | Retry
    resources: Resources | Mapping[str, Any]
    env_vars: Mapping[str, str]
    priority: int
    at_most_once: bool


class GivenOptions(_PlainOptions, total=False):
    """Options as written, for `IsolatedFunction.on`."""

    setup: Callable[[], Any] | None


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> IsolatedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> IsolatedFunction[P, R]: ...


class _DecoratorWithSetup(Protocol[S_co]):
    @overload
    def __call__(
        self, function: Callable[Concatenate[S_co, P], Coroutine[Any, Any, R]], /
    ) -> IsolatedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[S_co, P], R], /) -> IsolatedFunction[P, R]: ...


@overload
def isolated(function: Callable[P, Coroutine[Any, Any, R]], /) -> IsolatedFunction[P, R]: ...
@overload
def isolated(function: Callable[P, R], /) -> IsolatedFunction[P, R]: ...
@overload
def isolated(*, setup: Callable[[], S], **options: Unpack[_PlainOptions]) -> _DecoratorWithSetup[S]: ...
@overload
def isolated(**options: Unpack[_PlainOptions]) -> _Decorator: ...
def isolated(function: Any = None, /, **options: Any) -> Any:
    """Make a function run in an isolated environment of its own, on the cluster, kept warm between calls.

    requirements: packages of the environment, as PEP 508 strings; default none. Order and spelling do not matter.
    python: "3.11" and the like; default, and so far only choice, is the minor version of this program.
    keep_alive: seconds the environment's process stays ready after a call; each call starts them again. Default 10.
        0 ends it with the call; math.inf keeps it until it is stopped by hand.
    timeout: seconds the function may run, None (default) for no limit, or Timeouts(queue, startup, run, overall).
    retries: how often to run again after an exception (default 0), or Retry(lost_node, exceptions, crash, ...).
    resources: Resources(cpu, memory, gpu, custom, labels), or a mapping of these; default one core.
    env_vars: environment variables of the process; default none.
    setup: called once per process, without arguments; the function then receives its value as first argument.
    priority: from -100 to 100, default 0. Of calls that wait for the same processes or the same room, higher ones go
        first; among equals clients take turns. A call that runs is never stopped for one that waits.
    at_most_once: True for what must not run twice: a call is never run again, and ends with CallLost when nobody can
        tell whether it ran. Default False. Not together with retries.

    >>> @isolated(keep_alive=10, requirements=["requests"])
    ... def get_text(url: str) -> str:
    ...     import requests
    ...     return requests.get(url).text
    >>> get_text("https://example.com")

    Raises OptionError for every mistake in this, when the function is decorated.
    """
    if function is None:
        return functools.partial(_isolate, Options.of(**options))
    if options:
        raise OptionError("options go in the decorator's own call: @isolated(...) above the function")
    return _isolate(Options(), function)


def _isolate(options: Options, function: Any, /) -> IsolatedFunction[Any, Any]:
    for applies, advice in _REFUSED:
        if applies(function):
            name = getattr(function, "__qualname__", repr(function))
            raise OptionError(f"{name} cannot be isolated: {advice}")
    return IsolatedFunction(function, options)


# First match wins: (what is it?, why not, and what to write instead).
_REFUSED: Final[tuple[tuple[Callable[[Any], bool], str], ...]] = (
    (lambda value: isinstance(value, IsolatedFunction), "it already is; change its options with .on(...)"),
    (lambda value: isinstance(value, type), "it is a class; decorate a function that makes and uses the object"),
    (
        lambda value: isinstance(value, staticmethod | classmethod),
        "put @isolated below @staticmethod, next to the function",
    ),
    (
        lambda value: not callable(value),
        "it is not a function; options are given by name, as in @isolated(keep_alive=60)",
    ),
    (inspect.isgeneratorfunction, "it is a generator; return a list, or call a function per item with .map(...)"),
    (inspect.isasyncgenfunction, "it is an async generator; return a list instead"),
)
