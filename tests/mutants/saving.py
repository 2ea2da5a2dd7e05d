"""Mutants of nodes that save up for big calls, and of timeouts that go on; see ``table``."""

from mutants.mutant import Mutant, one

__all__ = ["SAVING"]

_CORE = "keepwarm_scheduler.core."
_SAVING = "unit/scheduler/core/test_saving.py::test_"

SAVING: dict[str, Mutant] = {
    "no node saves for a big call": one(
        _CORE + "dispatching",
        "            if is_short and saving",
        "            if False and saving",
        _SAVING + "a_big_call_gets",
    ),
    "a node saves for ever": one(
        _CORE + "saving",
        "        if cluster.now_ns - node.saved_since_ns < SAVED_MAX_NS:",
        "        if True:",
        _SAVING + "no_node",
    ),
    "all nodes save for one pool": one(
        _CORE + "saving",
        "(other is None or other is node or other.saved_for is not pool)",
        "True",
        _SAVING + "one_node",
    ),
    "room that is saved for goes to others": one(
        _CORE + "places",
        "        return False  # what comes free",
        "        pass  # what comes free",
        _SAVING + "room_that",
    ),
    "a queue timeout ends with the first dispatch": one(
        _CORE + "calls",
        "    if call.queue_end_ns and not has_run:",
        "    if False:",
        "unit/scheduler/core/test_calls.py::test_the_queue_timeout_goes_on",
    ),
}
