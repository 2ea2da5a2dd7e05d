"""What holds between any two turns of the scheduler, in executable form: ``check(cluster)``.

The records of ``state`` refer to one another through many indexes and counts, kept up by hand because a turn must not
cost more than what it touches. This module looks at everything and is therefore for tests, simulation and debugging
only: nothing in the running scheduler may call it, and it never changes anything.
"""

from collections import Counter

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import DECISIONS_KEPT, ENDINGS_KEPT, FINISHED_KEPT
from keepwarm_scheduler.core.dispatching import has_cpu
from keepwarm_scheduler.core.state import Attempt, Call, Instance, Node, Pool, Session
from keepwarm_scheduler.core.transitions import CallState, InstanceState, NodeState
from keepwarm_wire.messages import Reference

__all__ = ["check"]

_WITH_ATTEMPT = (CallState.DISPATCHED, CallState.RUNNING)
_CALL_TIMERS = ("queue", "overall", "retry", "infeasible")
_REASONS = ("capacity", "lock", "not before", "recovering")


def check(cluster: Cluster) -> None:
    """Look at every record and index.

    Raises:
        AssertionError: two of them contradict one another; the message names which.

    >>> from keepwarm_scheduler.core.config import CoreConfig
    >>> check(Cluster(CoreConfig(), epoch=1, cluster_id=bytes(16), now_ns=0))
    """
    for pool in cluster.pools.values():
        _check_pool(cluster, pool)
    _check_callers(cluster)
    for node in cluster.nodes.values():
        _check_node(cluster, node)
    for instance in cluster.instances.values():
        _check_instance(cluster, instance)
    for attempt in cluster.attempts.values():
        _check_attempt(attempt)
    for session in cluster.sessions.values():
        _check_session(cluster, session)
    _check_connections(cluster)
    _check_wheels(cluster)
    _check_recovery(cluster)
    _check_locks(cluster)
    _check_places(cluster)
    _check_loans(cluster)
    _check_detached(cluster)
    assert not cluster.effects, "effects of a turn are left over"


def _check_pool(cluster: Cluster, pool: Pool) -> None:
    name = f"pool {pool.key.hex()[:8]}"
    _check_queue(cluster, pool, name)
    states = Counter(instance.state for instance in pool.instances.values())
    assert pool.starting == states[InstanceState.STARTING], f"{name}: starting is {pool.starting}, {states}"
    assert pool.busy == states[InstanceState.BUSY], f"{name}: busy is {pool.busy}, {states}"
    per_node = Counter(instance.node.name for instance in pool.instances.values())
    assert pool.per_node == per_node, f"{name}: per_node is {pool.per_node}, instances are on {per_node}"
    parked = [
        instance for node in cluster.nodes.values() for instance in node.parked.get(pool.key, ()) if instance.is_parked
    ]
    waiting = Counter(instance.instance_id for instance in (*pool.idle, *parked))
    idle = {key: 1 for key, instance in pool.instances.items() if instance.state is InstanceState.IDLE}
    assert waiting == idle, f"{name}: {waiting} on the stack or parked, idle are {list(idle)}"
    assert not any(instance.is_parked for instance in pool.idle), f"{name}: a parked instance is on the stack"
    assert not (pool.idle and pool.queued), f"{name}: {pool.queued} calls wait beside {len(pool.idle)} idle instances"
    running = {token for token, one in cluster.attempts.items() if one.instance.pool is pool and not one.is_ahead}
    busy = {key for key, instance in pool.instances.items() if instance.state is InstanceState.BUSY}
    assert set(pool.roomy) <= busy, f"{name}: room is looked for on {list(pool.roomy)}, busy are {busy}"
    assert set(pool.attempts) == running, f"{name}: attempts {list(pool.attempts)}, running are {running}"
    siblings = cluster.pools_of.get(pool.environment_id, {})
    assert siblings.get(pool.key) is pool, f"{name} is not listed by its environment"


def _check_callers(cluster: Cluster) -> None:
    """Each pool knows whose functions have their calls wait there, by name."""
    callers: dict[bytes, dict[str, dict[bytes, int]]] = {}
    for session in cluster.sessions.values():
        for function in session.functions.values():
            if function.pool is not None:
                sessions = callers.setdefault(function.pool.key, {}).setdefault(function.name, {})
                sessions[session.session_id] = sessions.get(session.session_id, 0) + 1
    for pool in cluster.pools.values():
        known = callers.get(pool.key, {})
        assert pool.callers == known, f"pool {pool.key.hex()[:8]}: callers are {pool.callers}, they should be {known}"
        users = sum(sum(sessions.values()) for sessions in known.values())
        assert pool.users == users, f"pool {pool.key.hex()[:8]}: {pool.users} users counted, there are {users}"


