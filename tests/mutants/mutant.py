"""What a mutant is: edits of source texts, and the tests that have to notice them."""

from typing import NamedTuple

__all__ = ["Edit", "Mutant", "one"]


class Edit(NamedTuple):
    """In a module, this text becomes that."""

    module: str
    old: str
    new: str


class Mutant(NamedTuple):
    """One way to break a guarantee. ``tests`` are pytest ids below ``tests``; one that fails is enough."""

    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


def one(module: str, old: str, new: str, *tests: str) -> Mutant:
    """A mutant of one edit."""
    return Mutant((Edit(module, old, new),), tests)
