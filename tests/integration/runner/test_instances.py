"""Ending calls, ending instances, and what user code finds around it, under every Python that is installed."""

import pickle
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from keepwarm_worker.processes import ExitReason
from keepwarm_worker.runner import frames
from support.instances import NO_ARGUMENTS, OWN_FRAMES, Start

# ---------------------------------------------------------------- cancel and timeout


@pytest.mark.parametrize(
    ("name", "arguments"), [("spin", ()), ("nap", (60,)), ("stubborn", ()), ("with_sleeping_setup", ())]
)
@pytest.mark.parametrize(
    ("request_type", "status", "kind"),
    [
        (frames.Cancel, frames.STATUS_CANCELLED, "cancelled"),
        (frames.Timeout, frames.STATUS_TIMED_OUT, "timed_out"),
    ],
)
def test_a_running_call_can_be_ended(
    start: Start, name: str, arguments: tuple[object, ...], request_type: Any, status: int, kind: str
) -> None:
    """In a busy loop, in a sleep, in a loop that catches `Exception`, in a setup. The instance lives on."""
    instance = start()
    attempt = instance.start(instance.load(name), pickle.dumps((arguments, {})))
    if "setup" in name:
        instance.started(attempt)
    else:
        instance.running(attempt)
    instance.control.queue(request_type(attempt))
    result = instance.answer(attempt).result
    assert (result.status, result.kind, result.payload) == (status, kind, b"")
    assert not any(hidden in result.traceback for hidden in OWN_FRAMES), result.traceback
    instance.still_works()


def test_a_cancel_that_overtakes_its_call_is_kept(start: Start) -> None:
    """The sockets are not ordered; the call ends before user code runs."""
    instance = start()
    version = instance.load("nap")
    busy = instance.start(version, pickle.dumps(((0.2,), {})))
    instance.running(busy)
    instance.control.queue(frames.Cancel(busy + 1))
    waiting = instance.start(version, pickle.dumps(((60,), {})))
    assert instance.answer(busy).value() == "rested"
    assert instance.answer(waiting).result.status == frames.STATUS_CANCELLED
    instance.still_works()


def test_cancelling_never_hits_the_runner_or_another_call(start: Start) -> None:
    """Cancels that race with the end of their calls: each call is done or cancelled, its neighbour always done."""
    instance = start()
    add = instance.load("add")
    nap = instance.load("nap")
    victims = [(instance.load("spin_for"), 0.006), (nap, 0.002), (add, 1), (nap, 60)]
    chance = random.Random(5)
    statuses = []
    for turn in range(180):
        version, argument = victims[turn % len(victims)]
        attempt = instance.start(version, pickle.dumps(((argument,), {})))
        following = instance.start(add, pickle.dumps(((turn,), {})))
        instance.started(attempt)
        for _ in range(chance.randrange(60)):
            instance.pump()
        instance.control.queue(frames.Cancel(attempt))
        statuses.append(instance.answer(attempt).result.status)
        assert instance.answer(following).value() == turn
    assert set(statuses) == {frames.STATUS_OK, frames.STATUS_CANCELLED}


def test_a_call_that_swallows_its_cancel_ends_by_signal(start_own: Start) -> None:
    """The ladder: the frame is ignored, SIGTERM is not."""
    instance = start_own()
    attempt = instance.start(instance.load("immortal"), NO_ARGUMENTS)
    instance.running(attempt)
    instance.control.queue(frames.Cancel(attempt))
    instance.pump()
    instance.process.kill_tree(signal.SIGTERM)
    assert instance.ended() == ExitReason(None, signal.SIGTERM)


# ---------------------------------------------------------------- the process


def test_a_hard_exit_ends_the_process(start: Start) -> None:
    """With the user's code."""
    instance = start()
    instance.start(instance.load("exit_hard"), pickle.dumps(((7,), {})))
    assert instance.ended() == ExitReason(7, None)
    assert isinstance(instance.frames[0], frames.Started)
    instance.wait(lambda: instance.reader.closed)  # the process may be known to have ended before that was read


def test_a_crash_ends_the_process(start: Start) -> None:
    """With the signal."""
    instance = start()
    instance.start(instance.load("crash"), NO_ARGUMENTS)
    assert instance.ended() == ExitReason(None, signal.SIGSEGV)


def test_exit_runs_atexit_functions(start: Start) -> None:
    """An instance that is asked to go goes as a program does."""
    instance = start()
    instance.run("at_exit").value()
    instance.writer.queue(frames.Exit())
    assert instance.ended() == ExitReason(0, None)
    instance.pump()
    assert instance.stdout == "goodbye\n"


