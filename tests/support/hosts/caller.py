"""A user's program of a test on hosts: it asks for calls, and records what it asks for and is told.

``python -m support.hosts.caller PLAN`` asks without end, or for so many; ``Caller`` is for programs of their own.
Where to record, and under which name, is in the two variables below.
"""

import functools
import json
import os
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from keepwarm import ClusterUnreachable, DetachedCall, Resources, Retry, attach, isolated
from support.histories.executing import execute
from support.histories.recorder import SUFFIX, ClientRecorder

__all__ = ["ENOUGH", "FOLDER_VARIABLE", "GATE", "NAME_VARIABLE", "Caller", "Plan"]

FOLDER_VARIABLE = "KEEPWARM_TEST_HISTORY"
NAME_VARIABLE = "KEEPWARM_TEST_NAME"

ENOUGH = "enough"
"""When this file exists no more calls are asked for; those under way are waited for."""

GATE = "gate"
"""How many calls each program may have asked for by now, if its plan minds that."""

SPAWNED = "spawned"
"""The detached calls that were accepted: a name and an id per line."""

LOST_NODE = 100
"""A storm hits some calls more often than the default allows for."""

_LOOK_S = 0.02
_ANSWERS_S = 240.0
"""Every call must be answered within it, once no more are asked for."""


class Plan(NamedTuple):
    """What a program asks for.

    ``calls``: how many, or until there are enough; ``in_flight``: how many at once; ``work_s``: how long each takes,
    but one in ``long_every`` takes ``long_s``; ``minds_gate``: whether it goes no further than the gate says; ``cpu``:
    what a call needs; ``crash``: how often one runs again whose process was killed.
    """

    calls: int | None = None
    in_flight: int = 4
    work_s: float = 0.02
    long_every: int = 0
    long_s: float = 0.0
    minds_gate: bool = False
    cpu: float = 1.0
    crash: int = 2


class Caller:
    """Asks for calls that note where they run; what they do besides is to sleep."""

    def __init__(self, **options: Any) -> None:
        self.folder, self.name = Path(os.environ[FOLDER_VARIABLE]), os.environ[NAME_VARIABLE]
        self.recorder = ClientRecorder(self.folder, self.name)
        self._file = str(self.folder / f"executions{SUFFIX}")
        usual = {"keep_alive": 300.0, "retries": Retry(lost_node=LOST_NODE, crash=2)}
        self._function = isolated(**{**usual, **options})(execute)
        self._asked = 0
        self._unanswered: dict[str, None] = {}
        self._is_cut_off = False

    def ask(self, work_s: float = 0.0, **options: Any) -> "Future[str]":
        """Ask for one more call."""
        self._asked += 1
        call = f"{self.name}.{self._asked}"
        function = self._function.on(**options) if options else self._function
        self.recorder.submit(call)
        self._unanswered[call] = None
        work = functools.partial(time.sleep, work_s) if work_s else None
        future: Future[str] = function.submit(self._file, call, work)
        future.add_done_callback(lambda done: self._note(call, done))
        return future

    def spawn(self, work_s: float = 0.0) -> "DetachedCall[str]":
        """Make a detached call; anybody may ``collect`` its outcome. One that is refused was never submitted."""
        self._asked += 1
        call = f"{self.name}.{self._asked}"
        handle: DetachedCall[str] = self._function.spawn(
            self._file, call, functools.partial(time.sleep, work_s) if work_s else None
        )
        self.recorder.submit(call)
        self.recorder.accepted(call)
        with (self.folder / SPAWNED).open("a") as file:
            file.write(f"{call} {handle.id}\n")
        return handle

    def collect(self, limit_s: float) -> None:
        """Wait for the outcomes of all calls that anybody has spawned."""
        deadline_s = time.monotonic() + limit_s
        for line in (self.folder / SPAWNED).read_text().splitlines():
            call, handle = line.split()
            self.recorder.returned(call, attach(handle).result(deadline_s - time.monotonic()))

    def _note(self, call: str, done: "Future[str]") -> None:
        error = done.exception()
        if error is None:
            self.recorder.returned(call, done.result())
        else:
            self.recorder.failed(call, error)
            self._is_cut_off = isinstance(error, ClusterUnreachable)
        del self._unanswered[call]

    def follow(self, plan: Plan) -> None:
        """Ask for what is planned, and return when all is answered."""
        room = threading.Semaphore(plan.in_flight)
        asked = 0
        while (plan.calls is None or asked < plan.calls) and not (self.folder / ENOUGH).exists():
            if self._is_cut_off:
                sys.exit(f"{self.name} has no cluster any more")
            if plan.minds_gate and asked >= self._allowed():
                time.sleep(_LOOK_S)
            elif room.acquire(timeout=_LOOK_S):
                asked += 1
                is_long = plan.long_every and asked % plan.long_every == 0
                self.ask(plan.long_s if is_long else plan.work_s).add_done_callback(lambda _: room.release())
        self.wait()

    def wait(self) -> None:
        """Return when all is answered; a program that waits for too long ends with an error."""
        deadline_s = time.monotonic() + _ANSWERS_S
        while self._unanswered and time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)
        if self._unanswered:
            sys.exit(f"{self.name} has not been answered within {_ANSWERS_S} s: {sorted(self._unanswered)[:10]}")

    def _allowed(self) -> int:
        try:
            return int((self.folder / GATE).read_text() or 0)
        except FileNotFoundError:
            return 0


def main() -> None:
    """Follow the plan on the command line."""
    plan = Plan(**json.loads(sys.argv[1]))
    Caller(resources=Resources(cpu=plan.cpu), retries=Retry(lost_node=LOST_NODE, crash=plan.crash)).follow(plan)


if __name__ == "__main__":
    main()
