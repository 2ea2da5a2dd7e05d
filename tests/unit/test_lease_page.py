"""The page of the lease contract names the properties that prove it: all of them, and none that does not exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "leases.md"
PROPERTIES = sorted((ROOT / "tests" / "property").glob("test_lease_*.py"))


def _written() -> list[str]:
    return [
        f"{path.name}::{name}"
        for path in PROPERTIES
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def _named() -> list[str]:
    return re.findall(r"\[`(test_\w+\.py)`\]\([^)]+\)`(::test_\w+)`", PAGE.read_text(encoding="utf-8"))


def test_every_property_is_on_the_page_and_exists() -> None:
    """A clause without a property, or a property that proves no clause, would be seen here."""
    named = ["".join(each) for each in _named()]
    assert len(set(named)) == len(named)
    assert sorted(named) == sorted(_written())


def test_every_clause_of_the_page_has_its_row() -> None:
    """The numbered clauses, each with at least one property."""
    text = PAGE.read_text(encoding="utf-8")
    clauses = re.findall(r"^(\d+)\. ", text, re.MULTILINE)
    rows = re.findall(r"^\| (\d+) \| \[", text, re.MULTILINE)
    assert clauses == rows == [str(number) for number in range(1, len(clauses) + 1)]


def test_every_clause_of_the_design_has_a_property() -> None:
    """Seventeen of them; invariants 17 to 20 go beyond."""
    numbers = {int(number) for name in _written() for number in re.findall(r"::test_clause_(\d+)_", name)}
    assert numbers == set(range(1, 18))
