"""The named mutants: each breaks one guarantee of the cores, and names the tests that must notice.

A mutant is a list of edits; an edit replaces one text, which has to occur exactly once in its module, by another. So
a mutant that no longer fits the source fails as such, instead of passing for one that is noticed.
"""

from mutants.calls_ahead import AHEAD
from mutants.claimed_payloads import PAYLOADS
from mutants.detached_calls import DETACHED
from mutants.lending import LENDING
from mutants.many_nodes import NODES
from mutants.mutant import Edit, Mutant
from mutants.mutant import one as _one
from mutants.saving import SAVING

__all__ = ["MUTANTS", "Edit", "Mutant"]


_SCHEDULER = "keepwarm_scheduler.core."
_AGENT = "keepwarm_worker.core."
_CONTRACT = "property/test_lease_contract.py::test_clause_"
_REPAIRS = "property/test_lease_contract_repairs.py::test_clause_"
_TOLD = "property/test_lease_contract_notices.py::test_clause_"
_INVARIANTS = "property/test_lease_invariants.py::test_invariant_"
_WHEEL = "property/test_wheel.py::"
_UNIT = "unit/scheduler/core/test_"
_UNIT_OF_AGENT = "unit/worker/core/test_"
_CORE_OF_AGENT = "property/test_agent_core.py"


_LEASE, _DISPATCHING = _SCHEDULER + "leases", _SCHEDULER + "dispatching"
_CALLS, _BEATS, _WHEELS = _SCHEDULER + "calls", _SCHEDULER + "beats", _SCHEDULER + "wheel"
_STARTING, _PRESSURE, _SESSIONS = _SCHEDULER + "starting", _SCHEDULER + "pressure", _SCHEDULER + "sessions"
_NOTICE = _SCHEDULER + "notices"
_INSTANCES, _LINK, _OUTCOMES = _AGENT + "instances", _AGENT + "link", _AGENT + "outcomes"

_ONE_TERM = "ended_ns + keep_alive_us * 1_000"

_TERMS = {
    "leases end a thousandth early": _one(
        _LEASE, _ONE_TERM, "ended_ns + keep_alive_us * 999", _CONTRACT + "02_at_most"
    ),
    "leases end late": _one(_LEASE, _ONE_TERM, "ended_ns + keep_alive_us * 1_100", _CONTRACT + "02_at_most"),
    "terms are summed": _one(
        _LEASE, _ONE_TERM, "max(ended_ns, self.deadline_ns) + keep_alive_us * 1_000", _CONTRACT + "04_every"
    ),
    "a renewal is forgotten": _one(
        _LEASE, "elif deadline_ns >= self.deadline_ns:", "elif not previous_ns:", _CONTRACT + "04_every"
    ),
    "the last call's term wins": _one(
        _LEASE, "elif deadline_ns >= self.deadline_ns:", "elif function:", _CONTRACT + "04_a_short"
    ),
    "the shortest term of a shared process wins": _one(
        _LEASE,
        "        deadlines[function] = deadline_ns\n",
        "        deadlines[function] = deadline_ns\n"
        "        if function:\n"
        '            deadlines.pop("", None)\n'
        "            self.deadline_ns = min(deadlines.values())\n"
        "            return\n",
        _CONTRACT + "04_a_short",
    ),
    "the first term holds for ever": _one(
        _LEASE, "if function and deadlines.pop", "if deadlines.get(None) and deadlines.pop", _CONTRACT + "04_every"
    ),
    "the term is that of the first caller": _one(
        _DISPATCHING,
        "attempt.function, attempt.keep_alive_us = declaration.name, declaration.options.keep_alive_us",
        "attempt.function = declaration.name\n"
        "    attempt.keep_alive_us = instance.keep_alive_us or declaration.options.keep_alive_us",
        _CONTRACT + "04_every",
    ),
    "calls that fail restart no term": _one(
        _CALLS,
        "    if has_run:\n        _after_use(cluster, instance, attempt)\n    if call is not None and is_given_up",
        "    if has_run and message.failure is None:\n        _after_use(cluster, instance, attempt)\n"
        "    elif instance.state is InstanceState.IDLE:\n        hold_lease(cluster, instance)\n"
        "    if call is not None and is_given_up",
        _CONTRACT + "06_failed",
    ),
    "expiries come before messages": _one(
        _SCHEDULER + "machine",
        "            self._message(*event)\n        elif type(event) is Tick:",
        "            self._expiries()\n            self._message(*event)\n        elif type(event) is Tick:",
        _CONTRACT + "01_a_call",
    ),
    "a lease reads a clock": _one(
        _LEASE,
        "        deadlines = self._deadlines\n",
        "        import time\n\n        ended_ns = max(ended_ns, min(ended_ns, time.monotonic_ns()))\n"
        "        deadlines = self._deadlines\n",
        _REPAIRS + "12_clocks",
    ),
}

