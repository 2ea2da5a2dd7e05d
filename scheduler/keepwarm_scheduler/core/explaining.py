"""Why a call ran where it ran, or still waits: its decisions put into words, as a JSON document for people and tools.

Costs what it looks at, and is asked for rarely; nothing here is touched by a call on its way. Rules: a sentence says
what was decided, with the numbers that it rested on; what is not remembered is said to be unknown, never guessed.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.decisions import NUMBERS, Coldness, Decision, Finished, Reason
from keepwarm_scheduler.core.state import Call, Pool, Session
from keepwarm_scheduler.core.transitions import CallState
from keepwarm_wire.identifiers import token_text
from keepwarm_wire.messages import CallReport, Status

__all__ = ["call_id", "explain", "explain_own"]

_DIGITS_SHOWN = 8
_FOUND_SHOWN = 10
_WARM = ("warm", "ready")
_DIGITS_MAX = 20
_DETACHED_ID = re.compile("[0-9a-f]{32}")

_COLD: dict[Coldness, str] = {
    Coldness.NEVER_BUILT: "its environment had never been built on any node that is here",
    Coldness.NEVER_STARTED: "its environment was on disk on {node}, but no process of it had run since the scheduler "
    "started",
    Coldness.EXPIRED: "the lease of the last warm process, on {node}, had run out {ago}",
    Coldness.EVICTED: "the last warm process, on {node}, had been evicted {ago}, to make room for calls that waited",
    Coldness.DRAINED: "the last warm process, on {node}, had been ended {ago}: an operator drained the node",
    Coldness.CLOSED: "the last warm process is on {node}, which is given no calls now: cordoned, or not heard lately",
    Coldness.NODE_LOST: "the last warm process was on {node}, which is out of reach",
    Coldness.DIED: "the last warm process, on {node}, had died or been killed {ago}",
    Coldness.STOPPED: "the last warm process, on {node}, had been stopped {ago}",
    Coldness.RELEASED: "the last process, on {node}, had served its one call {ago}",
    Coldness.OTHER_PYTHON: "these requirements were warm on {node}, but for another Python or platform",
    Coldness.OTHER_OPTIONS: "this environment was warm on {node}, but for functions with other process options "
    "(resources, environment variables, keep_alive=0)",
    Coldness.ALL_BUSY: "every warm process was busy",
    Coldness.NO_CPU: "the warm process is on {node}, which had no free cpu",
    Coldness.PRIVATE: "keep_alive=0: each call gets a process of its own",
}


# ---------------------------------------------------------------- who is asked about


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _DIGITS_MAX


def call_id(session_id: bytes, number: int) -> str:
    """How people name a call: the first digits of its session, and its number there."""
    return f"{session_id.hex()[:_DIGITS_SHOWN]}-{number}"


def explain(cluster: Cluster, name: str) -> bytes:
    """The document about a call as an operator names it: the beginning of its session's id, a dash, its number.

    A detached call is named by its own id, all of it. Of what was given to a lent process, which ends with a point and
    another number, only the loan is known here.
    """
    if _DETACHED_ID.fullmatch(name.strip().lower()):
        return _explain_detached(cluster, name.strip().lower())
    digits, dash, number_text = name.strip().lower().partition(".")[0].rpartition("-")
    if not (dash and digits and _is_number(number_text) and set(digits) <= set("0123456789abcdef")):
        told = "write it like 1f2e3d4c-17, or with the 32 digits of a detached call"
        return _refusal(name, "malformed", f"{name!r} is not the name of a call: {told}.")
    number = int(number_text)
    living = [
        session.calls[number]
        for session in cluster.sessions.values()
        if number in session.calls and session.session_id.hex().startswith(digits)
    ]
    gone = cluster.history.find(digits, number)
    names = sorted({call_id(*call.key) for call in living} | {call_id(*key) for key in gone})
    if len(living) + len(gone) > 1:
        which = ", ".join(names[:_FOUND_SHOWN])
        return _refusal(name, "ambiguous", f"{name} is more than one call ({which}): write more digits.")
    if living:
        return _encode(_of_call(cluster, living[0]))
    for key, finished in gone.items():
        return _encode(_of_finished(cluster, key, finished))
    return _unknown(name)


def _explain_detached(cluster: Cluster, name: str) -> bytes:
    record = cluster.book.by_id.get(bytes.fromhex(name))
    if record is None:
        return _unknown(name)
    session_id = record.keeper.session.session_id
    if record.call is not None:
        return _encode(_of_call(cluster, record.call) | {"call": name})
    for key, finished in cluster.history.find(session_id.hex(), record.number).items():
        return _encode(_of_finished(cluster, key, finished) | {"call": name})
    return _unknown(name)


def explain_own(cluster: Cluster, session: Session, name: str) -> bytes:
    """The document about one of a client's own calls, by its number or its name."""
    digits, _, number_text = name.strip().lower().rpartition("-")
    number = int(number_text) if _is_number(number_text) else 0
    if not session.session_id.hex().startswith(digits):
        return _refusal(name, "unknown", f"{name} is not a call of this program.")
    call = session.calls.get(number)
    if call is not None:
        return _encode(_of_call(cluster, call))
    for key, finished in cluster.history.find(session.session_id.hex(), number).items():
        return _encode(_of_finished(cluster, key, finished))
    return _unknown(call_id(session.session_id, number) if number else name)


