"""Mutants of calls sent ahead: what they book, whom they may meet, and how they are given back; see ``table``."""

from mutants.mutant import Mutant, one

__all__ = ["AHEAD"]

_SCHEDULER, _AGENT = "keepwarm_scheduler.core.", "keepwarm_worker.core."
_UNIT = "unit/scheduler/core/test_ahead.py::test_"
_UNIT_OF_AGENT = "unit/worker/core/test_recalling.py::test_"
_UNIT_OF_RUNNER = "unit/worker/runner/test_control.py::test_"

AHEAD: dict[str, Mutant] = {
    "a call whose turn comes books nothing": one(
        _SCHEDULER + "dispatching",
        "    instance.attempt = attempt\n    book(attempt)\n",
        "    instance.attempt = attempt\n    if not instance.uses or attempt.call is None or not instance.ahead:\n"
        "        book(attempt)\n",
        _UNIT + "a_call_that_waits_has_booked",
    ),
    "calls are sent ahead to closed nodes": one(
        _SCHEDULER + "ahead", "        and not node.is_closed\n", "", _UNIT + "nothing_is_sent_ahead_to_a_closed"
    ),
    "the cpu is never given to another pool": one(
        _SCHEDULER + "ahead",
        "        and (instance.busy_ns == cluster.now_ns or not _is_wanted(cluster, node, instance.pool))\n",
        "",
        _UNIT + "another_pools_call",
    ),
    "a call that takes long is given more to run after it": one(
        _SCHEDULER + "ahead",
        "        and cluster.now_ns - running.dispatched_ns < _RECALL_NS\n",
        "",
        _UNIT + "nothing_is_sent_behind",
    ),
    "nothing is asked back a second time": one(
        _SCHEDULER + "ahead",
        '    cluster.timer("recall", instance_id, cluster.config.beat_interval_ns)\n',
        "    instance.is_recall_timed = False\n",
        _UNIT + "a_lost_request",
    ),
    "a queue timeout ends with the sending ahead": one(
        _SCHEDULER + "dispatching",
        "    if is_ahead:\n        instance.ahead.append(attempt)\n",
        '    if is_ahead:\n        cluster.cancel_timer("queue", call.key)\n        instance.ahead.append(attempt)\n',
        _UNIT + "the_queue_timeout",
    ),
    "a refusal of what waits suspends the process": one(
        _SCHEDULER + "calls",
        "    elif message.reason == RECALLED or attempt.is_ahead:\n",
        "    elif message.reason == RECALLED:\n",
        _UNIT + "a_refusal_of_one_that_waits",
    ),
    "a call that only waited begins the lease anew": one(
        _AGENT + "recalling",
        "    instance = state.instances[attempt.command.instance_id]\n    if instance.attempt != attempt.token:\n",
        "    instance = state.instances[attempt.command.instance_id]\n    instance.sequence += 1\n"
        "    if instance.attempt != attempt.token:\n",
        _UNIT_OF_AGENT + "a_call_given_back",
    ),
    "a call that has begun is given back": one(
        _AGENT + "recalling",
        "    if attempt is None or attempt.began or not _is_given",
        "    if attempt is None or not _is_given",
        _UNIT_OF_AGENT + "only_the_runner",
    ),
    "a cancelled call that waits ends the process of another": one(
        _AGENT + "attempts",
        "    if instance.attempt != token:\n",
        "    if instance.attempt == 0:\n",
        _UNIT_OF_AGENT + "a_call_cancelled_while_it_waits_never",
    ),
    "a runner gives back what it runs": one(
        "keepwarm_worker.runner.control",
        "            if attempt <= self._begun or attempt in self._recalled:\n",
        "            if attempt in self._recalled:\n",
        _UNIT_OF_RUNNER,
    ),
}
