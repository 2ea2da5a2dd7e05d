"""What must hold of every run with real processes, whatever went wrong in it; the wording is the simulation's.

A checker reads a history and yields what is wrong. What is known is what clients were told and what functions noted:
of attempts that never began to run, and of what the scheduler recorded, clients' answers are the only witness.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from support.histories.executing import origin
from support.simulation.clock import SECOND
from support.simulation.history import Entry, History

__all__ = ["CHECKERS", "LINGER_NS", "RERUN_FAULTS", "objections"]

RERUN_FAULTS = frozenset(
    {
        "crash agent",
        "power off",
        "partition agent",
        "mute agent",
        "deafen agent",
        "cut off agent",
        "link down",
        "reset connections",
        "pause agent",
        "freeze host",
        "kill process",
        "out of memory",
        "disk full",
    }
)
"""Faults of a node after which what it ran may be run again. One of the scheduler or of a client is none of them.

A reset is among them because it looks as the end of the agent does: who is not back within a second has ended, for all
that the scheduler can know. A test whose agent was back sooner has to ask for more.
"""

LINGER_NS = 10 * SECOND
"""So long after it has healed a fault may still be felt: connections are made anew, silence is noticed."""

_OWN_ENDS = {"NodeLost", "NoFeasibleNode", "CallTimeout", "EnvironmentBuildError", "NodeDiskFull", "PayloadRefused"}
"""Failures that need no execution."""

_DEATHS = {"ProcessDied", "OutOfMemory", "CallPoisoned"}


def objections(history: History) -> list[str]:
    """What all checkers together object to; each line begins with the checker's name."""
    return [f"{name}: {wrong}" for name, check in CHECKERS.items() for wrong in check(history)]


# ---------------------------------------------------------------- every accepted call has one outcome


def _outcomes(history: History) -> Iterator[str]:
    """What clients were told, against what they asked and what ran."""
    gone = {entry[2] for entry in history.of("client gone")}
    accepted = {entry[3] for entry in history.of("accepted")}
    submitted = {entry[3]: entry[2] for entry in history.of("submit")}
    told = Counter((entry[3], entry[2]) for entry in history.of("end"))
    answered = {call for call, _ in told}
    for call, client in submitted.items():
        if call not in answered and (call in accepted or client not in gone):
            yield f"call {call} has 0 outcomes"
    for (call, client), count in told.items():
        if call not in submitted:
            yield f"call {call} has an outcome, and nobody submitted it"
        elif count > 1:
            yield f"call {call} has {count} outcomes at {client}"
    waited_ns = next((entry[0] for entry in history.of("waited")), None)
    for entry in history.of("end"):
        if waited_ns is not None and entry[0] > waited_ns:
            yield f"call {entry[3]} was answered too late"


def _origins(history: History) -> Iterator[str]:
    """Every outcome comes from an execution of that call, or needs none."""
    runs = {entry[4]: entry for entry in history.of("run")}
    ran = {entry[3]: entry[4] for entry in history.of("ran")}
    cancelled = {entry[3] for entry in history.of("cancel")}
    died = {entry[3] for execution, entry in runs.items() if execution not in ran}
    at_most_once = {entry[3] for entry in history.of("submit") if entry[4]}
    for _, _, _, call, how, value in history.of("end"):
        if how in ("returned", "raised"):
            yield from _check_value(call, how, value, runs, ran)
        elif how == "CallCancelled":
            if call not in cancelled:
                yield f"call {call} is cancelled, and nobody asked for that"
        elif how in _DEATHS:
            if call not in died:
                yield f"call {call} is said to have died, and none of its executions has"
        elif how == "CallLost":
            if call not in at_most_once:
                yield f"call {call} is lost, and may run more than once"
        elif how not in _OWN_ENDS:
            yield f"call {call} ended with {how}: {value}"


def _check_value(call: str, how: str, value: str, runs: dict[int, Entry], ran: dict[int, str]) -> Iterator[str]:
    try:
        of_call, execution = origin(value)
    except ValueError:
        yield f"call {call} {how} {value!r}, which no execution made"
        return
    if of_call != call:
        yield f"call {call} got the outcome of {of_call}"
    elif execution not in runs or runs[execution][3] != call or ran.get(execution) != how:
        yield f"call {call} got an outcome of execution {execution:#x}, which never {how}"