def _unknown(name: str) -> bytes:
    return _refusal(
        name,
        "unknown",
        f"No call {name} is known here: it never arrived, it ended before this scheduler started, or too many calls "
        "have ended since.",
    )


def _refusal(name: str, error: str, text: str) -> bytes:
    return _encode({"call": name[:512], "error": error, "summary": text, "steps": []})


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


# ---------------------------------------------------------------- the document


def _of_call(cluster: Cluster, call: Call) -> dict[str, Any]:
    outcome = call.outcome
    if outcome is not None:
        failure = "" if outcome.failure is None else outcome.failure.kind
        finished = Finished(
            call.function.name,
            outcome.status,
            failure,
            call.submitted_ns,
            call.outcome_ns,
            outcome.report,
            call.decisions,
        )
        return _of_finished(cluster, call.key, finished)
    document = _document(cluster, call.key, call.function.name, call.submitted_ns, call.decisions)
    document["state"] = call.state.value
    document["priority"] = call.priority
    if call.state is CallState.QUEUED:
        document["summary"] = f"It waits: {_waits_for(call)}."
        if call.function.pool is not None:
            document["pool"] = _pool(call.function.pool)
    else:
        document["summary"] = f"It runs on {call.attempt.instance.node.name}." if call.attempt else "It runs."
    return document


def _of_finished(cluster: Cluster, key: tuple[bytes, int], finished: Finished) -> dict[str, Any]:
    document = _document(cluster, key, finished.function, finished.submitted_ns, finished.decisions)
    status = Status.NAMES[finished.status] if finished.status < len(Status.NAMES) else f"status {finished.status}"
    document["state"], document["status"], document["failure"] = "done", status, finished.failure
    document["took_ms"] = (finished.finished_ns - finished.submitted_ns) / 1e6
    document["ended_s_ago"] = (cluster.now_ns - finished.finished_ns) / 1e9
    report = finished.report
    if report is not None:
        document |= _report(report)
        if report.temperature in _WARM:  # a process was started for it, and a warm one was free sooner
            document["cold"] = document["cold_code"] = None
    document["summary"] = _summary(document, report)
    return document


def _document(
    cluster: Cluster, key: tuple[bytes, int], function: str, submitted_ns: int, decisions: list[Decision]
) -> dict[str, Any]:
    starts = [decision for decision in decisions if decision.coldness is not None]
    return {
        "call": call_id(*key),
        "function": function,
        "submitted_s_ago": (cluster.now_ns - submitted_ns) / 1e9,
        "cold": None if not starts else _cold(starts[0]),
        "cold_code": None if not starts or starts[0].coldness is None else starts[0].coldness.name.lower(),
        "steps": [_step(decision, submitted_ns) for decision in decisions],
    }


