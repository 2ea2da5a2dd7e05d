"""A cluster with keys on hosts of its own: a scheduler on one, an agent on each of several, users on others.

Everything speaks TCP with CURVE from host to host, as clusters of real machines do. There is no package index here:
functions without requirements run in plain environments, which need none.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.histories.checkers import objections
from support.histories.reading import read_history
from support.histories.recorder import Recorder
from support.histories.timeline import Run, Timeline
from support.hosts.caller import ENOUGH, FOLDER_VARIABLE, NAME_VARIABLE, Plan
from support.hosts.faults.fault import Fault
from support.hosts.host import Host
from support.hosts.network import Hosts
from support.hosts.program import Program
from support.simulation.history import History
from support.waiting import until

__all__ = ["PORT", "WELCOMED", "HostCluster", "host_cluster", "says"]

PORT = 7437
WELCOMED = "welcomed by the scheduler"
_KEEPWARM = (sys.executable, "-m", "keepwarm")
_TESTS = Path(__file__).parents[2]
_START_S = 30.0
_RESTART_PAUSE_S = 0.1
"""What a supervisor waits before it starts again what has ended."""

_TOKEN_USES = 50


class HostCluster:
    """Made by ``host_cluster``.

    * ``scheduler_host``, ``agent_hosts`` and ``user_hosts``;
    * ``scheduler`` and ``agents``: the programs that run there now, or ran last;
    * ``recorder``: where a test notes what it does to them.
    """

    def __init__(self, hosts: Hosts, agents: int, users: int, cpu: int, labels: Mapping[str, str], late: str) -> None:
        self.hosts = hosts
        self.scheduler_host = hosts["scheduler"]
        self.agent_hosts = [hosts[f"agent{number}"] for number in range(agents)]
        self.user_hosts = [hosts[f"user{number}"] for number in range(users)]
        self.at = f"{self.scheduler_host.address}:{PORT}"
        self.agents: dict[str, Program] = {}
        self.scheduler_variables: dict[str, str] = {}
        self.ends: list[int] = []
        """How schedulers under supervision have ended."""
        self.folder = hosts.folder / "history"
        self.folder.mkdir()
        self.recorder = Recorder(self.folder, "test")
        for host in self.agent_hosts:
            self.recorder.host(host.name, host.place)
        self._cpu, self._labels, self._late = cpu, labels, late.split()
        self._supervision = threading.Lock()
        self._callers: list[Program] = []
        self._token = self._user_token = ""

    # ------------------------------------------------------------ starting

    def begin(self) -> None:
        """Make keys, start all, let everybody join."""
        self.command(self.scheduler_host, "init")
        self.start_scheduler()
        tokens = [self._new_token(role) for role in ("agent", "client")]
        self._token, self._user_token = (_output(token) for token in tokens)
        first = [host for host in self.agent_hosts if host.name not in self._late]
        for host in first:
            self.start_agent(host)
        for login in [self._start_login(host, self.at, host.name) for host in self.user_hosts]:
            _output(login)
        for host in first:
            self.wait_for_agent(host)

    def log_in(self, host: Host, at: str) -> None:
        """Let the programs of a host use the cluster at another address."""
        _output(self._start_login(host, at, f"{host.name}-there"))

    def _start_login(self, host: Host, at: str, name: str) -> Program:
        return host.run([*_KEEPWARM, "login", self._user_token, "--at", at, "--name", name], name="login")

    def _new_token(self, role: str) -> Program:
        return self.scheduler_host.run([*_KEEPWARM, "token", "new", "--role", role, "--uses", str(_TOKEN_USES)])

    def launch_scheduler(self) -> Program:
        """Start the scheduler, and do not wait for it."""
        words = ["scheduler", "--bind", f"0.0.0.0:{PORT}"]
        self.scheduler = self.scheduler_host.run([*_KEEPWARM, *words], name="scheduler", env=self.scheduler_variables)
        return self.scheduler

    def start_scheduler(self) -> Program:
        """Start the scheduler; it serves when this returns."""
        program = self.launch_scheduler()
        until(lambda: says(program, "Scheduler ready") or not program.is_running, _START_S)
        assert program.is_running, program.said()
        return program

    def start_agent(self, host: Host, at: str = "", env: Mapping[str, str] | None = None) -> Program:
        """Start an agent; the first one of a host joins with a token, later ones have its key."""
        words = ["agent", "--at", at or self.at, "--node", host.name, "--cpu", str(self._cpu), "--join", self._token]
        for label in self._labels.get(host.name, "").split():
            words += ["--label", label]
        program = self.agents[host.name] = host.run([*_KEEPWARM, *words], name="agent", env=env)
        return program

    def wait_for_agent(self, host: Host, limit_s: float = _START_S) -> None:
        """Wait until the agent that was started last is a node of the cluster."""
        program = self.agents[host.name]
        until(lambda: says(program, WELCOMED) or not program.is_running, limit_s)
        assert program.is_running, program.said()

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Whatever ends the scheduler, it is started again, as under systemd."""
        is_over = threading.Event()

        def supervise() -> None:
            while not is_over.wait(_RESTART_PAUSE_S):
                with self._supervision:
                    code = self.scheduler.code
                    if code is not None:
                        self.ends.append(code)
                        self.launch_scheduler()

        thread = threading.Thread(target=supervise, name="supervisor")
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    @contextmanager
    def unsupervised(self) -> Iterator[None]:
        """For a while nobody but the caller starts the scheduler again."""
        with self._supervision:
            yield

    # ------------------------------------------------------------ asking

    def command(self, host: Host, *arguments: str) -> str:
        """What a command on a host prints. It must succeed."""
        return _output(host.run([*_KEEPWARM, *arguments], name=arguments[0]))

    def status(self) -> dict[str, Any]:
        """The scheduler's description of the cluster."""
        document = json.loads(self.command(self.scheduler_host, "status", "--json"))
        assert isinstance(document, dict)
        return document

    def call(self, plan: Plan | None = None, *, user: int = 0, at: str = "", name: str = "") -> Program:
        """Start a program that calls as planned."""
        plan = plan or Plan()
        return self._start_caller(["-m", "support.hosts.caller", json.dumps(plan._asdict())], user, at, name)

    def program(self, text: str, *, user: int = 0, at: str = "", name: str = "") -> Program:
        """Start a program of its own, in which ``caller`` is a ``Caller``."""
        host = self.user_hosts[user]
        file = host.home / f"program{len(self._callers)}.py"
        file.write_text(f"import os, time, json\nfrom keepwarm import *\n{_PREAMBLE}\n{text}")
        return self._start_caller([str(file)], user, at, name)

    def _start_caller(self, words: list[str], user: int, at: str, name: str) -> Program:
        name = name or f"c{len(self._callers)}"
        paths = [str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {
            "PYTHONPATH": os.pathsep.join(paths),
            "KEEPWARM_ADDRESS": f"tcp://{at or self.at}",
            FOLDER_VARIABLE: str(self.folder),
            NAME_VARIABLE: name,
        }
        program = self.user_hosts[user].run([sys.executable, *words], name=name, env=env)
        self._callers.append(program)
        return program

    def end_calling(self, limit_s: float = 60) -> None:
        """Let no more calls be asked for, and wait until all are answered."""
        (self.folder / ENOUGH).touch()
        for program in self._callers:
            if program.is_running:
                code = program.wait(limit_s)
                assert code == 0, program.said()

    # ------------------------------------------------------------ what happened

    def history(self) -> History:
        """All that has been recorded until now."""
        return read_history(self.folder)

    def story(self) -> Timeline:
        """The same, read as a story."""
        return Timeline(self.history())

    def require(self, condition: Callable[[History], Any], limit_s: float = 30) -> Any:
        """Wait until something holds of the history, and return it."""
        end_s = time.monotonic() + limit_s
        while not (found := condition(history := self.history())):
            if time.monotonic() >= end_s:
                last = "\n".join(map(str, history.entries[-20:]))
                raise AssertionError(f"it did not come true within {limit_s} s; the last that was recorded:\n{last}")
            time.sleep(0.02)
        return found

    def until_running(self, count: int, host: Host | None = None) -> list[Run]:
        """Wait until at least so many calls are being executed, on one host or on all together; which ones."""
        name = host.name if host else ""

        def running(history: History) -> list[Run]:
            found = [run for run in Timeline(history).unfinished() if name in ("", run.host)]
            return found if len(found) >= count else []

        runs: list[Run] = self.require(running)
        return runs

    def first_run_after(self, at_ns: int) -> Run:
        """Wait for the first execution that begins after an instant."""
        run: Run = self.require(lambda history: Timeline(history).first_run_after(at_ns))
        return run

    def first_end_after(self, at_ns: int) -> int:
        """Wait for the first answer after an instant; when that was."""
        ended_ns: int = self.require(lambda history: Timeline(history).first_end_after(at_ns))
        return ended_ns

    def check(self) -> Timeline:
        """Every checker is content with what has been recorded; the story that it tells."""
        history = self.history()
        wrong = objections(history)
        assert not wrong, "\n".join(wrong[:20])
        return Timeline(history)

    @contextmanager
    def struck(self, kind: str, host: Host, strike: Callable[[], Fault] | None = None) -> Iterator[int]:
        """Note a fault, let it strike, and undo it in the end; the value is the instant at which it struck."""
        self.recorder.fault(kind, host.name)
        at_ns = time.time_ns()
        with strike() if strike is not None else contextlib.nullcontext():
            yield at_ns
        self.recorder.healed(kind, host.name)


_PREAMBLE = "from support.hosts.caller import Caller, Plan\ncaller = Caller()"


def says(program: Program, words: str) -> bool:
    """Whether a program has said something by now."""
    return words in program.out.read_text() or words in program.err.read_text()


def _output(program: Program) -> str:
    assert program.wait(_START_S) == 0, program.said()
    return program.out.read_text().strip()


@contextmanager
def host_cluster(
    agents: int = 2,
    users: int = 1,
    *,
    cpu: int = 2,
    labels: Mapping[str, str] | None = None,
    late: str = "",
    prepare: Callable[[HostCluster], None] = lambda _: None,
) -> Iterator[HostCluster]:
    """A cluster of so many agents and users, all of them up.

    ``cpu`` is what each node offers, ``labels`` may have more labels for a host, as ``zone=a disk=fast``; the agents of
    ``late`` hosts are not started. ``prepare`` is called before anything starts.
    """
    names = [f"agent{number}" for number in range(agents)] + [f"user{number}" for number in range(users)]
    with Hosts("scheduler", *names) as hosts:
        cluster = HostCluster(hosts, agents, users, cpu, labels or {}, late)
        prepare(cluster)
        cluster.begin()
        yield cluster
        cluster.recorder.close()
