"""The cores' own invariants under one roof: called after every event in a part of the runs."""

from keepwarm_scheduler.core.invariants import check as check_scheduler
from keepwarm_worker.core.state import check_invariants as check_agent

__all__ = ["check_agent", "check_scheduler"]
