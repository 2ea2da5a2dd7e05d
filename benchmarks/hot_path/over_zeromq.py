"""Keepwarm whose frames all pass ZeroMQ: as between machines, or on a local socket without a direct one beside it.

Rules: each party has a home of its own below ``KEEPWARM_HOME``, as if on its own machine. Daemons are children of this
process and are ended with its tree.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.hot_path.systems import KeepwarmSubmitted

from keepwarm_wire.streams import PATH_BYTES_MAX, direct_path

__all__ = ["KeepwarmOverTcp", "KeepwarmThroughZeroMQ"]

START_S = 30.0


class _OwnDaemons(KeepwarmSubmitted):
    """A cluster of which each party is started by hand. Nothing is lent."""

    def __init__(self) -> None:
        super().__init__()
        self._base = Path(os.environ["KEEPWARM_HOME"])

    def _use(self, machine: str, address: str) -> None:
        os.environ |= {"KEEPWARM_HOME": str(self._home(machine)), "KEEPWARM_ADDRESS": address}

    def _home(self, machine: str) -> Path:
        home = self._base / machine
        home.mkdir(mode=0o700, exist_ok=True)
        return home

    def _tool(self, machine: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "keepwarm", *arguments],
            env=os.environ | {"KEEPWARM_HOME": str(self._home(machine))},
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"keepwarm {' '.join(arguments[:2])} failed: {done.stderr}")
        return done.stdout.strip()

    def _daemon(self, machine: str, ready: str, *arguments: str) -> None:
        log = self._home(machine) / f"{arguments[0]}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "keepwarm", *arguments],
                env=os.environ | {"KEEPWARM_HOME": str(self._home(machine))},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        deadline_s = time.monotonic() + START_S
        while ready not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"keepwarm {arguments[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)


class KeepwarmOverTcp(_OwnDaemons):
    """A cluster with keys on a loopback port: every connection is TCP, encrypted and authenticated by CURVE."""

    def __init__(self) -> None:
        super().__init__()
        at = f"127.0.0.1:{_free_port()}"
        self._tool("head", "init")
        self._daemon("head", "Scheduler ready", "scheduler", "--bind", at)
        token = self._tool("head", "token", "new", "--role", "agent")
        self._daemon("node", "welcomed by the scheduler", "agent", "--at", at, "--node", "node", "--join", token)
        token = self._tool("head", "token", "new", "--role", "client")
        self._tool("user", "login", token, "--at", at)
        self._use("user", f"tcp://{at}")


class KeepwarmThroughZeroMQ(_OwnDaemons):
    """A local cluster whose socket's path is so long that there is no room for the direct socket's: ZeroMQ's `ipc`."""

    def __init__(self) -> None:
        super().__init__()
        path = self._home("socket") / "s"
        path = path.with_name("s" * (PATH_BYTES_MAX - len(os.fsencode(path))))
        address = f"ipc://{path}"
        if direct_path(address):
            raise RuntimeError(f"{path} leaves room for a direct socket, which would be measured instead")
        self._daemon("head", "Scheduler ready", "scheduler", "--bind", address)
        self._daemon("node", "welcomed by the scheduler", "agent", "--at", address, "--node", "node")
        self._use("head", address)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
