"""The ``keepwarm`` command. Nothing here is imported by programs that only use the decorator."""

import sys

from keepwarm.cli.becoming import DAEMONS, become

__all__ = ["main"]


def main() -> None:
    """Run the command line. A daemon starts without what only the other commands need: one that restarts is missed."""
    name, *arguments = sys.argv[1:] or [""]
    if name in DAEMONS:
        become(DAEMONS[name], arguments)
    from keepwarm.cli import commands

    commands.main()
