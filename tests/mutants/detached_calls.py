"""Mutants of detached calls and of calls that must not run twice; see ``table``."""

from mutants.mutant import Mutant, one

__all__ = ["DETACHED"]

_CORE = "keepwarm_scheduler.core."
_SUBMITTING, _ENDS, _ASKING = _CORE + "detached", _CORE + "detached_ends", _CORE + "detached_asking"
_RECOVERY, _RESTORING = _CORE + "recovery", _CORE + "detached_restoring"
_CALLS, _ONCE = _CORE + "calls", _CORE + "at_most_once"
_UNIT = "unit/scheduler/core/test_detached.py::test_"
_UNIT_RESTORING = "unit/scheduler/core/test_detached_restoring.py::test_"
_UNIT_ASKING = "unit/scheduler/core/test_detached_asking.py::test_"
_UNIT_ONCE = "unit/scheduler/core/test_at_most_once.py::test_"
_PROPERTY = "property/test_detached_calls.py"
_SIMULATION = "simulation/test_detached.py::test_what_was_accepted"

DETACHED: dict[str, Mutant] = {
    "a detached call is accepted before it is on disk": one(
        _SUBMITTING,
        "cluster.send(session, message, after_sync=True)",
        "cluster.send(session, message)",
        _UNIT_RESTORING + "nothing_is_accepted",
        _PROPERTY,
    ),
    "a node is told before the outcome is on disk": one(
        _CORE + "cluster",
        "self.send(node, Final(tuple(attempts)), after_sync=True)",
        "self.send(node, Final(tuple(attempts)))",
        _UNIT_RESTORING + "nothing_is_accepted",
        _PROPERTY,
    ),
    "an outcome is told before it is on disk": one(
        _ENDS,
        "cluster.send(session, message, after_sync=True)",
        "cluster.send(session, message)",
        _UNIT_RESTORING + "nothing_is_told",
        _PROPERTY,
    ),
    "keys are ignored": one(
        _SUBMITTING,
        "if message.key and _answer_key(",
        "if not message.key and _answer_key(",
        _UNIT + "a_key_stands",
        _PROPERTY,
    ),
    "a key of other arguments is the same call": one(
        _SUBMITTING,
        "if known.digest == digest_of(declaration, message.arguments):",
        "if known.digest:",
        _UNIT + "a_key_with_other_arguments",
    ),
    "a repeated submit is another call": one(
        _SUBMITTING,
        "    if _answer_known(cluster, session, message):\n        return\n",
        "    _answer_known(cluster, session, message)\n",
        _UNIT + "a_submit_that_is_repeated",
    ),
    "calls that were running are run again at a start": one(
        _RESTORING,
        "    if not cluster.is_recovering:\n        release(cluster)\n",
        "    release(cluster)\n",
        _UNIT_RESTORING + "a_node_that_reports_early",
    ),
    "a wish to cancel is forgotten with the process": one(
        _RESTORING,
        "call.cancel_reason, call.reason = saved.cancel_reason,",
        'call.cancel_reason, call.reason = "",',
        _UNIT_ASKING + "a_cancel_survives",
    ),
    "everybody sees every namespace": one(
        _ASKING,
        "self.principal.role == ROLE_ADMIN or self.principal.namespace == namespace",
        "bool(self.principal.role)",
        _UNIT_ASKING + "calls_of_another_namespace",
    ),
    "results are dropped to make room": one(
        _SUBMITTING,
        "if book.stored_bytes + size > config.detached_bytes_max:",
        "if size > config.detached_bytes_max:",
        _UNIT + "more_than_the_disk",
    ),
    "the node has a call that must not run twice before the disk knows": one(
        _ONCE,
        "cluster.send(node, message, after_sync=True)",
        "cluster.send(node, message)",
        _UNIT_ONCE + "the_disk_knows",
    ),
    "a call in doubt is run again after a start": one(
        _RECOVERY,
        "    for call in recovering.values():\n        if is_in_doubt(cluster, call):",
        "    for call in recovering.values():\n        if is_in_doubt(cluster, call) and not call:",
        _UNIT_ONCE + "a_detached_call_in_doubt",
    ),
    "the loss of a node is no doubt": one(
        _CALLS,
        '    if call.function.options.at_most_once:\n        end_in_doubt(cluster, call, f"Node',
        '    if call.function.options.at_most_once and not call:\n        end_in_doubt(cluster, call, f"Node',
        _UNIT_ONCE + "the_loss_of_a_node",
    ),
    "bytes of functions are swept away at the second start": one(
        _RESTORING,
        "    if isinstance(declaration.body, Reference):\n        book.claim(declaration.body.payload_id)\n",
        "",
        _SIMULATION,
    ),
    "keys are ignored while nodes are still to report": one(
        _SUBMITTING,
        "    if message.key:\n        _use_key(",
        "    if message.key and not cluster.is_recovering:\n        _use_key(",
        _SIMULATION,
    ),
}
