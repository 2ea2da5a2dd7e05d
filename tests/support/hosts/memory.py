"""Limits on the memory of programs: a memory cgroup, version 1 or 2, where there is one, else the process's own limit.

A cgroup's limit ends with the kernel's SIGKILL, which is counted. The process's own limit (``RLIMIT_DATA``) makes
allocations fail instead; it is for machines without the memory controller, and nothing is counted there.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

from support.waiting import until

__all__ = ["MemoryGroup", "group_folder", "groups_that_exist", "remove_folder"]

_VERSION_1 = Path("/sys/fs/cgroup/memory")
_VERSION_2 = Path("/sys/fs/cgroup")
_REMOVAL_S = 10


class _Layout(NamedTuple):
    """How a version of cgroups calls its files."""

    root: Path
    limit: str
    counter: str


_LAYOUTS = (
    _Layout(_VERSION_1, "memory.limit_in_bytes", "memory.oom_control"),
    _Layout(_VERSION_2, "memory.max", "memory.events"),
)


def _layout() -> _Layout | None:
    """The version that has the memory controller here, and lets us make groups."""
    version_1, version_2 = _LAYOUTS
    if (version_1.root / version_1.limit).exists():
        return version_1
    granted = version_2.root / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        if "memory" not in granted.read_text().split():
            granted.write_text("+memory")
        return version_2
    return None


def group_folder(name: str) -> Path | None:
    """Where the group of that name lies; None without a memory controller."""
    layout = _layout()
    return layout.root / name if layout else None


def groups_that_exist() -> list[str]:
    """The names of all groups of the first level."""
    layout = _layout()
    return [path.name for path in layout.root.iterdir() if path.is_dir()] if layout else []


class MemoryGroup:
    """The limit of one program, or of all programs of a host.

    ``limit_bytes`` may be lowered later; below what is in use the kernel reclaims, kills or refuses, by its version.
    """

    def __init__(self, name: str, limit_bytes: int) -> None:
        self._layout = _layout()
        self._folder = group_folder(name)
        self._limit_bytes = limit_bytes
        if self._layout is not None and self._folder is not None:
            self._folder.mkdir(exist_ok=True)
            (self._folder / self._layout.limit).write_text(str(limit_bytes))
            with contextlib.suppress(OSError):  # without swap there is no such limit, and no need for it
                swap = "memory.memsw.limit_in_bytes" if self._layout.root == _VERSION_1 else "memory.swap.max"
                (self._folder / swap).write_text(str(limit_bytes) if self._layout.root == _VERSION_1 else "0")

    @property
    def kills(self) -> bool:
        """Whether a program over the limit is killed, and counted; otherwise its allocations fail."""
        return self._folder is not None

    @property
    def kills_so_far(self) -> int:
        """How many processes the kernel has killed for this limit."""
        if self._layout is None or self._folder is None:
            return 0
        counters = dict(line.split() for line in (self._folder / self._layout.counter).read_text().splitlines())
        return int(counters["oom_kill"])

    def command(self) -> list[str]:
        """What goes before a program's command so that the limit holds for it and its descendants."""
        if self._folder is None:
            return ["prlimit", f"--data={self._limit_bytes}", "--"]
        return ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(self._folder / "cgroup.procs")]


def remove_folder(folder: Path) -> None:
    """Remove a group and those below it, whose processes have been killed; the kernel may still be collecting them."""
    for inner in folder.glob("*/"):
        remove_folder(inner)

    def is_removed() -> bool:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    until(is_removed, _REMOVAL_S)
