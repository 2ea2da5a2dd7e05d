"""Calls sent ahead to a real agent: they wait in the pipe of a real process, and each gets what is its own."""

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from keepwarm_wire import messages as wire
from support.agent_peer import AgentPeer, agent_and_peer, returned
from support.waiting import until

WAITING = 12
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@contextmanager
def busy(home: Path) -> Iterator[tuple[AgentPeer, int]]:
    """An agent with one idle instance."""
    with agent_and_peer(home) as (peer, _agent):
        yield peer, peer.ready()


def plus_one(number: int) -> int:
    return number + 1


def wait_for_file(path: str) -> str:
    import os
    import time

    while not os.path.exists(path):  # noqa: PTH110 - runs in the instance
        time.sleep(0.001)
    return "went on"


def say_and_wait(begun: str, end: str) -> str:
    import pathlib

    pathlib.Path(begun).touch()
    return wait_for_file(end)


def ready(peer: AgentPeer, instance_id: int, function: Any, *args: Any) -> bytes:
    """Declare a function and run it once, so that it is set up."""
    version = peer.declare(function)
    peer.call(instance_id, version, *args)
    return version


def blocked(peer: AgentPeer, instance_id: int, home: Path) -> tuple[int, Path]:
    """A call that has begun and lasts until a file is there."""
    gate = home / "gate"
    attempt = peer.dispatch(instance_id, peer.declare(wait_for_file), str(gate))
    peer.wait_for(wire.AttemptStarted, lambda started: started.attempt == attempt)
    return attempt, gate


def refusal(peer: AgentPeer, attempt: int) -> wire.AttemptRefused:
    refused: wire.AttemptRefused = peer.wait_for(wire.AttemptRefused, lambda each: each.attempt == attempt)
    return refused


def wait_for_end(peer: AgentPeer, attempt: int) -> None:
    peer.wait_for((wire.AttemptDone, wire.AttemptRefused), lambda each: each.attempt == attempt)


def output_of(peer: AgentPeer, attempt: int) -> bytes:
    return b"".join(each.data for each in peer.all(wire.AttemptOutput) if each.attempt == attempt)


def test_calls_in_the_pipe_are_run_in_order_and_answered_each(home: Path) -> None:
    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, plus_one, 0)
        first, gate = blocked(peer, instance_id, home)
        attempts = [peer.dispatch(instance_id, version, number, is_ahead=True) for number in range(WAITING)]
        beat = peer.next(wire.AgentBeat, lambda beat: len(beat.instances[0].attempts) == WAITING + 1)
        assert [running.attempt for running in beat.instances[0].attempts] == [first, *attempts]
        gate.touch()
        done = [peer.outcome(attempt) for attempt in attempts]
        assert [returned(each, peer) for each in done] == list(range(1, WAITING + 1))
        assert [each.sequence for each in done] == list(range(3, WAITING + 3))
        assert all(each.was_ready for each in done)


def test_calls_are_given_back_while_the_one_before_them_is_blocked(home: Path) -> None:
    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, plus_one, 0)
        first, gate = blocked(peer, instance_id, home)
        attempts = [peer.dispatch(instance_id, version, number, is_ahead=True) for number in range(3)]
        peer.send(wire.RecallAttempts(peer.command(), (attempts[0], attempts[2])))
        assert refusal(peer, attempts[0]).reason == refusal(peer, attempts[2]).reason == wire.RECALLED
        gate.touch()
        assert returned(peer.outcome(first), peer) == "went on"
        assert returned(peer.outcome(attempts[1]), peer) == 2
        assert not peer.all(wire.InstanceEnded)
        assert [done.attempt for done in peer.all(wire.AttemptDone) if done.attempt in (attempts[0], attempts[2])] == []


