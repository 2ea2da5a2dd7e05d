"""The command line against real clusters: what it says, what it does, and how it refuses."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.homes import processes_of
from support.programs import (
    Ended,
    environment_of,
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

WARM = """
@isolated(keep_alive=120, requirements=["six"])
def where():
    import six
    return os.getpid()
print(where())
"""

EXPLAINED = """
@isolated(keep_alive=1)
def served():
    return os.getpid()
first = served.submit()
told = str(first.explain())
first.result()
again = served.submit()
again.result()
time.sleep(1.8)
expired = served.submit()
expired.result()
print(first.call_id, again.call_id, expired.call_id)
print(first.explain().cold_code, again.explain().cold_code, expired.explain().cold_code)
print(again.explain())
"""

STUCK = """
@isolated(keep_alive=300)
def stuck(file):
    open(file, "w").close()
    time.sleep(600)
stuck({file!r})
"""


@pytest.fixture(scope="module")
def warm(shared_home: Path) -> int:
    """The process of a warm instance with two minutes to live, in the shared home."""
    ended = run_program(shared_home, WARM)
    assert ended.code == 0, (ended, logs_of(shared_home))
    return int(ended.out)


def test_status_shows_the_cluster_as_tables(shared_home: Path, warm: int) -> None:
    """Node, environment with its temperature, and instance with what is left of its lease."""
    ended = run_command(shared_home, "status")
    assert (ended.code, ended.err) == (0, "")
    node = os.uname().nodename
    assert f"local cluster at ipc://{shared_home}/local-p1/scheduler.sock" in ended.out
    assert re.search(rf"{node} +alive +[0-9.]+ of [0-9.]+ +[0-9.]+ GiB of", ended.out)
    assert re.search(rf"[0-9a-f]{{12}} +3\.[0-9]+ +six +{node}: warm", ended.out)
    assert re.search(rf"{node} +{warm} +idle +[0-9a-f]{{12}} +[0-9.]+ s +1 ", ended.out)
    assert "No call is unfinished." in ended.out


def test_status_as_json_counts_the_lease_down(shared_home: Path, warm: int) -> None:
    """For programs; the numbers move with time."""

    def lease_s() -> float:
        [left_s] = [one["lease_s"] for one in status(shared_home)["instances"] if one["pid"] == warm]
        assert isinstance(left_s, float)
        return left_s

    first_s, asked_s = lease_s(), time.monotonic()
    time.sleep(0.5)
    second_s, passed_s = lease_s(), time.monotonic() - asked_s
    assert 0 < second_s < first_s <= 120
    assert 0.4 < first_s - second_s < passed_s + 1


def test_explain_says_why_a_call_was_cold_or_warm(shared_home: Path, warm: int) -> None:
    """From the program itself, and by its id from elsewhere; in words and for programs."""
    ended = run_program(shared_home, EXPLAINED)
    assert ended.code == 0, (ended, logs_of(shared_home))
    ids, codes, *told = ended.out.splitlines()
    first, again, expired = ids.split()
    assert re.fullmatch(r"[0-9a-f]{8}-1", first)
    assert codes == "never_built None expired"
    assert told[0].startswith(f"__main__:served ({again}): It succeeded")
    assert "It found a ready process on" in told[0]
    node = os.uname().nodename
    shown = run_command(shared_home, "explain", expired)
    assert (shown.code, shown.err) == (0, ""), shown
    words = " ".join(shown.out.split())
    assert f"{expired} __main__:served succeeded" in words
    assert re.search(rf"the lease of the last warm process, on {node}, had run out [0-9.]+ m?s before", words)
    assert "Decisions" in words
    document = json.loads(run_command(shared_home, "explain", expired[:4] + expired[8:], "--json").out)
    assert (document["call"], document["cold_code"], document["node"]) == (expired, "expired", node)
    assert [step["code"] for step in document["steps"]] == ["start", "idle"]


def test_explain_of_what_is_not_known_is_refused_in_a_sentence(shared_home: Path, warm: int) -> None:
    """A call that never was: 1. What is no name of a call: 2. Where nothing runs: 1, and nothing is started."""
    unknown = run_command(shared_home, "explain", "00000000-1")
    assert (unknown.code, unknown.out) == (1, "")
    assert unknown.err.startswith("keepwarm: No call 00000000-1 is known here")
    malformed = run_command(shared_home, "explain", "seventeen")
    assert (malformed.code, malformed.out) == (2, "")
    assert "write it like 1f2e3d4c-17" in malformed.err


def test_doctor_finds_everything_well(shared_home: Path, warm: int) -> None:
    """One line for each thing it looked at, the cluster that runs here included."""
    ended = run_command(shared_home, "doctor")
    assert ended.code == 0, ended
    for word in ("Python", "home", "libzmq", "uv", "package index", "scheduler", "nodes: 1 alive", "All is well."):
        assert word in ended.out


def test_doctor_says_what_is_wrong(home: Path) -> None:
    """An index that does not answer and a home that is open to others: what to do, and exit status 1."""
    home.chmod(0o777)
    ended = run_command(home, "doctor", variables={"KEEPWARM_INDEX_URL": "http://127.0.0.1:9/simple"})
    assert ended.code == 1
    assert "KEEPWARM_INDEX_URL" in ended.out
    assert f"chmod 700 {home}" in ended.out
    assert "needs attention" in ended.out
    assert ended.err == ""


def test_where_nothing_runs_nothing_is_started(home: Path) -> None:
    """Looking is not calling."""
    ended = run_command(home, "status")
    assert (ended.code, ended.out) == (1, "No cluster is running here. The first call of a program starts one.\n")
    assert run_command(home, "status", "--json").out == "null\n"
    assert run_command(home, "stop") == Ended(0, "No cluster is running here.\n", "")
    explained = run_command(home, "explain", "1f2e3d4c-1")
    assert (explained.code, explained.out) == (1, "")
    assert "no cluster is running here" in explained.err
    assert run_command(home, "doctor").code == 0
    assert processes_of(home) == []


def test_stop_refuses_while_a_call_is_unfinished(home: Path) -> None:
    """Unless it is forced: then the program's call fails in words, and every process ends."""
    file = home / "started"
    program = start_program(home, STUCK.format(file=str(file)))
    until(file.exists)
    refused = run_command(home, "stop")
    assert refused.code == 1
    assert refused.err == "keepwarm: not stopped: 1 call is unfinished. Wait for them, or use --force.\n"
    assert "1 unfinished" in run_command(home, "status").out
    assert len(roles(home)["instance"]) == 1
    forced = run_command(home, "stop", "--force")
    assert (forced.code, forced.out) == (0, "Stopped.\n")
    ended = wait_for_program(program)
    assert ended.code == 1
    assert "ClusterUnreachable" in ended.err
    assert "was stopped" in ended.err
    until(lambda: not processes_of(home), 5)


