"""Finding and killing marked processes, and only those."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from keepwarm_worker import guardian

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def prefix() -> str:
    """A prefix that no other process on this machine has."""
    return f"test-{os.getpid()}-{os.urandom(4).hex()}:"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sleepers with a marker; whatever is left afterwards is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(marker: str) -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen(["sleep", "1000"], env={"A": "b", "KEEPWARM_INSTANCE": marker, "C": "d"}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_marked_processes_are_found_by_prefix(start: Start, prefix: str) -> None:
    """Those that begin so, not those that contain it."""
    mine = {start(f"{prefix}1").pid, start(f"{prefix}22").pid}
    start(f"other{prefix}1")
    assert set(guardian.marked_processes(prefix)) == mine


def test_all_marked_processes_are_killed(start: Start, prefix: str) -> None:
    """And have ended when it returns; the rest are left alone."""
    mine, other = [start(f"{prefix}{n}") for n in range(3)], start(f"x{prefix}")
    assert set(guardian.kill_marked(prefix)) == {process.pid for process in mine}
    assert [process.poll() for process in mine] == [-signal.SIGKILL] * 3
    assert other.poll() is None
    assert guardian.kill_marked(prefix) == []


def test_a_pid_that_is_another_process_by_now_is_not_signalled(start: Start, prefix: str) -> None:
    """The marker is looked at again through a descriptor that cannot change its meaning."""
    other = start("somebody:1")
    assert not guardian.kill_one_marked(other.pid, prefix, signal.SIGKILL)
    assert other.poll() is None
    other.kill()
    other.wait()
    assert not guardian.kill_one_marked(other.pid, "somebody:", signal.SIGKILL)


def test_a_process_does_not_find_itself(prefix: str) -> None:
    """An agent that runs inside an instance must not kill itself."""
    program = f"from keepwarm_worker import guardian; assert guardian.kill_marked({prefix!r}) == []; print('alive')"
    environment = {**os.environ, "KEEPWARM_INSTANCE": f"{prefix}1"}
    output = subprocess.check_output([sys.executable, "-c", program], env=environment)
    assert output == b"alive\n"


@pytest.mark.parametrize("function", [guardian.marked_processes, guardian.kill_marked, guardian.start_guardian])
def test_an_empty_prefix_is_refused(function: Callable[[str], object]) -> None:
    """It would match the instances of every agent on the machine."""
    with pytest.raises(ValueError, match="every agent"):
        function("")