def _summary(document: dict[str, Any], report: CallReport | None) -> str:
    failure = f" ({document['failure']})" if document["failure"] else ""
    end = f"It {document['status']}{failure} after {_duration(document['took_ms'] * 1e6)}"
    if report is None:
        return f"{end}, without having run on any node."
    if report.temperature in _WARM:
        return f"{end}. It found a {report.temperature} process on {report.node}."
    disk = ", in an environment that was on disk" if report.temperature == "built" else ""
    if document["cold"]:
        return f"{end}. It was cold, its process started for it on {report.node}{disk}: {document['cold']}."
    return f"{end}. It waited for a process on {report.node} that was started after it came{disk}."


def _report(report: CallReport) -> dict[str, Any]:
    return {
        "node": report.node,
        "temperature": report.temperature,
        "environment_id": report.environment_id,
        "instance": token_text(report.instance_id) if report.instance_id else "",
        "pid": report.process_id,
        "attempt": report.attempt,
        "phases": {phase.name: phase.duration_us / 1e3 for phase in report.phases},
    }


def _pool(pool: Pool) -> dict[str, int]:
    idle = len(pool.instances) - pool.busy - pool.starting
    return {"queued": pool.queued, "busy": pool.busy, "starting": pool.starting, "other": idle}


def _waits_for(call: Call) -> str:
    if call.reason == "lock":
        return "its environment is being resolved"
    if call.reason == "recovering":
        return "the scheduler was restarted, and a node that has not reported yet may be running it"
    if call.reason == "not before":
        return "for the delay before it is tried again"
    pool = call.function.pool
    if pool is None:
        return "for its environment"
    if pool.is_impossible:
        return "no node could ever run it; it fails unless one joins that can"
    if pool.starting:
        return f"{_count(pool.starting, 'process')} being started for {_count(pool.queued, 'call')}"
    return f"{_count(pool.queued, 'call')} for {_count(pool.busy, 'busy process')}"


# ---------------------------------------------------------------- one decision


def _step(decision: Decision, submitted_ns: int) -> dict[str, Any]:
    reason = decision.reason
    step: dict[str, Any] = {
        "after_ms": (decision.at_ns - submitted_ns) / 1e6,
        "code": reason.name.lower(),
        "text": _TEXTS[reason](decision),
    }
    if decision.node:
        step["node"] = decision.node
    if decision.instance_id:
        step["instance"] = token_text(decision.instance_id)
    step |= zip(NUMBERS.get(reason, ()), decision.numbers, strict=False)
    if decision.chosen:
        step["compared"] = [
            candidate._asdict() | {"temperature": candidate.temperature.name.lower()} for candidate in decision.chosen
        ]
    return step


def _cold(decision: Decision) -> str:
    assert decision.coldness is not None
    ago = f"{_duration(decision.ended_us * 1e3)} before"
    return _COLD[decision.coldness].format(node=decision.ended_on, ago=ago)


def _start(decision: Decision) -> str:
    chosen = decision.chosen[0]
    has = {"warm": "has warm processes of it", "built": "has the environment on disk"}
    there = has.get(chosen.temperature.name.lower(), "does not have the environment yet")
    *_, cold_us, count = decision.numbers
    among = "the only node with room" if count == 1 else f"the best of {count} nodes with room"
    text = f"a process was started on {decision.node}, {among}: it {there}, {_load(chosen.load_permille)}"
    others = [
        f"{other.node} ({other.temperature.name.lower()}, {_load(other.load_permille)})"
        for other in decision.chosen[1:]
    ]
    text += f". Next best: {', '.join(others)}" if others else ""
    return f"{text}. A cold start was expected to take {_duration(cold_us * 1e3)}; cold because {_cold(decision)}."


