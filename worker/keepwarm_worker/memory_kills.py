"""How many processes the kernel has killed for memory, and which of ours were among them.

The kernel counts such kills in the control group of the victim, whatever ran out: the group's limit, that of a group
above it, or the whole machine. So the nearest group of the agent that counts is asked, which its instances share: wider
counts would only add strangers. Without one (the root group of version 2, no memory controller) it is the machine's.

Rules: one small file is read, at a measurement and when a process died of a SIGKILL that we did not send; what cannot
be read counts nothing. Who died of what is decided in ``core.memory_kills``.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from keepwarm_worker.core.memory_kills import KillLedger

__all__ = ["KillCounter", "MemoryKills", "find_counter"]

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
_FIELD = "oom_kill"


class KillCounter(NamedTuple):
    """A file with a line ``oom_kill N``. ``scope`` says in words whose kills it counts."""

    path: Path
    scope: str

    def read(self) -> int | None:
        """The count; None where the kernel does not say."""
        with suppress(OSError):
            for line in self.path.read_text(encoding="ascii", errors="replace").splitlines():
                name, _, count = line.partition(" ")
                if name == _FIELD and count.isdecimal():
                    return int(count)
        return None


def find_counter(proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT) -> KillCounter:
    """The narrowest count that has all processes of this one's control group in it."""
    machine = KillCounter(proc / "vmstat", "on this machine")
    hierarchy, path, name = _group(proc / "self/cgroup", cgroup_root)
    folder = _folder(hierarchy, path)
    while folder is not None:
        inner = folder.relative_to(hierarchy)
        counter = KillCounter(folder / name, f"in the agent's control group /{'' if inner == Path() else inner}")
        if counter.read() is not None:
            return counter
        folder = None if folder == hierarchy else folder.parent
    return machine


def _group(file: Path, cgroup_root: Path) -> tuple[Path, PurePosixPath, str]:
    """Where the memory controller's groups are, which of them is ours, and what its file of counts is called."""
    unified = PurePosixPath("/")
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if "memory" in controllers.split(","):
                return cgroup_root / "memory", PurePosixPath(path), "memory.oom_control"
            if number == "0":
                unified = PurePosixPath(path)
    return cgroup_root, unified, "memory.events"


def _folder(hierarchy: Path, path: PurePosixPath) -> Path | None:
    """The group's folder. In a container only the end of its path may be there; outside of what is there, nothing is.

    A path that leads upwards is that of a group which this process cannot see.
    """
    parts = path.parts[1:]
    if ".." in parts:
        return None
    for begin in range(len(parts) + 1):
        folder = hierarchy.joinpath(*parts[begin:])
        if folder.is_dir():
            return folder
    return None


@dataclass(slots=True, frozen=True)
class _Seen:
    """What is known of a live process."""

    began_ns: int
    memory_bytes: int = 0


class MemoryKills:
    """Tells which processes of a node the kernel killed for memory. Instances are named by their ids."""

    def __init__(self, counter: KillCounter | None = None) -> None:
        self._counter = counter or find_counter()
        self._counted = 0
        self._ledger = KillLedger(self._count())
        self._seen: dict[int, _Seen] = {}

    def began(self, instance_id: int) -> None:
        """An instance's process was started."""
        self._seen[instance_id] = _Seen(time.monotonic_ns())

    def measured(self, used: Iterable[tuple[int, int]]) -> None:
        """What the live processes use, in bytes, and the count of now."""
        for instance_id, memory_bytes in used:
            seen = self._seen.get(instance_id)
            if seen is not None and memory_bytes:
                self._seen[instance_id] = replace(seen, memory_bytes=memory_bytes)
        self._ledger.saw(time.monotonic_ns(), self._count())

    def evidence(self, instance_id: int, others: Iterable[int]) -> str:
        """What proves that a process was killed for memory, in words; empty without proof.

        It died of a SIGKILL that we have not sent; ``others`` have too, and are yet to be asked about.
        """
        seen = self._seen[instance_id]
        is_killed = self._ledger.explains(
            time.monotonic_ns(),
            self._count(),
            began_ns=seen.began_ns,
            memory_bytes=seen.memory_bytes,
            others=(self._seen[other].memory_bytes for other in others),
        )
        return f"its count of such kills {self._counter.scope} has just risen" if is_killed else ""

    def ended(self, instance_id: int) -> None:
        """The process is gone, and has been asked about."""
        self._seen.pop(instance_id, None)

    def _count(self) -> int:
        """The count of now, or of before where it cannot be read: no rise."""
        count = self._counter.read()
        self._counted = self._counted if count is None else count
        return self._counted
