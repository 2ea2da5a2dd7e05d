"""``keepwarm doctor``: look at everything that has to be right, and say what to do about what is not."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from keepwarm.errors import KeepwarmError
from keepwarm_wire.credentials import ROLE_ADMIN
from keepwarm_wire.key_files import StoredKey

__all__ = ["Finding", "examine"]

_DISK_FREE_MIN_BYTES = 1 << 30
_REACH_S = 5.0
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
    from keepwarm import logins

    try:
        addresses = logins.parse(address)
        key = logins.key_for(addresses)
    except KeepwarmError as error:
        return [Finding(False, "key", str(error), "See the message.")]
    found = [_reach(each, key) for each in addresses]
    if key is not None:
        found.insert(0, Finding(True, "key", f"{key.name}, {key.role}, readable by you alone"))
    if not all(finding.is_well for finding in found):
        return found
    if key is not None and key.role != ROLE_ADMIN:
        return [
            *found,
            Finding(True, "nodes", "an administrator's key sees them: `keepwarm doctor` on the scheduler's machine"),
        ]
    return [*found, *_members(addresses[0])]


def _reach(address: str, key: StoredKey | None) -> Finding:
    """Whether a connection comes about, with the key that there is, and how fast."""
    from keepwarm.connection import not_let_in
    from keepwarm.transport import Transport
    from keepwarm.waking import Wakeup

    wakeup = Wakeup()
    transport = Transport(address, wakeup, key)
    begun_s = time.monotonic()
    try:
        while (left_s := begun_s + _REACH_S - time.monotonic()) > 0:
            arrivals = transport.receive(left_s)
            if arrivals.made:
                return Finding(True, "connection", f"{address}, in {(time.monotonic() - begun_s) * 1000:.0f} ms")
            if arrivals.refusal:
                return Finding(False, "connection", not_let_in(address, arrivals.refusal), "See the message.")
    finally:
        transport.close(linger_s=0)
        wakeup.close()
    advice = "Check that the scheduler runs there, and that no firewall is between; or unset KEEPWARM_ADDRESS."
    return Finding(False, "connection", f"nobody answers at {address} within {_REACH_S:g} s", advice)


def _members(address: str) -> list[Finding]:
    from keepwarm.admin import AdminClient

    try:
        with AdminClient(address) as admin:
            document = admin.status()
    except KeepwarmError as error:
        return [Finding(False, "cluster", str(error), "Start it again, or unset KEEPWARM_ADDRESS for a local one.")]
    alive = [node["name"] for node in document["nodes"] if node["state"] == "alive"]
    others = [f"{node['name']} is {node['state']}" for node in document["nodes"] if node["state"] != "alive"]
    cordoned = [
        f"{node['name']} is {node['cordon']}" for node in document["nodes"] if node.get("cordon", "open") != "open"
    ]
    advice = (
        "Look at their agents' logs, and at the network between." if alive else
        "No agent has joined: run `keepwarm agent`, or look at its log."
    )  # fmt: skip
    broken = sum(document.get("leases_ended_early", {}).values())
    return [
        Finding(True, "scheduler", f"{document['software']} at {address}, up {document['uptime_s']:.0f} s"),
        Finding(bool(alive) and not others, "nodes", "; ".join([f"{len(alive)} alive", *others, *cordoned]), advice),
        Finding(True, "leases", f"{broken} ended early since it was started" if broken else "none was ended early"),
    ]
