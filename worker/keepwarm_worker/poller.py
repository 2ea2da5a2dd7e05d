"""Waiting on many descriptors at once: epoll, and what to call for each.

Rules: a callback is told what is ready and must not block; a descriptor is removed before it is closed; a callback may
remove any descriptor, also one that is ready in the same turn, which is then not called any more.
"""

import os
import select
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

    def add(self, descriptor: int, callback: Callback, mask: int = READABLE) -> None:
        self._epoll.register(descriptor, mask)
        self._callbacks[descriptor] = callback

    def change(self, descriptor: int, mask: int) -> None:
        if descriptor in self._callbacks:
            self._epoll.modify(descriptor, mask)

    def remove(self, descriptor: int) -> None:
        """Harmless for a descriptor that is not watched."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def wait(self, timeout_s: float | None) -> None:
        """Sleep until something is ready or ``timeout_s`` is over (None: no limit), and call what is ready."""
        for descriptor, mask in self._epoll.poll(timeout_s):
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback(mask | READABLE if mask & _ENDED else mask)

    def close(self) -> None:
        self._epoll.close()


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
