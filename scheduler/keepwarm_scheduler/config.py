"""The scheduler's settings: where it serves, where it keeps things, how much. The core's own are in ``core.config``."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from keepwarm_scheduler.core.config import MILLISECOND_NS, SECOND_NS, CoreConfig

__all__ = [
    "default_keys",
    "CoreConfig",
    "MILLISECOND_NS",
    "SECOND_NS",
    "SchedulerConfig",
    "default_bind",
    "default_state",
    "parse_size",
]


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What the daemon needs besides: where it serves, where it keeps things, how much."""

    binds: tuple[str, ...]
    state: Path
    keys: Path | None = None
    """The key store; None serves this user on this machine, without keys."""
    payload_bytes_max: int = 256 * 1024 * 1024
    payloads_bytes_max: int = 8 * 1024 * 1024 * 1024
    core: CoreConfig = field(default_factory=CoreConfig)


def _home() -> Path:
    try:
        return Path(os.environ.get("KEEPWARM_HOME") or "~/.keepwarm").expanduser().absolute()
    except RuntimeError:
        raise ValueError("This user has no home directory: set KEEPWARM_HOME to a directory of its own.") from None


def default_bind() -> str:
    """The address of a scheduler started by hand: a socket in its own private directory."""
    return f"ipc://{_home() / 'cluster' / 'scheduler.sock'}"


def default_state() -> Path:
    """Where a scheduler started by hand keeps its state."""
    return _home() / "cluster" / "scheduler"


def default_keys() -> Path:
    """Where ``keepwarm init`` puts the keys of a scheduler started by hand."""
    return _home() / "cluster" / "keys"


_SIZES = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text: str) -> int:
    """A size in bytes from ``512MiB``, ``1GB`` or a plain number.

    >>> parse_size("2KiB")
    2048
    """
    digits = text.strip().rstrip("BbKkMmGgIi")
    unit = text.strip()[len(digits) :].upper()
    if unit not in _SIZES:
        raise ValueError(f"{text!r} is not a size: write a number with B, KiB, MiB, GiB, KB, MB or GB.")
    try:
        size = int(float(digits) * _SIZES[unit])
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a size: write for example 512MiB.") from None
    if size <= 0:
        raise ValueError(f"{text!r} is not a size: it has to be more than nothing.")
    return size
