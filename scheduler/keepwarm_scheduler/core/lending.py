"""Loans: a client of the same machine gives an instance its calls itself, for as long as nobody else wants it.

A loan is a call (``Borrow``) that waits, is dispatched, holds its instance and ends as every call does; what the client
sends past us runs under its one attempt. So a lost node, a dead process, a client gone silent and the lease need no
rule here. Rules:

- Lent is where scheduler, agents and client share a machine; with a node elsewhere nothing is, for only calls that pass
  here are spread over the nodes. Nor is anything while calls wait for memory: idle processes are what makes room.
- A call that has to wait has a loan called back (``LoanWanted``) that stands in its way, of the session that has most;
  no more of them at a time than calls wait. A loan that waits has that done only to sessions that have more than its
  own, within its own to functions that have more, and only after ``QUANTUM_NS``; others are to come back when they are
  idle. Whatever is lent while somebody waits for its place is looked at after so long, and called back.
- Loans wait behind the calls of their priority. One that has waited for ``WAITS_NS`` is refused if calls wait too, or
  if its function has no process: its client then submits its calls, and takes part in turns as everybody does.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.events import LOCAL
from keepwarm_scheduler.core.outcomes import fail
from keepwarm_scheduler.core.state import Attempt, Call, Instance, Node, Pool, Session
from keepwarm_wire.messages import Lent, LoanWanted, Status

__all__ = [
    "QUANTUM_NS",
    "RETURN_NS",
    "WAITS_NS",
    "call_all_back",
    "is_refused",
    "lends",
    "lent",
    "look",
    "returned",
    "stop_lending",
    "wait",
    "wanted",
    "weigh",
]

QUANTUM_NS = 5_000_000
RETURN_NS = 20_000_000
"""So long a loan that was called back is waited for before another is."""

WAITS_NS = 250_000_000

_STARVED_LOOKED_AT = 64
_ELSEWHERE = "not all nodes, or not this program, are on the scheduler's machine"


# ---------------------------------------------------------------- whether anything is lent


def lends(cluster: Cluster, session: Session) -> bool:
    """Whether the session may have loans: everything is on one machine."""
    return session.principal == LOCAL and all(node.can_lend for node in cluster.nodes.values())


def is_refused(cluster: Cluster, call: Call) -> bool:
    """Whether a loan that is to be put where it waits has been refused instead."""
    if not lends(cluster, call.session):
        _refuse(cluster, call, _ELSEWHERE)
        return True
    for pool in islice(cluster.starved.values(), _STARVED_LOOKED_AT):
        head = pool.queue.head()
        if head is not None and not head.is_loan and pool is not call.function.pool:
            _refuse(cluster, call, "other calls wait for memory")
            return True
    return False


def stop_lending(cluster: Cluster) -> None:
    """A node elsewhere has joined."""
    call_all_back(cluster)
    for pool in cluster.pools.values():
        for call in list(pool.loans):
            _refuse(cluster, call, _ELSEWHERE)


def _refuse(cluster: Cluster, call: Call, why: str) -> None:
    """The client is to submit its calls instead."""
    fail(cluster, call, Status.FAILED, "not_lent", f"Not lent: {why}.")


# ---------------------------------------------------------------- a loan from its queue to its end


def wait(cluster: Cluster, pool: Pool, call: Call) -> None:
    """A call has been put into its pool's queue."""
    if cluster.loans:
        wanted(cluster, pool, call)
    if call.is_loan and ("loans", pool.key) not in cluster.timers:
        cluster.timer("loans", pool.key, WAITS_NS)


def weigh(cluster: Cluster, key: bytes) -> None:
    """Loans may have waited for too long in this pool: the others' calls come first, and theirs are to go on too."""
    pool = cluster.pools.get(key)
    if pool is None or not pool.loans:
        return
    is_behind = pool.queued > len(pool.loans)
    served = {loan.call.function for loan in cluster.loans.values() if loan.call is not None}
    for call in list(pool.loans):
        has_waited = cluster.now_ns - call.submitted_ns >= WAITS_NS
        if has_waited and (is_behind or not (pool.starting or call.function in served)):
            _refuse(cluster, call, "other calls have the processes")
    if pool.loans:
        cluster.timer("loans", key, WAITS_NS)


def lent(cluster: Cluster, call: Call, attempt: Attempt) -> None:
    """A loan has been dispatched: its client is told where."""
    instance, session = attempt.instance, call.session
    cluster.loans[attempt.token] = attempt
    attempt.run_times = None  # as long as its client likes: that tells nothing of the function
    node, environment_id = instance.node, instance.pool.environment_id
    cluster.send(
        session,
        Lent(call.number, node.name, environment_id, instance.instance_id, instance.process_id, attempt.token),
    )
    if instance.pool.queue or cluster.starved or node.parked:
        _watch(cluster, attempt, QUANTUM_NS)
        _call_back_when_idle(cluster, attempt, _waiting_for(cluster, attempt))


def returned(cluster: Cluster, attempt: Attempt) -> None:
    """An attempt has ended: a loan, perhaps."""
    if cluster.loans.pop(attempt.token, None) is not None:
        cluster.cancel_timer("loan", attempt.token)


# ---------------------------------------------------------------- calling back


