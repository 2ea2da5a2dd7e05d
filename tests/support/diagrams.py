"""The state diagrams of the documentation, drawn from the cores' own tables of transitions.

``docs/explanation/state-machines.md`` holds them between markers; the words around them are written by people.
``PYTHONPATH=tests python -m support.diagrams --write`` brings the page up to date, a test says when it is not.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from keepwarm_scheduler.core import transitions as scheduler
from keepwarm_worker.core import transitions as agent

__all__ = ["DIAGRAMS", "PAGE", "Diagram", "drawn", "with_diagrams"]

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "state-machines.md"

Table = Mapping[tuple[Any, Any], str]


class Diagram(NamedTuple):
    """A table, and the state in which a record begins."""

    table: Table
    initial: Enum


DIAGRAMS = {
    "scheduler-call": Diagram(scheduler.CALL, scheduler.CallState.QUEUED),
    "scheduler-instance": Diagram(scheduler.INSTANCE, scheduler.InstanceState.STARTING),
    "scheduler-node": Diagram(scheduler.NODE, scheduler.NodeState.ALIVE),
    "agent-instance": Diagram(agent.INSTANCE, agent.InstanceState.BUILDING),
    "agent-attempt": Diagram(agent.ATTEMPT, agent.AttemptState.FETCHING),
}
"""By the name that stands in the page's markers."""

_BLOCK = re.compile(r"(<!-- diagram: ([a-z-]+) -->\n).*?(<!-- end of diagram -->)", re.DOTALL)
_MISREAD = str.maketrans({":": " -", ";": ","})
"""Mermaid ends a label at these."""


def drawn(diagram: Diagram) -> str:
    """One diagram as a fenced block of Mermaid: its states, its beginnings and ends, each row of the table an arrow."""
    table = diagram.table
    left = {start.name for start, _ in table}
    ends = dict.fromkeys(end.name for _, end in table if end.name not in left)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {diagram.initial.name}"]
    lines += [f"    {start.name} --> {end.name}: {why.translate(_MISREAD)}" for (start, end), why in table.items()]
    lines += [f"    {end} --> [*]" for end in ends]
    return "\n".join([*lines, "```"])


def with_diagrams(page: str) -> str:
    """A page with every diagram between its markers drawn anew. Raises ``KeyError`` for a marker of no diagram."""
    return _BLOCK.sub(lambda found: f"{found[1]}{drawn(DIAGRAMS[found[2]])}\n{found[3]}", page)


def marked(page: str) -> list[str]:
    """The names in a page's markers, in order."""
    return [found[2] for found in _BLOCK.finditer(page)]


def main(arguments: Iterable[str] | None = None) -> int:
    """Say whether the page is up to date; with ``--write`` see to it that it is."""
    parser = argparse.ArgumentParser(prog="python -m support.diagrams", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the page")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    before = PAGE.read_text(encoding="utf-8")
    after = with_diagrams(before)
    if chosen.write:
        PAGE.write_text(after, encoding="utf-8")
    elif before != after:
        print(f"{PAGE.name} is not what the tables say: PYTHONPATH=tests python -m support.diagrams --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