def test_a_call_that_is_cancelled_and_asked_back_at_once_costs_nobody_the_process(home: Path) -> None:
    """Its runner is asked once and answers once."""
    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, plus_one, 0)
        first, gate = blocked(peer, instance_id, home)
        second = peer.dispatch(instance_id, version, 1, is_ahead=True)
        third = peer.dispatch(instance_id, version, 2, is_ahead=True)
        peer.send(wire.RecallAttempts(peer.command(), (second, third)))
        peer.send(wire.CancelAttempt(peer.command(), second, 100_000))
        peer.send(wire.RecallAttempts(peer.command(), (second, third)))
        assert refusal(peer, third).reason == wire.RECALLED
        peer.wait_for((wire.AttemptDone, wire.AttemptRefused), lambda each: each.attempt == second)
        gate.touch()
        assert returned(peer.outcome(first), peer) == "went on"
        assert returned(peer.call(instance_id, version, 5), peer) == 6
        assert not peer.all(wire.InstanceEnded)


def test_a_cancelled_call_that_waits_ends_while_the_one_before_it_goes_on(home: Path) -> None:
    """Also when that lasts for longer than the cancelled one is given to end."""
    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, plus_one, 0)
        first, gate = blocked(peer, instance_id, home)
        second = peer.dispatch(instance_id, version, 1, is_ahead=True)
        peer.send(wire.CancelAttempt(peer.command(), second, 50_000))
        done = peer.outcome(second)
        assert (done.status, done.failure and done.failure.kind) == (wire.Status.CANCELLED, "cancelled")
        assert done.sequence == 1
        peer.next(wire.AgentBeat)
        gate.touch()
        assert returned(peer.outcome(first), peer) == "went on"


def test_a_recall_that_comes_too_late_changes_nothing(home: Path) -> None:
    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, plus_one, 0)
        begun, end = home / "begun", home / "end"
        waiting = peer.declare(say_and_wait)
        first, gate = blocked(peer, instance_id, home)
        second = peer.dispatch(instance_id, waiting, str(begun), str(end), is_ahead=True)
        gate.touch()
        peer.outcome(first)
        until(begun.exists)
        recall = peer.command()
        peer.send(wire.RecallAttempts(recall, (first, second)))
        peer.next(wire.AgentBeat, lambda beat: beat.as_of >= recall)
        end.touch()
        assert returned(peer.outcome(second), peer) == "went on"
        assert returned(peer.call(instance_id, version, 5), peer) == 6


def test_calls_asked_back_in_the_midst_of_running_are_run_or_given_back_never_both(home: Path) -> None:
    """The two sockets of a runner are not ordered: its word that it skipped a call may come after the next outcome."""

    def hold(seconds: float) -> None:
        """Nobody else in the process gets to run meanwhile: what is asked of it comes together with the next calls."""
        import ctypes

        ctypes.PyDLL(None).usleep(int(seconds * 1e6))

    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, plus_one, 0)
        holding = ready(peer, instance_id, hold, 0.0)
        for _ in range(10):
            peer.heard.clear()
            peer.dispatch(instance_id, holding, 0.05)
            attempts = [peer.dispatch(instance_id, version, number, is_ahead=True) for number in range(40)]
            peer.send(wire.RecallAttempts(peer.command(), tuple(attempts[1::2])))
            for attempt in attempts:
                wait_for_end(peer, attempt)
            ends = [each for each in peer.heard if isinstance(each, wire.AttemptDone | wire.AttemptRefused)]
            ends = [each for each in ends if each.attempt in attempts]
            assert len({each.attempt for each in ends if isinstance(each, wire.AttemptRefused)}) <= 20
            refused = {each.attempt for each in ends if isinstance(each, wire.AttemptRefused)}
            assert not refused & {each.attempt for each in ends if isinstance(each, wire.AttemptDone)}
            assert refused <= set(attempts[1::2])
            assert not peer.all(wire.InstanceEnded)
            peer.wait_for(wire.AgentBeat, lambda beat: not beat.instances[0].attempts)
            peer.send(wire.Final(tuple(each.attempt for each in peer.all(wire.AttemptDone))))


