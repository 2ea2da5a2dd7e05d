"""What happened in a run: a list of plain tuples ``(instant in ns, kind, ...)``, the only thing that checkers read.

Kinds and their fields are the functions below; the digest of all of them is what two runs of one seed must share.
"""

import hashlib
from typing import Any

__all__ = ["Entry", "History"]

Entry = tuple[Any, ...]


class History:
    """Append only. ``add`` stamps the entry with the virtual time it is given."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, now_ns: int, kind: str, *fields: Any) -> None:
        """Note something: integers, text, bytes and booleans only, so that the digest means something."""
        self.entries.append((now_ns, kind, *fields))

    def of(self, *kinds: str) -> list[Entry]:
        """The entries of some kinds, in order."""
        return [entry for entry in self.entries if entry[1] in kinds]

    def digest(self) -> str:
        """A hash of everything that happened."""
        return hashlib.sha256("\n".join(map(repr, self.entries)).encode()).hexdigest()
