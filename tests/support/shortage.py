"""A process that is out of something, for tests of what it does then."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["limited", "without_descriptors"]


@contextmanager
def limited(what: int, amount: int) -> Iterator[None]:
    """This process with a lower soft limit, one of ``resource.RLIMIT_...``."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (amount, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@contextmanager
def without_descriptors() -> Iterator[None]:
    """No file can be opened meanwhile."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < highest:
        held.append(os.open(os.devnull, os.O_RDONLY))
    try:
        with limited(resource.RLIMIT_NOFILE, max(held[-1], highest) + 1):
            yield
    finally:
        for descriptor in held:
            os.close(descriptor)
