"""A real agent process, real environments and real instances, against a peer that speaks for the scheduler."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from support.agent_peer import (
    AgentPeer,
    agent_and_peer,
    descendants,
    is_alive,
    pss_bytes,
    returned,
    start_agent,
)


def wait_until(condition: Callable[[], bool], patience_s: float = 15.0) -> None:
    """Fail if a condition does not come true in time."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, "not so in time"
        time.sleep(0.02)


def test_a_spec_is_locked_built_started_run_and_run_again_warm(home: Path) -> None:
    """The whole way, twice: the second call finds the process of the first."""

    def where(number: int) -> tuple[int, str]:
        import os

        import iniconfig

        return os.getpid() + number, iniconfig.__name__

    with agent_and_peer(home) as (peer, _agent):
        made = peer.lock("iniconfig")
        assert isinstance(made, wire.LockMade), made
        instance_id = peer.start(made.lock, made.platform)
        ready = peer.wait_for(wire.InstanceReady)
        assert (ready.instance_id, ready.was_built) == (instance_id, False)
        assert [phase.phase for phase in peer.all(wire.InstanceProgress)] == ["venv", "install", "start"]
        version = peer.declare(where)
        first = peer.call(instance_id, version, 0)
        second = peer.call(instance_id, version, 0)
        assert returned(first, peer) == returned(second, peer) == (ready.process_id, "iniconfig")
        assert [started.attempt for started in peer.all(wire.AttemptStarted)] == [first.attempt]  # it was set up then
        assert (first.was_ready, second.was_ready) == (False, True)
        assert (first.sequence, second.sequence) == (1, 2)
        another = peer.start(made.lock, made.platform)
        assert peer.wait_for(wire.InstanceReady, lambda it: it.instance_id == another).was_built
        peer.heard.clear()
        beat = peer.wait_for(wire.AgentBeat)
        assert [state.state for state in beat.instances] == ["idle", "idle"]
        assert [lease.function for lease in beat.instances[0].leases] == ["tests:where"]
        assert beat.held == ()
        peer.wait_for(wire.AgentBeat, lambda beat: beat.instances[0].memory_bytes > 1_000_000)
        assert len(beat.environments) == 1


def test_requirements_that_cannot_be_met_fail_the_lock_with_the_reason(home: Path) -> None:
    with agent_and_peer(home) as (peer, _agent):
        failed = peer.lock("iniconfig==99.99")
        assert isinstance(failed, wire.LockFailed), failed
        assert failed.failure.kind == "requirements_unsatisfiable"
        assert "99.99" in failed.failure.message + failed.failure.detail
        assert not failed.retryable


def test_a_lock_that_cannot_be_installed_fails_the_build(home: Path) -> None:
    """A package that is not there, by a hash that nothing has."""
    lock = b"iniconfig==99.99 --hash=sha256:" + b"0" * 64 + b"\n"
    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.start(lock)
        ended = peer.wait_for(wire.InstanceEnded)
        assert (ended.instance_id, ended.cause) == (instance_id, "build_failed")
        assert ended.failure


def test_a_cancelled_call_ends_and_leaves_its_process_warm(home: Path) -> None:
    def sleep() -> None:
        import time

        time.sleep(600)

    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        version = peer.declare(sleep)
        attempt = peer.dispatch(instance_id, version)
        peer.wait_for(wire.AttemptStarted)
        peer.send(wire.CancelAttempt(peer.command(), attempt, 5_000_000))
        done = peer.outcome(attempt)
        assert (done.status, done.failure and done.failure.kind) == (wire.Status.CANCELLED, "cancelled")
        assert returned(peer.call(instance_id, peer.declare(lambda: 7)), peer) == 7
        assert not peer.all(wire.InstanceEnded)


def test_a_call_over_its_timeout_that_will_not_stop_is_killed(home: Path) -> None:
    """It catches the interruption and ignores SIGTERM: the process goes, with the child it started."""

    def stubborn() -> None:
        import contextlib
        import signal
        import subprocess
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(child.pid, flush=True)
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(600)

    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        attempt = peer.dispatch(instance_id, peer.declare(stubborn), run_timeout_us=300_000)
        done = peer.outcome(attempt)
        assert (done.status, done.failure and done.failure.kind) == (wire.Status.TIMED_OUT, "run_timeout")
        ended = peer.wait_for(wire.InstanceEnded)
        assert ended.cause == "killed"
        child = int(peer.last(wire.AttemptOutput).data)
        wait_until(lambda: not is_alive(child))