def _check_queue(cluster: Cluster, pool: Pool, name: str) -> None:
    calls = list(pool.queue)
    assert len(calls) == len(pool.queue), f"{name}: {len(pool.queue)} calls counted, {len(calls)} wait"
    for call in calls:
        state = (call.state, call.reason)
        assert state == (CallState.QUEUED, "capacity"), f"{name}: a call in the queue is {state}"
        assert call.function.pool is pool, f"{name}: a call of another pool is in the queue"
        assert cluster.sessions.get(call.session.session_id) is call.session, f"{name}: a call of nobody waits"
    versions = Counter(call.function.run_times for call in calls)
    assert pool.waiting == versions, f"{name}: waiting is {list(pool.waiting.values())}, {list(versions.values())} wait"
    priorities = {call.rank for call in calls}
    lanes = {(call.rank, call.session.session_id) for call in calls}
    assert pool.queue.footprint() == (len(priorities), len(lanes)), f"{name}: the queue keeps empty lanes"
    head = pool.queue.head()
    assert (head is None) == (not calls), f"{name}: {len(calls)} calls wait behind {head}"
    assert head is None or head.rank == max(priorities), f"{name}: its head is not the most urgent"
    loans = {call for call in calls if call.is_loan}
    assert set(pool.loans) == loans, f"{name}: {len(pool.loans)} loans counted, {len(loans)} wait"
    assert not loans or ("loans", pool.key) in cluster.timers, f"{name}: a loan may wait for ever"


def _check_node(cluster: Cluster, node: Node) -> None:
    name = f"node {node.name}"
    assert cluster.nodes.get(node.name) is node, f"{name} is not in its index"
    booked: Counter[str] = Counter()
    for instance in node.instances.values():
        assert instance.node is node, f"{name} lists an instance of {instance.node.name}"
        assert cluster.instances.get(instance.instance_id) is instance, f"{name} lists an instance that has ended"
        booked["memory"] += instance.memory_bytes
        booked["gpu"] += instance.gpu
    for attempt in node.attempts.values():
        assert cluster.attempts.get(attempt.token) is attempt, f"{name} lists an attempt that is over"
        booked["cpu"] += attempt.cpu
        booked.update({quantity.name: quantity.amount for quantity in attempt.custom})
    for resource in {**node.capacity, **node.free, **booked}:
        capacity, free = node.capacity.get(resource, 0), node.free.get(resource, 0)
        assert free + booked[resource] == capacity, (
            f"{name}: {resource} free {free} and booked {booked[resource]} are not its capacity {capacity}"
        )
    for key, parked in node.parked.items():
        assert parked, f"{name}: an empty parking place"
        is_set_aside = node.is_closed or node.saved_for is not None or not has_cpu(node, parked[0].pool)
        assert is_set_aside, f"{name}: an instance is parked beside free cpu"
        assert all(instance.node is node and instance.pool.key == key for instance in parked), f"{name}: wrong parking"
    if node.saved_for is not None:
        assert ("saved", node.name) in cluster.timers, f"{name} may save for ever"
    assert not (set(node.ended) & set(node.instances)), f"{name}: an instance has ended and not ended"
    _check_use(cluster, node)
    if node.is_lost:
        assert not node.attempts, f"{name} is lost and has attempts"
        states = Counter(instance.state for instance in node.instances.values())
        assert set(states) <= {InstanceState.SUSPENDED}, f"{name} is lost and has instances {states}"
    assert ("node", node.name) in cluster.timers, f"{name} is not watched"
    is_filed = node.level in cluster.levels and cluster.levels[node.level].get(node.name) is node
    assert is_filed == (node.level >= 0), f"{name} is filed under level {node.level}, and not"
    assert is_filed or cluster.unfiled.get(node.name) is node, f"{name} is never looked at"


def _check_use(cluster: Cluster, node: Node) -> None:
    """What is closed is given nothing; what is fit is open."""
    name = f"node {node.name}"
    is_fit = node.state is NodeState.ALIVE and node.has_reported and node.name not in cluster.cordons
    assert node.state is not NodeState.GONE, f"{name} is gone and listed"
    assert not (node.is_closed and is_fit), f"{name} is closed for no reason"
    assert node.is_closed or node.state is NodeState.ALIVE, f"{name} is {node.state} and open"
    assert node.is_closed or node.name not in cluster.cordons, f"{name} is cordoned and open"
    idle = [one for one in node.instances.values() if one.state is InstanceState.IDLE]
    assert not node.is_closed or all(one.is_parked for one in idle), f"{name} is closed and takes calls"


