"""Draining a node of a running cluster by the command line: what it says, what it does, what it leaves running."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.homes import temporary_home
from support.programs import lives, run_command, run_program, start_program, status, wait_for_program
from support.secured import Daemon
from support.waiting import until

SLEEPS = """
@isolated(keep_alive={keep_alive})
def slow(seconds):
    import time
    print("began", flush=True)
    time.sleep(seconds)
    return os.getpid()
print(slow({seconds}), flush=True)
"""


class Cluster:
    """A scheduler and agents in the foreground, without keys. ``run`` is a command of an operator's."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home, self._stack = home, stack
        self.chosen = {"KEEPWARM_ADDRESS": f"ipc://{home}/cluster/scheduler.sock"}
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> Daemon:
        self.scheduler = Daemon(self.home, "scheduler", "scheduler")
        self._stack.callback(self.scheduler.end)
        until((self.home / "cluster/scheduler.sock").exists)
        return self.scheduler

    def agent(self, node: str, *more: str) -> Daemon:
        agent = Daemon(self.home, node, "agent", "--node", node, *more)
        self._stack.callback(agent.end)
        until(lambda: self.node(node).get("state") == "alive")
        return agent

    def node(self, name: str) -> dict[str, object]:
        return next((row for row in status(self.home, self.chosen)["nodes"] if row["name"] == name), {})

    def run(self, *words: str, code: int = 0) -> dict[str, object]:
        ended = run_command(self.home, *words, "--json", variables=self.chosen)
        assert ended.code == code, ended
        told: dict[str, object] = json.loads(ended.out)
        return told


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack.enter_context(temporary_home()), stack)


def test_a_drain_waits_for_the_call_that_runs_and_ends_what_is_idle_then(cluster: Cluster) -> None:
    """The call is answered, its process is ended at once after it, the agent stays; calls come back with uncordon."""
    agent = cluster.agent("a", "--label", "zone=west")
    program = start_program(cluster.home, SLEEPS.format(keep_alive=300, seconds=2), cluster.chosen)
    until(lambda: cluster.node("a").get("instances") == 1)
    drained = cluster.run("drain", "a", "--max-wait", "0")
    assert (drained["state"], drained["reach"], drained["instances"]) == ("drained", "alive", 0)
    ended = wait_for_program(program)
    assert ended.code == 0, ended
    until(lambda: not lives(int(ended.out.split()[-1])))
    assert agent.process.poll() is None
    text = run_command(cluster.home, "status", variables=cluster.chosen | {"COLUMNS": "200"}).out
    assert "alive, drained" in text
    assert "zone=west" in text
    assert cluster.run("uncordon", "a")["state"] == "open"
    again = wait_for_program(start_program(cluster.home, SLEEPS.format(keep_alive=0, seconds=0), cluster.chosen))
    assert again.code == 0, again


def test_a_drained_node_stays_so_over_restarts_and_its_agent_may_be_stopped(cluster: Cluster) -> None:
    """Of the scheduler by kill -9, and of the agent."""
    agent = cluster.agent("a")
    assert cluster.run("drain", "a", "--stop")["reach"] == "absent"
    assert agent.until_ended() == 0
    cluster.scheduler.kill()
    (cluster.home / "cluster/scheduler.sock").unlink()
    cluster.start_scheduler()
    again = cluster.agent("a")
    until(lambda: cluster.node("a").get("cordon") == "drained")
    time.sleep(0.5)
    assert again.process.poll() is None, "an agent that came back was sent away again"


def test_ctrl_c_ends_the_wait_and_not_the_drain(cluster: Cluster) -> None:
    cluster.agent("a")
    program = start_program(cluster.home, SLEEPS.format(keep_alive=300, seconds=0), cluster.chosen)
    assert wait_for_program(program).code == 0
    watching = Daemon(cluster.home, "drain", "drain", "a", "--max-wait", "3s")
    until(lambda: cluster.node("a").get("cordon") == "draining")
    time.sleep(0.3)
    watching.process.send_signal(signal.SIGINT)
    assert watching.until_ended() == 130
    assert "goes on" in watching.text()
    until(lambda: cluster.node("a").get("cordon") == "drained", 15)


def test_a_node_that_is_not_there_is_refused_in_words(cluster: Cluster) -> None:
    for word in ("cordon", "drain", "uncordon"):
        ended = run_command(cluster.home, word, "nobody", variables=cluster.chosen)
        assert ended.code == 1
        assert "No node is called 'nobody'" in " ".join(ended.err.split())
        assert "Traceback" not in ended.err
    ended = run_command(cluster.home, "drain", "a", "--max-wait", "soon", variables=cluster.chosen)
    assert "write it like" in " ".join(ended.err.split())


def test_sigterm_ends_an_agent_and_what_runs_on_it_within_three_seconds(cluster: Cluster) -> None:
    """The hurried way: a call that runs is placed elsewhere, here nowhere yet."""
    agent = cluster.agent("a")
    program = start_program(cluster.home, SLEEPS.format(keep_alive=300, seconds=600), cluster.chosen)
    until(lambda: any(row["state"] == "busy" for row in status(cluster.home, cluster.chosen)["instances"]))
    (busy,) = status(cluster.home, cluster.chosen)["instances"]
    started_s = time.monotonic()
    os.kill(agent.process.pid, signal.SIGTERM)
    assert agent.until_ended() == 0
    assert time.monotonic() - started_s < 4
    assert not lives(busy["pid"])
    assert cluster.node("a") == {}
    program.kill()
    program.communicate()


def test_sigterm_ends_a_scheduler_at_once_and_its_agents_wait_for_the_next_one(cluster: Cluster) -> None:
    """As an upgrade does it: what is warm stays warm."""
    agent = cluster.agent("a")
    calls = "@isolated(keep_alive=60)\ndef pid():\n    return os.getpid()\nprint(pid())"
    before = run_program(cluster.home, calls, cluster.chosen).value
    cluster.scheduler.process.send_signal(signal.SIGTERM)
    assert cluster.scheduler.until_ended() == 0
    assert agent.process.poll() is None
    cluster.start_scheduler()
    assert run_program(cluster.home, calls, cluster.chosen).value == before
