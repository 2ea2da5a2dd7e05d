"""An attacker's process: ``python -m support.siege ATTACK HOST PORT KEY_FILE SECONDS``, or ``burn COUNT``.

It says *ready*, and begins when it is sent a line. The last line that it prints is JSON: how often it did its worst,
and the processor time that it had used in all at the end of each ``SLOT_S``. ``burn`` is sent such a list, and uses one
of ``COUNT`` equal parts of that, when the attack did.
"""

import json
import resource
import sys
import threading
import time
from pathlib import Path

from support.siege.enrolled import AGENTS, CLIENTS
from support.siege.strangers import STRANGERS
from support.siege.target import Target

SLOT_S = 0.01
_REST_S = 0.001


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class _Profile:
    """Notes, from a thread of its own, what this process uses."""

    def __init__(self) -> None:
        self.used_s: list[float] = []
        self._began_s, self._before_s = time.monotonic(), _used_s()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._note)
        self._thread.start()

    def _note(self) -> None:
        while not self._is_over.wait(SLOT_S):
            self._extend()

    def _extend(self) -> None:
        slots = int((time.monotonic() - self._began_s) / SLOT_S)
        self.used_s += [_used_s() - self._before_s] * (slots - len(self.used_s))

    def end(self) -> list[float]:
        self._is_over.set()
        self._thread.join()
        self._extend()
        return self.used_s


def burn(profile: list[float], count: int) -> int:
    """Use one of ``count`` parts of as much processor time, when the attack did, connected to nothing."""
    began_s, before_s = time.monotonic(), _used_s()
    turns = 0
    while (slot := int((time.monotonic() - began_s) / SLOT_S)) < len(profile):
        turns += 1
        if (_used_s() - before_s) * count < profile[slot]:
            sum(range(2_000))
        else:
            time.sleep(_REST_S)
    return turns


def main(arguments: list[str]) -> None:
    """Run one attack."""
    name, *more = arguments
    print("ready", flush=True)
    if name == "burn":
        print(json.dumps({"count": burn(json.loads(sys.stdin.readline()), int(more[0]))}), flush=True)
        return
    host, port, key_file, seconds = more
    target = Target(host, int(port), Path(key_file))
    sys.stdin.readline()
    profile = _Profile()
    count = (STRANGERS | CLIENTS | AGENTS)[name](target, time.monotonic() + float(seconds))
    print(json.dumps({"count": count, "used_s": profile.end()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
