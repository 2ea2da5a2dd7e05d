"""Every accepted call ends once, with one outcome that the disk has; whoever asks gets it; nothing runs without need.

Judged by what the disk had when: a call is accepted only if the disk has it, and an outcome is told only if the disk
has that. Every run of a call but the first needs a reason that its function's retries cover.
"""

from collections import Counter
from collections.abc import Iterator

from keepwarm_wire.messages import Status
from support.simulation.checkers.outcomes import check_origin
from support.simulation.detaching import RETRIES
from support.simulation.history import Entry, History

__all__ = ["check"]

_HARMLESS = ("crash scheduler", "crash at sync", "client restarts", "client leaves", "break client")
"""Faults that are no reason to run a call again."""

_TTL_DEFAULT_US = 24 * 3_600 * 1_000_000
_RUNS_MAX = 1 + RETRIES.lost_node + RETRIES.exceptions + RETRIES.crash + RETRIES.out_of_memory
_NEVER_NS = 1 << 62


def check(history: History) -> Iterator[str]:
    """All of it, in runs that have detached calls."""
    submits = {entry[5]: entry for entry in history.of("detach")}
    if not submits:
        return
    kept = _first(history, "kept call")
    ended = _first(history, "kept outcome")
    yield from _repeated(history, "kept call")
    yield from _repeated(history, "kept outcome")
    yield from _check_acceptance(history, submits, kept)
    for call_id in kept:
        if call_id not in ended:
            yield f"call {submits[call_id][3]} was accepted and never ended"
    yield from _check_told(history, submits, kept, ended)
    yield from _check_expiry(history, submits, ended)
    yield from _check_runs(history, submits, ended)


def _first(history: History, kind: str) -> dict[bytes, Entry]:
    """The first entry of a kind about each call."""
    found: dict[bytes, Entry] = {}
    for entry in history.of(kind):
        found.setdefault(entry[2], entry)
    return found


def _repeated(history: History, kind: str) -> Iterator[str]:
    counts = Counter(entry[2] for entry in history.of(kind))
    yield from (f"{kind} {call_id.hex()} {count} times" for call_id, count in counts.items() if count > 1)


def _check_acceptance(history: History, submits: dict[bytes, Entry], kept: dict[bytes, Entry]) -> Iterator[str]:
    """Accepted is on disk; a key is one call; who lives on is answered."""
    gone = {entry[2] for entry in history.of("client gone")}
    answered = {entry[3] for entry in history.of("accepted", "withdrawn")}
    keys: dict[str, bytes] = {}
    for at_ns, _, _, call_id, accepted_id in history.of("accepted"):
        uid, key = submits[call_id][3], submits[call_id][6]
        if accepted_id not in kept or kept[accepted_id][0] > at_ns:
            yield f"call {uid} was accepted before the disk had it"
        if keys.setdefault(key, accepted_id) != accepted_id and key:
            yield f"the key {key} stands for two calls"
        if not key and accepted_id != call_id:
            yield f"call {uid} was accepted as another"
    for call_id, submit in submits.items():
        if submit[2] not in gone and call_id not in answered:
            yield f"call {submit[3]} was never accepted"
    for entry in history.of("not accepted"):
        yield f"call {entry[3]} was not accepted"


def _check_told(
    history: History, submits: dict[bytes, Entry], kept: dict[bytes, Entry], ended: dict[bytes, Entry]
) -> Iterator[str]:
    """Who attaches is told what the disk has, once the disk has it."""
    gone = {entry[2] for entry in history.of("client gone")}
    forgot = {entry[2]: entry[0] for entry in history.of("forgot call")}
    cancelled = {entry[3] for entry in history.of("cancel")}
    runs = {entry[4]: entry for entry in history.of("run")}
    ran = {entry[4]: entry for entry in history.of("ran")}
    wanted = Counter((entry[2], entry[3]) for entry in history.of("attach"))
    for at_ns, _, client, call_id, uid, status, result, kind, message, digest in history.of("told"):
        wanted[client, call_id] -= 1
        recorded = ended.get(call_id)
        if recorded is None or recorded[0] > at_ns:
            yield f"the outcome of {uid} was told before the disk had it"
        elif (status, kind) != (recorded[3], recorded[5]) or (status == Status.SUCCEEDED and digest != recorded[4]):
            yield f"call {uid} was told to have ended as {status} {kind!r}, the disk says {recorded[3]} {recorded[5]!r}"
        if status == Status.LOST:
            if not submits[call_id][7]:
                yield f"call {uid} is lost, and may run twice"
            continue
        yield from check_origin((at_ns, "told", client, uid, status, result, kind, message), cancelled, runs, ran)
    for at_ns, _, client, call_id, code in history.of("not told"):
        wanted[client, call_id] -= 1
        uid = submits[call_id][3]
        if code == "expired" and forgot.get(call_id, _NEVER_NS) > at_ns:
            yield f"call {uid} is said to have expired, and has not"
        elif code == "unknown" and call_id in kept and kept[call_id][0] < at_ns:
            yield f"call {uid} is said to be unknown, and was accepted"
        elif code not in ("expired", "unknown"):
            yield f"call {uid} was refused as {code}"
    for (client, call_id), count in wanted.items():
        if count and client not in gone:
            yield f"{client} attached to {submits[call_id][3]} and was answered {-count:+} times too often"


def _check_expiry(history: History, submits: dict[bytes, Entry], ended: dict[bytes, Entry]) -> Iterator[str]:
    """An outcome is kept for as long as its submit said."""
    for at_ns, _, call_id in history.of("forgot call"):
        kept_ns = (submits[call_id][8] or _TTL_DEFAULT_US) * 1_000
        early_ns = ended[call_id][0] + kept_ns - at_ns
        if early_ns > _EARLY_NS:
            yield f"the outcome of {submits[call_id][3]} was forgotten {early_ns / 1e9:g} s early"


_EARLY_NS = 10_000_000
"""The term begins when the outcome comes, and the disk has it a moment later."""


def _check_runs(history: History, submits: dict[bytes, Entry], ended: dict[bytes, Entry]) -> Iterator[str]:
    """No call runs more often than its retries and the faults allow, and none that must not run twice does."""
    once = {entry[3] for entry in submits.values() if entry[7]}
    uids = {entry[3] for entry in submits.values()}
    is_calm = not history.of("noise") and all(entry[2] in _HARMLESS for entry in history.of("fault"))
    ways = {entry[4]: entry[5] for entry in history.of("ran")}
    runs: dict[str, list[str]] = {}
    for entry in history.of("run"):
        if entry[5] in uids:
            before = runs.setdefault(entry[5], [])
            if is_calm and "returned" in before:
                yield f"call {entry[5]} ran again, having returned"
            before.append(ways.get(entry[4], "never ended"))
    for uid, each in runs.items():
        if len(each) > _RUNS_MAX or (uid in once and len(each) > 1):
            yield f"call {uid} ran {len(each)} times"
        if is_calm and each.count("raised") > 1 + RETRIES.exceptions:
            yield f"call {uid} raised {each.count('raised')} times"
        if is_calm and each.count("died") > 1 + RETRIES.crash:
            yield f"call {uid} killed {each.count('died')} processes"
    told = {submits[call_id][3]: entry for call_id, entry in ended.items()}
    for uid, entry in told.items():
        if entry[3] == Status.SUCCEEDED and "returned" not in runs.get(uid, []):
            yield f"call {uid} succeeded, and no run of it returned"
