"""``keepwarm demo``: the two functions of the README on the local cluster, against a page served here.

Run as a program of its own (``python -m keepwarm.cli.demo``), like any user's script: the functions below are decorated
in ``__main__``, and only the countdown uses anything that is not the public API.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rich.console import Console
from rich.markup import escape

from keepwarm import Future, KeepwarmError, OptionError, isolated

KEEP_ALIVE_S = 10

_SHOWN = {
    "cold": "[cyan]cold[/cyan]",
    "cached": "[cyan]cold[/cyan]",
    "built": "[cyan]cold, environment on disk[/cyan]",
    "warm": "[green]warm[/green]",
    "ready": "[green]warm[/green]",
}


@isolated(keep_alive=300)
def get_two() -> int:
    """The smallest function: no requirements."""
    return 1 + 1


@isolated(keep_alive=KEEP_ALIVE_S, requirements=["requests"])
def get_response(url: str) -> str:
    """Needs a package that this program does not have."""
    import requests  # type: ignore[import-untyped,import-not-found,unused-ignore]

    text: str = requests.get(url, timeout=10).text
    return text


class _Page(BaseHTTPRequestHandler):
    """A page for ``get_response`` to read."""

    def do_GET(self) -> None:
        """Serve the path back."""
        body = f"hello from {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the base class's
        """Say nothing."""


@contextlib.contextmanager
def _serve() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _describe(console: Console, label: str, future: Future[Any], elapsed_s: float) -> None:
    """One line for a call: how warm it was, how long it took, and where the time went."""
    report = future.report
    if report is None:
        console.print(f"{label}: no report", highlight=False)
        return
    phases = escape(", ".join(f"{phase.name} {phase.duration_us / 1000:.1f} ms" for phase in report.phases))
    console.print(
        f"{label:<24}{elapsed_s * 1000:8.1f} ms  {_SHOWN[report.temperature]}"
        f"  [dim](pid {report.process_id}; {phases})[/dim]",
        highlight=False,
        soft_wrap=True,
    )


def _call(console: Console, label: str, function: Any, *arguments: Any) -> Future[Any]:
    """Make a call, describe it, and return its future."""
    started_s = time.perf_counter()
    future: Future[Any] = function.submit(*arguments)
    future.result()
    _describe(console, label, future, time.perf_counter() - started_s)
    return future


def _pid(future: Future[Any]) -> int:
    """The id of the process that served a call."""
    return 0 if future.report is None else future.report.process_id


def _cold(future: Future[Any]) -> str:
    """Why a call was cold, as the scheduler says it."""
    return escape(str(future.explain().cold))


def _lease_s(process_id: int) -> float | None:
    """What is left of the lease of the instance with this process, or None when it is gone."""
    from keepwarm import local
    from keepwarm.admin import AdminClient

    address = local.address_from_environment() or local.find()
    if address is None:
        return None
    with AdminClient(address) as admin:
        instances = admin.status()["instances"]
    for instance in instances:
        if instance["pid"] == process_id:
            lease_s = instance["lease_s"]
            return lease_s if isinstance(lease_s, float) else 0.0
    return None


def _count_down(console: Console, process_id: int) -> None:
    """Show the lease running out, and that the process is then gone."""
    started_s = time.monotonic()
    step_s = 0.25 if console.is_terminal else 2.0
    with console.status("") as line:
        while (lease_s := _lease_s(process_id)) is not None:
            text = f"keep_alive={KEEP_ALIVE_S}: the lease of pid {process_id} ends in {lease_s:4.1f} s"
            if console.is_terminal:
                line.update(text)
            else:
                console.print(text, highlight=False)
            time.sleep(min(step_s, max(0.1, lease_s)))
    state = "still there" if _exists(process_id) else "gone"
    console.print(
        f"The lease ran out after {time.monotonic() - started_s:.1f} s without a call: pid {process_id} is {state}.",
        highlight=False,
    )


def _exists(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Run the demonstration. Returns the exit status."""
    console = Console()
    try:
        with _serve() as base:
            _call(console, "get_two()", get_two)
            _call(console, "get_two()", get_two)
            first_pid = _pid(_call(console, "get_response(.../one)", get_response, f"{base}/one"))
            second_pid = _pid(_call(console, "get_response(.../two)", get_response, f"{base}/two"))
            same = "the same process" if first_pid == second_pid else "another process"
            console.print(f"Both calls of get_response ran in {same}.", highlight=False)
            _count_down(console, second_pid)
            third = _call(console, "get_response(.../three)", get_response, f"{base}/three")
            console.print(
                f"A new process (pid {_pid(third)}) in the environment that was still on disk: {_cold(third)}. "
                f"`keepwarm explain {third.call_id}` tells all of it, `keepwarm status` shows the cluster; it stops "
                f"itself when the last lease is over.",
                highlight=False,
                soft_wrap=True,
            )
    except KeepwarmError as error:
        Console(stderr=True).print(f"[red]keepwarm demo:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