_PINS_AND_ENDS = {
    "a running call's lease expires": Mutant(
        (
            Edit(
                _DISPATCHING,
                "    if instance is None or instance.state is not InstanceState.IDLE:\n        return\n"
                "    if instance.lease.deadline_ns",
                "    if instance is None:\n        return\n"
                "    if instance.state is InstanceState.BUSY:\n"
                '        instance.stop_cause = "expired"\n'
                "        send_stop(cluster, instance)\n        return\n"
                "    if instance.lease.deadline_ns",
            ),
        ),
        (_CONTRACT + "05_no_deadline",),
    ),
    "a busy instance is evicted": Mutant(
        (
            Edit(
                _DISPATCHING,
                "    else:\n        return\n    cluster.leases.cancel(instance.instance_id)\n    change(",
                "    else:\n        instance.stop_cause = cause\n        send_stop(cluster, instance)\n        return\n"
                "    cluster.leases.cancel(instance.instance_id)\n    change(",
            ),
            Edit(
                _PRESSURE,
                "        if instance.state is InstanceState.IDLE:\n            if instance.pool.starting",
                "        if instance.state in (InstanceState.IDLE, InstanceState.BUSY):\n"
                "            if instance.pool.starting",
            ),
        ),
        (_CONTRACT + "05_no_deadline", _CONTRACT + "11_evicted"),
    ),
    "the agent stops busy instances": _one(
        _INSTANCES,
        "if instance.state is InstanceState.BUSY or instance.sequence != command.sequence:",
        "if instance.sequence != command.sequence:",
        _UNIT_OF_AGENT + "instances.py::test_a_busy",
    ),
    "the sequence of a stop is ignored": _one(
        _INSTANCES,
        "if instance.state is InstanceState.BUSY or instance.sequence != command.sequence:",
        "if instance.state is InstanceState.BUSY:",
        _UNIT_OF_AGENT + "instances.py::test_a_stop_that",
    ),
    "a refused stop is not taken back": _one(
        _SCHEDULER + "instances",
        "message.sequence < instance.sequence:\n",
        "message.sequence >= 0:\n",
        _UNIT + "instances.py::test_a_stop_that",
    ),
    "an end is said twice": _one(
        _INSTANCES,
        "    state.report(wire.InstanceEnded(instance.instance_id, cause, why, retryable, attempt))",
        "    state.report(wire.InstanceEnded(instance.instance_id, cause, why, retryable, attempt))\n"
        "    state.report(wire.InstanceEnded(instance.instance_id, cause, why, retryable, attempt))",
        _CONTRACT + "03_every",
    ),
    "every end is called expired": _one(
        _INSTANCES,
        "instance.end_cause = cause\n        state.timers",
        'instance.end_cause = "expired"\n        state.timers',
        _CONTRACT + "03_the_cause",
    ),
    "an instance that ended comes back": _one(
        _BEATS, "if reported.instance_id in node.ended or", "if", _REPAIRS + "13_an_overtaken"
    ),
    "a death counts as a failed start": _one(
        _SCHEDULER + "instances",
        "elif never_ready and message.failure is not None and message.cause in _START_CAUSES:",
        "elif message.failure is not None:",
        _CONTRACT + "03_a_death",
    ),
    "beats end no instance": _one(
        _BEATS,
        "if instance.command <= node.as_of and instance.instance_id not in listed:",
        "if instance.command < 0:",
        _UNIT + "instances.py::test_a_lost_word",
    ),
    "processes are killed unasked": _one(
        _INSTANCES, "state.effects.append(AskToExit(", "state.effects.append(KillTree(", _REPAIRS + "17"
    ),
    "a deaf process is never killed": _one(
        _INSTANCES, 'state.timers.set(("kill", instance_id), state.now_ns + grace_ns)', "pass", _REPAIRS + "17"
    ),
    "an environment ends with its process": _one(
        _INSTANCES,
        "    del state.instances[instance.instance_id]\n",
        "    del state.instances[instance.instance_id]\n"
        "    state.environments.pop(instance.command.environment_id, None)\n",
        _REPAIRS + "17",
    ),
}  # fmt: skip

