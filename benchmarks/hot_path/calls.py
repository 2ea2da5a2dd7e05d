"""The functions that every system is given. Rule: they refer to the standard library only, inside themselves.

Keepwarm sends them by value, a pool by name; both ways they do the same.
"""

from typing import Any


def nothing(*_arguments: Any) -> None:
    """Do nothing."""


def same(value: Any) -> Any:
    """Give back what came in."""
    return value


def burn(cpu_s: float) -> None:
    """Use this much processor time, not wall time: a process that has to wait for a processor works longer."""
    import time

    end_s = time.thread_time() + cpu_s
    while time.thread_time() < end_s:
        pass


def name_of_requests() -> str:
    """Something that only an environment with this package can say."""
    from importlib import import_module

    return import_module("requests").__name__
