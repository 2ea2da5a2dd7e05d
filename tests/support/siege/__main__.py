"""An attacker's process: ``python -m support.siege ATTACK HOST PORT KEY_FILE SECONDS``, or ``burn CPU_S SECONDS``.

It says *ready*, and begins when it is sent a line. The last line that it prints is JSON: how often it did its worst,
and the processor time that it used.
"""

import json
import resource
import sys
import time
from pathlib import Path

from support.siege.enrolled import AGENTS, CLIENTS
from support.siege.strangers import STRANGERS
from support.siege.target import Target

_SLICE_S = 0.01


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def burn(cpu_s: float, seconds: float) -> int:
    """Use so much processor time, evenly over so long, connected to nothing."""
    began_s, used_before_s = time.monotonic(), _used_s()
    turns = 0
    while (passed_s := time.monotonic() - began_s) < seconds:
        turns += 1
        if _used_s() - used_before_s < cpu_s * passed_s / seconds:
            sum(range(2_000))
        else:
            time.sleep(_SLICE_S / 10)
    return turns


def main(arguments: list[str]) -> None:
    """Run one attack."""
    name, *more = arguments
    if name == "burn":
        count = burn(float(more[0]), float(more[1]))
    else:
        host, port, key_file, seconds = more
        target = Target(host, int(port), Path(key_file))
        print("ready", flush=True)
        sys.stdin.readline()
        before_s = _used_s()
        count = (STRANGERS | CLIENTS | AGENTS)[name](target, time.monotonic() + float(seconds))
        print(json.dumps({"count": count, "cpu_s": _used_s() - before_s}), flush=True)
        return
    print(json.dumps({"count": count, "cpu_s": _used_s()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
