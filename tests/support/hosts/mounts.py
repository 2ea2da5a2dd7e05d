"""Small disks and clocks of hosts, which are both mounts: made on request, found again below a folder, unmounted.

A clock is a time namespace: CLOCK_MONOTONIC and CLOCK_BOOTTIME are set off, the wall clock is the machine's.
"""

import subprocess
from pathlib import Path

__all__ = ["mount_small_disk", "mounted_below", "new_clock", "unmount_all"]

_LIMIT_S = 20


def mount_small_disk(folder: Path, size_bytes: int) -> None:
    """Make a folder a disk of its own, that is full when so many bytes are on it; it is empty at first."""
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "keepwarm-test", str(folder))


def new_clock(file: Path, offset_s: float) -> None:
    """Make a time namespace with this offset, and pin it to a file.

    A monotonic clock cannot be negative: an offset below the machine's uptime is an error of the kernel.
    """
    file.touch()
    offsets = [f"--monotonic={round(offset_s)}", f"--boottime={round(offset_s)}"]
    _run("unshare", "--fork", f"--time={file}", *offsets, "true")


def mounted_below(folder: Path) -> list[Path]:
    """What is mounted on a path below this one, the last first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4]) for line in lines]
    return [point for point in reversed(points) if point.is_relative_to(folder)]


def unmount_all(folder: Path) -> None:
    """Unmount everything below a folder. Files that a dying process still holds are let go with it."""
    for point in mounted_below(folder):
        _run("umount", "--lazy", str(point))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
