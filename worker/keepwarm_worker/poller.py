"""Waiting on many descriptors at once: epoll, and what to call for each.

A descriptor of which more will come soon can be *deferred*: it is looked at whenever the loop is awake, and wakes it
only after a while. So what comes in a stream is taken in batches, for a bounded delay.

Rules: a callback is told what is ready and must not block; a descriptor is removed before it is closed; a callback may
remove any descriptor, also one that is ready in the same turn, which is then not called any more.
"""

import os
import select
import time
from collections.abc import Callable

__all__ = ["READABLE", "WRITABLE", "Poller", "Waker"]

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
_ENDED = select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[int], None]


class Poller:
    """Descriptors and their callbacks. A callback gets the mask of what is ready; an end counts as readable."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._masks: dict[int, int] = {}
        self._later = select.epoll()
        self._deferred: dict[int, int] = {}
        """Until when each descriptor may wait, on the monotonic clock."""

    def add(self, descriptor: int, callback: Callback, mask: int = READABLE) -> None:
        self._epoll.register(descriptor, mask)
        self._callbacks[descriptor] = callback
        self._masks[descriptor] = mask

    def change(self, descriptor: int, mask: int) -> None:
        if descriptor in self._callbacks:
            self._masks[descriptor] = mask
            (self._later if descriptor in self._deferred else self._epoll).modify(descriptor, mask)

    def defer(self, descriptor: int, delay_ns: int) -> None:
        """For so long the descriptor need not wake anybody; after that it is looked at, and defers no more."""
        if descriptor not in self._callbacks:
            return
        if descriptor not in self._deferred:
            self._epoll.unregister(descriptor)
            self._later.register(descriptor, self._masks[descriptor])
        self._deferred[descriptor] = time.monotonic_ns() + delay_ns

    def attend(self, descriptor: int) -> None:
        """The descriptor wakes the loop at once, as before."""
        if self._deferred.pop(descriptor, None) is not None:
            self._later.unregister(descriptor)
            self._epoll.register(descriptor, self._masks[descriptor])

    def remove(self, descriptor: int) -> None:
        """Harmless for a descriptor that is not watched."""
        if self._callbacks.pop(descriptor, None) is not None:
            is_deferred = self._deferred.pop(descriptor, None) is not None
            (self._later if is_deferred else self._epoll).unregister(descriptor)
            del self._masks[descriptor]

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until something is ready or ``timeout_s`` is over (None: no limit), and call what is ready."""
        if not self._deferred:
            self._call(self._epoll.poll(timeout_s))
            return
        left_s = max(0.0, (min(self._deferred.values()) - time.monotonic_ns()) / 1e9)
        ready = self._epoll.poll(left_s if timeout_s is None else min(timeout_s, left_s))
        self._call(ready + self._later.poll(0))
        now_ns = time.monotonic_ns()
        for descriptor in [each for each, until_ns in self._deferred.items() if until_ns <= now_ns]:
            self.attend(descriptor)

    def _call(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, mask in ready:
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback(mask | READABLE if mask & _ENDED else mask)

    def close(self) -> None:
        self._epoll.close()
        self._later.close()


class Waker:
    """Wakes the poller from other threads and from signals."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        poller.add(self.descriptor, self._clear)

    def wake(self) -> None:
        os.eventfd_write(self.descriptor, 1)

    def close(self) -> None:
        self._poller.remove(self.descriptor)
        os.close(self.descriptor)

    def _clear(self, _mask: int) -> None:
        os.eventfd_read(self.descriptor)
