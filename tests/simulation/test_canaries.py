"""Each promise is broken in memory, and a checker of the simulation sees it within a few seeds.

A checker that has never objected to anything proves nothing. Every entry of the table breaks one thing in one of the
three cores and names the checker that must object, and the scenario in which it does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from keepwarm import session_sending
from keepwarm_scheduler.core import (
    beats,
    calls,
    dispatching,
    intervals,
    leases,
    machine,
    outcomes,
    places,
    recovery,
    sessions,
)
from keepwarm_scheduler.core import instances as scheduler_instances
from keepwarm_scheduler.core.transitions import CallState
from keepwarm_wire import messages as wire
from keepwarm_worker.core import instances as agent_instances
from keepwarm_worker.core import link
from keepwarm_worker.core import machine as agent_machine
from keepwarm_worker.core import outcomes as agent_outcomes
from keepwarm_worker.core.transitions import InstanceState as AgentInstance
from support.simulation.cluster import simulate

SEEDS_MAX = 60
Break = Callable[[pytest.MonkeyPatch], None]


def count_any_outcome(patch: pytest.MonkeyPatch) -> None:
    """The scheduler takes the first outcome that comes, whatever attempt it is of."""

    def stale(cluster: Any, node: Any, message: Any) -> None:
        session = cluster.sessions.get(message.session_id)
        call = None if session is None else session.calls.get(message.call_number)
        if call is not None and call.state in (CallState.DISPATCHED, CallState.RUNNING):
            attempt = call.attempt
            outcomes.record(cluster, call, message.status, message.result, message.failure, None)
            calls.abandon(cluster, attempt)
        cluster.settle(node, message.attempt)

    patch.setattr(calls, "_stale_outcome", stale)


def expire(shift_ns: int) -> Break:
    """Every lease ends earlier or later than promised."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        original = leases.Lease.restart

        def restart(self: Any, function: str, ended_ns: int, keep_alive_us: int) -> None:
            original(self, function, ended_ns + shift_ns, keep_alive_us)

        patch.setattr(leases.Lease, "restart", restart)

    return apply


def stop_busy_instances(patch: pytest.MonkeyPatch) -> None:
    """Leases run while calls do, and the agent asks neither whether an instance is busy nor what it has served."""

    def dispatch_and_expire(cluster: Any, call: Any, instance: Any) -> None:
        original(cluster, call, instance)
        machine.cluster_stop(cluster, instance)  # type: ignore[attr-defined]

    def order(cluster: Any, instance: Any) -> None:
        command = cluster.next_command(instance.node)
        cluster.send(instance.node, wire.StopInstance(command, instance.instance_id, 0, "expired"))

    def obey(state: Any, command: Any) -> None:
        instance = state.instances.get(command.instance_id)
        if instance is not None and instance.state is AgentInstance.BUSY:
            agent_instances.kill(state, instance, command.cause, None)

    original = dispatching.dispatch
    patch.setattr(machine, "cluster_stop", order, raising=False)
    patch.setattr(dispatching, "dispatch", dispatch_and_expire)
    patch.setitem(agent_machine._COMMANDS, wire.StopInstance, obey)


def settle_at_once(patch: pytest.MonkeyPatch) -> None:
    """The agent is told to forget an outcome when it arrives, not when the client has it."""
    original = calls.attempt_done

    def attempt_done(cluster: Any, node: Any, message: Any) -> None:
        original(cluster, node, message)
        cluster.settle(node, message.attempt)

    patch.setitem(machine._FROM_AGENT, wire.AttemptDone, attempt_done)


def final_before_recorded(patch: pytest.MonkeyPatch) -> None:
    """The first copy of an outcome is answered by Final and not recorded."""
    original, seen = calls.attempt_done, dict[int, None]()

    def attempt_done(cluster: Any, node: Any, message: Any) -> None:
        if message.attempt not in seen:
            seen[message.attempt] = None
            cluster.settle(node, message.attempt)
        else:
            original(cluster, node, message)

    patch.setitem(machine._FROM_AGENT, wire.AttemptDone, attempt_done)


def obey_copies(patch: pytest.MonkeyPatch) -> None:
    """The agent obeys every command it gets, copies too."""
    patch.setattr(link, "is_new_command", lambda _state, _number: True)


def lose_attempts(patch: pytest.MonkeyPatch) -> None:
    """A call whose attempt is lost is not placed again."""
    patch.setattr(calls, "place_again", lambda _cluster, call: setattr(call, "attempt", None))


def say_outcomes_once(patch: pytest.MonkeyPatch) -> None:
    """The agent does not repeat an outcome that is not final."""
    patch.setattr(agent_outcomes, "repeat", lambda _state, older_than_ns: None)


def deliver_every_copy(patch: pytest.MonkeyPatch) -> None:
    """The client does not forget a call that has ended."""
    original = session_sending.Sending.finish

    def finish(self: Any, now_ns: int, call: Any) -> None:
        original(self, now_ns, call)
        self.numbered[call.number] = call

    patch.setattr(session_sending.Sending, "finish", finish)


