"""The local cluster's home, and its start with real processes that stand in for the two daemons."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keepwarm import local
from keepwarm.errors import ClusterStartError
from support.waiting import until

LISTENER = """
import os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
print("listening", os.getpid(), os.getcwd(), os.getsid(0) != os.getpid(), flush=True)
listener.listen(64)
end = time.monotonic() + 60
while os.path.exists(os.path.dirname(sys.argv[1])) and time.monotonic() < end:
    time.sleep(0.02)
"""
WAITER = LISTENER.replace("listener.bind(sys.argv[1])", "").replace("listener.listen(64)", "")


def stand_ins(home: Path, path: Path) -> dict[str, list[str]]:
    """Commands like the real ones, of processes that listen, or wait, until their directory is gone."""
    return {
        "scheduler": [sys.executable, "-c", LISTENER, str(path)],
        "agent": [sys.executable, "-c", WAITER, str(path)],
    }


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Still to be made, and short: a socket's path holds about 100 bytes, which the tests' own directory may exceed."""
    with tempfile.TemporaryDirectory(prefix="kw-", dir="/tmp") as directory:
        made = Path(directory) / "home"
        monkeypatch.setenv("KEEPWARM_HOME", str(made))
        monkeypatch.setattr(local, "commands", stand_ins)
        yield made
        for log in made.glob("logs/*.log"):
            for line in log.read_text().splitlines():
                if line.startswith("listening"):
                    end(int(line.split()[1]))


def end(process_id: int) -> None:
    """End one process that this test started."""
    try:
        os.kill(process_id, signal.SIGKILL)
    except ProcessLookupError:
        return


def listeners(home: Path) -> list[str]:
    return (home / "logs" / "scheduler.log").read_text().splitlines()


def test_home_is_made_private(home: Path) -> None:
    assert local.home() == home
    assert home.stat().st_mode & 0o777 == 0o700


def test_home_defaults_to_the_users_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPWARM_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local.home() == tmp_path / ".keepwarm"


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_home_others_can_write_to_is_refused(home: Path, mode: int) -> None:
    home.mkdir()
    home.chmod(mode)
    with pytest.raises(ClusterStartError, match=f"mode 0{mode:o}: others could run code as you"):
        local.home()


def test_a_home_of_someone_else_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ClusterStartError, match="belongs to user"):
        local.home()


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that does not know its user."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("KEEPWARM_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321_987)
    with pytest.raises(ClusterStartError, match=r"no home directory\. Set KEEPWARM_HOME"):
        local.home()


def test_a_home_that_is_a_file_is_refused(home: Path) -> None:
    home.write_text("")
    with pytest.raises(ClusterStartError, match="cannot use the directory"):
        local.home()


def test_an_address_comes_from_the_environment_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPWARM_ADDRESS", " ipc:///x ")
    assert local.address_from_environment() == "ipc:///x"
    monkeypatch.setenv("KEEPWARM_ADDRESS", "")
    assert local.address_from_environment() is None


def test_a_path_too_long_for_a_socket_moves_to_tmp() -> None:
    short, long = local.socket_path(Path("/h")), local.socket_path(Path("/" + "h" * 90))
    assert short == Path("/h/local-p1/scheduler.sock")
    assert long.parent.name.startswith(f"keepwarm-{os.getuid()}-")
    assert long.parent.parent == Path("/tmp")
    assert local.socket_path(Path("/" + "i" * 90)) != long


def test_the_commands_are_those_of_the_daemons() -> None:
    found = local.commands(Path("/h"), Path("/h/local-p1/scheduler.sock"))
    assert found["scheduler"][1:] == [
        "-m", "keepwarm_scheduler", "--bind", "ipc:///h/local-p1/scheduler.sock",
        "--state", "/h/local-p1/scheduler", "--local",
    ]  # fmt: skip
    assert found["agent"][1:7] == [
        "-m", "keepwarm_worker", "--scheduler", "ipc:///h/local-p1/scheduler.sock", "--home", "/h/nodes/local",
    ]  # fmt: skip


def test_nothing_runs_at_first(home: Path) -> None:
    assert local.find() is None


def test_start_then_find(home: Path) -> None:
    address = local.find_or_start()
    assert address == f"ipc://{home}/local-p1/scheduler.sock"
    assert local.find() == address
    assert local.find_or_start() == address
    assert len(listeners(home)) == 1


def test_the_processes_are_detached_and_nobodys_children(home: Path) -> None:
    local.find_or_start()
    _, process_id, directory, in_a_session = listeners(home)[0].split()
    assert (directory, in_a_session) == ("/", "True")
    assert os.getsid(int(process_id)) != os.getsid(0)
    with pytest.raises(ChildProcessError):
        os.waitpid(int(process_id), os.WNOHANG)
    descriptors = sorted(
        str(entry.readlink()) for entry in Path(f"/proc/{process_id}/fd").iterdir() if entry.is_symlink()
    )
    assert [name for name in descriptors if not name.startswith("socket:")] == [
        "/dev/null", str(home / "logs/scheduler.log"), str(home / "logs/scheduler.log"),
    ]  # fmt: skip


