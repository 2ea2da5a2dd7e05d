"""A restart of the scheduler alone runs nothing twice: a call that has ended once is not run again.

Judged only in runs where nothing else went wrong but brief absences of clients: a session that was silent for too long
is begun anew.
"""

from collections.abc import Iterator

from support.simulation.faults import BRIEF_NS
from support.simulation.history import Entry, History

__all__ = ["check"]


def check(history: History) -> Iterator[str]:
    """Look for a run of a call after the one that gave its outcome, or beside another."""
    if history.of("noise") or not all(map(_reruns_nothing, history.of("fault"))):
        return
    ended: dict[str, int] = {}
    running: dict[str, int] = {}
    uids: dict[int, str] = {}
    for entry in history.of("run", "ran"):
        attempt = entry[4]
        if entry[1] == "run":
            uid = uids[attempt] = entry[5]
            if uid in ended:
                yield f"call {uid} ran again as {attempt:#x}, having returned as {ended[uid]:#x}"
            if uid in running:
                yield f"call {uid} ran as {attempt:#x} beside {running[uid]:#x}"
            running[uid] = attempt
        else:
            uid = uids[attempt]
            running.pop(uid, None)
            if entry[5] == "returned":
                ended[uid] = attempt


def _reruns_nothing(fault: Entry) -> bool:
    """Whether a fault is no reason to run a call again."""
    kind: str = fault[2]
    is_brief: bool = fault[4] < BRIEF_NS
    return kind in ("crash scheduler", "crash at sync") or (
        is_brief and (kind.endswith(" client") or kind == "pause scheduler")
    )
