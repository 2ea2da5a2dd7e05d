"""When and where things happened in a recorded run: what a test of one fault measures its recovery by."""

from typing import NamedTuple

from support.simulation.clock import SECOND
from support.simulation.history import History

__all__ = ["Run", "Timeline"]


class Run(NamedTuple):
    """One execution of a call."""

    at_ns: int
    host: str
    call: str
    execution: int


class Timeline:
    """A history, read once.

    * ``runs``: all executions in order; ``runs_of`` by call;
    * ``submitted`` and ``ended``: the instants by call, the first of each;
    * ``ran``: when an execution came to its end, by its number.
    """

    def __init__(self, history: History) -> None:
        hosts = {entry[3]: entry[2] for entry in history.of("host")}
        self.runs = [Run(entry[0], hosts.get(entry[2], "?"), entry[3], entry[4]) for entry in history.of("run")]
        self.runs_of: dict[str, list[Run]] = {}
        for run in self.runs:
            self.runs_of.setdefault(run.call, []).append(run)
        self.submitted = {entry[3]: entry[0] for entry in reversed(history.of("submit"))}
        self.ended = {entry[3]: entry[0] for entry in reversed(history.of("end"))}
        self.ways = {entry[3]: entry[4] for entry in reversed(history.of("end"))}
        self.ran = {entry[3]: entry[0] for entry in history.of("ran")}

    def under_way(self, at_ns: int, host: str = "") -> list[Run]:
        """Executions that had begun at an instant and not ended, on one host or all."""
        return [
            run
            for run in self.runs
            if run.at_ns <= at_ns < self.ran.get(run.execution, at_ns + 1) and host in ("", run.host)
        ]

    def unfinished(self) -> list[Run]:
        """Executions that have begun and not ended yet."""
        return [run for run in self.runs if run.execution not in self.ran]

    def reruns(self) -> list[Run]:
        """Executions of calls that had been executed before."""
        return [run for runs in self.runs_of.values() for run in runs[1:]]

    def first_run_after(self, at_ns: int) -> Run | None:
        """The first execution that began after an instant."""
        return next((run for run in self.runs if run.at_ns > at_ns), None)

    def first_end_after(self, at_ns: int) -> int | None:
        """When the first answer after an instant came."""
        return min((end_ns for end_ns in self.ended.values() if end_ns > at_ns), default=None)

    def longest_wait_s(self, from_ns: int, to_ns: int) -> float:
        """The longest time from submit to answer of calls submitted in between; for one unanswered that is for ever."""
        waits = [
            self.ended.get(call, 1 << 63) - at_ns for call, at_ns in self.submitted.items() if from_ns <= at_ns <= to_ns
        ]
        return max(waits, default=0) / SECOND
