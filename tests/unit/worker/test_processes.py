"""Channels, spawning, killing and reaping, on real sockets and real processes."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from keepwarm_worker import processes
from keepwarm_worker.processes import (
    ExitReason,
    FrameReader,
    FrameWriter,
    NodeFault,
    SpawnError,
    exit_reason,
    reap_strays,
)
from keepwarm_worker.runner import frames
from support.shortage import without_descriptors

PATIENCE_S = 20


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected non-blocking sockets."""
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


@pytest.fixture
def sleeper() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts shells that start sleepers; whatever is left afterwards is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], **variables}
        child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, env=environment, start_new_session=True)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def ended(pid: int) -> None:
    """Wait for a process, not necessarily a child, to end."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    readable, _, _ = select.select([descriptor], [], [], PATIENCE_S)
    os.close(descriptor)
    assert readable, f"{pid} lives on"


# ---------------------------------------------------------------- channels


def test_frames_pass_through_sockets(ends: tuple[socket.socket, socket.socket]) -> None:
    """In order, more than a socket buffers: what does not fit waits."""
    writer, reader = FrameWriter(ends[0]), FrameReader(ends[1])
    sent: list[frames.Frame] = [frames.Call(n, bytes(32), 0, bytes(50_000)) for n in range(100)]
    for frame in sent:
        writer.queue(frame)
    received: list[frames.Frame] = []
    assert writer.flush()
    while len(received) < len(sent):
        received += reader.receive()
        writer.flush()
    assert received == sent
    assert (writer.pending_bytes, writer.flush(), reader.closed) == (0, False, False)


def test_one_look_at_a_socket_is_bounded() -> None:
    """A chatty instance does not keep the agent from its other work."""

    frame = frames.encode(frames.Exit())

    class Endless:
        reads = 0
        left = b""

        def recv(self, size: int) -> bytes:
            self.reads += 1
            stream = self.left + frame * (size // len(frame) + 1)
            self.left = stream[size:]
            return stream[:size]

    endless = Endless()
    received = FrameReader(endless).receive()  # type: ignore[arg-type]
    assert endless.reads == processes._READS_PER_TURN
    assert set(received) == {frames.Exit()}


def test_a_reader_sees_what_came_before_the_end(ends: tuple[socket.socket, socket.socket]) -> None:
    """Also when the other end died with frames unread, which resets the connection."""
    ends[1].send(frames.encode(frames.Cancel(1)))
    ends[0].send(b"unread")
    ends[1].close()
    reader = FrameReader(ends[0])
    received = reader.receive()
    while not reader.closed:
        received += reader.receive()
    assert received == [frames.Cancel(1)]


def test_a_writer_survives_the_death_of_its_reader(ends: tuple[socket.socket, socket.socket]) -> None:
    """It says so and keeps nothing."""
    writer = FrameWriter(ends[0])
    ends[1].close()
    writer.queue(frames.Exit())
    assert not writer.flush()
    assert (writer.closed, writer.pending_bytes) == (True, 0)


def test_a_writer_is_bounded(ends: tuple[socket.socket, socket.socket]) -> None:
    """An instance that reads nothing does not fill the agent's memory."""
    writer = FrameWriter(ends[0])
    frame = frames.Call(1, bytes(32), 0, bytes(60_000))
    for _ in range(processes.MAX_PENDING_BYTES // len(frames.encode(frame))):
        writer.queue(frame)
    with pytest.raises(frames.FrameError, match="does not read"):
        writer.queue(frame)
    assert writer.pending_bytes <= processes.MAX_PENDING_BYTES


# ---------------------------------------------------------------- results in files


def test_a_result_is_opened_in_its_spool(tmp_path: Path) -> None:
    """By its bare name."""
    (tmp_path / "result").write_bytes(b"12345")
    descriptor = processes.open_result(tmp_path, frames.Stored("result", 5, bytes(32)))
    assert os.read(descriptor, 10) == b"12345"
    os.close(descriptor)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../secret", "/etc/passwd", "a/b", "nul\0", "link", "hard", "fifo", "dir"]
)
def test_a_forged_result_is_refused(tmp_path: Path, name: str) -> None:
    """User code can name anything; the agent opens nothing but a file of its own in the spool."""
    spool = tmp_path / "spool"
    (spool / "dir").mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_bytes(b"12345")
    (spool / "link").symlink_to(secret)
    (tmp_path / "other").write_bytes(b"12345")
    (spool / "hard").hardlink_to(tmp_path / "other")
    os.mkfifo(spool / "fifo")
    with pytest.raises(frames.FrameError):
        processes.open_result(spool, frames.Stored(name, 5, bytes(32)))