_SPECIAL_TERMS_AND_PRESSURE = {
    "keep_alive 0 is shared": _one(
        _STARTING, "is_private = options.keep_alive_us == 0", "is_private = False", _CONTRACT + "08"
    ),
    "keep_alive 0 is not released": _one(
        _CALLS, "if instance.pool.is_private or attempt.keep_alive_us == 0:", "if attempt.cpu < 0:", _CONTRACT + "08"
    ),
    "endless leases are in the wheel": _one(
        _DISPATCHING, "    if instance.lease.is_infinite:\n", "    if instance.sequence < 0:\n", _CONTRACT + "09"
    ),
    "endless terms have an end": _one(
        _LEASE, "FOREVER_NS if keep_alive_us >= FOREVER_US else", "FOREVER_NS if keep_alive_us < 0 else",
        _CONTRACT + "10",
    ),
    "eviction knows no patience": _one(
        _STARTING, "    if waited_ns >= cluster.config.patience_ns and", "    if waited_ns >= 0 and",
        _CONTRACT + "11_patience_then", _CONTRACT + "11_evicted",
    ),
    "a starved pool's next call has no patience either": _one(
        _PRESSURE,
        "cluster.now_ns - call.submitted_ns >= cluster.config.patience_ns",
        "cluster.now_ns >= call.submitted_ns",
        _CONTRACT + "11_patience_is",
    ),
    "the last copy of a pool goes first": _one(
        _SCHEDULER + "placement", "key=lambda c: (-c.spare, c.value", "key=lambda c: (c.spare, c.value",
        _CONTRACT + "11_patience_then", _UNIT + "placement.py",
    ),
    "nobody is ever evicted": _one(
        _STARTING, "        make_room(cluster, pool, call)\n", "        pass\n", _CONTRACT + "11_patience_then"
    ),
}  # fmt: skip

