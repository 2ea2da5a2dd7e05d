"""Systems by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.hot_path.over_tcp import KeepwarmOverTcp
from benchmarks.hot_path.peers import Dask, Loky, Ray
from benchmarks.hot_path.systems import Keepwarm, KeepwarmSubmitted, Pool, System

__all__ = ["OURS", "POOL", "SUBMITTED", "TCP", "make"]

OURS, SUBMITTED, POOL, TCP = "keepwarm", "keepwarm without lending", "pool", "keepwarm over TCP"

SYSTEMS: dict[str, Callable[[], System]] = {
    OURS: Keepwarm,
    SUBMITTED: KeepwarmSubmitted,
    POOL: Pool,
    TCP: KeepwarmOverTcp,
    "ray": Ray,
    "dask": Dask,
    "loky": Loky,
}


@contextmanager
def make(name: str) -> Iterator[System]:
    """A started system, stopped at the end."""
    system = SYSTEMS[name]()
    try:
        yield system
    finally:
        system.stop()