def _check_instance(cluster: Cluster, instance: Instance) -> None:
    name = f"instance {instance.instance_id:#x}"
    assert instance.state is not InstanceState.ENDED, f"{name} has ended and is still listed"
    assert instance.node.instances.get(instance.instance_id) is instance, f"{name} is unknown to its node"
    assert instance.pool.instances.get(instance.instance_id) is instance, f"{name} is unknown to its pool"
    assert cluster.pools.get(instance.pool.key) is instance.pool, f"{name} is of an unknown pool"
    assert cluster.nodes.get(instance.node.name) is instance.node, f"{name} is on an unknown node"
    if instance.attempt is not None:
        assert instance.state is InstanceState.BUSY, f"{name} is {instance.state} and has an attempt"
        assert cluster.attempts.get(instance.attempt.token) is instance.attempt, f"{name} has an attempt that is over"
        assert instance.attempt.instance is instance, f"{name} has another instance's attempt"
        assert not instance.attempt.is_ahead, f"{name} runs an attempt that waits"
    for attempt in instance.ahead:
        assert attempt.is_ahead, f"{name}: an attempt waits and does not"
        assert attempt.instance is instance, f"{name}: another instance's attempt waits"
        assert cluster.attempts.get(attempt.token) is attempt, f"{name}: an attempt waits that is over"
    is_timed = ("recall", instance.instance_id) in cluster.timers
    assert is_timed == instance.is_recall_timed, f"{name}: recall timed is {is_timed}"
    assert is_timed or not instance.ahead, f"{name}: nobody looks after what waits"
    if instance.state is InstanceState.IDLE:
        filed_ns = cluster.leases.deadline_ns(instance.instance_id)
        if instance.lease.is_infinite:
            assert filed_ns is None, f"{name} has an endless lease and is in the wheel"
        else:
            assert filed_ns == instance.lease.deadline_ns, f"{name}: lease {instance.lease.deadline_ns}, {filed_ns}"
    elif instance.state is not InstanceState.BUSY:
        assert instance.instance_id not in cluster.leases, f"{name} is {instance.state} and has a deadline"


def _check_attempt(attempt: Attempt) -> None:
    name = f"attempt {attempt.token:#x}"
    node = attempt.instance.node
    assert node.attempts.get(attempt.token) is attempt, f"{name} is unknown to its node"
    call = attempt.call
    if call is not None:
        assert call.attempt is attempt, f"{name}: its call has attempt {call.attempt}"
        assert call.state in _WITH_ATTEMPT, f"{name}: its call is {call.state}"
        assert call.key == attempt.key, f"{name}: its call is another"
    if attempt.is_ahead:
        assert attempt in attempt.instance.ahead, f"{name} waits at an instance that does not know"
        assert (attempt.cpu, attempt.custom) == (0, ()), f"{name} waits and has booked something"
    elif attempt.instance.state is InstanceState.BUSY:
        assert attempt.instance.attempt is attempt, f"{name}: its instance serves another"


def _check_session(cluster: Cluster, session: Session) -> None:
    name = f"session {session.session_id.hex()[:8]}"
    assert cluster.sessions.get(session.session_id) is session, f"{name} is not in its index"
    is_watched = ("session", session.session_id) in cluster.timers
    assert is_watched != session.is_keeper, f"{name}: watched is {is_watched}"
    for number, call in session.calls.items():
        assert call.number == number, f"{name}: call {number} is another"
        assert call.session is session, f"{name}: call {number} is of another session"
        assert number in session.seen, f"{name}: call {number} was never seen"
        _check_call(cluster, call, f"{name} call {number}")


