"""What is still there when a cluster has been left alone: noted in the history, for the checker to judge."""

from collections.abc import Iterable

from keepwarm_scheduler.core.transitions import InstanceState
from keepwarm_wire.fields import FOREVER_US
from support.simulation.agent_host import AgentHost
from support.simulation.client_host import ClientHost
from support.simulation.history import History
from support.simulation.scheduler_host import SchedulerHost

__all__ = ["note_leftovers"]


def note_leftovers(
    history: History,
    now_ns: int,
    scheduler: SchedulerHost,
    agents: Iterable[AgentHost],
    clients: Iterable[ClientHost],
) -> None:
    """Count what may only be there while something is going on, and what scheduler and agents must agree on."""
    _of_scheduler(history, now_ns, scheduler)
    for agent in agents:
        node, state = agent.machine.node, agent.core.state
        for name, count in (
            ("attempts", len(state.attempts)),
            ("wanted functions", len(state.wanted_functions)),
            ("builds", len(state.builds)),
            ("locks", len(state.locks)),
            ("unreported", len(state.unreported)),
            ("payloads", sum(1 for each in state.payloads.values() if each.attempts or not each.available)),
        ):
            history.add(now_ns, "left", node, name, count)
        for instance in state.instances.values():
            endless = any(lease.keep_alive_us >= FOREVER_US for lease in instance.leases.values())
            history.add(now_ns, "left instance", node, instance.instance_id, endless, instance.state.value)
    for client in clients:
        if client.is_alive:
            history.add(now_ns, "left", client.name, "unanswered", len(client.session.unanswered()))
            history.add(now_ns, "left", client.name, "held", client.session.held_calls)
            _of_loans(history, now_ns, client)


def _of_loans(history: History, now_ns: int, client: ClientHost) -> None:
    loans = client.session.loans
    for name, count in (
        ("lent calls", loans.inflight),
        ("loans asked for", len(loans.borrower.requested)),
        ("functions with loans", len(loans.borrower.on)),
        ("open loans", len(loans._open)),
        ("ending loans", len(loans._ending)),
        ("lines", len(client.desk.lines)),
    ):
        history.add(now_ns, "left", client.name, name, count)


def _of_scheduler(history: History, now_ns: int, scheduler: SchedulerHost) -> None:
    cluster = scheduler.core.cluster
    bodies = _bodies(scheduler)
    finite = sum(1 for instance in cluster.instances.values() if not instance.lease.is_infinite)
    for name, count in (
        ("attempts", len(cluster.attempts)),
        ("calls", sum(len(session.calls) for session in cluster.sessions.values())),
        ("queued", sum(pool.queued for pool in cluster.pools.values())),
        ("starting", sum(pool.starting for pool in cluster.pools.values())),
        ("busy", sum(pool.busy for pool in cluster.pools.values())),
        ("loans", len(cluster.loans)),
        ("leases", len(cluster.leases)),
        ("finite instances", finite),
        ("unclaimed", len(cluster.unclaimed)),
        ("held", len(cluster.held)),
        ("recovering", len(cluster.recovering)),
        ("locking", len(cluster.locking)),
        ("unfinished", cluster.book.unfinished),
        ("doubts", len(cluster.book.doubts)),
        ("kept payloads", len(set(scheduler.shelf.kept_ids()) ^ set(cluster.book.claims()))),
        ("payloads", sum(1 for payload_id in scheduler.shelf.ids() if payload_id not in bodies)),
    ):
        history.add(now_ns, "left", "scheduler", name, count)
    for node in cluster.nodes.values():
        for name, amount in sorted(node.capacity.items()):
            booked = amount - node.free[name]
            used = sum(_booked(each, name) for each in node.instances.values())
            history.add(now_ns, "left", f"books of {node.name}", name, booked - used)
        for instance in node.instances.values():
            idle = instance.state is InstanceState.IDLE
            history.add(now_ns, "known instance", node.name, instance.instance_id, idle)


def _bodies(scheduler: SchedulerHost) -> dict[bytes, None]:
    """The payloads that are large functions of clients which are there."""
    declared = (each for session in scheduler.core.cluster.sessions.values() for each in session.functions.values())
    bodies = (function.declaration.body for function in declared)
    return {body.payload_id: None for body in bodies if not isinstance(body, bytes)}


def _booked(instance: object, name: str) -> int:
    amount = {"memory": "memory_bytes", "gpu": "gpu"}.get(name)
    return 0 if amount is None else int(getattr(instance, amount))
