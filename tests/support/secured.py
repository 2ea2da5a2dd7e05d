"""A cluster with keys on this machine: a scheduler on a TCP port, agents that joined it, users that logged in.

Every party has a home of its own, as if on its own machine. Whatever it started is ended at the end of the block.
"""

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.homes import temporary_home
from support.programs import Ended, environment_of, run_command, run_program
from support.waiting import until

__all__ = ["Daemon", "SecuredCluster", "free_port", "secured_cluster"]

END_S = 15.0


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """A process that says what it does in a log."""

    def __init__(self, home: Path, name: str, *arguments: str) -> None:
        self.log = home / f"{name}.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "keepwarm", *arguments],
                env=environment_of(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        """What it has said so far."""
        return self.log.read_text()

    def until_says(self, words: str, limit_s: float = 30) -> None:
        """Wait until it has said something."""
        try:
            until(lambda: words in self.text() or self.process.poll() is not None, limit_s)
        finally:
            assert words in self.text(), f"{words!r} not in:\n{self.text()[-3000:]}"

    def until_ended(self, limit_s: float = 30) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(limit_s)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(END_S)

    def end(self) -> None:
        """Ask it to leave, and kill it if it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.kill()


class SecuredCluster:
    """The parties. ``home`` is the scheduler's, where an administrator works."""

    def __init__(self, home: Path, stack: ExitStack, host: str = "127.0.0.1") -> None:
        self.home, self._stack = home, stack
        self.port = free_port()
        self.at = f"{host}:{self.port}"
        made = self.admin("init")
        assert made.code == 0, made
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> Daemon:
        """Start, or start again, the scheduler."""
        self.scheduler = Daemon(self.home, "scheduler", "scheduler", "--bind", self.at)
        self._stack.callback(self.scheduler.end)
        self.scheduler.until_says("Scheduler ready")
        return self.scheduler

    def admin(self, *arguments: str) -> Ended:
        """A command of the administrator's, on the scheduler's machine."""
        return run_command(self.home, *arguments)

    def token(self, role: str, *more: str) -> str:
        """A new join token."""
        ended = self.admin("token", "new", "--role", role, *more)
        assert ended.code == 0, ended
        return ended.out.strip()

    def new_home(self) -> Path:
        """Another machine's home."""
        return self._stack.enter_context(temporary_home())

    def agent(self, node: str, *more: str, token: str | None = None, home: Path | None = None) -> Daemon:
        """An agent that joins with a token, or with the key that its home has; it has said hello when this returns."""
        agent = self.start_agent(node, *more, token=self.token("agent") if token is None else token, home=home)
        agent.until_says("welcomed by the scheduler")
        return agent

    def start_agent(self, node: str, *more: str, token: str = "", home: Path | None = None) -> Daemon:
        """An agent that may or may not get in."""
        joining = ["--join", token] if token else []
        agent = Daemon(home or self.new_home(), node, "agent", "--at", self.at, "--node", node, *joining, *more)
        self._stack.callback(agent.end)
        return agent

    def user(self, *more: str, name: str = "") -> Path:
        """The home of a user who has logged in."""
        home = self.new_home()
        named = ["--name", name] if name else []
        ended = run_command(home, "login", self.token("client", *more), "--at", self.at, *named)
        assert ended.code == 0, ended
        return home

    def run(self, home: Path, text: str, variables: Mapping[str, str] | None = None) -> Ended:
        """A program of a user's."""
        return run_program(home, text, {"KEEPWARM_ADDRESS": f"tcp://{self.at}", **(variables or {})})


@contextmanager
def secured_cluster() -> Iterator[SecuredCluster]:
    """A scheduler with keys, on a free port of this machine."""
    with ExitStack() as stack:
        yield SecuredCluster(stack.enter_context(temporary_home()), stack)
