"""The two systems that are always compared, keepwarm and a process pool, behind the same few methods.

Rules: a system is started as its own documentation starts it on one machine, with its own defaults and two workers;
where something else is said, the reason stands there. A workload never asks which system it has.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Protocol

__all__ = ["KEEP_ALIVE_S", "WORKERS", "Keepwarm", "KeepwarmSubmitted", "Pool", "System"]

WORKERS = 2

KEEP_ALIVE_S = 600.0
"""Longer than any workload, so that nothing expires while it is measured."""

MEMORY = "100MiB"
"""What an instance books: fifty of them then fit into the memory of any machine."""


class System(Protocol):
    """What a workload needs."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function, wait for it, return its result."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start a call and return a handle at once."""

    def gather(self, handles: list[Any]) -> list[Any]:
        """The results of these handles."""

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        """The results for each value."""

    def environment(self, number: int) -> "System":
        """The same system with another environment, which shares no process with the others."""

    def stop(self) -> None:
        """Give back what this process holds of it; daemons may stay."""


class Keepwarm:
    """A local cluster, or the one that the environment variables name: started or found by the first call."""

    def __init__(self, **options: Any) -> None:
        self._options = {"keep_alive": KEEP_ALIVE_S} | options
        self._isolated: dict[Callable[..., Any], Any] = {}

    def _of(self, function: Callable[..., Any]) -> Any:
        if function not in self._isolated:
            from keepwarm import isolated

            self._isolated[function] = isolated(**self._options)(function)
        return self._isolated[function]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._of(function)(*arguments)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._of(function).submit(*arguments)

    def gather(self, handles: list[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return list(self._of(function).map(values))

    def environment(self, number: int) -> System:
        variables = {"KEEPWARM_BENCHMARK_ENVIRONMENT": str(number)}
        return Keepwarm(**self._options, env_vars=variables, resources={"memory": MEMORY})

    def with_requirements(self, *requirements: str) -> System:
        """The same with packages."""
        return Keepwarm(**self._options, requirements=requirements)

    def stop(self) -> None:
        """Nothing: whoever started this process ends the cluster."""


class KeepwarmSubmitted(Keepwarm):
    """The same where no process is lent to the program: every call passes the scheduler."""

    def __init__(self, **options: Any) -> None:
        os.environ["KEEPWARM_LENDING"] = "0"
        super().__init__(**options)


class Pool:
    """``concurrent.futures.ProcessPoolExecutor(2)``. It has no environments: another one is another pool."""

    def __init__(self) -> None:
        self._pool: Any = self._make()
        self._others: list[System] = []

    def _make(self) -> Any:
        return ProcessPoolExecutor(WORKERS)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments).result()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments)

    def gather(self, handles: list[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def map(self, function: Callable[..., Any], values: Iterable[Any]) -> list[Any]:
        return list(self._pool.map(function, values))

    def environment(self, number: int) -> System:  # noqa: ARG002  # each is alike
        self._others.append(type(self)())
        return self._others[-1]

    def stop(self) -> None:
        for other in self._others:
            other.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
