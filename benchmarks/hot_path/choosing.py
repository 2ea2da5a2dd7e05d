"""Systems by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.hot_path.over_zeromq import KeepwarmOverTcp, KeepwarmThroughZeroMQ
from benchmarks.hot_path.peers import Dask, Loky, Ray
from benchmarks.hot_path.systems import Keepwarm, KeepwarmSubmitted, Pool, System

__all__ = ["OURS", "POOL", "SUBMITTED", "TCP", "ZEROMQ", "make"]

OURS, SUBMITTED, POOL = "keepwarm", "keepwarm without lending", "pool"
TCP, ZEROMQ = "keepwarm over TCP", "keepwarm through ZeroMQ"

SYSTEMS: dict[str, Callable[[], System]] = {
    OURS: Keepwarm,
    SUBMITTED: KeepwarmSubmitted,
    POOL: Pool,
    TCP: KeepwarmOverTcp,
    ZEROMQ: KeepwarmThroughZeroMQ,
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