def _check_call(cluster: Cluster, call: Call, name: str) -> None:
    assert len(call.decisions) <= DECISIONS_KEPT, f"{name} keeps {len(call.decisions)} decisions"
    if call.state is CallState.DONE:
        assert call.outcome is not None, f"{name} is done without an outcome"
        for kind in _CALL_TIMERS:
            assert (kind, call.key) not in cluster.timers, f"{name} is done and its {kind} timer runs"
        return
    assert call.outcome is None, f"{name} has an outcome and is {call.state}"
    if call.state in _WITH_ATTEMPT:
        assert call.attempt is not None, f"{name} is {call.state} without an attempt"
        assert cluster.attempts.get(call.attempt.token) is call.attempt, f"{name}: its attempt is over"
        assert call.attempt.call is call, f"{name}: its attempt serves another call"
        is_timed = ("queue", call.key) in cluster.timers
        assert call.attempt.is_ahead or not is_timed, f"{name} is {call.state} and its queue timeout runs"
        return
    assert call.attempt is None, f"{name} is queued and has an attempt"
    assert call.reason in _REASONS, f"{name} is queued for no reason: {call.reason!r}"
    assert (call.reason == "recovering") == (call.key in cluster.recovering), f"{name}: recovering and not"
    if call.reason == "capacity":
        pool = call.function.pool
        assert pool is not None, f"{name} waits in a pool and has none"
        assert any(call is queued for queued in pool.queue), f"{name} is in no queue"
        assert call.decisions, f"{name} waits and nothing says why"
    elif call.reason == "lock":
        assert call in call.function.environment.waiting, f"{name} waits for no lock"
    elif call.reason == "not before":
        assert ("retry", call.key) in cluster.timers, f"{name} will never be retried"


def _check_connections(cluster: Cluster) -> None:
    for peer, owner in cluster.peers.items():
        assert owner.peer == peer, f"peer {peer.hex()} leads to {owner}, which is elsewhere"
    owners: list[Session | Node] = [*cluster.sessions.values(), *cluster.nodes.values()]
    for owner in owners:
        if owner.peer:
            assert cluster.peers.get(owner.peer) is owner, f"{owner} is connected, and its peer is not known"


def _check_wheels(cluster: Cluster) -> None:
    assert len(cluster.leases) <= len(cluster.instances), "more leases than instances"
    held = sum(instance_id in cluster.leases for instance_id in cluster.instances)
    assert len(cluster.leases) == held, "a lease of an instance that has ended"
    calls = sum(len(session.calls) for session in cluster.sessions.values())
    recovering = len(cluster.unclaimed) + len(cluster.held) + len(cluster.attempts)
    others = len(cluster.sessions) + 2 * len(cluster.nodes) + 2 * len(cluster.pools) + len(cluster.cordons) + 3
    others += len(cluster.instances)  # a recall each
    book = cluster.book
    others += len(book.records) + len(book.keys) + len(book.functions) + len(book.doubts) + 1
    assert len(cluster.timers) <= len(_CALL_TIMERS) * calls + recovering + others, "more timers than subjects"


def _check_detached(cluster: Cluster) -> None:
    """Every detached call is in its indexes, and what is counted is there."""
    book = cluster.book
    claims: Counter[bytes] = Counter()
    unfinished: Counter[int] = Counter()
    stored = 0
    for number, record in book.records.items():
        assert record.number == number, f"record {number} is another"
        assert book.by_id.get(record.call_id) is record, f"record {number} is not found by its id"
        assert record.call_id not in book.tombstones, f"record {number} has a tombstone"
        call, keeper = record.call, record.keeper
        assert book.keepers.get(keeper.namespace) is keeper, f"record {number} is of an unknown namespace"
        stored += record.arguments_bytes + record.result_bytes
        assert keeper.session.calls.get(number) is call, f"record {number}: its keeper has another call"
        if call is None:
            assert ("expiry", number) in cluster.timers, f"record {number} never expires"
            claims[record.result_id] += bool(record.result_id)
            continue
        assert call.state is not CallState.DONE, f"record {number} is done, and not"
        assert record.kept is not None and book.functions.get(record.kept.function_id) is record.kept  # noqa: PT018
        unfinished[record.kept.function_id] += 1
        if isinstance(call.arguments, Reference):
            claims[call.arguments.payload_id] += 1
    for function_id, kept in book.functions.items():
        assert kept.unfinished == unfinished[function_id], f"function {function_id}: {kept.unfinished} counted"
        assert kept.unfinished or ("function", function_id) in cluster.timers, f"function {function_id} stays for ever"
        body = kept.function.declaration.body
        if isinstance(body, Reference):
            claims[body.payload_id] += 1
    assert book.unfinished == sum(unfinished.values()), f"{book.unfinished} unfinished detached calls counted"
    assert book.stored_bytes == stored, f"{book.stored_bytes} bytes counted, there are {stored}"
    assert book.claims() == {key: count for key, count in claims.items() if count}, "payloads are kept for nobody"
    numbers = [number for keeper in book.keepers.values() for number in keeper.session.calls]
    assert all(number in book.records for number in numbers), "a keeper has a call without a record"


