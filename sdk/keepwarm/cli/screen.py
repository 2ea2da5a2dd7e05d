"""Where tables go: as wide as a terminal; anywhere else, as wide as they are, so that each row is a line."""

import os

from rich.console import Console

__all__ = ["screen"]

WIDE = 10_000


def screen() -> Console:
    """Standard output. Where that is a pipe or a file no row is broken, unless ``COLUMNS`` says how wide it is."""
    console = Console()
    return console if console.is_terminal or os.environ.get("COLUMNS") else Console(width=WIDE)
