"""Network namespaces: made in a batch, entered for a moment to open a socket, and removed with all that runs in them.

A namespace is a file below ``/run/netns``. The machine's own network is never touched: the virtual cables are created
with both ends already inside, and the bridge that joins them lies in a namespace of its own.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.waiting import until

__all__ = [
    "BRIDGE",
    "CARD",
    "alone",
    "entered",
    "is_in",
    "join",
    "kill_all",
    "kill_all_in",
    "path_of",
    "port_of",
    "processes_below",
    "processes_in",
    "remove",
]

CARD = "eth0"
"""The one network card of a host, besides its loopback."""

BRIDGE = "br0"
"""What joins the ports in the hub."""

_FOLDER = Path("/run/netns")
_IP_S = 30
_KILL_S = 10.0
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def path_of(namespace: str) -> Path:
    """The file that stands for a namespace."""
    return _FOLDER / namespace


def port_of(position: int) -> str:
    """The hub's end of the cable of the host with this position."""
    return f"port{position}"


def join(hub: str, addresses: Mapping[str, str]) -> None:
    """Make a namespace per address, and the hub with a bridge that all of them are plugged into.

    ``addresses`` are namespaces with their address and prefix, ``{"a": "10.77.0.1/24"}``.
    """
    made = [f"netns add {name}" for name in (hub, *addresses)]
    cables = [
        f"link add {port_of(number)} netns {hub} type veth peer name {CARD} netns {namespace}"
        for number, namespace in enumerate(addresses)
    ]
    _ip("-batch", "-", lines=[*made, *cables])
    ports = [f"link set {port_of(number)} master {BRIDGE} up" for number in range(len(addresses))]
    _ip("-n", hub, "-batch", "-", lines=[f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up", *ports])
    for namespace, address in addresses.items():
        lines = ["link set lo up", f"address add {address} dev {CARD}", f"link set {CARD} up"]
        _ip("-n", namespace, "-batch", "-", lines=lines)
    # Until the kernel has noticed a cable, which may take it a moment, packets are dropped there.
    until(lambda: len(_links_up(hub, "master", BRIDGE)) == len(addresses), _IP_S)
    for namespace in addresses:
        until(lambda namespace=namespace: bool(_links_up(namespace, "dev", CARD)), _IP_S)  # type: ignore[misc]


def _links_up(namespace: str, *which: str) -> list[str]:
    """The links of a namespace that carry packets."""
    command = ["ip", "-n", namespace, "-json", "link", "show", *which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_IP_S, check=True)
    return [link["ifname"] for link in json.loads(done.stdout) if link["operstate"] == "UP"]


def remove(namespaces: Iterable[str]) -> None:
    """Kill what runs in these namespaces and remove them. One that is not there, or half made, is no error."""
    there = [name for name in namespaces if path_of(name).exists()]
    kill_all_in(there)
    if there:
        _ip("-force", "-batch", "-", lines=[f"netns delete {name}" for name in there], must_succeed=False)
    left = [name for name in there if path_of(name).exists()]
    if left:
        raise RuntimeError(f"network namespaces that cannot be removed: {', '.join(left)}")


def processes_in(namespaces: Iterable[str]) -> list[int]:
    """The processes that run in any of these namespaces, found by what the kernel says of every process."""
    wanted: set[tuple[int, int]] = set()
    for name in namespaces:
        with contextlib.suppress(OSError):
            wanted.add(_identity(path_of(name)))
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # it has just ended
                if _identity(folder / "ns" / "net") in wanted:
                    found.append(int(folder.name))
    return found


def processes_below(folder: Path) -> list[int]:
    """The processes that stand in a folder: programs of hosts do, also before they have entered their namespace."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink().is_relative_to(folder):
                    found.append(int(process.name))
    return found


def is_in(process_id: int, namespace: str) -> bool:
    """Whether a process has entered the namespace. Raises ``OSError`` if it has ended."""
    return _identity(Path(f"/proc/{process_id}/ns/net")) == _identity(path_of(namespace))


def kill_all_in(namespaces: Iterable[str]) -> None:
    """Kill everything there, newcomers too, until nothing runs. Zombies are no longer in a namespace."""
    names = list(namespaces)
    kill_all(lambda: processes_in(names))


def kill_all(processes: Callable[[], list[int]]) -> None:
    """Kill what the function finds until it finds nothing."""

    def nothing_runs() -> bool:
        running = processes()
        for process_id in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        return not running

    until(nothing_runs, _KILL_S)


@contextmanager
def alone() -> Iterator[None]:
    """Let one process at a time do what follows, of all that use hosts on this machine."""
    _FOLDER.mkdir(mode=0o755, exist_ok=True)
    folder = os.open(_FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Be in a namespace for a moment, this thread only: sockets opened meanwhile belong to it for good.

    Nothing but opening sockets is to be done there: a process started inside stays inside.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path_of(namespace), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot enter the network namespace: {os.strerror(error)}")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _ip(*arguments: str, lines: Iterable[str], must_succeed: bool = True) -> None:
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(["ip", *arguments], input=text, capture_output=True, text=True, timeout=_IP_S, check=False)
    if done.returncode and must_succeed:
        raise RuntimeError(f"ip {' '.join(arguments)} failed: {done.stderr.strip()}\nIt was given:\n{text}")