@pytest.mark.parametrize("place", [0, 3])
def test_a_crash_is_the_fault_of_the_call_that_ran_and_of_no_other(home: Path, place: int) -> None:
    """Its start had never been told: the function is set up, and nothing limits its time."""

    def dies(number: int) -> int:
        import os
        import signal

        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, dies, 1)
        _, gate = blocked(peer, instance_id, home)
        numbers = [*range(1, 1 + place), -1, *range(1, 6)]
        attempts = [peer.dispatch(instance_id, version, number, is_ahead=True) for number in numbers]
        peer.next(wire.AgentBeat, lambda beat: len(beat.instances[0].attempts) == len(numbers) + 1)
        gate.touch()
        ended = peer.wait_for(wire.InstanceEnded)
        assert (ended.cause, ended.attempt) == ("died", attempts[place])
        for attempt, number in zip(attempts[:place], numbers, strict=False):
            assert returned(peer.outcome(attempt), peer) == number
        done = peer.outcome(attempts[place])
        assert (done.status, done.failure and done.failure.kind) == (wire.Status.FAILED, "process_died")
        assert [refusal(peer, attempt).reason for attempt in attempts[place + 1 :]] == ["ended"] * 5
        started = [each.attempt for each in peer.all(wire.AttemptStarted)]
        assert attempts[place] in started
        assert not set(attempts[place + 1 :]) & set(started)


def test_a_crash_behind_a_call_that_was_given_back_is_blamed_all_the_same(home: Path) -> None:
    def dies() -> None:
        import ctypes
        import os
        import signal

        ctypes.PyDLL(None).usleep(20_000)
        os.kill(os.getpid(), signal.SIGKILL)

    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, plus_one, 0)
        deadly = peer.declare(dies)
        _, gate = blocked(peer, instance_id, home)
        skipped = peer.dispatch(instance_id, version, 1, is_ahead=True)
        fatal = peer.dispatch(instance_id, deadly, is_ahead=True)
        peer.send(wire.RecallAttempts(peer.command(), (skipped,)))
        gate.touch()
        peer.wait_for((wire.AttemptDone, wire.AttemptRefused), lambda each: each.attempt == skipped)
        assert peer.outcome(fatal).failure.kind == "process_died"  # type: ignore[union-attr]
        assert peer.wait_for(wire.InstanceEnded).attempt == fatal


def prints(number: int, how: str) -> int:
    import ctypes
    import os
    import subprocess
    import sys
    import threading

    text = f"{how} {number}\n"
    if how == "python":
        print(text, end="")
    elif how == "stderr":
        sys.stderr.write(text)
    elif how == "unflushed":
        sys.stdout.buffer.write(text.encode())
    elif how == "descriptor":
        os.write(1, text.encode())
    elif how == "c":
        library = ctypes.CDLL(None)
        library.dprintf(1, text.encode())
    elif how == "child":
        subprocess.run(["echo", text[:-1]], check=True)
    elif how == "thread":
        thread = threading.Thread(target=lambda: os.write(2, text.encode()))
        thread.start()
        thread.join()
    elif how == "much":
        os.write(1, text.encode() * 15_000)
    return number


def test_what_a_call_prints_is_its_own_whoever_waits_behind_it(home: Path) -> None:
    """Python's own output, the C library's, a child's and a thread's; silent calls between them, at full speed."""

    ways = [
        "silent",
        "python",
        "silent",
        "silent",
        "stderr",
        "unflushed",
        "descriptor",
        "c",
        "silent",
        "thread",
        "python",
    ]
    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, prints, 0, "silent")
        peer.call(instance_id, version, 0, "python")
        for _ in range(6):
            peer.heard.clear()
            hows = [*ways, "child", *ways, "much", *ways]
            first = peer.dispatch(instance_id, version, 0, "silent")
            attempts = {
                peer.dispatch(instance_id, version, number, how, is_ahead=True): (number, how)
                for number, how in enumerate(hows)
            }
            for attempt in (first, *attempts):
                wait_for_end(peer, attempt)
            ran = {done.attempt for done in peer.all(wire.AttemptDone) if done.status == wire.Status.SUCCEEDED}
            assert len(ran) > len(hows) / 2
            for attempt, (number, how) in attempts.items():
                text = "" if how == "silent" or attempt not in ran else f"{how} {number}\n"
                expected = text * 15_000 if how == "much" else text
                assert output_of(peer, attempt) == expected.encode(), (number, how)
            positions = {each.attempt: at for at, each in enumerate(peer.heard) if isinstance(each, wire.AttemptDone)}
            for at, each in enumerate(peer.heard):
                assert not isinstance(each, wire.AttemptOutput) or at < positions[each.attempt]
            peer.send(wire.Final(tuple(ran)))
            peer.wait_for(wire.AgentBeat, lambda beat: not beat.instances[0].attempts)


