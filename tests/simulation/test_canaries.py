"""Each promise is broken in memory, and a checker of the simulation sees it within a few seeds.

A checker that has never objected to anything proves nothing. Every entry of the table breaks one thing in one of the
three cores and names the checker that must object, and the scenario in which it does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from keepwarm import borrowing, loans, session_sending
from keepwarm.session import Session
from keepwarm.session_calls import CallState as ClientCall
from keepwarm_scheduler.core import (
    beats,
    calls,
    dispatching,
    intervals,
    leases,
    lending,
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
from support.simulation import lending as lent_processes
from support.simulation.cluster import simulate

SEEDS_MAX = 120
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


# ---------------------------------------------------------------- loans


def return_twice(patch: pytest.MonkeyPatch) -> None:
    """The client delivers what a lent process returned two times."""
    original = Session._return

    def deliver(self: Any, call: Any, result: bytes, run_us: int) -> None:
        original(self, call, result, run_us)
        self.deliveries.append(self.deliveries[-1])

    patch.setattr(Session, "_return", deliver)


def drop_the_doubtful(patch: pytest.MonkeyPatch) -> None:
    """Who knows what became of a call that had begun?"""
    patch.setattr(loans.Loans, "_end_doubtful", lambda _self, _now_ns, _call, _ended: None)


def submit_the_dead(patch: pytest.MonkeyPatch) -> None:
    """A lent call that has killed its process is given to the next one."""

    def end(self: Any, _now_ns: int, call: Any, _ended: Any) -> None:
        call.state, call.loan = ClientCall.HELD, None
        self._submit(call)

    patch.setattr(loans.Loans, "_end_doubtful", end)


def take_back_what_began(patch: pytest.MonkeyPatch) -> None:
    """The client does not look at the board."""
    original = loans.Loans.closed
    patch.setattr(loans.Loans, "closed", lambda self, now_ns, loan, _begun: original(self, now_ns, loan, 0))


def run_what_was_recalled(patch: pytest.MonkeyPatch) -> None:
    """The process says that it gives a call back, and runs it all the same."""
    patch.setattr(lent_processes.Lending, "begins", lambda _self, _number: True)


def give_back_what_runs(patch: pytest.MonkeyPatch) -> None:
    """The process gives back calls that have begun."""
    patch.setattr(lent_processes.Lending, "may_recall", lambda _self, _number: True)


def look_for_no_end(patch: pytest.MonkeyPatch) -> None:
    """The process begins a call after its client has looked what it had begun."""
    patch.setattr(lent_processes.Lending, "sees_end", lambda _self: False)


def lend_anything(patch: pytest.MonkeyPatch) -> None:
    """Also what has timeouts and retries, of which a lent process knows nothing."""
    patch.setattr(borrowing, "is_lendable", lambda _options: True)


def cancel_no_lent_call(patch: pytest.MonkeyPatch) -> None:
    """A lent process is not told that its caller has given a call up."""
    patch.setattr(loans.Loans, "cancel", lambda _self, _now_ns, call: setattr(call, "cancelling", True))


def forget_what_was_given_back(patch: pytest.MonkeyPatch) -> None:
    """Calls that a process gives back go nowhere."""
    patch.setattr(loans.Loans, "_given_back", lambda _self, _now_ns, _loan, _calls: None)


def submit_what_is_lent(patch: pytest.MonkeyPatch) -> None:
    """A call that a process has is submitted too, when others want the process."""
    original = loans.Loans.on_wanted

    def on_wanted(self: Any, loan: Any) -> None:
        for call in loan.sent:
            if call is not None:
                self._submit(call)
        original(self, loan)

    patch.setattr(loans.Loans, "on_wanted", on_wanted)


def stop_lent_instances(patch: pytest.MonkeyPatch) -> None:
    """The lease of an instance runs while it is lent, and its agent does not mind."""
    original = lending.lent

    def lent(cluster: Any, call: Any, attempt: Any) -> None:
        original(cluster, call, attempt)
        instance = attempt.instance
        cluster.timer("lent too long", instance.instance_id, 60_000_000)

    def stop(cluster: Any, instance_id: int) -> None:
        instance = cluster.instances.get(instance_id)
        if instance is not None:
            command = cluster.next_command(instance.node)
            cluster.send(instance.node, wire.StopInstance(command, instance_id, 0, "expired"))

    stop_busy_instances(patch)
    patch.setattr(dispatching, "dispatch", dispatching.dispatch)
    patch.setitem(machine._OTHER_TIMERS, "lent too long", stop)
    patch.setattr(lending, "lent", lent)


def end_loans_at_a_restart(patch: pytest.MonkeyPatch) -> None:
    """The client hangs up on every process when its scheduler is a new one."""

    def start_over(self: Any, now_ns: int) -> None:
        lost = wire.Outcome(0, wire.Status.LOST, b"", None, None)
        for loan in (self.borrower.requested | self._open | self._ending).values():
            if loan.ended is None:
                loan.is_wanted, loan.call.state = True, ClientCall.DONE
                self.on_outcome(now_ns, loan, lost)

    patch.setattr(loans.Loans, "start_over", start_over)


def never_end_loans(patch: pytest.MonkeyPatch) -> None:
    """The scheduler does not see that a loan is over."""
    patch.setattr(lending, "returned", lambda _cluster, _attempt: None)


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
    "what is lent returns twice": Canary(return_twice, "lending", "outcomes"),
    "doubtful calls are dropped": Canary(drop_the_doubtful, "lending", "outcomes"),
    "calls that killed their lent process run again": Canary(submit_the_dead, "lending", "loans"),
    "what a lent process had begun begins anew": Canary(take_back_what_began, "lending", "loans"),
    "lent processes run what they gave back": Canary(run_what_was_recalled, "lending", "loans"),
    "lent processes give back what they run": Canary(give_back_what_runs, "lending", "loans"),
    "lent processes begin calls for nobody": Canary(look_for_no_end, "lending", "loans"),
    "everything is lent": Canary(lend_anything, "lending", "loans"),
    "lent calls are not cancelled": Canary(cancel_no_lent_call, "lending", "outcomes"),
    "what is given back is forgotten": Canary(forget_what_was_given_back, "lending", "outcomes"),
    "what is wanted back is submitted too": Canary(submit_what_is_lent, "lending", "loans"),
    "lent instances are stopped": Canary(stop_lent_instances, "lending", "leases"),
    "a restart ends loans": Canary(end_loans_at_a_restart, "lending-restarts", "reruns"),
    "loans are never over": Canary(never_end_loans, "lending", "leaks"),
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
