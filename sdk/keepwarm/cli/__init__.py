"""The ``keepwarm`` command. Nothing here is imported by programs that only use the decorator."""

from keepwarm.cli.commands import main

__all__ = ["main"]