_MESSAGES = {
    "an old beat counts": _one(
        _BEATS, "if beat.beat_number <= node.last_beat or ", "if ", _UNIT + "beats.py::test_an_older"
    ),
    "a beat for the scheduler of before counts": _one(
        _BEATS, " or beat.epoch not in (0, cluster.epoch):", ":", _UNIT + "beats.py::test_an_overtaken"
    ),
    "old commands are obeyed": _one(
        _LINK, "if number <= state.link.last_command:", "if number < 0:", _REPAIRS + "13_stale", _CORE_OF_AGENT
    ),
    "any attempt's outcome counts": _one(
        _CALLS,
        "    elif call is not None and call.key in cluster.recovering:\n        take_held",
        "    elif call is not None and call.attempt is not None:\n"
        "        record(cluster, call, message.status, message.result, message.failure, None)\n"
        "    elif call is not None and call.key in cluster.recovering:\n        take_held",
        _REPAIRS + "13_only",
    ),
    "an outcome is final before its client has it": _one(
        _SCHEDULER + "outcomes",
        "    call.settled_attempt = settled\n",
        "    if settled is not None:\n        cluster.settle(*settled)\n",
        _UNIT + "calls.py::test_the_agent_may",
    ),
    "an outcome is final before it is recorded": _one(
        _CALLS,
        "        _stale_outcome(cluster, node, message)\n        return\n",
        "        cluster.settle(node, message.attempt)\n        return\n",
        _UNIT + "recovery.py::test_an_outcome_that",
    ),
    "a held outcome is dropped": _one(
        _OUTCOMES,
        "        change(attempt, ATTEMPT, AttemptState.DONE)\n        _say(state, attempt)\n",
        "        change(attempt, ATTEMPT, AttemptState.DONE)\n        _say(state, attempt)\n"
        "        del state.attempts[attempt.token]\n",
        _CORE_OF_AGENT, _UNIT_OF_AGENT + "outcomes.py::test_an_outcome_is",
    ),
    "an outcome is said once": _one(
        _OUTCOMES,
        "if is_done and state.now_ns - attempt.said_ns >= older_than_ns:",
        "if attempt.output_bytes < 0:",
        _REPAIRS + "13_every", _UNIT_OF_AGENT + "outcomes.py::test_an_outcome_is",
    ),
    "numbers begin anew where a node was forgotten": _one(
        _LINK,
        "    if restarted:\n        link.last_command = 0\n",
        "    if restarted or not message.known:\n        link.last_command = 0\n    if restarted:\n",
        _UNIT_OF_AGENT + "link.py::test_copies",
    ),
    "the numbers of a forgotten node do not go on": _one(
        _SCHEDULER + "beats",
        "        node.last_command = max(node.last_command, beat.as_of)",
        "        node.last_command = max(node.last_command, 0)",
        _UNIT + "beats.py::test_the_numbers",
    ),
    "what is repeated until final is blamed": _one(
        _CALLS,
        "        return  # repeated, as it has to be until the client has it\n",
        "        cluster.astonished(node)\n        return\n",
        _UNIT + "oversteps.py::test_an_outcome_that_is_repeated",
    ),
    "a beat repeats what was only just said": _one(
        _OUTCOMES,
        "state.now_ns - attempt.said_ns >= older_than_ns:",
        "state.now_ns - attempt.said_ns >= 0:",
        _UNIT_OF_AGENT + "outcomes.py::test_an_outcome_that_was_only_just",
    ),
    "a lost attempt is not placed again": _one(
        _CALLS, "  # the node never had it\n        place_again(cluster, call)\n", "\n",
        _UNIT + "calls.py::test_a_lost_word", _UNIT + "beats.py",
    ),
    "a call submitted twice runs twice": _one(
        _SESSIONS, "if not session.seen.add(message.call_number):", "if session.seen.add(message.call_number) is None:",
        _UNIT + "sessions.py::test_a_call_submitted",
    ),
    "a cancel is not sent": _one(
        _CALLS,
        "    cluster.send(node, message, after_sync=True)",
        "    del node",
        _CONTRACT + "06_failed", _UNIT + "calls.py::test_a_cancelled_call_that_runs",
    ),
    "a session with nothing to keep outlives its connection": _one(
        _SESSIONS, "    if not session.functions:\n        end(", "    if session.is_keeper:\n        end(",
        _UNIT + "sessions.py::test_a_session_that_has_declared_nothing_ends",
    ),
    "credit is ignored": _one(
        _SESSIONS, "is_over = len(session.calls) >= cluster.config.credit_calls * 3 // 2 or", "is_over =",
        _UNIT + "sessions.py::test_calls_far",
    ),
}  # fmt: skip