@pytest.mark.parametrize("name", ["spin", "stubborn"])
def test_losing_the_agent_kills_a_busy_instance(start: Start, name: str) -> None:
    """The control socket ends; so does the process, whatever it is doing."""
    instance = start()
    instance.running(instance.start(instance.load(name), NO_ARGUMENTS))
    instance.process.control.close()
    assert instance.ended() == ExitReason(None, signal.SIGKILL)


def test_output_precedes_its_result(start: Start) -> None:
    """What a call and its child processes wrote is there once the result is, in order, unfinished lines too."""
    instance = start()
    assert instance.run("chatter").value() == "said"
    assert instance.stdout == "to stdout\nno newlinefrom a child\n" or instance.stdout == (
        "to stdout\nfrom a child\nno newline"
    )
    assert instance.stderr == "to stderr\nchild error\n"


def test_user_modules_do_not_clash_with_ours(start: Start, tmp_path: Path) -> None:
    """A user's `frames`, `control`, `execution` and old `cloudpickle` are found by user code, and by nobody else."""
    names = ["frames", "control", "execution", "serialization", "failures", "cloudpickle"]
    site = tmp_path / "site"
    site.mkdir()
    for name in names:
        (site / f"{name}.py").write_text("WHO = 'user'\n")
    instance = start()
    extend = instance.load("", codec="pickle", body=pickle.dumps((exec, None)))
    program = f"import sys; sys.path.insert(0, {str(site)!r}); import frames, cloudpickle"
    assert instance.answer(instance.start(extend, pickle.dumps(((program,), {})))).value() is None
    assert instance.run("import_names", names).value() == dict.fromkeys(names, "user")
    assert instance.run("return_lambda").result.codec != "pickle"


def test_surroundings_are_clean(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """No current directory to import from, nothing of ours in `__main__`, no descriptor or variable leaked."""
    monkeypatch.setenv("AGENT_SECRET", "hush")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    instance = start(MODE="fast")
    seen = instance.run("surroundings").value()
    assert "" not in seen["path"]
    assert seen["cwd"] not in seen["path"]
    assert not any("keepwarm" in entry or "runner" in entry for entry in seen["path"])
    assert seen["stdin"] == ""
    assert seen["main_file"] is None
    assert seen["main"] == ["Path", "os", "subprocess", "sys"]  # what the function uses of its script
    assert seen["session"]
    assert seen["variables"]["MODE"] == "fast"
    assert seen["variables"]["KEEPWARM_INSTANCE"] == instance.process.marker
    assert not {"AGENT_SECRET", "PYTHONPATH"} & set(seen["variables"])
    # Three standard ones, two sockets, the board, the ends of the outputs once more, the listing itself.
    assert len(seen["descriptors"]) == 9
    assert len(seen["child_descriptors"]) == 4
    assert seen["argv"] == [""]


def test_an_interrupt_from_the_terminal_is_ignored_but_not_inherited(start: Start) -> None:
    """SIGINT does nothing to the instance; a program that it starts can be interrupted."""
    assert start().run("interrupt_self").value() == -signal.SIGINT


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("in_a_pool", (), [0, 1, 4, 9, 16]),
        ("in_a_process", ("fork",), 49),
        ("in_a_process", ("spawn",), 0),
        ("fork_and_return", (), 0),
        ("fork_and_raise", (), 1),
    ],
)
def test_user_code_may_start_processes(start: Start, name: str, arguments: tuple[object, ...], value: object) -> None:
    """`multiprocessing` works, also with functions of the script; a forked child never answers in our place."""
    instance = start()
    answer = instance.run(name, *arguments)
    assert answer.value() == value
    assert sum(isinstance(frame, frames.Result) for frame in answer.received) == 1
    instance.still_works()


def test_a_forged_frame_is_an_error_at_the_agent(start_own: Start) -> None:
    """User code that writes to the socket breaks its own instance's stream, and nothing else."""
    instance = start_own()
    instance.start(instance.load("write_frame"), pickle.dumps(((b"\x00\x00\x00\x01\xff!",), {})))
    with pytest.raises(frames.FrameError):
        instance.wait(lambda: False)


def test_killing_the_tree_reaches_a_grandchild_that_left_the_session(start: Start) -> None:
    """Found by its environment."""
    instance = start()
    grandchild = instance.run("grandchild").value()
    assert grandchild in instance.process.kill_tree()
    instance.wait(lambda: not Path(f"/proc/{grandchild}/cmdline").exists() or _is_zombie(grandchild))
    assert instance.ended() == ExitReason(None, signal.SIGKILL)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
