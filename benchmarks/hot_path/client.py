"""Several clients at once: programs of their own, started, held back, and let go together.

    python -m benchmarks.hot_path.client SYSTEM ROLE CALLS

It says ``READY`` once it is connected and warm, and begins when it is given a line. Role ``burst`` submits and gathers
no-ops and says when it began and ended (the same clock in all processes). Role ``queue`` submits calls of 1 ms, says
``QUEUED``, and at the next line how many of them are unfinished.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.hot_path.calls import burn, nothing
from benchmarks.hot_path.choosing import make
from benchmarks.hot_path.systems import System
from benchmarks.hot_path.workloads import MILLISECOND_S, warm_up

__all__ = ["Client", "started"]

WARM_UP = 100
END_S = 20.0


class Client:
    """A client in another process."""

    def __init__(self, system: str, role: str, calls: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hot_path.client", system, role, str(calls)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self, word: str) -> list[str]:
        """Wait until it says this; what it says with it. Raises ``RuntimeError`` if it ends instead."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        raise RuntimeError(f"a client ended before it said {word}")

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Let it end itself, with what it has started; what it has under way is of no interest."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextmanager
def started(system: str, role: str, calls: int, count: int) -> Iterator[list[Client]]:
    """So many clients, ready."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(Client(system, role, calls))
            stack.callback(clients[-1].end)
        for client in clients:
            client.hear("READY")
        yield clients


def say(*words: object) -> None:
    """One line to whoever holds the other end."""
    print(*words, flush=True)


def run_burst(system: System, calls: int) -> None:
    warm_up(system, WARM_UP, nothing)
    say("READY")
    sys.stdin.readline()
    begun_s = time.monotonic()
    system.gather([system.submit(nothing) for _ in range(calls)])
    say("DONE", begun_s, time.monotonic())
    sys.stdin.readline()


def run_queue(system: System, calls: int) -> None:
    warm_up(system, WARM_UP, burn, MILLISECOND_S)
    say("READY")
    sys.stdin.readline()
    handles = [system.submit(burn, MILLISECOND_S) for _ in range(calls)]
    say("QUEUED")
    sys.stdin.readline()
    say("LEFT", sum(not handle.done() for handle in handles))
    sys.stdin.readline()


ROLES = {"burst": run_burst, "queue": run_queue}


def main() -> None:
    """Play a role."""
    name, role, calls = sys.argv[1:]
    with make(name) as system:
        ROLES[role](system, int(calls))


if __name__ == "__main__":
    main()