def test_a_result_of_another_size_is_refused(tmp_path: Path) -> None:
    """Cut short, or still growing."""
    (tmp_path / "result").write_bytes(b"12345")
    with pytest.raises(frames.FrameError, match="4 bytes"):
        processes.open_result(tmp_path, frames.Stored("result", 4, bytes(32)))


def test_a_result_that_the_node_cannot_open_is_no_forgery(tmp_path: Path) -> None:
    """It is what it is."""
    (tmp_path / "result").write_bytes(b"12345")
    with without_descriptors(), pytest.raises(NodeFault, match="Too many open files"):
        processes.open_result(tmp_path, frames.Stored("result", 5, bytes(32)))


# ---------------------------------------------------------------- starting


def test_an_environment_is_built_up_not_inherited(tmp_path: Path) -> None:
    """A few of the agent's variables, the environment's own, the user's over both, the marker over all."""
    (tmp_path / "pyvenv.cfg").touch()
    own = str(Path(sys.executable).parent)
    inherited = {
        "HOME": "/home/a",
        "TZ": "UTC",
        "https_proxy": "http://proxy",
        "PATH": f"{own}:/usr/bin",
        "TOKEN": "hush",
        "PYTHONPATH": "/x",
        "LD_PRELOAD": "/y",
        "KEEPWARM_INSTANCE": "outer:1",
    }
    variables = {"TZ": "CET", "KEEPWARM_INSTANCE": "forged"}
    built = processes.instance_environment(tmp_path / "bin" / "python", "node:7", variables, inherited)
    assert built == {
        "HOME": "/home/a",
        "TZ": "CET",
        "LANG": "C.UTF-8",
        "https_proxy": "http://proxy",
        "PATH": f"{tmp_path}/bin:/usr/bin",
        "VIRTUAL_ENV": str(tmp_path),
        "KEEPWARM_INSTANCE": "node:7",
    }


def test_a_conda_prefix_is_named(tmp_path: Path) -> None:
    """And a plain prefix is neither."""
    python = tmp_path / "bin" / "python"
    assert not {"VIRTUAL_ENV", "CONDA_PREFIX"} & set(processes.instance_environment(python, "m:1", {}, {}))
    (tmp_path / "conda-meta").mkdir()
    assert processes.instance_environment(python, "m:1", {}, {})["CONDA_PREFIX"] == str(tmp_path)


def test_a_missing_interpreter_is_a_spawn_error(tmp_path: Path) -> None:
    """And leaves no descriptor behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(SpawnError, match="no-python"):
        processes.spawn_instance(tmp_path / "no-python", tmp_path / "main.py", tmp_path, {}, tmp_path, "m:1")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_spawned_process_is_reaped_once_and_closed(tmp_path: Path) -> None:
    """Whatever it does: here a program that prints and leaves with 5. No descriptor stays."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    program = tmp_path / "main.py"
    program.write_text("import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)")
    process = processes.spawn_instance(Path(sys.executable), program, tmp_path, {}, tmp_path, "m:1")
    assert process.pid == os.getpgid(process.pid)
    ended(process.pid)
    assert process.reap() == process.reap() == ExitReason(5, None)
    process.send_signal(signal.SIGTERM)  # it is gone: nothing happens
    assert process.kill_tree() == set()
    assert os.read(process.stdout_fd, 100) == b"out\n"
    assert os.read(process.stderr_fd, 100) == b"err\n"
    process.close()
    process.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("fails", ["pidfd_open", "dup"])
