"""Waiting for a condition with a deadline, for tests of real processes."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    """Wait for a condition with a deadline."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "the condition did not come true in time"
        time.sleep(0.005)
