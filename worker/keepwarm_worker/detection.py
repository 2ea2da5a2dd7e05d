"""What this machine has: cores, memory, platform; and what it measures of itself for a heartbeat.

Rules: a control group's limit counts like a missing part of the machine; what cannot be read is left out, never guessed
to be larger; nothing here takes more than a few milliseconds.
"""

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from keepwarm_wire.messages import NodeLoad, Pair, Quantity

__all__ = [
    "LoadMeter",
    "cgroup_cpu_permille",
    "cgroup_memory_bytes",
    "cpu_permille",
    "labels",
    "memory_bytes",
    "platform_name",
    "process_memory_bytes",
    "resources",
]

CGROUP_ROOT = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60
"""Control groups of version 1 say *no limit* by a number near 2 to the 63."""


def platform_name() -> str:
    """Name of what locks are made for: system, architecture and C library, ``linux-x86_64-glibc``."""
    library = platform.libc_ver()[0] or "musl"
    return f"{platform.system().lower()}-{platform.machine()}-{library}"


def cpu_permille(cgroup_root: Path = CGROUP_ROOT) -> int:
    """Thousandths of cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) * 1000
    limit = cgroup_cpu_permille(cgroup_root)
    return usable if limit is None else max(1, min(usable, limit))


def memory_bytes(cgroup_root: Path = CGROUP_ROOT) -> int:
    """Bytes of memory that this process and its children may use."""
    total = int(psutil.virtual_memory().total)
    limit = cgroup_memory_bytes(cgroup_root)
    return total if limit is None else min(total, limit)


def cgroup_cpu_permille(root: Path) -> int | None:
    """The cpu limit of our control group in thousandths of a core; None without one."""
    words = _read_words(root / "cpu.max") or [
        *_read_words(root / "cpu/cpu.cfs_quota_us"),
        *_read_words(root / "cpu/cpu.cfs_period_us"),
    ]
    if len(words) != 2:
        return None
    quota_us, period_us = words
    if not quota_us.isdecimal() or not period_us.isdecimal() or int(period_us) == 0:
        return None
    return int(quota_us) * 1000 // int(period_us)


def cgroup_memory_bytes(root: Path) -> int | None:
    """The memory limit of our control group in bytes; None without one."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        for word in _read_words(root / name):
            if word.isdecimal() and int(word) < _UNLIMITED_BYTES:
                return int(word)
    return None


def resources(cpu: int | None, memory: int | None, gpus: int = 0) -> tuple[Quantity, ...]:
    """What the node offers: what was configured, else what is here. GPUs are found elsewhere: see ``gpus``."""
    offered_cpu = cpu_permille() if cpu is None else cpu
    offered_memory = memory_bytes() if memory is None else memory
    return (Quantity("cpu", offered_cpu), Quantity("memory", offered_memory), Quantity("gpu", gpus * 1000))


def labels(node: str, configured: Iterable[tuple[str, str]], gpu_model: str = "") -> tuple[Pair, ...]:
    """The node's labels: some of its own, and those that were configured, which win."""
    own = {"node": node, "os": platform.system().lower(), "arch": platform.machine()}
    own |= {"gpu-model": gpu_model} if gpu_model else {}
    return tuple(Pair(key, value) for key, value in (own | dict(configured)).items())


def process_memory_bytes(process_id: int) -> int:
    """Resident bytes of a process; 0 once it is gone."""
    with suppress(psutil.Error, OSError):
        return int(psutil.Process(process_id).memory_info().rss)
    return 0


class LoadMeter:
    """Measures the node. The cpu share is that of the time since the last measurement.

    What cannot be measured, as without a free descriptor, is told as it was measured last.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._measured = NodeLoad(0, 0, 0)
        with suppress(OSError):
            psutil.cpu_percent(interval=None)

    def measure(self) -> NodeLoad:
        with suppress(OSError):
            disk = os.statvfs(self._home)
            self._measured = NodeLoad(
                cpu_permille=int(psutil.cpu_percent(interval=None) * 10),
                memory_free_bytes=int(psutil.virtual_memory().available),
                disk_free_bytes=disk.f_bavail * disk.f_frsize,
            )
        return self._measured


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []
