"""A fork at a moment at which another thread holds a lock, which nobody in the child will ever release."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["works_in_a_child"]

LIMIT_S = 20


def works_in_a_child(lock: AbstractContextManager[Any], work: Callable[[], bool]) -> bool:
    """Whether a child that is forked while another thread holds ``lock`` gets through its work, with a true result."""
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            locked.set()
            release.wait(LIMIT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(LIMIT_S)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the test run's own would go on with the tests here
        signal.alarm(LIMIT_S)
        try:
            is_right = work()
        except BaseException:  # it must not go on as a second test run
            os._exit(4)
        os._exit(0 if is_right else 3)
    release.set()
    thread.join()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
