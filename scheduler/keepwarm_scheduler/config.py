"""The scheduler's settings, each with its unit and its default. Read once at start; the core gets a frozen copy."""

import os
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "CoreConfig",
    "MILLISECOND_NS",
    "SECOND_NS",
    "SchedulerConfig",
    "default_bind",
    "default_state",
    "parse_size",
]

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """What the core's decisions depend on besides its events."""

    local: bool = False
    """A local cluster: it stops itself when nothing is left to do."""
    tick_ns: int = 100 * MILLISECOND_NS
    """Resolution of leases: an instance ends at most one tick after its deadline."""
    beat_interval_ns: int = 2 * SECOND_NS
    suspect_beats: int = 3
    node_lost_ns: int = 30 * SECOND_NS
    """A node unheard for so long is lost: its calls are placed again."""
    reconnect_grace_ns: int = 1 * SECOND_NS
    """A node whose connection broke has this long to come back before it is lost."""
    node_forgotten_ns: int = 900 * SECOND_NS
    session_lost_ns: int = 30 * SECOND_NS
    recovery_grace_ns: int = 10 * SECOND_NS
    """After a restart, calls sent again wait so long for nodes that may be running them."""
    infeasible_ns: int = 5 * SECOND_NS
    """A call that no node could ever run fails after this."""
    no_nodes_ns: int = 60 * SECOND_NS
    """A call in a cluster without any node fails after this."""
    patience_ns: int = 1 * SECOND_NS
    """A call that waited so long may end an idle instance of another pool."""
    cancel_grace_us: int = 2_000_000
    local_linger_ns: int = 1 * SECOND_NS
    local_first_client_ns: int = 30 * SECOND_NS
    credit_calls: int = 10_000
    credit_bytes: int = 64 * 1024 * 1024
    functions_per_session_max: int = 10_000
    sessions_max: int = 10_000
    undeclared_memory_bytes: int = 256 * 1024 * 1024
    start_attempts_max: int = 3
    crashes_max: int = 3
    expiries_per_turn_max: int = 1_000

    @classmethod
    def for_local(cls) -> "CoreConfig":
        """The settings of a local cluster. An agent whose connection broke has died: what it had keeps nobody here."""
        return cls(local=True, node_forgotten_ns=5 * SECOND_NS)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What the daemon needs besides: where it serves, where it keeps things, how much."""

    bind: str
    state: Path
    payload_bytes_max: int = 256 * 1024 * 1024
    payloads_bytes_max: int = 8 * 1024 * 1024 * 1024
    core: CoreConfig = field(default_factory=CoreConfig)


def _home() -> Path:
    return Path(os.environ.get("KEEPWARM_HOME") or Path.home() / ".keepwarm").expanduser().absolute()


def default_bind() -> str:
    """The address of a scheduler started by hand: a socket in its own private directory."""
    return f"ipc://{_home() / 'cluster' / 'scheduler.sock'}"


def default_state() -> Path:
    """Where a scheduler started by hand keeps its state."""
    return _home() / "cluster" / "scheduler"


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
    except ValueError:
        raise ValueError(f"{text!r} is not a size: write for example 512MiB.") from None
    if size <= 0:
        raise ValueError(f"{text!r} is not a size: it has to be more than nothing.")
    return size