def test_calls_that_close_or_redirect_their_output_or_fork_stop_nobody(home: Path) -> None:
    def meddles(how: str) -> str:
        import os
        import sys

        if how == "fork":
            child = os.fork()
            if child:
                os.waitpid(child, 0)
            return how
        kept = os.dup(1)
        print("before", flush=True)
        if how == "close":
            os.close(1)
        else:
            sink = os.open("/dev/null", os.O_WRONLY)
            os.dup2(sink, 1)
            os.write(1, b"into the void")
        os.dup2(kept, 1)
        os.close(kept)
        sys.stdout.write("after\n")
        return how

    def closes_for_good() -> None:
        import os

        os.close(1)
        os.close(2)

    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, meddles, "fork")
        silent = ready(peer, instance_id, plus_one, 0)
        last = peer.declare(closes_for_good)
        _, gate = blocked(peer, instance_id, home)
        hows = ["close", "redirect", "fork", "close"]
        attempts = [peer.dispatch(instance_id, version, how, is_ahead=True) for how in hows]
        ending = peer.dispatch(instance_id, last, is_ahead=True)
        behind = [peer.dispatch(instance_id, silent, number, is_ahead=True) for number in range(3)]
        gate.touch()
        assert [returned(peer.outcome(attempt), peer) for attempt in attempts] == hows
        assert [output_of(peer, attempt) for attempt in attempts] == [b"before\nafter\n"] * 2 + [b""] + [
            b"before\nafter\n"
        ]
        assert peer.outcome(ending).status == wire.Status.SUCCEEDED
        assert [returned(peer.outcome(attempt), peer) for attempt in behind] == [1, 2, 3]


def test_a_set_up_function_may_run_longer_than_its_startup_timeout(home: Path) -> None:
    """Nobody is told when it begins, and yet its time to start is not counted on."""

    def nap(seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, nap, 0.0)
        first = peer.dispatch(instance_id, version, 0.5, startup_timeout_us=300_000)
        second = peer.dispatch(instance_id, version, 0.4, startup_timeout_us=300_000, is_ahead=True)
        assert returned(peer.outcome(first), peer) == 0.5
        assert returned(peer.outcome(second), peer) == 0.4


def test_the_starts_of_calls_that_need_not_be_told_are_not(home: Path) -> None:
    with busy(home) as (peer, instance_id):
        version = ready(peer, instance_id, plus_one, 0)
        peer.heard.clear()
        done = peer.call(instance_id, version, 1)
        assert (done.was_ready, peer.all(wire.AttemptStarted)) == (True, [])
        timed = peer.call(instance_id, version, 1, run_timeout_us=5_000_000)
        assert [each.attempt for each in peer.all(wire.AttemptStarted)] == [timed.attempt]


def test_a_call_ahead_whose_function_is_not_there_is_given_back_and_the_function_asked_for(home: Path) -> None:
    with busy(home) as (peer, instance_id):
        first, gate = blocked(peer, instance_id, home)
        attempt = peer.dispatch(instance_id, os.urandom(32), pickle.dumps(0), is_ahead=True)
        assert refusal(peer, attempt).reason == wire.RECALLED
        peer.wait_for(wire.NeedFunction)
        gate.touch()
        peer.outcome(first)