def test_the_demonstration_from_cold_to_warm_and_again(home: Path) -> None:
    """Its first run builds, its second finds what the first has left."""
    first = run_command(home, "demo", limit_s=100)
    assert first.code == 0, first
    temperatures = re.findall(r"^get_\w+\(.*?\) +[0-9.]+ ms +(\w.*\w) +\(pid", first.out, re.MULTILINE)
    assert temperatures == ["cold", "warm", "cold", "warm", "cold, environment on disk"], first.out
    assert "Both calls of get_response ran in the same process." in first.out
    assert re.search(r"The lease ran out after (9|10)\.[0-9] s without a call: pid [0-9]+ is gone\.", first.out)
    explained = re.search(r"still on disk: (the lease of the last warm process.*had run out .*? before)\.", first.out)
    assert explained, first.out
    assert re.search(r"`keepwarm explain [0-9a-f]{8}-[0-9]+`", first.out)
    second = start_demo(home)
    try:
        lines = [second.stdout.readline() for _ in range(3)] if second.stdout else []
    finally:
        second.send_signal(signal.SIGINT)
    assert wait_for_program(second).code in (130, -signal.SIGINT)
    assert re.match(r"get_two\(\) +[0-9.]+ ms +warm ", lines[0])
    assert re.match(r"get_response\(.*\) +[0-9.]+ ms +(warm|cold, environment on disk) ", lines[2])


