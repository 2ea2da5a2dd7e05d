"""What is concluded from a runner's sockets, its board and its files, with the test in the runner's place."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepwarm_worker.core import effects, events
from keepwarm_worker.hosted import Hosted
from keepwarm_worker.hosting import Host
from keepwarm_worker.payloads import Transfers
from keepwarm_worker.poller import Poller
from keepwarm_worker.processes import FrameReader, FrameWriter, InstanceProcess
from keepwarm_worker.runner import frames
from keepwarm_worker.runner.running import BOARD_BYTES, RunningBoard
from support.shortage import without_descriptors

INSTANCE = 1
RESULT = frames.Stored("result-1", 5, bytes(32))


class Runner:
    """The runner's ends of an instance that a host believes to have started."""

    def __init__(self, spool: Path) -> None:
        self.told: list[events.Event] = []
        self.poller = Poller()
        self.transfers = Transfers(spool)
        self.host = Host(self.poller, self.told.append, self.transfers, spool / "main.py", spool, b"i" * 16)
        self.directory = spool / f"instance-{INSTANCE}"
        (self.directory / "results").mkdir(parents=True)
        data, self.data = socket.socketpair()
        control, self.control = socket.socketpair()
        board = os.memfd_create("board")
        os.ftruncate(board, BOARD_BYTES)
        self.board, seen = RunningBoard(board), RunningBoard(board)
        os.close(board)
        for end in (data, control):
            end.setblocking(False)
        (stdout, self.stdout), (stderr, self.stderr) = os.pipe2(os.O_NONBLOCK), os.pipe2(os.O_NONBLOCK)
        self.child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        process = InstanceProcess(
            self.child.pid, os.pidfd_open(self.child.pid), "m:1", data, control, seen, stdout, stderr, self.child
        )
        self.hosted = Hosted(
            INSTANCE,
            process,
            FrameReader(data),
            FrameWriter(data),
            FrameReader(control),
            FrameWriter(control),
            self.directory,
        )
        self.host._hosted[INSTANCE] = self.hosted
        self.host._watch(self.hosted)

    def given(self, *attempts: int, asked_back: tuple[int, ...] = ()) -> None:
        """The agent gives it these, and asks some of them back."""
        for attempt in attempts:
            self.host.call(effects.StartCall(INSTANCE, attempt, "f", b"v" * 32, b"", False))
        self.host.flush()
        for attempt in asked_back:
            self.host.recall(effects.RecallCall(INSTANCE, attempt))

    def ends(self, attempt: int, payload: frames.Payload = b"value") -> None:
        self.data.send(frames.encode(frames.Done(attempt, 1, False, payload)))

    def heard(self) -> list[tuple[str, int]]:
        """What the core is told of attempts, after whatever is here has been read."""
        self.poller.wait(0)
        return [(type(event).__name__, getattr(event, "attempt", 0)) for event in self.told]

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        if INSTANCE in self.host._hosted:
            self.host._forget(self.hosted)
        self.host._trash.close()
        self.transfers.close()
        self.poller.close()
        self.board.close()
        self.data.close()
        self.control.close()
        for descriptor in (self.stdout, self.stderr):
            os.close(descriptor)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    made = Runner(tmp_path)
    yield made
    made.close()


def test_a_call_that_was_asked_back_and_has_ended_is_not_taken_for_one_that_never_began(runner: Runner) -> None:
    """The board tells of the next one while its outcome is still in the socket: it would be run a second time."""
    runner.given(1, 2, asked_back=(1,))
    runner.board.begin(1)
    runner.ends(1)
    runner.board.begin(2)
    runner.host.announce()
    assert runner.heard() == [("RunnerResult", 1), ("RunnerStarted", 2)]
    runner.ends(2)
    assert runner.heard()[2:] == [("RunnerResult", 2)]


def test_a_call_that_was_asked_back_and_is_past_its_turn_will_not_run(runner: Runner) -> None:
    """What the runner itself says of it comes later, and is no news then."""
    runner.given(1, 2, asked_back=(1,))
    runner.board.begin(2)
    runner.host.announce()
    assert runner.heard() == [("RunnerRecalled", 1), ("RunnerStarted", 2)]
    runner.control.send(frames.encode(frames.Recalled(1)))
    runner.ends(2)
    assert runner.heard()[2:] == [("RunnerResult", 2)]


def test_all_that_is_here_is_read_before_a_call_is_called_running(runner: Runner) -> None:
    """Also of calls that nobody asks back."""
    runner.given(1, 2, 3)
    for attempt in (1, 2):
        runner.ends(attempt)
    runner.board.begin(3)
    runner.host.announce()
    assert runner.heard() == [("RunnerResult", 1), ("RunnerResult", 2), ("RunnerStarted", 3)]


def test_a_result_that_the_node_cannot_open_fails_its_call_and_nothing_else(runner: Runner) -> None:
    """Nobody forged it: the process goes on."""
    (runner.directory / "results" / RESULT.path).write_bytes(b"12345")
    runner.given(1)
    runner.ends(1, RESULT)
    with without_descriptors():
        assert runner.heard() == [("RunnerResult", 1)]
    (told,) = runner.told
    assert isinstance(told, events.RunnerResult)
    assert told.failure
    assert told.failure.kind == "result_not_stored"
    assert "Too many open files" in told.failure.message


def test_a_result_that_is_not_there_is_a_forgery(runner: Runner) -> None:
    runner.given(1)
    runner.ends(1, RESULT)
    assert runner.heard() == [("RunnerLost", 0)]


def test_a_directory_that_user_code_has_closed_does_not_end_the_agent(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a result cannot be removed from it; the descriptor is all that is needed."""

    def refuse(_path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, f"Permission denied, {missing_ok}")

    (runner.directory / "results" / RESULT.path).write_bytes(b"12345")
    runner.given(1)
    runner.ends(1, RESULT)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert runner.heard() == [("RunnerResult", 1)]


def test_the_directory_of_an_instance_is_gone_at_once_and_deleted_by_another_thread(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User code may have left millions of files there."""
    deleted, go_on = threading.Event(), threading.Event()

    def delete(path: Path) -> None:
        go_on.wait(20)
        assert path.is_dir()
        deleted.set()

    monkeypatch.setattr("keepwarm_worker.environments.disk.delete_tree", delete)
    runner.host._forget(runner.hosted)
    assert not runner.directory.exists()
    assert not deleted.is_set()
    go_on.set()
    assert deleted.wait(20)


def test_the_end_of_the_agent_kills_and_reaps_what_is_left(runner: Runner) -> None:
    runner.host.close()
    assert runner.child.returncode == -9
    assert not runner.host.process_ids()
    assert not runner.directory.exists()
    with pytest.raises(ValueError, match="mmap closed"):
        runner.hosted.process.board.read()
