"""Nothing outlives its agent: a process that stands in for it, with the guardian and a real instance, is ended."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepwarm_worker import guardian

WITHIN_S = 2.0
EXECS, SCANS = 6, 300
AGENT = """
import os, select, sys, time
prefix, runner, directory = sys.argv[1:]
from keepwarm_worker.guardian import start_guardian
lifeline = start_guardian(prefix)
import pickle
from pathlib import Path
from keepwarm_worker.processes import FrameReader, FrameWriter, become_subreaper, spawn_instance
from keepwarm_worker.runner import frames
become_subreaper()
directory = Path(directory)
process = spawn_instance(Path(sys.executable), Path(runner), directory, {}, directory, prefix + "1")
writer, reader = FrameWriter(process.data), FrameReader(process.data)
program = '''
import subprocess, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = "import subprocess, time; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
import sys
child = subprocess.Popen(["setsid", sys.executable, "-c", inner])
print(child.pid, flush=True)
while True: pass
'''
writer.queue(frames.Load(bytes(32), "pickle", "exec", pickle.dumps((exec, None))))
writer.queue(frames.Call(1, bytes(32), 0, pickle.dumps(((program,), {}))))
writer.flush()
os.set_blocking(process.stdout_fd, True)
seen = b""
while seen.count(b"\\n") < 2:
    seen += os.read(process.stdout_fd, 1000)
print(process.pid, *seen.decode().split(), flush=True)
if sys.stdin.readline() == "exit\\n":
    sys.exit()
select.select([], [], [])
"""


@pytest.fixture
def prefix() -> str:
    """A prefix that no other process on this machine has."""
    return f"test-{os.getpid()}-{os.urandom(4).hex()}:"


@pytest.fixture
def agent(no_process_left: None, runner: Path, tmp_path: Path, prefix: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process with a guardian and an instance whose user code spins, with descendants that left the session."""
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, prefix, str(runner), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    yield process
    process.kill()
    process.communicate()
    guardian.kill_marked(prefix)


def wait_until_gone(prefix: str, pids: list[int], within_s: float) -> None:
    """Wait for all of them to end; whatever is left is killed, and fails the test."""
    deadline_s = time.monotonic() + within_s
    for descriptor in [os.pidfd_open(pid) for pid in pids if Path(f"/proc/{pid}").exists()]:
        select.select([descriptor], [], [], max(0, deadline_s - time.monotonic()))
        os.close(descriptor)
    left = guardian.kill_marked(prefix)
    assert left == []


def guardians(parent: int) -> list[int]:
    """The guardian that this process forked."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        if name.endswith("(keepwarm-guard") and int(rest.split()[1]) == parent:
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("end", ["kill -9", "kill -9 its group", "terminate", "exit"])
def test_everything_is_gone_soon_after_the_agent(agent: "subprocess.Popen[bytes]", prefix: str, end: str) -> None:
    """However it ends: instance, grandchildren in other sessions, and the guardian."""
    assert agent.stdin is not None
    assert agent.stdout is not None
    pids = [int(word) for word in agent.stdout.readline().split()]
    assert len(pids) == 3
    assert set(pids) == set(guardian.marked_processes(prefix))
    (guard,) = guardians(agent.pid)
    assert os.getsid(guard) == guard
    held = sorted(str(path.readlink()).partition(":")[0] for path in Path(f"/proc/{guard}/fd").iterdir())
    assert held == ["/dev/null", "/dev/null", "/dev/null", "pipe"]  # nothing that would keep a reader waiting
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guard, number)
    if end == "exit":
        agent.stdin.write(b"exit\n")
        agent.stdin.flush()
    elif end == "kill -9 its group":
        os.killpg(agent.pid, signal.SIGKILL)
    else:
        agent.send_signal(signal.SIGTERM if end == "terminate" else signal.SIGKILL)
    wait_until_gone(prefix, [*pids, guard], WITHIN_S)
    agent.communicate()
    assert not any(_runs(pid) for pid in (*pids, guard))


def test_leftovers_of_an_earlier_agent_are_killed_without_a_guardian(
    agent: "subprocess.Popen[bytes]", prefix: str
) -> None:
    """As an agent does at its start: the guardian was killed too."""
    assert agent.stdout is not None
    pids = [int(word) for word in agent.stdout.readline().split()]
    for guard in guardians(agent.pid):
        os.kill(guard, signal.SIGKILL)
    agent.kill()
    agent.communicate()
    guardian.kill_marked(prefix)
    assert not any(_runs(pid) for pid in pids)


def test_a_process_in_the_midst_of_an_exec_is_found(no_process_left: None, prefix: str) -> None:
    """It has no environment for a moment. These do nothing but exec; a few looks in a hundred fell into a gap."""
    again = 'exec /bin/sh -c "$0" "$0"'
    environment = {**os.environ, guardian.MARKER_VARIABLE: f"{prefix}1"}
    processes = [subprocess.Popen(["/bin/sh", "-c", again, again], env=environment) for _ in range(EXECS)]
    try:
        pids = {process.pid for process in processes}
        scans = [set(guardian.marked_processes(prefix)) for _ in range(SCANS)]
        assert [pids - found for found in scans if pids - found] == []
        assert set(guardian.kill_marked(prefix)) == pids
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
