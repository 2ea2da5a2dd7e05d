"""The local cluster: where it lives on this machine, whether it runs, and how it is started.

It owns the home directory (``KEEPWARM_HOME``, else ``~/.keepwarm``). Rules: whoever can write there can run code as
this user, so nothing is used that others can write to. The scheduler is alive if its socket accepts a connection, the
agent if the process that was started last still runs; only what is missing is started. A start happens under a file
lock, so that many programs starting at once start one cluster. The processes are detached: they outlive the program
and inherit nothing of it but its environment variables.
"""

import contextlib
import hashlib
import os
import shlex
import socket as sockets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from keepwarm.errors import ClusterStartError
from keepwarm_wire.version import PROTOCOL_MAX

__all__ = [
    "accepts",
    "address_from_environment",
    "await_end",
    "end_of_log",
    "find",
    "find_or_start",
    "has_agent",
    "has_state",
    "home",
    "socket_path",
]

START_TIMEOUT_S = 15.0
SOCKET_PATH_BYTES_MAX = 100
"""The kernel allows 107 bytes; the rest is a margin for the names that a daemon puts beside its socket."""

LOG_BYTES_MAX = 8 * 1024 * 1024
LOG_LINES_QUOTED = 12
_STAT_START_TIME = 19
"""Index of the time of start in /proc/PID/stat, counted after the name of the program."""

FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.05


def address_from_environment() -> str | None:
    """The address in ``KEEPWARM_ADDRESS``, or ``None`` when the local cluster is meant."""
    return os.environ.get("KEEPWARM_ADDRESS", "").strip() or None


def home() -> Path:
    """The directory of this user's local cluster, made with mode 0700 if it does not exist.

    Raises ``ClusterStartError`` if it belongs to someone else or others can write to it.
    """
    given = os.environ.get("KEEPWARM_HOME", "").strip()
    try:
        path = Path(given or "~/.keepwarm").expanduser().absolute()
    except RuntimeError as error:  # as in a container, for a user that it does not know
        raise ClusterStartError("this user has no home directory. Set KEEPWARM_HOME to a directory.") from error
    _private_directory(path, forbidden_mode=0o022)
    return path


def socket_path(home_directory: Path) -> Path:
    """Where the local scheduler of this protocol version listens. Its directory may not exist yet."""
    path = home_directory / f"local-p{PROTOCOL_MAX}" / "scheduler.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path("/tmp") / f"keepwarm-{os.getuid()}-{digest}" / "scheduler.sock"  # noqa: S108  # made 0700, owner checked


def find() -> str | None:
    """The address of the running local cluster, or ``None``. Starts nothing."""
    path = socket_path(home())
    if not path.parent.exists():
        return None
    _private_directory(path.parent, forbidden_mode=0o077)
    return f"ipc://{path}" if accepts(path) else None


def has_state() -> bool:
    """Whether a local cluster has run here: what it has on disk outlives it."""
    return _state_directory(socket_path(home())).is_dir()


def has_agent() -> bool:
    """Whether the local cluster's agent, as it was started last, still runs."""
    return _agent_runs(socket_path(home()))


def await_end(timeout_s: float) -> bool:
    """Wait for a local cluster that was told to stop; false if it is still there after ``timeout_s``."""
    path = socket_path(home())
    end_s = time.monotonic() + timeout_s
    while accepts(path) or _agent_runs(path):
        if time.monotonic() >= end_s:
            return False
        time.sleep(LONGEST_PAUSE_S)
    return True


def find_or_start() -> str:
    """The address of the local cluster of this home and protocol version; whatever of it does not run is started.

    Blocks until it accepts connections, 15 s at most. Raises ``ClusterStartError``, with the end of the log, if it
    cannot be started.
    """
    if os.name != "posix" or not hasattr(sockets, "AF_UNIX"):
        raise ClusterStartError(
            f"a local cluster cannot run on {sys.platform}. Use Linux, or set KEEPWARM_ADDRESS to a cluster elsewhere."
        )
    home_directory = home()
    path = socket_path(home_directory)
    _private_directory(path.parent, forbidden_mode=0o077)
    if not (accepts(path) and _agent_runs(path)):
        with _start_lock(path.parent / "start.lock"):
            _start(home_directory, path)
    return f"ipc://{path}"