_CALLS_AND_BOOKS = {
    "the queue timeout is ignored": _one(
        _CALLS,
        'if call.state is CallState.DONE or (which == "queue" and',
        'if call.state is CallState.DONE or (which == "queue" or',
        _UNIT + "calls.py::test_the_queue_timeout", _UNIT + "calls.py::test_the_overall_timeout",
    ),
    "retries have no limit": _one(
        _CALLS, "allowed = used <= limits.exceptions", "allowed = used > 0", _UNIT + "calls.py::test_an_exception"
    ),
    "no call is poisoned": _one(
        _CALLS, "allowed = used <= limit and call.crashes < cluster.config.crashes_max", "allowed = used <= limit",
        _UNIT + "calls.py::test_three_crashes",
    ),
    "cpu is booked twice": _one(
        _DISPATCHING,
        'free["cpu"] -= shape.cpu',
        'free["cpu"] -= 2 * shape.cpu',
        _INVARIANTS + "18",
    ),
    "cpu is never released": _one(
        _DISPATCHING, 'free["cpu"] += attempt.cpu', 'free["cpu"] += 0',
        _INVARIANTS + "18",
    ),
    "memory is never released": _one(
        _SCHEDULER + "instances", 'node.free["memory"] += instance.memory_bytes', 'node.free["memory"] += 0',
        _INVARIANTS + "18",
    ),
    "a parked instance stays parked": _one(
        _DISPATCHING, "    if node.is_closed or not (node.parked or node.saved_for):\n", "    if node.name:\n",
        _UNIT + "dispatching.py",
    ),
}  # fmt: skip

_NOTICES = {
    "a broken promise is told to nobody": _one(
        _NOTICE, "            _tell(cluster, session, instance, end, names)\n", "            pass\n",
        _TOLD + "04_a_broken",
    ),
    "an eviction is told to nobody": _one(
        _NOTICE, 'frozenset({"evicted", "killed", "died"})', 'frozenset({"killed", "died"})', _TOLD + "11_an_eviction"
    ),
    "the culprit's own function is told": _one(
        _NOTICE, "            left_us.pop(culprit.function, None)\n", "            pass\n", _TOLD + "04_the_culprit"
    ),
    "everybody is told": _one(
        _NOTICE, "in instance.pool.callers.get(name, ()):", "in cluster.sessions:", _TOLD + "04_a_broken"
    ),
    "terms that were over are told of": _one(
        _LEASE, "            if deadline_ns > now_ns\n", "            if deadline_ns > 0\n", _TOLD + "04_a_broken"
    ),
    "ends that break no promise are told": _one(
        _NOTICE, "    if word not in _BROKEN or not instance", "    if not instance", _UNIT + "notices.py"
    ),
    "other namespaces' functions are told": _one(
        _NOTICE, "culprit is not None and culprit.namespace == namespace", "culprit is not None", _UNIT + "notices.py"
    ),
    "a turn's notices have no bound": _one(
        _NOTICE, "    if len(notices) >= NOTICES_PER_TURN_MAX:\n", "    if len(notices) < 0:\n", _UNIT + "notices.py"
    ),
    "the agent does not say whose call it was": _one(
        _AGENT + "attempts",
        "attempt.token if attempt.began or attempt.verdict is not None else 0",
        "0",
        _TOLD + "04_the_culprit", _UNIT_OF_AGENT + "attempts.py",
    ),
}  # fmt: skip