def start_demo(home: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "keepwarm", "demo"],
        env={**environment_of(home), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stats"], "No such command 'stats'"),
        (["status", "--jsn"], "No such option"),
        (["stop", "now"], "unexpected extra argument"),
        (["scheduler", "--bind", "tcp://0.0.0.0:1"], "keepwarm init"),
        (
            ["scheduler", "--payload-max", "lots", "--bind", "ipc://{home}/c/s", "--state", "{home}/c/x"],
            "is not a size",
        ),
        (["scheduler", "--bnd", "x"], "unrecognized arguments: --bnd"),
        (["agent", "--scheduler", "http://host", "--home", "{home}/n"], "is no address"),
        (["agent", "--at", "host:99999", "--home", "{home}/n"], "is no address"),
        (["agent", "--at", "host", "--join", "@/nowhere", "--home", "{home}/n"], "cannot be read"),
        (["agent", "--cpu", "many", "--home", "{home}/n"], "--cpu many: write a number of cores"),
        (["agent", "--home"], "expected one argument"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_refused_in_a_sentence(home: Path, words: list[str], said: str) -> None:
    """Exit status 2, and never a traceback of ours."""
    ended = run_command(home, *(word.format(home=home) for word in words))
    assert ended.code == 2, ended
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_help_and_version_are_the_same_by_every_door(home: Path) -> None:
    """`keepwarm` and `python -m keepwarm`, and the daemons' own help behind their commands."""
    script = subprocess.run(
        [str(Path(sys.executable).with_name("keepwarm")), "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    ended = run_command(home, "--version")
    assert (script.stdout, script.returncode) == (ended.out, ended.code)
    assert re.fullmatch(r"keepwarm [0-9.]+\n", ended.out)
    for command in ("scheduler", "agent", "status", "explain", "stop", "doctor", "demo"):
        assert command in run_command(home, "--help").out
        shown = run_command(home, command, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert f"keepwarm {command}" in shown.out


class Daemon:
    """A daemon in the foreground, as a person starts it in a terminal."""

    def __init__(self, home: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "keepwarm", *words],
            env=environment_of(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self, number: int) -> Ended:
        """Signal it; how it ended."""
        self.process.send_signal(number)
        return wait_for_program(self.process, 20)


def test_daemons_without_any_option_find_one_another(home: Path) -> None:
    """As the README starts them. They say how to join, and end by Ctrl-C and by SIGTERM."""
    scheduler = Daemon(home, "scheduler")
    agent = Daemon(home, "agent", "--node", "a")
    try:
        address = f"ipc://{home}/cluster/scheduler.sock"
        until((home / "cluster/scheduler.sock").exists)
        chosen = {"KEEPWARM_ADDRESS": address}
        until(lambda: [node["name"] for node in status(home, chosen)["nodes"]] == ["a"])
        ended = run_program(home, WARM, chosen)
        assert ended.code == 0, ended
        assert lives(int(ended.out))
        assert (home / "nodes/a/store").is_dir()
    finally:
        by_term, by_int = agent.stop(signal.SIGTERM), scheduler.stop(signal.SIGINT)
    assert (by_term.code, by_int.code) == (0, 0)
    assert f"export KEEPWARM_ADDRESS={address}" in by_int.err
    assert "Traceback" not in by_int.err + by_term.err
    until_gone(int(ended.out), limit_s=5)
    assert processes_of(home) == []


def test_a_second_daemon_in_the_same_place_is_refused_in_words(home: Path) -> None:
    """The same socket, the same state, the same node's home: each says what is in use, and the first goes on."""
    words = ["scheduler", "--bind", f"ipc://{home}/c/s", "--state", f"{home}/c/state"]
    scheduler = Daemon(home, *words)
    agent = Daemon(home, "agent", "--scheduler", f"ipc://{home}/c/s", "--home", f"{home}/n", "--node", "n")
    try:
        until((home / "c/s").exists)
        until(lambda: len(status(home, {"KEEPWARM_ADDRESS": f"ipc://{home}/c/s"})["nodes"]) == 1)
        same_socket = run_command(home, *words[:3], "--state", f"{home}/c/other")
        same_state = run_command(home, "scheduler", "--bind", f"ipc://{home}/c/other", *words[3:])
        same_home = run_command(home, "agent", "--scheduler", f"ipc://{home}/c/s", "--home", f"{home}/n")
        assert (same_socket.code, same_state.code, same_home.code) == (2, 2, 3)
        assert "already serving" in same_socket.err
        assert "state" in same_state.err
        assert f"used by another agent (process {agent.process.pid})" in same_home.err
        assert "Traceback" not in same_socket.err + same_state.err + same_home.err
        assert len(status(home, {"KEEPWARM_ADDRESS": f"ipc://{home}/c/s"})["nodes"]) == 1
    finally:
        agent.stop(signal.SIGTERM)
        scheduler.stop(signal.SIGTERM)


def test_a_place_where_a_daemon_may_not_write_is_refused_in_words(home: Path) -> None:
    """A sentence, and no traceback of ours."""
    (home / "file").touch()
    (home / "taken").mkdir(mode=0o700)
    (home / "taken/state.sqlite3").mkdir()
    taken = run_command(home, "scheduler", "--bind", f"ipc://{home}/c/s", "--state", f"{home}/taken")
    assert (taken.code, "Traceback" in taken.err) == (2, False)
    assert "taken/state.sqlite3" in taken.err
    scheduler = run_command(home, "scheduler", "--bind", f"ipc://{home}/file/s", "--state", f"{home}/state")
    state = run_command(home, "scheduler", "--bind", f"ipc://{home}/c/s", "--state", f"{home}/file/state")
    agent = run_command(home, "agent", "--scheduler", f"ipc://{home}/c/s", "--home", f"{home}/file/n")
    assert [each.code for each in (scheduler, state, agent)] == [2, 2, 3], (scheduler, state, agent)
    for each in (scheduler, state, agent):
        assert str(home / "file") in each.err
        assert "Traceback" not in each.err


def test_an_address_where_nobody_is_fails_in_time(home: Path) -> None:
    """Programs within KEEPWARM_CONNECT_TIMEOUT, commands within theirs; nothing is started in its stead."""
    dead = {"KEEPWARM_ADDRESS": f"ipc://{home}/nobody.sock", "KEEPWARM_CONNECT_TIMEOUT": "1.5"}
    started_s = time.monotonic()
    ended = run_program(home, WARM, dead)
    took_s = time.monotonic() - started_s
    assert ended.code == 1
    assert 1.4 < took_s < 8
    last = ended.err.splitlines()[-1]
    assert last.startswith(
        f"keepwarm.errors.ClusterUnreachable: the cluster at ipc://{home}/nobody.sock does not answer"
    )
    assert "within 1.5 s" in last
    assert "Check KEEPWARM_ADDRESS" in last
    command = run_command(home, "status", variables=dead)
    assert command.code == 1
    assert "did not answer within 5 s" in command.err
    assert "Traceback" not in command.err
    assert processes_of(home) == []


def test_a_socket_that_accepts_and_says_nothing_is_no_cluster(home: Path) -> None:
    """Neither programs nor commands wait for ever for something that is not a scheduler."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(home / "mute.sock"))
        mute.listen()
        silent = {"KEEPWARM_ADDRESS": f"ipc://{home}/mute.sock", "KEEPWARM_CONNECT_TIMEOUT": "1"}
        ended = run_program(home, WARM, silent)
        command = run_command(home, "stop", variables=silent)
    assert ended.code == command.code == 1
    assert "ClusterUnreachable" in ended.err
    assert "did not answer within" in command.err


def test_what_status_prints_is_json_for_machines(shared_home: Path, warm: int) -> None:
    """With the fields that the reference names, also when printed into a pipe that closes early."""
    document = json.loads(run_command(shared_home, "status", "--json").out)
    assert document["local"] is True
    assert {
        "nodes",
        "environments",
        "instances",
        "calls",
        "clients",
        "uptime_s",
        "epoch",
        "cluster_id",
    } <= document.keys()
    [environment] = [each for each in document["environments"] if each["requirements"] == ["six"]]
    assert environment["nodes"][os.uname().nodename]["temperature"] == "warm"
