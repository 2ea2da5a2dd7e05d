"""How each kind of fault strikes a cluster: a table from its name to what happens.

Each function returns whether it did any harm, and only then is the fault counted.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from support.simulation.clock import MILLISECOND, SECOND
from support.simulation.faults import Fault
from support.simulation.network import Link

if TYPE_CHECKING:
    from support.simulation.agent_host import AgentHost
    from support.simulation.client_host import ClientHost
    from support.simulation.cluster import Cluster
    from support.simulation.machines import Machine

__all__ = ["strike"]

_DOWN_MIN_NS = 2 * SECOND
"""A supervisor starts an agent again no sooner."""

Strike = Callable[["Cluster", Fault], bool]


def strike(cluster: "Cluster", fault: Fault) -> None:
    """Let a fault happen now."""
    cluster.history.add(cluster.clock.now_ns, "fault", fault.kind, fault.subject, fault.duration_ns)
    are_lent = cluster.doors.are_busy
    if _STRIKES[fault.kind](cluster, fault):
        if are_lent:
            cluster.tally.meet(f"{fault.kind} while lent")
        cluster.tally.strike(fault.kind)


def _agent(cluster: "Cluster", fault: Fault) -> "AgentHost":
    return cluster.agents[fault.subject % len(cluster.agents)]


def _client(cluster: "Cluster", fault: Fault) -> "ClientHost":
    return cluster.clients[fault.subject % len(cluster.clients)]


def _machine(cluster: "Cluster", fault: Fault) -> "Machine":
    return cluster.machines[fault.subject % len(cluster.machines)]


# ---------------------------------------------------------------- processes that end


def _crash_scheduler(cluster: "Cluster", fault: Fault) -> bool:
    was_alive = cluster.scheduler.is_alive
    if was_alive:
        cluster.scheduler.crash()
    cluster.clock.after(fault.duration_ns, cluster.revive_scheduler)
    return was_alive


def _crash_at_sync(cluster: "Cluster", fault: Fault) -> bool:
    """It counts when it happens: at the next sync, if there is one."""
    cluster.scheduler.crashes_at_sync = True
    cluster.clock.after(fault.duration_ns + SECOND, cluster.revive_scheduler)
    return False


def _stop_scheduler(cluster: "Cluster", fault: Fault) -> bool:
    was_alive = cluster.scheduler.is_alive
    if was_alive:
        cluster.scheduler.stop()
    cluster.clock.after(max(fault.duration_ns, _DOWN_MIN_NS), cluster.revive_all)
    return was_alive


def _stop_cluster(cluster: "Cluster", fault: Fault) -> bool:
    was_alive, force = cluster.scheduler.is_alive, bool(fault.subject & 1)
    if was_alive:
        cluster.scheduler.stop_cluster(force=force)
    cluster.clock.after(max(fault.duration_ns, _DOWN_MIN_NS), cluster.revive_all)
    return was_alive and force


def _crash_agent(cluster: "Cluster", fault: Fault) -> bool:
    agent = _agent(cluster, fault)
    was_alive = agent.is_alive
    agent.crash()
    cluster.clock.after(max(fault.duration_ns, _DOWN_MIN_NS), cluster.revive_agents)
    return was_alive


def _stop_agent(cluster: "Cluster", fault: Fault) -> bool:
    agent = _agent(cluster, fault)
    was_alive = agent.is_alive
    agent.leave()
    cluster.clock.after(max(fault.duration_ns, _DOWN_MIN_NS), cluster.revive_agents)
    return was_alive


def _crash_all(cluster: "Cluster", fault: Fault) -> bool:
    was_alive = cluster.scheduler.is_alive
    if was_alive:
        cluster.scheduler.crash()
    for agent in cluster.agents:
        agent.crash()
    cluster.clock.after(max(fault.duration_ns, _DOWN_MIN_NS), cluster.revive_all)
    return was_alive


def _end_client(*, with_goodbye: bool) -> Strike:
    def end(cluster: "Cluster", fault: Fault) -> bool:
        client = _client(cluster, fault)
        was_alive = client.is_alive
        client.die(with_goodbye=with_goodbye)
        return was_alive

    return end


def _restart_client(cluster: "Cluster", fault: Fault) -> bool:
    client = _client(cluster, fault)
    was_alive = client.is_alive
    client.die(with_goodbye=False)
    if was_alive:
        cluster.restart_client(fault.duration_ns)
    return was_alive


# ---------------------------------------------------------------- connections


def _break(link_of: Callable[["Cluster", Fault], Link]) -> Strike:
    def cut(cluster: "Cluster", fault: Fault) -> bool:
        link = link_of(cluster, fault)
        was_connected = link.is_connected
        cluster.network.break_connection(link)
        return was_connected

    return cut


def _block(link_of: Callable[["Cluster", Fault], Link], *, up: bool, down: bool) -> Strike:
    """Partition a peer in one direction or both; in half of the cases its connection is given up after a while."""

    def block(cluster: "Cluster", fault: Fault) -> bool:
        link, network, clock, random = link_of(cluster, fault), cluster.network, cluster.clock, cluster.random

        def give_up() -> None:
            if link.blocked_up or link.blocked_down:
                network.break_connection(link)

        network.block(link, up=up, down=down)
        if random.random() < 0.5:
            clock.after(random.randrange(MILLISECOND, 3 * SECOND), give_up)
        clock.after(
            fault.duration_ns, lambda: None if cluster.has_healed else network.block(link, up=False, down=False)
        )
        return not link.is_closed

    return block


def _agent_link(cluster: "Cluster", fault: Fault) -> Link:
    return _agent(cluster, fault).link


def _client_link(cluster: "Cluster", fault: Fault) -> Link:
    return _client(cluster, fault).link


# ---------------------------------------------------------------- what goes on later, and what happens on nodes


def _pause(whom: Callable[["Cluster", Fault], "AgentHost | ClientHost"]) -> Strike:
    def pause(cluster: "Cluster", fault: Fault) -> bool:
        host = whom(cluster, fault)
        host.pauses.begin(fault.duration_ns)
        return host.is_alive

    return pause


def _pause_scheduler(cluster: "Cluster", fault: Fault) -> bool:
    cluster.scheduler.pauses.begin(fault.duration_ns)
    return cluster.scheduler.is_alive


_STRIKES: dict[str, Strike] = {
    "crash scheduler": _crash_scheduler,
    "crash at sync": _crash_at_sync,
    "stop scheduler": _stop_scheduler,
    "stop cluster": _stop_cluster,
    "crash agent": _crash_agent,
    "stop agent": _stop_agent,
    "crash all": _crash_all,
    "client dies": _end_client(with_goodbye=False),
    "client leaves": _end_client(with_goodbye=True),
    "client restarts": _restart_client,
    "break agent": _break(_agent_link),
    "break client": _break(_client_link),
    "partition agent": _block(_agent_link, up=True, down=True),
    "partition client": _block(_client_link, up=True, down=True),
    "mute agent": _block(_agent_link, up=True, down=False),
    "mute client": _block(_client_link, up=True, down=False),
    "deafen agent": _block(_agent_link, up=False, down=True),
    "deafen client": _block(_client_link, up=False, down=True),
    "pause agent": _pause(_agent),
    "pause client": _pause(_client),
    "pause scheduler": _pause_scheduler,
    "kill process": lambda cluster, fault: _machine(cluster, fault).kill_process(is_busy=False),
    "kill busy process": lambda cluster, fault: _machine(cluster, fault).kill_process(is_busy=True),
    "out of memory": lambda cluster, fault: _machine(cluster, fault).kill_process(
        is_busy=True, out_of_memory="simulated"
    ),
    "lose runner": lambda cluster, fault: _machine(cluster, fault).lose_runner(),
    "give up loans": lambda cluster, fault: _client(cluster, fault).give_up_loans(),
    "lose environments": lambda cluster, fault: _machine(cluster, fault).lose_environments(),
}
