"""A fault that has struck, and how it is undone."""

from collections.abc import Callable
from types import TracebackType

__all__ = ["Fault"]


class Fault:
    """In force from the moment it exists until ``undo``; as a context manager, until the end of the block.

    >>> with partition(a, b):
    ...     ...  # nothing passes between them
    """

    def __init__(self, name: str, undo: Callable[[], None]) -> None:
        self.name = name
        self._undo = undo
        self.is_undone = False

    def undo(self) -> None:
        """Let all be as before; a second time it does nothing."""
        if not self.is_undone:
            self.is_undone = True
            self._undo()

    def __enter__(self) -> "Fault":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<{self.name}{', undone' if self.is_undone else ''}>"