def test_a_process_that_leaves_in_a_call_fails_it_with_its_code_and_last_words(home: Path) -> None:
    def leave() -> None:
        import os

        os.write(2, b"last words")
        os._exit(42)

    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        done = peer.call(instance_id, peer.declare(leave))
        assert done.status == wire.Status.FAILED
        assert done.failure
        assert (done.failure.kind, done.failure.detail) == ("process_died", "exit_code=42\nlast words")
        assert "exit code 42" in done.failure.message
        assert peer.wait_for(wire.InstanceEnded).cause == "died"


def test_an_exception_travels_with_its_traceback(home: Path) -> None:
    def fail() -> None:
        raise ValueError("wrong number")

    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        done = peer.call(instance_id, peer.declare(fail))
        assert done.failure
        assert "wrong number" in done.failure.message
        assert "in fail" in done.failure.detail
        assert done.failure.exception
        assert returned(peer.call(instance_id, peer.declare(lambda: 7)), peer) == 7


def test_a_hundred_mebibytes_travel_both_ways_without_holding_up_the_beats(home: Path) -> None:
    def reverse(data: bytes) -> bytes:
        return data[::-1]

    with agent_and_peer(home) as (peer, agent):
        instance_id = peer.ready()
        data = os.urandom(1024 * 1024) * 100
        peer.heard.clear()
        started_s = time.monotonic()
        done = peer.call(instance_id, peer.declare(reverse), data)
        assert isinstance(done.result, wire.Reference)
        assert returned(done, peer) == data[::-1]
        beats = len(peer.all(wire.AgentBeat))
        assert beats >= (time.monotonic() - started_s) / 0.2 / 3
        spool = home / "node" / "spool"
        wait_until(lambda: not list(spool.glob("payload-*")))
        held = psutil.Process(agent.pid).open_files()
        assert not [file for file in held if "result-" in file.path]


def test_output_comes_in_order_before_its_outcome(home: Path) -> None:
    def speak() -> None:
        import sys

        for number in range(2000):
            print(number)
        print("end", file=sys.stderr)

    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        done = peer.call(instance_id, peer.declare(speak))
        before = peer.heard[: peer.heard.index(done)]
        pieces = [message for message in before if isinstance(message, wire.AttemptOutput)]
        stdout = b"".join(piece.data for piece in pieces if piece.stream == 1)
        assert stdout.split() == [str(number).encode() for number in range(2000)]
        assert b"".join(piece.data for piece in pieces if piece.stream == 2) == b"end\n"
        assert all(len(piece.data) <= 16 * 1024 for piece in pieces)


def test_output_over_the_limit_is_dropped_with_a_count(home: Path) -> None:
    def flood() -> None:
        import sys

        for _ in range(3 * 16):
            sys.stdout.write("x" * 65536)

    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        peer.call(instance_id, peer.declare(flood))
        pieces = peer.all(wire.AttemptOutput)
        assert sum(len(piece.data) for piece in pieces) == 1024 * 1024
        assert sum(piece.dropped_bytes for piece in pieces) == 2 * 1024 * 1024


def test_a_stop_ends_an_idle_process_and_spares_a_used_one(home: Path) -> None:
    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        process_id = peer.last(wire.InstanceReady).process_id
        peer.call(instance_id, peer.declare(lambda: 1))
        peer.send(wire.StopInstance(peer.command(), instance_id, 0, "expired"))
        assert peer.wait_for(wire.InstanceBusy) == wire.InstanceBusy(instance_id, 1)
        peer.send(wire.StopInstance(peer.command(), instance_id, 1, "expired"))
        assert peer.wait_for(wire.InstanceEnded) == wire.InstanceEnded(instance_id, "expired", None, False)
        assert not is_alive(process_id)
        spool = home / "node" / "spool"
        wait_until(lambda: not [*spool.glob("instance-*"), *spool.glob("trash/instance-*")])


def test_variables_reach_the_process_and_not_the_log(home: Path) -> None:
    def look() -> str | None:
        import os

        return os.environ.get("API_KEY")

    with agent_and_peer(home, "--log-level", "debug") as (peer, _agent):
        instance_id = peer.ready(env_vars=(wire.Pair("API_KEY", "hunter2-secret"),))
        assert returned(peer.call(instance_id, peer.declare(look)), peer) == "hunter2-secret"
    assert "hunter2" not in (home / "agent.log").read_text()


