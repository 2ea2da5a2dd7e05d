"""Whole programs against a cluster of their own: written as a file, run with plain python, watched from outside.

What a test asks of the cluster goes through the command line (``keepwarm status --json``), as an operator's does.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from support.homes import HOME_VARIABLE, processes_of
from support.waiting import until

__all__ = [
    "Ended",
    "environment_of",
    "lives",
    "logs_of",
    "only_idle_instances",
    "pages",
    "roles",
    "run_command",
    "run_program",
    "start_program",
    "status",
    "wait_for_program",
]

PROGRAM_S = 90.0
"""No program of a test may take longer; a cold start with its packages takes seconds."""

PREAMBLE = "import json, os, sys, time\nfrom keepwarm import *\nimport keepwarm\n"
_CLUSTER_VARIABLES = ("KEEPWARM_ADDRESS", "KEEPWARM_CONNECT_TIMEOUT", "KEEPWARM_LOG_LEVEL")


class Ended(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON of its last line."""
        assert self.code == 0, self
        return json.loads(self.out.splitlines()[-1])


def environment_of(home: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a program is given: this process's variables, but the cluster of ``home`` and no other."""
    kept = {name: value for name, value in os.environ.items() if name not in _CLUSTER_VARIABLES}
    return {**kept, HOME_VARIABLE: str(home), **(variables or {})}


def start_program(
    home: Path, text: str, variables: Mapping[str, str] | None = None, *, name: str = "program"
) -> subprocess.Popen[str]:
    """Start a script that begins with ``from keepwarm import *``; it lies in ``home`` and is given SIGINT as usual."""
    file = home / f"{name}.py"
    file.write_text(PREAMBLE + textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, str(file)],
        env=environment_of(home, variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_program(process: subprocess.Popen[str], limit_s: float = PROGRAM_S) -> Ended:
    """Wait for its end; one that takes too long is killed, and what it said is in the error."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        out, err = process.communicate()
        raise AssertionError(f"the program did not end within {limit_s} s.\n{out}\n{err}") from None
    return Ended(process.returncode, out, err)


def run_program(
    home: Path, text: str, variables: Mapping[str, str] | None = None, *, limit_s: float = PROGRAM_S
) -> Ended:
    """Run a script to its end."""
    return wait_for_program(start_program(home, text, variables), limit_s)


def run_command(home: Path, *arguments: str, variables: Mapping[str, str] | None = None, limit_s: float = 60) -> Ended:
    """Run the ``keepwarm`` command."""
    done = subprocess.run(
        [sys.executable, "-m", "keepwarm", *arguments],
        env={**environment_of(home), "COLUMNS": "200", **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def status(home: Path, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The cluster's own description."""
    ended = run_command(home, "status", "--json", variables=variables)
    assert ended.code == 0, ended
    document = json.loads(ended.out)
    assert isinstance(document, dict)
    return document


def only_idle_instances(home: Path) -> bool:
    """Whether nothing is left running: every instance is idle, and no call is unfinished."""
    document = status(home)
    return document["calls_unfinished"] == 0 and all(one["state"] == "idle" for one in document["instances"])


def lives(process_id: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    if "keepwarm_scheduler" in words:
        return "scheduler"
    if "keepwarm_worker" in words:
        return "guardian" if process.name() == "keepwarm-guard" else "agent"
    return "instance" if "KEEPWARM_INSTANCE" in process.environ() else "other"


def roles(home: Path) -> dict[str, list[int]]:
    """The processes of a cluster by what they are: scheduler, agent, instance, guardian, other."""
    found: dict[str, list[int]] = {}
    for process in processes_of(home):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was found
            found.setdefault(_role(process), []).append(process.pid)
    return found


def logs_of(home: Path) -> str:
    """The ends of the daemons' logs, for the message of a failed test."""
    return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(home.glob("logs/*.log")))


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"page {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the base class's
        pass


@contextmanager
def pages() -> Iterator[str]:
    """Pages on loopback, each of which names its path; the value is where they begin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def until_gone(*process_ids: int, limit_s: float = 20) -> None:
    """Wait until none of these processes lives."""
    until(lambda: not any(map(lives, process_ids)), limit_s)
