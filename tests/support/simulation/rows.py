"""Counts how often each row of the cores' transition tables is used, without a change to the cores.

``change`` is the only way a state changes, and the modules that use it hold it by name: in each of them it is
replaced by one that counts first. ``install`` may be called again; ``take`` hands over the counts and begins anew.
"""

import sys
from collections.abc import Callable
from enum import Enum
from types import ModuleType
from typing import Any

from keepwarm_scheduler.core import machine as _scheduler_machine
from keepwarm_scheduler.core import transitions as scheduler
from keepwarm_worker.core import machine as _worker_machine
from keepwarm_worker.core import transitions as worker

__all__ = ["TABLES", "Row", "install", "take"]

Row = tuple[str, str, str]
"""Table, state before, state after."""

TABLES: dict[str, dict[tuple[Any, Any], str]] = {
    "call": scheduler.CALL,
    "instance (scheduler)": scheduler.INSTANCE,
    "instance (agent)": worker.INSTANCE,
    "attempt (agent)": worker.ATTEMPT,
}
"""Every transition table there is."""

_LOADED = (_scheduler_machine, _worker_machine)
"""Imported for what they import: all modules of the cores are loaded by then."""

_counts: dict[tuple[Enum, Enum], int] = {(was, to): 0 for table in TABLES.values() for was, to in table}
_names: dict[tuple[Enum, Enum], Row] = {
    (was, to): (name, was.value, to.value) for name, table in TABLES.items() for was, to in table
}


def install() -> None:
    """Count from now on, in this process."""
    for transitions in (scheduler, worker):
        original = transitions.change
        if not hasattr(original, "counts"):
            _replace(transitions, original)


def take() -> dict[Row, int]:
    """The rows used since the last time, with their counts."""
    taken = {_names[key]: count for key, count in _counts.items() if count}
    for key in _counts:
        _counts[key] = 0
    return taken


def _replace(transitions: ModuleType, original: Callable[..., None]) -> None:
    package = transitions.__name__.rpartition(".")[0]

    def change(record: Any, table: dict[tuple[Any, Any], str], to: Any) -> None:
        key = (record.state, to)
        if key in _counts:
            _counts[key] += 1
        original(record, table, to)

    change.counts = True  # type: ignore[attr-defined]
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{package}.") and getattr(module, "change", None) is original:
            module.change = change  # type: ignore[attr-defined]