def test_a_terminated_agent_ends_its_processes_and_says_goodbye(home: Path) -> None:
    def sleep() -> None:
        import time

        time.sleep(600)

    with agent_and_peer(home) as (peer, agent):
        peer.ready()
        busy = peer.ready()
        peer.dispatch(busy, peer.declare(sleep))
        peer.wait_for(wire.AttemptStarted)
        processes = [ready.process_id for ready in peer.all(wire.InstanceReady)]
        started_s = time.monotonic()
        agent.terminate()
        assert peer.wait_for(wire.Goodbye).reason == "SIGTERM"
        assert agent.wait(5) == 0
        assert time.monotonic() - started_s < 5
        assert not [pid for pid in processes if is_alive(pid)]
        assert sorted(ended.cause for ended in peer.all(wire.InstanceEnded)) == ["stopped", "stopped"]


def test_a_killed_agent_leaves_no_process_behind(home: Path) -> None:
    """The guardian ends what the agent cannot end any more, also what left its session."""

    def spawn() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

    with agent_and_peer(home) as (peer, agent):
        instance_id = peer.ready()
        child = returned(peer.call(instance_id, peer.declare(spawn)), peer)
        family = [process.pid for process in descendants(agent.pid)]
        assert child in family
        agent.kill()
        agent.wait()
        wait_until(lambda: not [pid for pid in family if is_alive(pid)])


def test_an_instance_and_its_held_outcome_survive_a_restart_of_the_scheduler(home: Path) -> None:
    def large() -> bytes:
        return b"x" * 1_000_000

    def process() -> int:
        import os

        return os.getpid()

    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready()
        process_id = peer.last(wire.InstanceReady).process_id
        attempt = peer.dispatch(instance_id, peer.declare(large))
        peer.outcome(attempt)
        peer.restart()
        done = peer.outcome(attempt)
        assert returned(done, peer) == b"x" * 1_000_000
        assert peer.all(wire.AgentHello)[0].last_epoch == 1
        beat = peer.wait_for(wire.AgentBeat)
        assert beat.as_of == 0
        assert [state.instance_id for state in beat.instances] == [instance_id]
        assert [held.attempt for held in beat.held] == [attempt]
        peer.send(wire.Final((attempt,)))
        peer.next(wire.AgentBeat, lambda beat: not beat.held)
        assert returned(peer.call(instance_id, peer.declare(process)), peer) == process_id


def test_a_home_belongs_to_one_agent(home: Path) -> None:
    with agent_and_peer(home) as (peer, agent):
        second = start_agent(home, peer.address)
        assert second.wait(20) == 3
        assert f"process {agent.pid}" in (home / "agent.log").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--scheduler", "http://10.0.0.1"), "no address"),
        (("--join", "@/nowhere"), "cannot be read"),
        (("--cpu", "0"), "number of cores"),
    ],
)
def test_a_wrong_command_line_is_one_line_of_advice(home: Path, flags: tuple[str, ...], words: str) -> None:
    """``home`` keeps even an agent that started by mistake away from the user's own."""
    command = [sys.executable, "-m", "keepwarm_worker", "--home", str(home / "node"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (home / "node").exists()


def test_an_idle_agent_takes_little_memory_and_next_to_no_cpu(home: Path) -> None:
    """Its bounds: 40 MiB, and only the beats wake it (one each 200 ms here, ten times as often as needed)."""
    with agent_and_peer(home) as (peer, agent):
        peer.ready()
        last_beat = peer.last(wire.AgentBeat).beat_number + 10
        before = psutil.Process(agent.pid).cpu_times()
        peer.wait_for(wire.AgentBeat, lambda beat: beat.beat_number > last_beat)
        after = psutil.Process(agent.pid).cpu_times()
        assert after.user + after.system - before.user - before.system < 0.4
        assert pss_bytes(agent.pid) < 40 * 1024 * 1024


def test_an_agent_without_a_scheduler_keeps_its_instances_and_finds_it_again(home: Path) -> None:
    with agent_and_peer(home) as (peer, _agent):
        instance_id = peer.ready(keep_alive_us=FOREVER_US)
        peer.is_silent = True
        time.sleep(1.0)
        peer.pump(0)
        peer.is_silent = False
        beat = peer.next(wire.AgentBeat)
        assert [state.instance_id for state in beat.instances] == [instance_id]
        assert peer.all(wire.AgentHello) or beat.beat_number > 1


def test_signals_to_the_agent_end_it_without_a_scheduler(home: Path) -> None:
    with AgentPeer(home / "unused.sock") as peer:
        agent = start_agent(home, f"ipc://{home}/nobody.sock")
        wait_until(lambda: "agent " in (home / "agent.log").read_text())
        agent.send_signal(signal.SIGINT)
        assert agent.wait(5) == 0
        assert not peer.heard
