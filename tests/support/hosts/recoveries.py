"""What the tests of single faults have measured: a row per fault, told at the end of the run and kept for a page.

``KEEPWARM_RECOVERIES=FILE`` keeps the rows of a run as JSON; ``python -m support.hosts.recoveries FILE`` prints the
page ``docs/reference/faults.md`` that is made of them.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["FILE_VARIABLE", "Measured", "Recovery", "keep", "page", "table"]

FILE_VARIABLE = "KEEPWARM_RECOVERIES"

_HEADING = """# Faults

What keepwarm does when something goes wrong, and how long that took when it was last measured. Each row is a test of
`tests/multihost`, which makes the fault on hosts of its own (network namespaces, TCP with keys between them) and checks
what the second column says. It checks besides that every call got exactly one outcome, that nothing was delivered
which no execution made, and that nothing ran again without need. Measured is the time to what the row names; allowed
is the bound that the test enforces.

Run the tests with `make multihost`, as root.

Measured in the {tier}.

"""


class Recovery(NamedTuple):
    """One fault: what happens then, and how long it took until it had."""

    kind: str
    fault: str
    behaviour: str
    measured_s: float
    allowed_s: float


Measured = Callable[[Recovery], None]
"""Notes a row; it is an error if it took longer than is allowed."""


def keep(file: Path, recoveries: Iterable[Recovery]) -> None:
    """Write the rows of a run."""
    file.write_text(json.dumps([recovery._asdict() for recovery in recoveries], indent=1))


def table(recoveries: Iterable[Recovery]) -> list[str]:
    """The rows as Markdown, grouped by kind."""
    lines: list[str] = []
    kind = ""
    for row in sorted(recoveries, key=lambda row: row.kind):
        if row.kind != kind:
            kind = row.kind
            lines += [*([""] if lines else []), f"## {kind}", "", "| Fault | What happens | Measured | Allowed |"]
            lines += ["|---|---|---|---|"]
        lines.append(f"| {row.fault} | {row.behaviour} | {_seconds(row.measured_s)} | {_seconds(row.allowed_s)} |")
    return lines


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def page(recoveries: Iterable[Recovery], tier: str) -> str:
    """The whole page."""
    return _HEADING.format(tier=tier) + "\n".join(table(recoveries)) + "\n"


def main() -> None:
    """Print the page for the rows of a file; a second word names the tier."""
    file, *words = sys.argv[1:]
    rows = [Recovery(**row) for row in json.loads(Path(file).read_text())]
    sys.stdout.write(page(rows, " ".join(words) or "short tier, 2 shared cores"))


if __name__ == "__main__":
    main()
