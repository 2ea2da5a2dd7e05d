"""What is lent runs as it would without: only calls that may, once for all that their client is told.

A lent call runs again only if its first run ended, or its loan did, before its outcome reached the client: the process
died, node or session were given up, the line was, or the loan was cancelled and its call with it. What a process gave
back it never runs, and what had not begun when the client closed the line it does not begin.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from keepwarm_wire.messages import Status
from support.simulation.history import Entry, History
from support.simulation.workload import is_under_loan, loan_of, number_under

__all__ = ["check"]

_DEATHS = ("process_died", "out_of_memory")
_NEVER_NS = 1 << 62


class _Closed(NamedTuple):
    """How a client's end of a loan was closed."""

    at_ns: int
    begun: int
    ended: int
    """The status of the loan's own outcome; -1 if that had not come."""


def check(history: History) -> Iterator[str]:
    """All of it, in runs that have loans."""
    if not history.of("lend"):
        return
    runs = history.of("run")
    lent = [entry for entry in runs if is_under_loan(entry[4])]
    closed = {entry[3]: _Closed(entry[0], entry[4], entry[5]) for entry in history.of("loan closed")}
    yield from _check_lendable(history, lent)
    yield from _check_given_back(history, lent, closed)
    yield from _check_order(lent)
    yield from _check_reruns(history, runs, closed)


def _check_lendable(history: History, lent: list[Entry]) -> Iterator[str]:
    """Only calls of functions that ask for nothing else; under the loan of their own function and client."""
    lendable = {entry[3] for entry in history.of("may be lent")}
    clients = {entry[3]: entry[2] for entry in history.of("submit")}
    opened = {entry[3]: entry[2] for entry in history.of("loan opened")}
    for entry in lent:
        uid = entry[5]
        if uid not in lendable:
            yield f"call {uid} was lent, and must not be"
        if clients[uid] != opened.get(loan_of(entry[4])):
            yield f"call {uid} of {clients[uid]} ran under a loan of {opened.get(loan_of(entry[4]))}"


def _check_given_back(history: History, lent: list[Entry], closed: dict[int, _Closed]) -> Iterator[str]:
    """What the client was told, or concluded, had not begun has not."""
    back = {entry[3]: entry[0] for entry in history.of("lent back")}
    for entry in lent:
        run, uid = entry[4], entry[5]
        if run in back:
            yield f"call {uid} was given back and ran as {run:#x}"
        end = closed.get(loan_of(run))
        if end is not None and number_under(run) > end.begun:
            yield f"call {uid} ran as {run:#x}, and its client believes that it never began"


def _check_order(lent: list[Entry]) -> Iterator[str]:
    """A process runs a client's calls in the order in which it was given them."""
    last: dict[int, int] = defaultdict(int)
    for entry in lent:
        loan, number = loan_of(entry[4]), number_under(entry[4])
        if number <= last[loan]:
            yield f"loan {loan:#x} ran its call {number} after {last[loan]}"
        last[loan] = number


def _check_reruns(history: History, runs: list[Entry], closed: dict[int, _Closed]) -> Iterator[str]:
    """For every two runs of a call, one after the other, a reason."""
    told = {entry[3]: entry for entry in history.of("lent outcome")}
    ran = {entry[4]: entry for entry in history.of("ran")}
    given_up = {entry[3] for entry in history.of("loan given up")}
    deaths = {entry[3] for entry in history.of("loan ended") if entry[4] in _DEATHS} - given_up
    by_call: dict[str, list[Entry]] = defaultdict(list)
    for entry in runs:
        by_call[entry[5]].append(entry)
    for uid, entries in by_call.items():
        for before, again in pairwise(entries):
            run, at_ns = before[4], again[0]
            if not is_under_loan(run):
                continue
            outcome = told.get(run)
            end = closed.get(loan_of(run), _Closed(_NEVER_NS, 0, -1))
            what = f"call {uid} ran again as {again[4]:#x}"
            if outcome is not None and outcome[0] <= at_ns:
                if not outcome[4]:
                    yield f"{what}: its client had the outcome of {run:#x}"
            elif at_ns < end.at_ns:
                yield f"{what} while its client was connected to who ran {run:#x}"
            elif loan_of(run) in deaths and run in ran and ran[run][5] == "died":
                yield f"{what}, and {run:#x} had killed its process"
            elif end.ended == Status.SUCCEEDED and run in ran and loan_of(run) not in given_up:
                yield f"{what}, and no fault had hit {run:#x}, which {ran[run][5]}"
