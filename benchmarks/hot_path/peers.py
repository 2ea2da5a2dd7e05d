"""Peers, measured on request where this interpreter can import them; nothing of them is installed for it.

Rules: their own defaults, two workers. They run the workloads of one client without environments.
"""

import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

from benchmarks.hot_path.systems import KEEP_ALIVE_S, WORKERS, Pool, System

__all__ = ["PEERS", "Dask", "Loky", "Ray", "is_importable"]

PEERS = {"ray": "ray", "dask": "distributed", "loky": "loky"}
"""The module that each of them needs."""


def is_importable(peer: str) -> bool:
    """Whether this interpreter could run a peer."""
    return find_spec(PEERS[peer]) is not None


class Loky(Pool):
    """loky's reusable executor."""

    def _make(self) -> Any:
        import loky  # type: ignore[import-not-found,import-untyped,unused-ignore]

        return loky.get_reusable_executor(max_workers=WORKERS, timeout=KEEP_ALIVE_S)

    def stop(self) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)


class Ray:
    """Ray's tasks on a local instance."""

    def __init__(self) -> None:
        import ray  # type: ignore[import-not-found,import-untyped,unused-ignore]

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        self._ray, self._remote = ray, dict[Callable[..., Any], Any]()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._ray.get(self.submit(function, *arguments))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if function not in self._remote:
            self._remote[function] = self._ray.remote(function)
        return self._remote[function].remote(*arguments)

    def gather(self, handles: list[Any]) -> list[Any]:
        return list(self._ray.get(handles))

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return self.gather([self.submit(function, value) for value in values])

    def environment(self, number: int) -> System:
        raise NotImplementedError

    def stop(self) -> None:
        self._ray.shutdown()


class Dask:
    """distributed's local cluster of two processes with a thread each."""

    def __init__(self) -> None:
        import distributed  # type: ignore[import-not-found,import-untyped,unused-ignore]

        self._cluster = distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self._client = distributed.Client(self._cluster)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.submit(function, *arguments).result()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.submit(function, *arguments, pure=False)  # else equal calls run once

    def gather(self, handles: list[Any]) -> list[Any]:
        return list(self._client.gather(handles))

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return self.gather(self._client.map(function, list(values), pure=False))

    def environment(self, number: int) -> System:
        raise NotImplementedError

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()
