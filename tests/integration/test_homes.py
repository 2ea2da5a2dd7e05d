"""The safety net of the integration tests itself: detached processes are found and ended, leftovers are reported."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from support.homes import HOME_VARIABLE, children, leftovers, processes_of, stop_processes, temporary_home

STARTED_S = 20.0

SLEEPER = "import time; time.sleep(600)"

STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({{ready!r}}, 'x').close(); {SLEEPER}"

DETACH = """
import os, subprocess, sys
subprocess.Popen(sys.argv[1:], start_new_session=True, cwd="/", stdin=subprocess.DEVNULL,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
os._exit(0)
"""
"""Starts a process that is nobody's child any more, as a local cluster is."""


def detach(*command: str, environment: dict[str, str]) -> None:
    """Start ``command`` detached from this process."""
    subprocess.run([sys.executable, "-c", DETACH, *command], env=environment, check=True)


def plain_environment() -> dict[str, str]:
    """This process's environment without a home."""
    return {name: value for name, value in os.environ.items() if name != HOME_VARIABLE}


def await_processes(home: Path, count: int) -> list[psutil.Process]:
    """Wait until the home has that many processes."""
    deadline_s = time.monotonic() + STARTED_S
    while len(found := processes_of(home)) < count:
        assert time.monotonic() < deadline_s, found
        time.sleep(0.02)
    return found


def test_a_home_is_short_set_and_its_own(home: Path) -> None:
    """Sockets inside it have room for their names, and nobody else may look in."""
    assert os.environ[HOME_VARIABLE] == str(home)
    assert len(os.fsencode(home)) < 60
    assert home.stat().st_mode & 0o777 == 0o700
    assert list(home.iterdir()) == []


def test_a_detached_process_is_known_by_its_environment(home: Path) -> None:
    """It is no child of ours, and is found and stopped all the same."""
    detach(sys.executable, "-c", SLEEPER, environment={**plain_environment(), HOME_VARIABLE: str(home)})
    [process] = await_processes(home, 1)
    assert process not in children()
    stop_processes(home)
    assert processes_of(home) == []


@pytest.mark.parametrize("argument", ["{home}", "{home}/agent.sock", "--home={home}", "ipc://{home}/scheduler"])
def test_a_detached_process_is_known_by_its_command_line(home: Path, argument: str) -> None:
    """For processes that were given a clean environment, such as instances."""
    detach(sys.executable, "-c", SLEEPER, argument.format(home=home), environment=plain_environment())
    await_processes(home, 1)
    stop_processes(home)
    assert processes_of(home) == []


def test_what_a_process_of_the_home_has_started_goes_with_it(home: Path) -> None:
    """Grandchildren that carry no trace of the home themselves are ended too."""
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}], env={{}})"
    detach(sys.executable, "-c", start, environment={**plain_environment(), HOME_VARIABLE: str(home)})
    found = await_processes(home, 2)
    stop_processes(home)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)


def test_a_process_that_ignores_being_asked_is_killed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time it was given."""
    monkeypatch.setattr("support.homes.ASK_S", 0.2)
    ready = home / "ready"
    program = STUBBORN.format(ready=str(ready))
    detach(sys.executable, "-c", program, environment={**plain_environment(), HOME_VARIABLE: str(home)})
    deadline_s = time.monotonic() + STARTED_S
    while not ready.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    stop_processes(home)
    assert processes_of(home) == []


def test_other_homes_are_left_alone(home: Path) -> None:
    """Also one whose path begins with ours."""
    neighbour = Path(f"{home}x")
    detach(sys.executable, "-c", SLEEPER, str(neighbour), environment=plain_environment())
    try:
        await_processes(neighbour, 1)
        assert processes_of(home) == []
        stop_processes(home)
        assert len(processes_of(neighbour)) == 1
    finally:
        stop_processes(neighbour)


def test_a_home_is_gone_afterwards_and_so_is_its_cluster() -> None:
    """Also when the test fails inside."""
    used: list[Path] = []

    def use_and_fail() -> None:
        with temporary_home() as path:
            used.append(path)
            detach(sys.executable, "-c", SLEEPER, environment={**plain_environment(), HOME_VARIABLE: str(path)})
            await_processes(path, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use_and_fail()
    assert not used[0].exists()
    assert processes_of(used[0]) == []


def test_a_child_that_still_runs_is_reported() -> None:
    """By pid, state and command line."""
    before = children()
    child = subprocess.Popen([sys.executable, "-c", SLEEPER])
    try:
        [description] = leftovers(before, within_s=0)
        assert description.startswith(str(child.pid))
    finally:
        child.kill()
        child.wait()
    assert leftovers(before) == []


def test_a_child_that_was_not_collected_is_reported() -> None:
    """A zombie is a process that somebody forgot."""
    before = children()
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        [description] = leftovers(before, within_s=0)
        assert f"{child.pid} zombie" in description
    finally:
        child.wait()
    assert leftovers(before) == []
