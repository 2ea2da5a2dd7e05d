"""The local cluster as programs find it: started once, found again, started anew when killed, ending by itself."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from support.homes import processes_of, stop_processes, temporary_home
from support.programs import (
    lives,
    logs_of,
    roles,
    run_command,
    run_program,
    start_program,
    status,
    until_gone,
    wait_for_program,
)
from support.waiting import until

ENDS_ITSELF_S = 15.0
"""How long a cluster with nothing left to do may still be there on a busy machine; it lingers one second."""

WHERE = """
@isolated(keep_alive={keep_alive})
def where():
    return os.getpid()

"""

CALL = WHERE.format(keep_alive=60) + "print(where())"
BRIEF_CALL = WHERE.format(keep_alive=0.5) + "print(where())"
ENDLESS_CALL = WHERE.format(keep_alive="float('inf')") + "print(where())"

SLEEPY = """
@isolated(keep_alive=60, retries=Retry(lost_node={lost_node}))
def sleepy(file):
    with open(file, "a") as runs:
        print(os.getpid(), file=runs)
    with open(file) as runs:
        if len(list(runs)) < {runs}:
            time.sleep(600)
    return "slept"

try:
    print(sleepy({file!r}))
except KeepwarmError as error:
    print(type(error).__name__, error)
print(sleepy.on(keep_alive=0.1)({other!r}))
"""


def call(home: Path, text: str = CALL) -> int:
    """Run a program with one call; the process that served it."""
    ended = run_program(home, text)
    assert ended.code == 0, (ended, logs_of(home))
    return int(ended.out)


def only(home: Path, role: str) -> int:
    """The one process of this kind."""
    [process_id] = roles(home)[role]
    return process_id


def socket_of(home: Path) -> Path:
    return home / "local-p1" / "scheduler.sock"


def until_ended(home: Path, limit_s: float) -> None:
    """Wait until no process of the cluster is left; say which are, and what they logged, if that takes too long."""
    try:
        until(lambda: not processes_of(home), limit_s)
    except AssertionError:
        raise AssertionError(f"{roles(home)}\n{logs_of(home)}") from None


def test_ten_programs_that_start_at_once_share_one_cluster(home: Path) -> None:
    """One scheduler, one agent; a second start would have ended with an error, and logged it."""
    programs = [start_program(home, CALL, name=f"program{number}") for number in range(10)]
    ended = [wait_for_program(program) for program in programs]
    assert [(each.code, each.err) for each in ended] == [(0, "")] * 10, (ended, logs_of(home))
    found = roles(home)
    assert (len(found["scheduler"]), len(found["agent"])) == (1, 1)
    assert status(home)["epoch"] == 1
    assert (home / "logs/agent.log").read_text().count("home ") == 1


def test_files_of_a_cluster_that_was_killed_are_in_nobodys_way(home: Path) -> None:
    """The socket and the agent's process number are still there; a new cluster starts all the same."""
    call(home)
    stop_processes(home)
    assert (home / "local-p1/agent.pid").exists()
    if not socket_of(home).exists():
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(socket_of(home)))
    assert run_command(home, "status").code == 1
    call(home)
    assert status(home)["epoch"] == 2


def test_a_killed_scheduler_is_started_again_and_takes_its_agent_back(home: Path) -> None:
    """The instance is warm for the next program: a restart shortens no lease."""
    served_by = call(home)
    scheduler, agent = only(home, "scheduler"), only(home, "agent")
    os.kill(scheduler, signal.SIGKILL)
    until_gone(scheduler)
    assert call(home) == served_by
    assert only(home, "agent") == agent
    assert only(home, "scheduler") != scheduler


def test_a_scheduler_killed_during_a_call_costs_the_call_nothing(home: Path) -> None:
    """The client starts another one, which waits for what the agent still runs."""
    text = WHERE.format(keep_alive=60) + (
        "@isolated(keep_alive=60)\ndef slow(file):\n    open(file, 'a').write('x')\n    time.sleep(4)\n    return 5\n"
        f"print(slow({str(home / 'runs')!r}))"
    )
    program = start_program(home, text)
    until((home / "runs").exists)
    os.kill(only(home, "scheduler"), signal.SIGKILL)
    ended = wait_for_program(program)
    assert (ended.code, ended.out) == (0, "5\n"), (ended, logs_of(home))
    assert (home / "runs").read_text() == "x", "it ran once"


