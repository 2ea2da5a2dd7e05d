"""Mutants of the rules about loans; see ``table``."""

from mutants.mutant import Mutant, one

__all__ = ["LENDING"]

_CORE = "keepwarm_scheduler.core."
_RULES = _CORE + "lending"
_LENDING = "unit/scheduler/core/test_lending.py::test_"
_TURNS = "unit/scheduler/core/test_lending_turns.py::test_"
_PROGRAM = "property/test_lending.py"

LENDING: dict[str, Mutant] = {
    "loans reach over machines": one(
        _RULES,
        " and all(node.can_lend for node in cluster.nodes.values())",
        "",
        _LENDING + "nothing_is_lent_unless",
    ),
    "loans go on when a node elsewhere joins": one(
        _CORE + "nodes",
        "        stop_lending(cluster)\n",
        "        pass\n",
        _LENDING + "a_node_elsewhere",
    ),
    "loans are retried": one(
        _CORE + "calls",
        "    if call.is_loan:\n        return False  # its",
        "    if False:\n        return False  # its",
        _LENDING + "a_loan_whose_process",
    ),
    "the length of loans counts as a run": one(
        _RULES, "    attempt.run_times = None  #", "    #", _LENDING + "how_long"
    ),
    "loans go before the calls that wait": one(
        _CORE + "state",
        "return self.priority * 2 - self.is_loan",
        "return self.priority * 2 + self.is_loan",
        _TURNS + "a_loan_comes_after",
        _LENDING + "a_loan_that_waits_keeps",
    ),
    "no loan is called back for a call that waits": one(
        _CORE + "starting",
        "            lending.wait(cluster, pool, call)\n",
        "            cluster.timer('loans', pool.key, lending.WAITS_NS)\n",
        _TURNS + "a_call_that_has_to_wait",
        _PROGRAM,
    ),
    "what is lent while calls wait is kept": one(
        _RULES,
        "    if instance.pool.queue or cluster.starved or node.parked:\n",
        "    if not session:\n",
        _TURNS + "a_loan_that_is_granted",
    ),
    "only one loan is ever called back": one(
        _RULES,
        "        _watch(cluster, loan, QUANTUM_NS)  # one may not be enough\n",
        "        pass\n",
        _TURNS + "loans_are_called_back_one",
    ),
    "one call that waits keeps the next one waiting": one(
        _RULES,
        "calls = 1 if call.is_loan else max(1, pool.queued - len(pool.loans))",
        "calls = 1",
        _TURNS + "a_call_that_comes_later",
    ),
    "a loan is called back once": one(
        _RULES,
        "            _watch(cluster, loan, again_ns - cluster.now_ns)\n",
        "            pass\n",
        _TURNS + "a_loan_that_does_not_come_back_is",
    ),
    "equal sessions take loans from each other": one(
        _RULES,
        "self._of_sessions[loan.key[0]] > self",
        "self._of_sessions[loan.key[0]] >= self",
        _TURNS + "those_who_have",
    ),
    "the functions of a session have no turns": one(
        _RULES,
        "functions[loan.call.function] > functions[call.function]",
        "False",
        _TURNS + "functions_of_one_session_have_their_turns",
    ),
    "idle loans keep others waiting": one(
        _RULES,
        "        if call.is_loan:\n            _call_back_when_idle",
        "        if False:\n            _call_back_when_idle",
        _TURNS + "a_loan_that_waits_has_those",
    ),
    "what a function has ends for what it wants besides": one(
        _RULES,
        "    if any(call.function is not loan.call.function for call in waiting):\n",
        "    if waiting:\n",
        _TURNS + "a_program_is_told",
    ),
    "all loans come back for one that waits": one(
        _RULES,
        "    elif _returning(cluster, cluster.loans.values()):\n",
        "    elif False:\n",
        _TURNS + "loans_are_called_back_for_one",
    ),
    "what is lent while a loan waits may be idle": one(
        _RULES,
        "        _call_back_when_idle(cluster, attempt, _waiting_for(cluster, attempt))\n",
        "        pass\n",
        _TURNS + "a_loan_that_is_granted_while_another",
    ),
    "no loan makes room for calls that want memory": one(
        _CORE + "starting",
        "        lending.wanted(cluster, pool, call)\n",
        "        pass\n",
        _TURNS + "a_call_that_needs_the_memory",
    ),
    "a loan waits for ever behind another function's": one(
        _RULES,
        "if has_waited and (is_behind or not (pool.starting or call.function in served)):",
        "if has_waited and is_behind:",
        _TURNS + "a_loan_whose_function",
    ),
}  # fmt: skip
