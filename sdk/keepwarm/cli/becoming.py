"""Commands that are programs of their own: the process of ``keepwarm`` becomes them."""

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

__all__ = ["DAEMONS", "become"]

DAEMONS: Final = {"scheduler": "keepwarm_scheduler", "agent": "keepwarm_worker"}
"""The module of each daemon, by the command that starts it."""


def become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Run a module in this process's place, so that signals and memory are its own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606  # our own interpreter
