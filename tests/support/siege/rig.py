"""A real cluster under siege: a scheduler with keys, a good node, an innocent program, and one attacker at a time.

The innocent program makes warm calls all the time and notes how long each took; what an attack did to it is compared
with a while in which a process burns as much processor time without being connected.
"""

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from support.programs import environment_of, start_program
from support.secured import SecuredCluster, secured_cluster
from support.siege.enrolled import AGENTS
from support.siege.strangers import STRANGERS
from support.waiting import until

__all__ = ["Comparison", "Siege", "besieged"]

MEBIBYTE = 1 << 20

_INNOCENT = """
@isolated(keep_alive=3600)
def echo(value):
    return value

echo(0)
with open({notes!r}, "a", buffering=1) as notes:
    number = 0
    while True:
        number += 1
        began = time.monotonic()
        try:
            right = echo(number) == number
        except Exception as error:
            right = False
            print(repr(error), file=sys.stderr, flush=True)
        notes.write(f"{{began}} {{time.monotonic() - began}} {{int(right)}}\\n")
        time.sleep(0.002)
"""


class Struck(NamedTuple):
    """An attack that is over. ``used_s`` is the processor time used in all by the end of each slot."""

    times: int
    used_s: list[float]
    began_s: float
    ended_s: float

    @property
    def cpu_s(self) -> float:
        """How much processor time it used."""
        return self.used_s[-1] if self.used_s else 0.0


class Comparison(NamedTuple):
    """The innocent program's calls, in milliseconds, during the attack and beside a process that burns as much."""

    attack: str
    times: int
    cpu_s: float
    calls: int
    p50_ms: float
    p99_ms: float
    burning_p50_ms: float
    burning_p99_ms: float
    grown_bytes: int

    @property
    def ratio(self) -> float:
        """How many times as long the p99 took as beside the burning process."""
        return self.p99_ms / self.burning_p99_ms

    def __str__(self) -> str:
        return (
            f"{self.attack:30} {self.times:9,} x, {self.cpu_s:5.1f} s cpu, {self.calls:5} calls, "
            f"p50 {self.p50_ms:6.2f} ms ({self.burning_p50_ms:6.2f}), p99 {self.p99_ms:7.2f} ms "
            f"({self.burning_p99_ms:6.2f}), ratio {self.ratio:5.2f}, memory {self.grown_bytes / MEBIBYTE:+6.1f} MiB"
        )


class Siege:
    """The cluster, the innocent program and the attackers' keys."""

    def __init__(self, cluster: SecuredCluster) -> None:
        self.cluster = cluster
        self.host, port = cluster.at.split(":")
        self.port = int(port)
        cluster.agent("good")
        self._innocent_home = cluster.user("--namespace", "innocent", name="ann")
        self._attackers = itertools.count(1)
        self.scheduler = psutil.Process(cluster.scheduler.process.pid)
        self._notes = self._innocent_home / "notes"
        self._innocent = start_program(
            self._innocent_home,
            _INNOCENT.format(notes=str(self._notes)),
            {"KEEPWARM_ADDRESS": f"tcp://{cluster.at}"},
        )
        until(lambda: self._notes.exists() and self._notes.stat().st_size > 2_000, 60)

    def end(self) -> None:
        """The innocent program ends."""
        self._innocent.kill()
        _, errors = self._innocent.communicate()
        if errors:
            print(errors[-3000:])

    # ------------------------------------------------------------ looking

    def calls(self, began_s: float, ended_s: float) -> list[float]:
        """How long the innocent calls took, in milliseconds, that began in this time; all of them were right."""
        took = []
        for line in self._notes.read_text().splitlines():
            at, duration, right = line.split()
            if began_s <= float(at) < ended_s:
                assert right == "1", f"an innocent call went wrong: {line}"
                took.append(float(duration) * 1e3)
        return took

    def check(self) -> None:
        """The scheduler is the process that it was, and innocent calls get through."""
        assert self.cluster.scheduler.process.poll() is None, self.cluster.scheduler.text()[-3000:]
        assert self._innocent.poll() is None, "the innocent program has ended"
        now_s = time.monotonic()
        until(lambda: len(self.calls(now_s, math.inf)) >= 3, 20)
        assert "Traceback" not in self.cluster.scheduler.text()

    def memory_bytes(self) -> int:
        """What the scheduler takes up."""
        return int(self.scheduler.memory_info().rss)

    # ------------------------------------------------------------ acting

    def new_key(self, attack: str) -> Path:
        """A key that has done no harm yet, of a client or an agent, whichever the attack is for. Strangers use none."""
        if attack in STRANGERS:
            return next((self._innocent_home / "logins").iterdir())  # it says where to, and how the scheduler is known
        name = f"mallory-{next(self._attackers)}"
        if attack not in AGENTS:
            return next((self.cluster.user("--namespace", "hostile", name=name) / "logins").iterdir())
        home = self.cluster.new_home()
        self.cluster.agent(name, home=home).end()
        return home / "nodes" / name / "agent.key"

    def strike(self, attack: str, seconds: float, key: Path | None = None) -> Struck:
        """One attack, from a process of its own, and with a key of its own unless one is given."""
        key = key or self.new_key(attack)
        attacker = self._start(attack, self.host, str(self.port), str(key), str(seconds))
        began_s = time.monotonic()
        out, _ = attacker.communicate("go\n", timeout=seconds + 60)
        done = json.loads(out.splitlines()[-1])
        return Struck(done["count"], done["used_s"], began_s, began_s + seconds)

    def burn(self, struck: Struck, seconds: float) -> tuple[float, float]:
        """As much processor time at the same pace, in processes that are connected to nothing; when that was."""
        count = max(1, math.ceil(struck.cpu_s / seconds))
        burning = [self._start("burn", str(count)) for _ in range(count)]
        began_s = time.monotonic()
        for each in burning:
            assert each.stdin is not None
            each.stdin.write(json.dumps(struck.used_s) + "\n")
            each.stdin.flush()
        for each in burning:
            each.communicate(timeout=seconds + 60)
        return began_s, began_s + seconds

    @staticmethod
    def _start(*arguments: str) -> "subprocess.Popen[str]":
        tests = Path(__file__).parents[2]
        process = subprocess.Popen(
            [sys.executable, "-m", "support.siege", *arguments],
            env={**environment_of(Path.home()), "PYTHONPATH": str(tests)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def compare(self, attack: str, seconds: float, rounds: int = 2, *, burns: bool = True) -> Comparison:
        """Attack and burn in turns, and compare what that did to the innocent calls. Without ``burns`` only attack."""
        before = self.memory_bytes()
        attacked: list[float] = []
        burning: list[float] = []
        count, cpu_s = 0, 0.0
        for _ in range(rounds):
            struck = self.strike(attack, seconds)
            self.check()
            attacked += self.calls(struck.began_s, struck.ended_s)
            if burns:
                burning += self.calls(*self.burn(struck, seconds))
            count, cpu_s = count + struck.times, cpu_s + struck.cpu_s
        grown = self.memory_bytes() - before
        return Comparison(
            attack,
            count,
            cpu_s,
            len(attacked),
            _percentile(attacked, 50),
            _percentile(attacked, 99),
            _percentile(burning, 50),
            _percentile(burning, 99),
            grown,
        )


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else math.inf


@contextmanager
def besieged() -> Iterator[Siege]:
    """Everything, ended afterwards."""
    with secured_cluster() as cluster:
        siege = Siege(cluster)
        try:
            yield siege
        finally:
            siege.end()
