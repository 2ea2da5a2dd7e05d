"""How much room the texts of peers take up, where there may be many of them: such are repeated to others."""

from collections.abc import Iterable

__all__ = ["TEXT_BYTES_MAX", "text_bytes"]

TEXT_BYTES_MAX = 1024 * 1024
"""Of the variables and labels of a function, or of a node: far below what a message can hold."""

_ENTRY_BYTES = 32


def text_bytes(entries: Iterable[tuple[object, ...]]) -> int:
    """About how much these records of names and values take up, in bytes.

    >>> text_bytes([("PATH", "/bin")])
    40
    """
    return sum(_ENTRY_BYTES + sum(len(part.encode()) for part in entry if isinstance(part, str)) for entry in entries)