def test_a_dead_cluster_is_started_again(home: Path) -> None:
    local.find_or_start()
    end(int(listeners(home)[0].split()[1]))
    path = local.socket_path(home)
    deadline_s = time.monotonic() + 10
    while local.find() is not None:
        assert time.monotonic() < deadline_s
    path.unlink()  # as the real scheduler does before it binds
    assert local.find_or_start() == f"ipc://{path}"
    assert len(listeners(home)) == 2


def agents(home: Path) -> list[int]:
    return [int(line.split()[1]) for line in (home / "logs" / "agent.log").read_text().splitlines()]


def await_agents(home: Path, count: int) -> list[int]:
    until(lambda: len(agents(home)) >= count)
    return agents(home)


def test_an_agent_that_died_is_started_again_beside_the_scheduler_that_lives(home: Path) -> None:
    assert not local.has_agent()
    address = local.find_or_start()
    assert local.has_agent()
    [first] = await_agents(home, 1)
    end(first)
    deadline_s = time.monotonic() + 10
    while local.has_agent():
        assert time.monotonic() < deadline_s
    assert local.find_or_start() == address
    assert local.has_agent()
    assert await_agents(home, 2)[0] == first
    assert len(listeners(home)) == 1


def test_an_agent_that_outlived_its_scheduler_is_not_started_twice(home: Path) -> None:
    local.find_or_start()
    await_agents(home, 1)
    end(int(listeners(home)[0].split()[1]))
    path = local.socket_path(home)
    deadline_s = time.monotonic() + 10
    while local.find() is not None:
        assert time.monotonic() < deadline_s
    path.unlink()
    local.find_or_start()
    assert len(listeners(home)) == 2
    assert len(agents(home)) == 1


def test_a_process_that_got_the_agents_number_is_not_taken_for_it(home: Path) -> None:
    local.find_or_start()
    local.socket_path(home).with_name("agent.pid").write_text(f"{os.getpid()} 1\n")
    assert not local.has_agent()


def test_the_end_of_a_cluster_is_awaited(home: Path) -> None:
    local.find_or_start()
    assert not local.await_end(0)
    for process_id in [int(listeners(home)[0].split()[1]), *await_agents(home, 1)]:
        end(process_id)
    assert local.await_end(10)


def test_ten_programs_that_start_at_once_start_one_cluster(home: Path, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('stand_ins', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "from keepwarm import local\n"
        "local.commands = module.stand_ins\n"
        "print(local.find_or_start())\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ})
        for _ in range(10)
    ]
    answers = {process.communicate(timeout=60)[0].strip() for process in running}
    assert answers == {f"ipc://{home}/local-p1/scheduler.sock"}
    assert len(listeners(home)) == 1


def test_a_scheduler_that_dies_at_its_start_is_quoted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('no port left for me')"]
    monkeypatch.setattr(local, "commands", lambda home, path: {**stand_ins(home, path), "scheduler": broken})
    with pytest.raises(
        ClusterStartError, match=r"scheduler ended as it started.*scheduler\.log:\n  no port left for me"
    ):
        local.find_or_start()


def test_an_agent_that_dies_at_its_start_is_quoted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [sys.executable, "-S", "-c", "raise SystemExit('no home for me')"]
    slow = [sys.executable, "-c", "import time; time.sleep(0.5)\n" + LISTENER]

    def commands(home: Path, path: Path) -> dict[str, list[str]]:
        return {"scheduler": [*slow, str(path)], "agent": broken}

    monkeypatch.setattr(local, "commands", commands)
    with pytest.raises(ClusterStartError, match="agent ended as it started") as caught:
        local.find_or_start()
    assert "no home for me" in str(caught.value)
    deadline_s = time.monotonic() + 10
    while not listeners(home):
        assert time.monotonic() < deadline_s


def test_a_scheduler_that_never_listens_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "START_TIMEOUT_S", 0.3)
    waiter = stand_ins(home, home)["agent"]
    monkeypatch.setattr(local, "commands", lambda home, path: {"scheduler": [*waiter[:3], str(path)]})
    with pytest.raises(ClusterStartError, match="did not listen within"):
        local.find_or_start()
    deadline_s = time.monotonic() + 10
    while not listeners(home):
        assert time.monotonic() < deadline_s


def test_logs_are_rotated_at_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOG_BYTES_MAX", 10)
    (home / "logs").mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    (home / "logs" / "scheduler.log").write_text("x" * 11)
    (home / "logs" / "agent.log").write_text("short")
    local.find_or_start()
    assert (home / "logs" / "scheduler.log.1").read_text() == "x" * 11
    assert (home / "logs" / "agent.log").read_text().startswith("short")


@pytest.mark.parametrize("look", [local.find, local.find_or_start])
def test_a_socket_directory_others_can_read_is_refused(home: Path, look: Callable[[], str | None]) -> None:
    """Also by whoever only looks for a cluster: the one that listens there may be somebody else's."""
    home.mkdir(mode=0o700)
    (home / "local-p1").mkdir()
    (home / "local-p1").chmod(0o755)
    with pytest.raises(ClusterStartError, match="chmod 700"):
        look()
