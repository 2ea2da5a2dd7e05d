"""Every call has exactly one outcome at its client, in time, and the outcome comes from an execution of that call."""

from collections.abc import Iterator

from keepwarm_wire.messages import Status
from support.simulation.history import Entry, History
from support.simulation.workload import result_origin

__all__ = ["check", "check_origin"]

_OWN_KINDS = {
    "no_feasible_node", "build_failed", "lock_failed", "start_failed", "node_lost", "queue_timeout", "overall_timeout",
    "startup_timeout", "payload_not_stored", "result_not_stored",
}  # fmt: skip
"""Failures that need no execution."""

_RAISED = {"user_exception", "setup_failed"}
_DEATHS = {"process_died", "out_of_memory", "poisoned"}
_STATUS_OF_KIND = {"run_timeout": Status.TIMED_OUT, "cancelled": Status.CANCELLED}


def check(history: History) -> Iterator[str]:
    """What clients were told, against what they asked and what ran."""
    gone = {entry[2] for entry in history.of("client gone")}
    submitted = {entry[3]: entry[2] for entry in history.of("submit")}
    ends: dict[str, list[Entry]] = {uid: [] for uid in submitted}
    for entry in history.of("end"):
        ends[entry[3]].append(entry)
    for uid, client in submitted.items():
        count = len(ends[uid])
        if count != 1 and not (count == 0 and client in gone):
            yield f"call {uid} has {count} outcomes"
    waited_ns = next((entry[0] for entry in history.of("waited")), None)
    cancelled = {entry[3] for entry in history.of("cancel")}
    runs = {entry[4]: entry for entry in history.of("run")}
    ran = {entry[4]: entry for entry in history.of("ran")}
    for entries in ends.values():
        for entry in entries:
            if waited_ns is not None and entry[0] > waited_ns:
                yield f"call {entry[3]} was answered too late"
            yield from check_origin(entry, cancelled, runs, ran)


def check_origin(end: Entry, cancelled: set[str], runs: dict[int, Entry], ran: dict[int, Entry]) -> Iterator[str]:
    """Whether what a client was told comes from an execution of that call."""
    _, _, _, uid, status, result, kind, message = end
    if status == Status.SUCCEEDED or kind in _RAISED:
        origin, attempt = result_origin(result or message.encode())
        how = "returned" if status == Status.SUCCEEDED else "raised"
        if origin != uid:
            yield f"call {uid} got the outcome of {origin}"
        elif attempt not in runs or runs[attempt][5] != uid or attempt not in ran or ran[attempt][5] != how:
            yield f"call {uid} got an outcome of attempt {attempt:#x}, which never {how}"
    elif status == Status.CANCELLED:
        if uid not in cancelled:
            yield f"call {uid} is cancelled, and nobody asked for that"
    elif kind in _DEATHS:
        if not any(run[5] == uid and ran.get(token, (0,) * 6)[5] == "died" for token, run in runs.items()):
            yield f"call {uid} is said to have died, and none of its attempts has"
    elif kind not in _OWN_KINDS and _STATUS_OF_KIND.get(kind) != status:
        yield f"call {uid} ended with status {status}, {kind!r}: {message}"