def wanted(cluster: Cluster, pool: Pool, call: Call) -> None:
    """A call has to wait: perhaps a loan is called back for it. There are some."""
    loans, now_ns = cluster.loans, cluster.now_ns
    if not call.is_loan:
        moment = (now_ns, next(reversed(loans)), pool.key in cluster.starved)
        if pool.wanted_at == moment:
            return  # of many that come together the first has done it
        pool.wanted_at = moment
    in_the_way = [loan for loan in loans.values() if _is_in_the_way(cluster, pool, loan.instance)]
    for loan in in_the_way:
        _watch(cluster, loan, QUANTUM_NS)  # one may not be enough
        if call.is_loan:
            _call_back_when_idle(cluster, loan, [call])
    calls = 1 if call.is_loan else max(1, pool.queued - len(pool.loans))
    if _returning(cluster, in_the_way) >= calls:
        return
    held = _Held(cluster)
    left = [
        loan
        for loan in in_the_way
        if not loan.loan_wanted_ns
        and (not call.is_loan or (now_ns - loan.dispatched_ns >= QUANTUM_NS and held.has_more(loan, call)))
    ]
    if left:
        _call_back(cluster, max(left, key=held.by_session_of))  # of equals the oldest


def look(cluster: Cluster, token: int) -> None:
    """A loan's time is over: is anybody waiting for it? Called back in vain, it is called back again."""
    loan = cluster.loans.get(token)
    if loan is None:
        return
    if loan.loan_wanted_ns:
        again_ns = loan.loan_wanted_ns + cluster.config.beat_interval_ns
        if cluster.now_ns < again_ns:
            _watch(cluster, loan, again_ns - cluster.now_ns)
        else:
            _call_back(cluster, loan)
        return
    waiting = _waiting_for(cluster, loan)
    if not waiting:
        return
    held = _Held(cluster)
    if any(not call.is_loan for call in waiting):
        _call_back(cluster, loan)
    elif not any(held.has_more(loan, call) for call in waiting):
        _call_back_when_idle(cluster, loan, waiting)
    elif _returning(cluster, cluster.loans.values()):
        _watch(cluster, loan, QUANTUM_NS)  # one at a time: perhaps that was enough
    else:
        _call_back(cluster, loan)


def call_all_back(cluster: Cluster, node: Node | None = None) -> None:
    """Nothing is to be lent any more, or nothing of one node."""
    for loan in cluster.loans.values():
        if node is None or loan.instance.node is node:
            _call_back(cluster, loan)


class _Held:
    """How many loans each session has, and each function of one."""

    def __init__(self, cluster: Cluster) -> None:
        loans = cluster.loans.values()
        self._of_sessions = Counter(loan.key[0] for loan in loans)
        self._of_functions = Counter(loan.call.function for loan in loans if loan.call is not None)

    def by_session_of(self, loan: Attempt) -> int:
        """Those of the loan's session."""
        return self._of_sessions[loan.key[0]]

    def has_more(self, loan: Attempt, call: Call) -> bool:
        """Whether the loan's session has more than the call's; within one, the loan's function more than the call's."""
        if loan.key[0] != call.session.session_id:
            return self._of_sessions[loan.key[0]] > self._of_sessions[call.session.session_id]
        functions = self._of_functions
        return loan.call is not None and functions[loan.call.function] > functions[call.function]


def _is_in_the_way(cluster: Cluster, pool: Pool, instance: Instance) -> bool:
    """Whether a call of the pool might run if the instance were free: itself, its cpu, or its memory."""
    return instance.pool is pool or pool.key in instance.node.parked or pool.key in cluster.starved


def _returning(cluster: Cluster, loans: Iterable[Attempt]) -> int:
    """How many of them were called back a moment ago."""
    return sum(loan.loan_wanted_ns > 0 and cluster.now_ns - loan.loan_wanted_ns < RETURN_NS for loan in loans)


def _waiting_for(cluster: Cluster, loan: Attempt) -> list[Call]:
    """The first calls of all pools for which the loan is in the way."""
    instance = loan.instance
    pools = {instance.pool.key: instance.pool}
    pools |= {key: parked[0].pool for key, parked in instance.node.parked.items()}
    pools |= cluster.starved
    return [call for pool in pools.values() for call in pool.queue.heads()]


def _call_back(cluster: Cluster, loan: Attempt) -> None:
    loan.loan_wanted_ns = cluster.now_ns
    call = loan.call
    if call is not None:
        cluster.send(call.session, LoanWanted(call.number))
        _watch(cluster, loan, cluster.config.beat_interval_ns)


def _call_back_when_idle(cluster: Cluster, loan: Attempt, waiting: Iterable[Call]) -> None:
    """A notice, said once: if it is lost, the loan is as good as ever to its client, and no worse to others.

    Not where only its own function wants more: that is known to its client.
    """
    if loan.call is None or loan.loan_wanted_ns or loan.is_wanted_when_idle:
        return
    if any(call.function is not loan.call.function for call in waiting):
        loan.is_wanted_when_idle = True
        cluster.send(loan.call.session, LoanWanted(loan.call.number, when_idle=True))


def _watch(cluster: Cluster, loan: Attempt, delay_ns: int) -> None:
    if ("loan", loan.token) not in cluster.timers:
        cluster.timer("loan", loan.token, delay_ns)