def test_what_cannot_be_taken_over_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """Out of descriptors half way: the process was started, and nobody would know of it."""
    started: list[subprocess.Popen[bytes]] = []
    plain = subprocess.Popen

    def remember(*args: Any, **options: Any) -> "subprocess.Popen[bytes]":
        started.append(plain(*args, **options))
        return started[0]

    def fail(*_: object) -> int:
        raise OSError(24, "Too many open files")

    before = len(list(Path("/proc/self/fd").iterdir()))
    program = tmp_path / "main.py"
    program.write_text("import time; time.sleep(1000)")
    monkeypatch.setattr(subprocess, "Popen", remember)
    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="Too many"):
        processes.spawn_instance(Path(sys.executable), program, tmp_path, {}, tmp_path, "m:1")
    (child,) = started
    try:
        assert child.wait(PATIENCE_S) == -signal.SIGKILL
    finally:
        child.kill()
        child.communicate()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_without_descriptors_nothing_is_started_and_nothing_breaks(tmp_path: Path) -> None:
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        processes.spawn_instance(Path(sys.executable), tmp_path / "main.py", tmp_path, {}, tmp_path, "m:1")


# ---------------------------------------------------------------- ending


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 7", ExitReason(7, None)),
        ("kill -9 $$", ExitReason(None, signal.SIGKILL)),
        ("kill -11 $$", ExitReason(None, signal.SIGSEGV)),
        ("exit 137", ExitReason(137, None)),
    ],
)
def test_exit_reasons(script: str, reason: ExitReason) -> None:
    """A code and a signal are told apart, also where a shell would not."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], {})
    status = os.waitid(os.P_PID, pid, os.WEXITED)
    assert status is not None
    assert exit_reason(status) == reason


def test_a_tree_dies_with_its_root(sleeper: Callable[..., subprocess.Popen[bytes]]) -> None:
    """The group, a child that left it, and a child of that one."""
    child = sleeper("sleep 1000 & setsid sh -c 'sleep 1000 & echo $!; wait' & wait")
    assert child.stdout is not None
    deepest = int(child.stdout.readline())
    tree = [process.pid for process in psutil.Process(child.pid).children(recursive=True)]
    assert deepest in tree
    assert processes.kill_tree(child.pid, signal.SIGKILL, "nobody:1") >= set(tree)
    for pid in (child.pid, *tree):
        ended(pid)
    assert child.wait() == -signal.SIGKILL


def test_a_process_dies_even_if_nothing_else_can_be_looked_for(
    sleeper: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Without a free descriptor there is no list of processes; its group needs none."""
    child = sleeper("sleep 1000 & echo; wait")
    assert child.stdout is not None
    child.stdout.readline()
    with without_descriptors():
        assert processes.kill_tree(child.pid, signal.SIGKILL, "nobody:1") == set()
        assert reap_strays({child.pid}) == []
    assert child.wait() == -signal.SIGKILL


def test_a_marked_process_is_found_without_its_root(sleeper: Callable[..., subprocess.Popen[bytes]]) -> None:
    """And one whose marker merely begins alike is not touched."""
    marked = sleeper("exec sleep 1000", KEEPWARM_INSTANCE="test:4")
    other = sleeper("exec sleep 1000", KEEPWARM_INSTANCE="test:41")
    assert processes.kill_tree(None, signal.SIGKILL, "test:4") == {marked.pid}
    assert marked.wait() == -signal.SIGKILL
    assert other.poll() is None


def test_only_the_children_that_nobody_waits_for_are_reaped(sleeper: Callable[..., subprocess.Popen[bytes]]) -> None:
    """An orphan is collected; the status of a child that is kept is not taken away."""
    kept = sleeper("exit 3")
    ended(kept.pid)
    assert reap_strays({kept.pid}) == []
    stray = os.posix_spawn("/bin/true", ["true"], {})
    ended(stray)
    assert reap_strays({kept.pid}) == [stray]
    assert kept.wait() == 3
    assert reap_strays(()) == []


def test_a_subreaper_gets_the_orphans() -> None:
    """In a process of its own: the attribute would stay with this one."""
    program = (
        "import os, subprocess\n"
        "from keepwarm_worker.processes import become_subreaper, reap_strays\n"
        "become_subreaper()\n"
        "orphan = int(subprocess.check_output(['sh', '-c', 'sleep 1000 >&- & echo $!']))\n"
        "parent = open(f'/proc/{orphan}/stat').read().rpartition(')')[2].split()[1]\n"
        "assert int(parent) == os.getpid(), parent\n"
        "fd = os.pidfd_open(orphan)\n"
        "os.kill(orphan, 9)\n"
        "import select; select.select([fd], [], [])\n"
        "assert reap_strays(()) == [orphan]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