def _check_places(cluster: Cluster) -> None:
    built: dict[str, set[str]] = {}
    for node in cluster.nodes.values():
        for environment_id in node.environments:
            built.setdefault(environment_id, set()).add(node.name)
    listed = {environment_id: set(places) for environment_id, places in cluster.built_on.items()}
    assert listed == built, f"environments are listed on {listed}, and are on {built}"
    filed = sum(len(level) for level in cluster.levels.values())
    assert filed <= len(cluster.nodes), "a node is filed twice, or gone"
    assert all(cluster.levels.values()), "an empty level of load"
    pools = {key for siblings in cluster.pools_of.values() for key in siblings}
    assert pools == set(cluster.pools), "a pool is listed by an environment, and gone"
    assert set(cluster.starved) <= set(cluster.pools), "a starved pool is gone"
    finished, endings = cluster.history.counts()
    assert finished <= FINISHED_KEPT, f"{finished} finished calls are remembered"
    assert endings <= ENDINGS_KEPT, f"{endings} endings are remembered"


def _check_loans(cluster: Cluster) -> None:
    """What is lent is held by an attempt, which is its instance's only one; every loan that is dispatched is known."""
    for token, attempt in cluster.loans.items():
        name, instance = f"loan {token:#x}", attempt.instance
        assert cluster.attempts.get(token) is attempt, f"{name} is over"
        assert attempt.call is None or attempt.call.is_loan, f"{name} is an ordinary call"
        assert instance.attempt is attempt, f"{name}: its instance runs another call"
        assert instance.state in (InstanceState.BUSY, InstanceState.ENDED), f"{name} holds nothing"
        assert not instance.ahead, f"{name}: a call waits behind it"
        assert attempt.run_times is None, f"{name} would count as a run"
        is_watched = ("loan", token) in cluster.timers
        assert is_watched or attempt.call is None or not attempt.loan_wanted_ns, f"{name} is called back only once"
    tokens = {token for token, one in cluster.attempts.items() if one.call is not None and one.call.is_loan}
    assert tokens <= set(cluster.loans), f"lent and not known to be: {tokens - set(cluster.loans)}"


def _check_recovery(cluster: Cluster) -> None:
    for key, attempt in cluster.unclaimed.items():
        assert cluster.attempts.get(attempt.token) is attempt, f"unclaimed {key} is over"
        assert attempt.call is None, f"unclaimed {key} has a call"
        assert attempt.key == key, f"unclaimed {key} is of another call"
    for key, call in cluster.recovering.items():
        assert call.key == key, f"recovering {key} is another call"
        assert call.state is CallState.QUEUED, f"recovering {key} is {call.state}"
    kept = Counter(node.name for node, _ in cluster.held.values())
    assert cluster.held_of == kept, f"held of nodes: {cluster.held_of} counted, there are {kept}"
    for key in cluster.held:
        assert ("held", key) in cluster.timers, f"the outcome held for {key} is kept for ever"
    assert cluster.is_recovering or not cluster.recovering, "calls wait for a recovery that is over"


def _check_locks(cluster: Cluster) -> None:
    users = Counter(
        id(function.environment)
        for session in cluster.sessions.values()
        if not session.is_keeper
        for function in session.functions.values()
    )
    for key, environment in cluster.environments.items():
        assert environment.users == users.pop(id(environment), 0), f"environment {key}: {environment.users} users"
        assert not environment.family or environment in cluster.families[environment.family], (
            f"environment {key}: family"
        )
        assert key == (environment.namespace, environment.spec_key), f"environment {key} is another"
        assert (environment.locking_node is not None) == (key in cluster.locking), f"environment {key}: locking and not"
        for call in environment.waiting:
            assert call.state is CallState.QUEUED, f"{call} is over, or runs, and is kept as one that waits"
            assert call.reason == "lock", f"{call} is kept as one that waits for a lock"
        if environment.lock is not None:
            assert not environment.waiting, f"{len(environment.waiting)} calls wait for a lock that is there"
            assert environment.locks[environment.platform] == environment.lock, f"environment {key}: locks"
        if environment.locking_node is not None:
            node = environment.locking_node
            assert cluster.nodes.get(node.name) is node, f"environment {key} is being locked by a node that is gone"
    assert not users, "an environment is forgotten that a function is declared with"
    listed = sum(map(len, cluster.families.values()))
    assert listed <= len(cluster.environments), f"{listed} environments in families, of {len(cluster.environments)}"
