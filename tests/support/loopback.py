"""A client without a cluster: it unpickles functions and arguments as a remote process does, and runs them here.

Calls wait in a queue and run when somebody waits for one, oldest first, so tests see exactly what was under way when.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections import deque
from typing import Any

from keepwarm.errors import CallCancelled
from keepwarm.function import IsolatedFunction
from keepwarm.futures import Future
from keepwarm.pickling import loads_result

__all__ = ["LoopbackClient"]


class LoopbackClient:
    """Implements `keepwarm.function.Client` on bytes alone: nothing but pickles passes from caller to call and back."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Future[Any], IsolatedFunction[Any, Any], bytes]] = deque()
        self.submitted: list[Future[Any]] = []
        self.cancelled: list[Future[Any]] = []
        self.most_under_way = 0
        self.interrupt_waits = False

    def submit(
        self, function: IsolatedFunction[Any, Any], arguments: bytes, *, wait_follows: bool = False
    ) -> Future[Any]:
        """Queue the call."""
        future: Future[Any] = Future(self, function.name)
        self.queue.append((future, function, arguments))
        self.submitted.append(future)
        self.most_under_way = max(self.most_under_way, len(self.queue))
        return future

    def wait(self, future: Future[Any], timeout: float | None) -> None:
        """Run queued calls until this one has run; or be interrupted, as by Ctrl-C."""
        if self.interrupt_waits:
            raise KeyboardInterrupt
        while not future.done() and self.queue:
            self._run(*self.queue.popleft())

    def cancel(self, future: Future[Any]) -> bool:
        """Cancel a call that has not run."""
        self.cancelled.append(future)
        return future._fail(CallCancelled("cancelled by this program"))

    def _run(self, future: Future[Any], function: IsolatedFunction[Any, Any], arguments: bytes) -> None:
        if future.done():
            return
        plain, setup = pickle.loads(function.prepared.payload)
        args, kwargs = pickle.loads(arguments)
        try:
            leading = () if setup is None else (setup(),)
            value = plain(*leading, *args, **kwargs)
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
        except Exception as error:
            future._fail(error)
            return
        result = pickle.dumps(value)
        future._finish(lambda: loads_result(result))