_RESTARTS = {
    "a failure that a node kept over a restart is final": _one(
        _CALLS,
        "    if message.status == Status.FAILED and _is_retried(cluster, call, message.failure):\n"
        "        cluster.recovering.pop",
        "    if not call and _is_retried(cluster, call, message.failure):\n        cluster.recovering.pop",
        _UNIT + "recovery.py::test_a_failure_that",
    ),
    "an adopted lease begins anew": _one(
        _DISPATCHING, "cluster.now_ns - lease.idle_us * 1_000", "cluster.now_ns", _REPAIRS + "14_deadlines"
    ),
    "an adopted lease is over": _one(
        _DISPATCHING,
        "cluster.now_ns - lease.idle_us * 1_000",
        "cluster.now_ns - max(lease.idle_us, lease.keep_alive_us) * 1_000",
        _REPAIRS + "14_deadlines",
    ),
    "the agent is told another keep_alive": _one(
        _DISPATCHING,
        "        declaration.version,\n        options.keep_alive_us,",
        "        declaration.version,\n        options.keep_alive_us // 2,",
        _REPAIRS + "14_deadlines",
    ),
    "orphans are never ended": _one(
        _INSTANCES,
        "if instance.state is InstanceState.IDLE and not state.link.welcomed:",
        "if instance.sequence < 0:",
        _REPAIRS + "14_without",
    ),
    "orphans have no grace": _one(
        _INSTANCES, "lease_end + state.config.orphan_grace_ns", "lease_end", _REPAIRS + "14_without"
    ),
    "an orphan with a scheduler is ended": Mutant(
        (
            Edit(
                _INSTANCES,
                "if instance.state is InstanceState.IDLE and not state.link.welcomed:",
                "if instance.state is InstanceState.IDLE:",
            ),
            Edit(
                _LINK,
                '        state.timers.cancel(("orphan", instance_id))\n    for report',
                "        pass\n    for report",
            ),
        ),
        (_REPAIRS + "14_a_scheduler", _REPAIRS + "14_a_restart"),
    ),
    "a restart waits for no node": _one(
        _SCHEDULER + "recovery", "    elif cluster.is_recovering:\n", "    elif call.number < 0:\n",
        _UNIT + "recovery.py::test_a_call_sent",
    ),
    "a report ends no recovery": _one(
        _BEATS, "        node_reported(cluster, node.name)\n", "        pass\n", _REPAIRS + "14_a_call_sent"
    ),
    "reports of ends are not kept": _one(
        _AGENT + "state",
        "            self.unreported.append(message)",
        "            self.unreported.clear()",
        _REPAIRS + "14_without",
    ),
}  # fmt: skip

_TIMING = {
    "the wheel rounds down": _one(
        _WHEELS, "tick = -(-self._deadlines[key] // self._tick_ns)", "tick = self._deadlines[key] // self._tick_ns",
        _WHEEL + "test_one_key",
    ),
    "the wheel forgets renewed keys": _one(
        _WHEELS,
        "            else:\n                self._file(key, number)\n        due.sort",
        "            else:\n                del self._deadlines[key], self._filed[key]\n        due.sort",
        _CONTRACT + "02_at_most", _CONTRACT + "04_every",
    ),
    "the wheel skips a level": _one(
        _WHEELS,
        "            for tick in self._slots.pop(place):\n                self._hang(tick)",
        "            for tick in list(self._slots.pop(place))[1:]:\n                self._hang(tick)",
        _WHEEL + "test_one_key", _WHEEL + "test_one_advance",
    ),
    "the next deadline is a tick late": _one(
        _WHEELS, "        return self._earliest * self._tick_ns", "        return (self._earliest + 1) * self._tick_ns",
        _REPAIRS + "16",
    ),
    "an earlier deadline is not noticed": _one(
        _WHEELS,
        "        elif deadline_ns >= known_ns and",
        "        elif deadline_ns >= 0 and",
        _WHEEL + "TestWheelMachine",
    ),
    "expiries come in reverse": _one(
        _WHEELS, "due.sort(key=bucket.__getitem__, reverse=True)", "due.sort(key=bucket.__getitem__)",
        _WHEEL + "TestWheelMachine",
    ),
    "a cancelled key leaves its bucket behind": _one(
        _WHEELS,
        "        if not bucket:\n            del self._buckets[tick]\n            self._unhang(tick)\n"
        "        return number",
        "        if not bucket:\n            bucket[key] = number\n        return number",
        _REPAIRS + "15_no_more", _WHEEL + "TestWheelMachine",
    ),
}  # fmt: skip

MUTANTS: dict[str, Mutant] = {
    **_TERMS,
    **_PINS_AND_ENDS,
    **_SPECIAL_TERMS_AND_PRESSURE,
    **_MESSAGES,
    **_CALLS_AND_BOOKS,
    **_NOTICES,
    **_RESTARTS,
    **_TIMING,
    **AHEAD,
    **DETACHED,
    **LENDING,
    **NODES,
    **PAYLOADS,
    **SAVING,
}