def accept_every_copy(patch: pytest.MonkeyPatch) -> None:
    """The scheduler takes a copy of a call for another call."""
    original = intervals.IntervalSet.add
    patch.setattr(intervals.IntervalSet, "add", lambda self, number: original(self, number) or True)


def book_nothing(patch: pytest.MonkeyPatch) -> None:
    """Every node always has room."""
    patch.setattr(places, "has_room", places.could_use_another)


def never_forget(patch: pytest.MonkeyPatch) -> None:
    """The scheduler keeps calls that the client has received."""
    patch.setitem(machine._FROM_CLIENT, wire.Received, lambda _cluster, _session, _message: None)


def wait_for_no_node(patch: pytest.MonkeyPatch) -> None:
    """After a restart calls that are sent again run at once, wherever they may be running."""
    patch.setattr(sessions, "hold_back", calls.submit)
    patch.setattr(recovery, "begin", lambda _cluster, _nodes: None)


def cancel_anyone(patch: pytest.MonkeyPatch) -> None:
    """A cancel stops another call too."""
    original = calls.cancel

    def cancel_call(cluster: Any, session: Any, message: Any) -> None:
        for call in list(session.calls.values()):
            original(cluster, call, "by mistake")

    patch.setitem(machine._FROM_CLIENT, wire.Cancel, cancel_call)


def forget_ended_instances(patch: pytest.MonkeyPatch) -> None:
    """Beats do not tell the scheduler that an instance is gone."""
    patch.setattr(beats, "_end_missing", lambda *_arguments: None)


def keep_the_first_lease(patch: pytest.MonkeyPatch) -> None:
    """The term that an instance was started for holds for ever, not until its first call ends."""
    original = leases.Lease.restart

    def restart(self: Any, function: str, ended_ns: int, keep_alive_us: int) -> None:
        original(self, function or "started for", ended_ns, keep_alive_us)

    patch.setattr(leases.Lease, "restart", restart)


def report_while_handing_over(patch: pytest.MonkeyPatch) -> None:
    """After a restart a node counts as heard though it has yet to hand over what it finished."""
    patch.setattr(beats, "_hands_over", lambda _cluster, _beat: False)


def blame_the_pool(patch: pytest.MonkeyPatch) -> None:
    """A start that an agent refuses because it is leaving counts as a failed start."""
    patch.setattr(scheduler_instances, "_NODE_STOPPING", "never")


class Canary(NamedTuple):
    """One way to break a promise, where it shows, and who must see it."""

    apply: Break
    scenario: str
    checker: str


CANARIES = {
    "any attempt's outcome counts": Canary(count_any_outcome, "one-way", "recording"),
    "leases end a second early": Canary(expire(-1_000_000_000), "smooth", "leases"),
    "leases end a second late": Canary(expire(1_000_000_000), "smooth", "leases"),
    "busy instances are stopped": Canary(stop_busy_instances, "smooth", "leases"),
    "outcomes are final before the client has them": Canary(settle_at_once, "brief-absence", "reruns"),
    "outcomes are final before they are recorded": Canary(final_before_recorded, "smooth", "reruns"),
    "copies of commands are obeyed": Canary(obey_copies, "duplicating", "executions"),
    "lost attempts are not placed again": Canary(lose_attempts, "agent-crash", "outcomes"),
    "outcomes are said once": Canary(say_outcomes_once, "losing", "outcomes"),
    "outcomes are delivered twice": Canary(deliver_every_copy, "duplicating", "outcomes"),
    "copies of calls are calls": Canary(accept_every_copy, "duplicating", "recording"),
    "nodes are never full": Canary(book_nothing, "crowded", "resources"),
    "calls are never forgotten": Canary(never_forget, "smooth", "leaks"),
    "restarts wait for no node": Canary(wait_for_no_node, "scheduler-restart", "reruns"),
    "a cancel stops other calls": Canary(cancel_anyone, "smooth", "outcomes"),
    "the first lease holds for ever": Canary(keep_the_first_lease, "crowded", "leaks"),
    "large outcomes are not waited for": Canary(report_while_handing_over, "scheduler-restart", "reruns"),
    "an agent that leaves fails calls": Canary(blame_the_pool, "agent-crash", "outcomes"),
    "beats end no instance": Canary(forget_ended_instances, "losing", "leaks"),
}


@pytest.mark.parametrize("name", CANARIES)
def test_a_checker_sees_a_broken_promise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within ``SEEDS_MAX`` seeds, and it is the checker whose business it is."""
    canary = CANARIES[name]
    canary.apply(monkeypatch)
    seen: dict[str, None] = {}
    for seed in range(SEEDS_MAX):
        for violation in simulate(canary.scenario, seed).violations:
            seen[violation.partition(":")[0]] = None
        if canary.checker in seen:
            return
    pytest.fail(f"no {canary.checker} among {list(seen)} in {SEEDS_MAX} seeds of {canary.scenario}")