def _recording(history: History) -> Iterator[str]:
    """A recorded outcome never changes, whoever asks."""
    told: dict[str, tuple[str, str]] = {}
    for _, _, _, call, how, value in history.of("end"):
        before = told.setdefault(call, (how, value))
        if before != (how, value):
            yield f"call {call} was told two outcomes: {' '.join(before)} and {how} {value}"


# ---------------------------------------------------------------- what ran was wanted, and no more often than need be


def _executions(history: History) -> Iterator[str]:
    """Only what was submitted runs, on hosts that exist; at most once where that was asked, never once cancelled."""
    submitted = {entry[3]: entry[4] for entry in history.of("submit")}
    places = {entry[3] for entry in history.of("host")}
    confirmed = {entry[3]: entry[0] for entry in history.of("cancel confirmed")}
    seen: set[int] = set()
    counts: Counter[str] = Counter()
    for at_ns, _, place, call, execution in history.of("run"):
        if execution in seen:
            yield f"execution {execution:#x} of call {call} ran twice"
        seen.add(execution)
        counts[call] += 1
        if call not in submitted:
            yield f"call {call} ran, and nobody submitted it"
        if places and place not in places:
            yield f"call {call} ran at {place}, where no host is"
        if at_ns > confirmed.get(call, at_ns):
            yield f"call {call} was started after its cancel was confirmed"
    for call, count in counts.items():
        if count > 1 and submitted.get(call):
            yield f"call {call} may run at most once and ran {count} times"
    ends = Counter(entry[3] for entry in history.of("ran"))
    for execution, count in ends.items():
        if count > 1 or execution not in seen:
            yield f"execution {execution:#x} ended {count} times{'' if execution in seen else ' and never began'}"


class _Trouble(NamedTuple):
    """From when to when something was wrong with a host."""

    from_ns: int
    to_ns: int


def _reruns(history: History) -> Iterator[str]:
    """A call runs again only if a fault has hit the host on which it ran before; and never once it was answered.

    So executions are never more than calls and what was in flight on a host when a fault struck it.
    """
    hosts = {entry[3]: entry[2] for entry in history.of("host")}
    troubles = _troubles(history)
    answered: dict[str, int] = {}
    for entry in history.of("end"):
        answered.setdefault(entry[3], entry[0])
    runs: dict[str, list[Entry]] = {}
    for entry in history.of("run"):
        runs.setdefault(entry[3], []).append(entry)
    for call, entries in runs.items():
        for before, again in pairwise(entries):
            if again[0] > answered.get(call, again[0]):
                yield f"call {call} ran again as {again[4]:#x}, having been answered"
            host = hosts.get(before[2], "")
            if not any(one.from_ns <= again[0] and before[0] <= one.to_ns for one in troubles.get(host, ())):
                yield f"call {call} ran as {again[4]:#x} after {before[4]:#x}, and no fault had hit {host or before[2]}"


def _troubles(history: History) -> dict[str, list[_Trouble]]:
    """By host, when a fault that is a reason to run calls again was felt there."""
    open_ones: dict[tuple[str, str], list[int]] = {}
    troubles: dict[str, list[_Trouble]] = {}
    last_ns = history.entries[-1][0] if history.entries else 0
    for at_ns, what, kind, host in history.of("fault", "healed"):
        if kind not in RERUN_FAULTS:
            continue
        if what == "fault":
            open_ones.setdefault((kind, host), []).append(at_ns)
        elif begun := open_ones.get((kind, host)):
            troubles.setdefault(host, []).append(_Trouble(begun.pop(0), at_ns + LINGER_NS))
    for (_, host), begun in open_ones.items():
        troubles.setdefault(host, []).extend(_Trouble(at_ns, last_ns) for at_ns in begun)
    return troubles


def _leaks(history: History) -> Iterator[str]:
    """When all is answered and every lease is over, nothing is left."""
    for _, _, where, what, count in history.of("left"):
        if count:
            yield f"{where}: {count} {what} left over"


CHECKERS: dict[str, Callable[[History], Iterable[str]]] = {
    "outcomes": _outcomes,
    "origins": _origins,
    "recording": _recording,
    "executions": _executions,
    "reruns": _reruns,
    "leaks": _leaks,
}
"""All checkers, by name."""