def accepts(path: Path) -> bool:
    """Whether somebody listens on a socket. Raises ``ClusterStartError`` when that cannot be said."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise ClusterStartError(f"cannot reach the local cluster's socket {path}: {error}") from error
    return True


def _private_directory(path: Path, forbidden_mode: int) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat() if forbidden_mode & 0o055 else path.stat()
    except OSError as error:
        raise ClusterStartError(
            f"cannot use the directory {path}: {error}. Set KEEPWARM_HOME to one of yours."
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ClusterStartError(f"{path} is no directory. Remove it, or set KEEPWARM_HOME to another place.")
    if not hasattr(os, "getuid"):
        return
    if found.st_uid != os.getuid():
        raise ClusterStartError(
            f"{path} belongs to user {found.st_uid}, not to you. Set KEEPWARM_HOME to another place."
        )
    if found.st_mode & forbidden_mode:
        raise ClusterStartError(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}: others could run code as you. Run: chmod 700 {path}"
        )


@contextlib.contextmanager
def _start_lock(path: Path) -> Iterator[None]:
    import fcntl  # not on Windows

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def commands(home_directory: Path, path: Path) -> dict[str, list[str]]:
    """The command lines of a local cluster's processes, by the name of their logs."""
    address = f"ipc://{path}"
    state, node_home = _state_directory(path), home_directory / "nodes" / "local"
    python = [sys.executable, "-m"]
    return {
        "scheduler": [*python, "keepwarm_scheduler", "--bind", address, "--state", str(state), "--local"],
        "agent": [
            *python, "keepwarm_worker", "--scheduler", address, "--home", str(node_home),
            "--node", sockets.gethostname(), "--local",
        ],
    }  # fmt: skip


def _state_directory(path: Path) -> Path:
    return path.parent / "scheduler"


def _start(home_directory: Path, path: Path) -> None:
    """Start what is missing: both processes, or the one that was lost."""
    is_alive = {"scheduler": accepts(path), "agent": _agent_runs(path)}
    missing = {name: command for name, command in commands(home_directory, path).items() if not is_alive[name]}
    if not missing:
        return
    logs = home_directory / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    for name in missing:
        _rotate(logs / f"{name}.log")
    process_ids = _launch(missing, logs)
    if "agent" in process_ids:
        _record_agent(path, process_ids["agent"])
    _await_start(path, process_ids, logs)


def _record_agent(path: Path, process_id: int) -> None:
    """Note which process is the agent, with its time of start: the number alone may be another's one day."""
    record = path.with_name("agent.pid")
    record.unlink(missing_ok=True)
    record.write_text(f"{process_id} {_started_at(process_id)}\n")


def _agent_runs(path: Path) -> bool:
    try:
        process_id, started_at = path.with_name("agent.pid").read_text().split()
        return _started_at(int(process_id)) == started_at
    except (OSError, ValueError):
        return False


def _launch(started: dict[str, list[str]], logs: Path) -> dict[str, int]:
    """Start the processes side by side from a shell that ends at once, so that they are nobody's children."""
    lines = [
        f"{shlex.join(command)} </dev/null >>{shlex.quote(str(logs / name))}.log 2>&1 & echo $!"
        for name, command in started.items()
    ]
    try:
        shell = subprocess.run(
            ["/bin/sh", "-c", "\n".join(lines)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ClusterStartError(f"the local cluster could not be started: {error}") from error
    return dict(zip(started, map(int, shell.stdout.split()), strict=True))


def _await_start(path: Path, process_ids: dict[str, int], logs: Path) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    pause_s = FIRST_PAUSE_S
    while True:
        dead = [name for name, process_id in process_ids.items() if not _runs(process_id)]
        if dead:
            raise ClusterStartError(f"the local {dead[0]} ended as it started.{_quote(logs / f'{dead[0]}.log')}")
        if accepts(path):
            return
        if time.monotonic() >= end_s:
            raise ClusterStartError(
                f"the local scheduler did not listen within {START_TIMEOUT_S:.0f} s.{_quote(logs / 'scheduler.log')}"
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.3, LONGEST_PAUSE_S)


def _runs(process_id: int) -> bool:
    return bool(_started_at(process_id))


def _started_at(process_id: int) -> str:
    """When a process was started, in the kernel's own count; empty if it has ended.

    Where nothing reaps orphans, a dead process stays as a zombie. Without ``/proc`` every living process is alike.
    """
    try:
        os.kill(process_id, 0)
        status = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except ProcessLookupError:
        return ""
    except OSError:
        return "unknown" if not Path("/proc/self/stat").exists() else ""
    return "" if status[0] in "ZX" else status[_STAT_START_TIME]


def end_of_log(name: str) -> str:
    """The last lines of a local process's log, ready to end a message with."""
    return _quote(home() / "logs" / f"{name}.log")


def _rotate(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_name(log.name + ".1"))


def _quote(log: Path) -> str:
    lines: Sequence[str] = ()
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES_QUOTED:]
    quoted = "".join(f"\n  {line}" for line in lines)
    return f" The end of {log}:{quoted}" if lines else f" Its log, {log}, is empty."
