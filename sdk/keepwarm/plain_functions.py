"""What a decorated function becomes inside another function's process: a plain one, that runs where it is called.

Rules: what is made here travels, so it must not name any module of keepwarm: it gets globals, file name and module of
its own. It is called as the decorated function is: the setup's value is not passed, and what is async gives its result.
"""

import functools
import inspect
from collections.abc import Callable
from types import CellType, CodeType, FunctionType
from typing import Any, Final

from keepwarm.provenance import is_user_module

__all__ = ["plain_attributes", "plain_function"]

_NOT_THERE: Final = ("submit", "map", "spawn", "spawn_map", "detached", "on")


def plain_function(function: Callable[..., Any], setup: Callable[[], Any] | None) -> Callable[..., Any]:
    """The function without its decorator: itself, if that is enough."""
    plain = function if setup is None else _bound_to_setup(function, setup)
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    return _run_to_its_end(plain, function) if is_async else plain


def plain_attributes(plain: Callable[..., Any], name: str) -> dict[str, Any]:
    """What its attributes are to be there. Empty where it is not by value that it travels: it is left alone then.

    ``local`` is what it says; what there is no cluster for says so.
    """
    if not isinstance(plain, FunctionType) or not is_user_module(str(plain.__module__)):
        return {}
    attributes = {"local": plain} | dict.fromkeys(_NOT_THERE, _refusing(name))
    return {attribute: value for attribute, value in attributes.items() if attribute not in vars(plain)}


def _bound_to_setup(function: Callable[..., Any], setup: Callable[[], Any]) -> FunctionType:
    """Run the setup at the first call and pass its value on."""
    values: list[Any] = []

    def call_with_setup(*args: Any, **kwargs: Any) -> Any:
        if not values:
            values.append(setup())
        return function(values[0], *args, **kwargs)

    return _free(call_with_setup, function, "<function with setup>")


def _run_to_its_end(plain: Callable[..., Any], function: Callable[..., Any]) -> FunctionType:
    """Run what an async function gives to its end; in a thread of its own where a loop is running already."""

    def call_to_its_end(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(plain(*args, **kwargs))
        from concurrent.futures import ThreadPoolExecutor
        from contextvars import copy_context

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(copy_context().run, asyncio.run, plain(*args, **kwargs)).result()

    return _free(call_to_its_end, function, "<async function>")


def _refusing(name: str) -> FunctionType:
    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError(
            f"inside another function's process {name} is the plain function: call it directly, and it runs there. "
            "Only the program that uses the cluster can start calls of their own"
        )

    return _free(refuse, refuse, "<decorated function>")


def _free(made: Callable[..., Any], named_after: Callable[..., Any], file_name: str) -> FunctionType:
    """The same function without a trace of this module."""
    assert isinstance(made, FunctionType)
    closure: tuple[CellType, ...] | None = made.__closure__
    name = getattr(named_after, "__name__", made.__name__)
    return FunctionType(_freed(made.__code__, file_name), {"__name__": "__main__"}, name, None, closure)


@functools.cache
def _freed(code: CodeType, file_name: str) -> CodeType:
    """One object for each code, which then is in a pickle once, however many functions have it."""
    return code.replace(co_filename=file_name)
