"""``keepwarm doctor``: look at everything that has to be right, and say what to do about what is not."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from keepwarm.errors import KeepwarmError

__all__ = ["Finding", "examine"]

_DISK_FREE_MIN_BYTES = 1 << 30
_LIBZMQ_MIN = (4, 3, 5)


class Finding(NamedTuple):
    """One thing looked at: whether it is well, what was found, and what to do if it is not."""

    is_well: bool
    what: str
    found: str
    advice: str = ""


def examine(console: Console, address: str | None) -> bool:
    """Run every check and print what it found. Returns whether all is well."""
    is_well = True
    for check in _CHECKS:
        finding = _run(check)
        is_well &= finding.is_well
        _print(console, finding)
    for finding in _cluster(address):
        is_well &= finding.is_well
        _print(console, finding)
    console.print("All is well." if is_well else "Something needs attention: see the lines marked with ✗.")
    return is_well


def _print(console: Console, finding: Finding) -> None:
    mark = "[green]✓[/green]" if finding.is_well else "[red]✗[/red]"
    console.print(f"{mark} {escape(finding.what)}: {escape(finding.found)}", highlight=False, soft_wrap=True)
    if finding.advice and not finding.is_well:
        console.print(f"    {escape(finding.advice)}", highlight=False, soft_wrap=True)


def _run(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (OSError, KeepwarmError, subprocess.SubprocessError, ImportError) as error:
        return Finding(False, check.__name__.strip("_").replace("_", " "), str(error), "See the message.")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(sys.version_info >= (3, 11), "Python", f"{version} at {sys.executable}", "Use Python 3.11 or newer.")


def _home_directory() -> Finding:
    from keepwarm import local

    home = local.home()
    free = shutil.disk_usage(home).free
    return Finding(
        free >= _DISK_FREE_MIN_BYTES,
        "home",
        f"{home}, private, {free / (1 << 30):.1f} GiB free",
        "Environments need room: free some disk, or set KEEPWARM_HOME to a larger one.",
    )


def _messaging() -> Finding:
    import zmq

    found = zmq.zmq_version_info()
    return Finding(found >= _LIBZMQ_MIN, "libzmq", zmq.zmq_version(), "Upgrade pyzmq: older libzmq has known defects.")


def _uv() -> Path:
    from uv import find_uv_bin

    return Path(find_uv_bin())


def _uv_works() -> Finding:
    done = subprocess.run([_uv(), "--version"], capture_output=True, text=True, timeout=20, check=False)
    return Finding(done.returncode == 0, "uv", done.stdout.strip() or done.stderr.strip(), "Reinstall keepwarm.")


def _package_index() -> Finding:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_"))}
    environment |= {"UV_NO_CONFIG": "1", "UV_HTTP_RETRIES": "0"}
    if index := os.environ.get("KEEPWARM_INDEX_URL"):
        environment["UV_DEFAULT_INDEX"] = index
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [_uv(), "pip", "compile", "-q", "--no-header", "--python", sys.executable, "--cache-dir", cache, "-"],
            input="idna",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
    is_well = done.returncode == 0
    return Finding(
        is_well,
        "package index",
        "answers" if is_well else (done.stderr.strip().splitlines() or ["no answer"])[0],
        "Functions with requirements cannot be built here: check the network, the proxy, or KEEPWARM_INDEX_URL.",
    )


_CHECKS: tuple[Callable[[], Finding], ...] = (_python, _home_directory, _messaging, _uv_works, _package_index)


def _cluster(address: str | None) -> list[Finding]:
    if address is None:
        return [Finding(True, "cluster", "none is running here; the first call of a program starts one")]
    from keepwarm.admin import AdminClient

    try:
        with AdminClient(address) as admin:
            document = admin.status()
    except KeepwarmError as error:
        return [Finding(False, "cluster", str(error), "Start it again, or unset KEEPWARM_ADDRESS for a local one.")]
    alive = [node["name"] for node in document["nodes"] if node["state"] == "alive"]
    others = [f"{node['name']} is {node['state']}" for node in document["nodes"] if node["state"] != "alive"]
    return [
        Finding(True, "scheduler", f"{document['software']} at {address}"),
        Finding(
            bool(alive),
            "nodes",
            f"{len(alive)} alive" + (f"; {', '.join(others)}" if others else ""),
            "No agent has joined: run `keepwarm agent`, or look at its log.",
        ),
    ]
