"""The cores' own invariants, called after every event in a part of the runs."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_worker.core.state import check_invariants as check_agent

__all__ = ["check_agent", "check_scheduler"]

_MODULE = "keepwarm_scheduler.core.invariants"


def _found() -> Callable[[Cluster], object] | None:
    if find_spec(_MODULE) is None:
        return None
    module = import_module(_MODULE)
    check: Callable[[Cluster], object] | None = getattr(module, "check_invariants", None) or getattr(
        module, "check", None
    )
    return check


_CHECK = _found()


def check_scheduler(cluster: Cluster) -> None:
    """Raise ``AssertionError`` if the scheduler's records contradict one another."""
    if _CHECK is not None:
        _CHECK(cluster)
