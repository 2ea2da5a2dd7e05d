"""Mutants of payloads: what refers to one claims it where it is taken, or its bytes are dropped; see ``table``."""

from mutants.mutant import Mutant, one

__all__ = ["PAYLOADS"]

_CORE = "keepwarm_scheduler.core."
_UNIT = "unit/scheduler/core/test_"

PAYLOADS: dict[str, Mutant] = {
    "large arguments are not claimed": one(
        _CORE + "sessions", "    cluster.claim(message.arguments)\n", "", _UNIT + "sessions.py"
    ),
    "a function's large body is not claimed": one(
        _CORE + "sessions", "    cluster.claim(message.body)\n", "", _UNIT + "sessions.py"
    ),
    "a large result is not claimed": one(
        _CORE + "outcomes", "        cluster.claim(result)\n", "", _UNIT + "outcomes.py"
    ),
    "a large result that is kept over a restart is not claimed": one(
        _CORE + "calls", "    cluster.claim(message.result)\n", "", _UNIT + "recovery.py"
    ),
    "what a call does not take is claimed": one(
        _CORE + "sessions",
        "    function = session.functions.get(message.function_number)\n",
        "    function = session.functions.get(message.function_number)\n    cluster.claim(message.arguments)\n",
        _UNIT + "sessions.py",
    ),
}
