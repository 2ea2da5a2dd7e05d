"""Hosts are separate, come up at once, and leave nothing behind, not even when their test is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.hosts.memory import groups_that_exist
from support.hosts.network import Hosts, remove_leftovers
from support.hosts.owned_names import OwnedName, new_name
from support.hosts.probes import ECHO_PORT, answers, echo, start_echo
from support.programs import lives
from support.waiting import until

SETUP_S = 1.0
"""Six hosts are to be there within it. They take a tenth of it."""

SLEEPER = [sys.executable, "-IS", "-c", "import time; time.sleep(600)"]
DETACHED = [sys.executable, "-IS", "-c", f"import subprocess; subprocess.Popen({SLEEPER!r}, start_new_session=True)"]

LOOK_AROUND = """
import os, socket
cards = sorted(name for _, name in socket.if_nameindex())
print(cards, os.stat("/proc/self/ns/net").st_ino, os.environ["KEEPWARM_HOME"], os.environ["EXTRA"])
"""

KILLED_TEST = f"""
import sys
from support.hosts.network import Hosts
with Hosts("a", "b") as hosts:
    hosts["a"].use_small_disk(1 << 20)
    hosts["a"].set_clock(3600)
    hosts["a"].limit_memory(1 << 28)
    started = hosts["a"].run({SLEEPER!r})
    print(hosts.folder, started.pid, flush=True)
    sys.stdin.read()
"""


def traces(name: str) -> list[str]:
    """What the machine still has of a network of hosts."""
    found = [path.name for folder in ("/run/netns", "/tmp") for path in Path(folder).iterdir()]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [one for one in (*found, *groups_that_exist(), *mounts) if name in one]


def test_hosts_are_quickly_there_and_gone() -> None:
    """Six of them, which can reach one another."""
    begun_s = time.monotonic()
    with Hosts(*"abcdef") as hosts:
        took_s = time.monotonic() - begun_s
        assert len({host.address for host in hosts}) == len(hosts) == 6
        for host in hosts:
            with host.listen(ECHO_PORT):
                for other in hosts:
                    other.connect(host.address, ECHO_PORT).close()
        name = hosts.folder.name
    assert took_s < SETUP_S
    assert traces(name) == []


def test_a_program_sees_its_own_host_only(pair: Hosts) -> None:
    """Its address, its loopback, and no network of the machine; the number of its place is the host's."""
    start_echo(pair["a"])
    seen = pair["b"].run([sys.executable, "-IS", "-c", LOOK_AROUND], env={"EXTRA": "given"})
    assert seen.wait() == 0, seen.said()
    assert seen.out.read_text().strip() == f"['eth0', 'lo'] {pair['b'].place} {pair['b'].home} given"
    with pytest.raises(ConnectionRefusedError):
        pair["b"].connect("127.0.0.1", ECHO_PORT)


def test_two_networks_do_not_meet(pair: Hosts) -> None:
    """They have the same addresses, and nobody is confused by that."""
    start_echo(pair["a"])
    with Hosts("a", "b") as others:
        assert others["a"].address == pair["a"].address
        with pytest.raises(ConnectionRefusedError):
            others["b"].connect(others["a"].address, ECHO_PORT)
    with pair["b"].connect(pair["a"].address, ECHO_PORT) as connection:
        assert echo(connection) == b"hello"


def test_the_own_thread_is_back_home_after_it_opened_a_socket(pair: Hosts) -> None:
    """A process that is started next is on the machine's network."""
    here = Path("/proc/thread-self/ns/net")
    before = here.stat().st_ino
    pair["a"].open_socket().close()
    assert here.stat().st_ino == before != pair["a"].place


def test_power_off_ends_detached_processes_too(pair: Hosts) -> None:
    """The others notice nothing, and the host can be used again."""
    host, other = pair["a"], pair["b"]
    other_program = start_echo(other)
    program = start_echo(host)
    with host.connect(other.address, ECHO_PORT) as connection:
        assert host.run(DETACHED).wait() == 0
        assert len(host.processes()) == 2
        host.power_off()
        assert host.processes() == []
        assert program.code == -signal.SIGKILL
        assert other_program.is_running
        assert answers(connection, 10)
    start_echo(host)


def test_a_failed_test_tells_what_programs_said() -> None:
    """As a note to its exception."""

    def fail() -> None:
        with Hosts("a") as hosts:
            hosts["a"].run(["sh", "-c", "echo said; echo complained >&2; exit 3"]).wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    (note,) = caught.value.__notes__
    assert note == "--- a.0.sh (3)\nsaid\ncomplained\n"


def test_what_a_killed_test_left_is_removed_by_the_next() -> None:
    """Processes, namespaces, disks, clocks, limits and files; nothing of anybody who lives."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(tests)}
    command = [sys.executable, "-c", KILLED_TEST]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as killed:
        assert killed.stdout is not None
        folder, process_id = killed.stdout.readline().split()
        name = Path(folder).name
        with Hosts("a"):
            assert len(traces(name)) >= 6
            assert lives(int(process_id))
        killed.kill()
    with Hosts("a") as hosts:
        assert traces(name) == []
        until(lambda: not lives(int(process_id)))
        assert name not in remove_leftovers()
        start_echo(hosts["a"])


def test_a_later_process_with_the_same_number_is_not_the_owner() -> None:
    """Names hold when their owner was started, too."""
    name = new_name()
    assert OwnedName.parse(f"{name}-hub") == OwnedName.parse(str(name)) == name
    assert not name.is_left_over
    assert name._replace(started_ticks=name.started_ticks - 1).is_left_over
    assert OwnedName.parse("kwh.1.2") is OwnedName.parse("other.1.2.3") is None