@pytest.mark.parametrize("lost_node", [0, 3])
def test_an_agent_killed_during_a_call_is_started_again(home: Path, lost_node: int) -> None:
    """The call is placed again, or fails with NodeLost where that is not wanted; then the cluster serves on."""
    file = home / "runs"
    text = SLEEPY.format(lost_node=lost_node, runs=2, file=str(file), other=str(file))
    program = start_program(home, text)
    until(lambda: file.exists() and file.read_text().endswith("\n"))
    agent, served_by = only(home, "agent"), int(file.read_text())
    os.kill(agent, signal.SIGKILL)
    ended = wait_for_program(program)
    assert ended.code == 0, (ended, logs_of(home))
    first, second = ended.out.splitlines()
    if lost_node:
        assert first == "slept"
    else:
        assert first.startswith("NodeLost ")
        assert "lost_node" in first
    assert second == "slept"
    assert not lives(served_by), "the guardian ends what a killed agent has left"
    assert only(home, "agent") != agent


def test_an_agent_killed_between_programs_is_started_again(home: Path) -> None:
    """The scheduler is the same one."""
    first = call(home)
    scheduler, agent = only(home, "scheduler"), only(home, "agent")
    os.kill(agent, signal.SIGKILL)
    until_gone(agent, first)
    assert call(home) != first
    assert only(home, "scheduler") == scheduler


def test_a_cluster_without_its_agent_and_without_programs_ends_itself(home: Path) -> None:
    """What the agent took along keeps nobody."""
    call(home)
    os.kill(only(home, "agent"), signal.SIGKILL)
    until_ended(home, ENDS_ITSELF_S + 10)


def test_an_agent_that_cannot_stay_is_an_error_with_the_end_of_its_log(home: Path) -> None:
    """It is not waited for without end: after a few starts the call says what the agent says."""
    (home / "nodes" / "local").mkdir(parents=True)
    (home / "nodes" / "local" / "agent.lock").mkdir()
    started_s = time.monotonic()
    ended = run_program(home, CALL)
    assert ended.code == 1
    last = ended.err.splitlines()
    assert any("ClusterStartError: the local agent en" in line for line in last), ended.err
    assert "cannot be an agent's home" in ended.err
    assert time.monotonic() - started_s < 30


def test_it_ends_itself_when_nothing_is_left_to_do(home: Path) -> None:
    """No program, no call, no lease: all its processes end, and the next call starts another."""
    call(home, BRIEF_CALL)
    assert processes_of(home)
    until_ended(home, ENDS_ITSELF_S)
    call(home, BRIEF_CALL)
    assert status(home)["epoch"] == 2


def test_a_program_that_is_connected_keeps_it(home: Path) -> None:
    """Also while it makes no call; and a lease keeps it after the program."""
    text = WHERE.format(keep_alive=0.1) + "print(where())\ntime.sleep(4)\nprint(where())"
    ended = run_program(home, text)
    assert (ended.code, ended.err) == (0, "")
    assert status(home)["epoch"] == 1


def test_an_endless_lease_keeps_it_until_it_is_stopped(home: Path) -> None:
    """`keepwarm stop` ends every process, and returns when they are gone."""
    served_by = call(home, ENDLESS_CALL)
    time.sleep(3)  # longer than a cluster without leases lingers
    assert lives(served_by)
    assert status(home)["instances"][0]["lease_s"] == "forever"
    ended = run_command(home, "stop")
    assert (ended.code, ended.out) == (0, "Stopped.\n")
    assert not lives(served_by)
    until(lambda: not processes_of(home), 5)
    assert call(home, BRIEF_CALL)


def test_two_homes_are_two_clusters(home: Path) -> None:
    """Side by side; what ends one leaves the other."""
    with temporary_home() as other:
        first, second = call(home), call(other)
        assert first != second
        assert status(home)["cluster_id"] != status(other)["cluster_id"]
        assert run_command(other, "stop").code == 0
        assert call(home) == first


def test_a_home_that_others_can_write_to_is_refused(home: Path) -> None:
    """By programs and by the command line, in words, and nothing is started."""
    home.chmod(0o777)
    ended = run_program(home, CALL)
    assert ended.code == 1
    assert f"{home} has mode 0777" in ended.err
    assert f"chmod 700 {home}" in ended.err
    command = run_command(home, "status")
    assert command.code == 1
    assert "mode 0777" in command.err
    assert "Traceback" not in command.err
    assert processes_of(home) == []


def test_there_are_logs_and_they_are_private(home: Path) -> None:
    """Both daemons say what they do in the home, and nobody else can read it."""
    call(home)
    for name in ("scheduler", "agent"):
        log = home / "logs" / f"{name}.log"
        assert log.read_text().strip()
        assert log.stat().st_mode & 0o077 == 0 or log.parent.stat().st_mode & 0o077 == 0