def _wait(decision: Decision) -> str:
    queued, busy, starting, wait_us, cold_us = decision.numbers
    if decision.reason is Reason.UNDER_WAY:
        return f"enough was being started: {_count(starting, 'process')} for {_count(queued, 'waiting call')}."
    return (
        f"waiting for {_count(busy, 'busy process')} was expected to take {_duration(wait_us * 1e3)} with "
        f"{_count(queued, 'call')} waiting, a cold start {_duration(cold_us * 1e3)}: it waited."
    )


def _idle(decision: Decision) -> str:
    copies, uses = decision.numbers
    left = f"; {_count(copies, 'idle copy', 'idle copies')} left" if copies else ""
    served = f"that had served {_count(uses, 'call')}" if uses else "that had served none yet"
    return f"sent to the idle process used last, on {decision.node}, {served}{left}."


def _ahead(decision: Decision) -> str:
    place, _ = decision.numbers
    before = _count(place, "short call")
    return f"sent ahead to a busy process on {decision.node}, with {before} to be run before it."


def _no_room(decision: Decision) -> str:
    queued, busy, starting = decision.numbers
    works = f"{busy} busy, {starting} starting"
    return f"a process was wanted for {_count(queued, 'waiting call')} ({works}), and no node had room for it."


def _impossible(decision: Decision) -> str:
    (nodes,) = decision.numbers
    return f"none of {_count(nodes, 'node')} within reach could ever run it." if nodes else "no node was within reach."


def _make_room(decision: Decision) -> str:
    victims, last = decision.numbers
    copies = f", {last} of them the last warm copy" if last else ", all of them surplus copies"
    return f"it had lost its patience: {_count(victims, 'idle process')} on {decision.node} had to make room{copies}."


_TEXTS: dict[Reason, Callable[[Decision], str]] = {
    Reason.IDLE: _idle,
    Reason.AHEAD: _ahead,
    Reason.RECALLED: lambda one: (
        f"the call before it in the process on {one.node} took longer than was expected: placed again."
    ),
    Reason.LOCK: lambda _: "its environment had to be resolved first.",
    Reason.RECOVERING: lambda _: "the scheduler had been restarted: a node might have been running it already.",
    Reason.WAIT: _wait,
    Reason.UNDER_WAY: _wait,
    Reason.START: _start,
    Reason.NO_ROOM: _no_room,
    Reason.IMPOSSIBLE: _impossible,
    Reason.MAKE_ROOM: _make_room,
    Reason.NO_CPU: lambda one: f"the idle process on {one.node} had to be set aside: the node had no free cpu.",
    Reason.RETRY: lambda one: (
        f"failure {one.numbers[0]} of a kind that its retries cover: tried again after "
        f"{_duration(one.numbers[1] * 1e3)}."
    ),
    Reason.LOST: lambda one: f"its attempt on {one.node} was lost: placed again.",
    Reason.REFUSED: lambda one: f"the process on {one.node} was gone or busy when the call came: placed again.",
    Reason.FOUND: lambda one: f"found running on {one.node} after a restart of the scheduler.",
}


def _load(permille: int) -> str:
    return f"{permille / 10:.0f} % of its cpu promised"


def _count(number: int, noun: str, plural: str = "") -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or (noun + ('es' if noun.endswith('s') else 's'))}"


def _duration(duration_ns: float) -> str:
    """A length of time for people: the unit follows the size.

    >>> [_duration(ns) for ns in (1.5e6, 2.5e9, 600e9, 3 * 3600e9)]
    ['1.5 ms', '2.5 s', '10 min', '3.0 h']
    """
    if duration_ns < 1e9:
        return f"{duration_ns / 1e6:.3g} ms"
    if duration_ns < 120e9:
        return f"{duration_ns / 1e9:.3g} s"
    if duration_ns < 7200e9:
        return f"{duration_ns / 60e9:.0f} min"
    return f"{duration_ns / 3600e9:.1f} h"
