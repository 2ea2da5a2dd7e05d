"""How many descriptors: the agent takes all that it may have, and what it starts gets what the agent was started with.

An instance costs the agent seven, and the limit that shells give is made for programs with a few. But programs exist
that cannot cope with numbers above 1023 (`select`), so nobody else gets the higher limit unasked.

Rules: works on the number itself only, by ``prlimit`` from here: nothing runs between fork and exec.
"""

import logging
import resource
from contextlib import suppress

__all__ = ["lower_limit_of", "raise_own_limit"]

_AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)

_log = logging.getLogger(__name__)


def raise_own_limit() -> None:
    """Raise this process's soft limit to the hard one. Where that is not allowed it stays as it is."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        _log.warning("the limit of open files stays at %d: %s", _AT_START[0], error)


def lower_limit_of(pid: int) -> None:
    """Give a child that has just been started the limit that this process was started with."""
    if resource.getrlimit(resource.RLIMIT_NOFILE) != _AT_START:
        with suppress(OSError):  # it has ended already
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _AT_START)
