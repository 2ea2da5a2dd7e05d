"""Programs on hosts can be stopped, killed, frozen, kept from memory and given another clock."""

import signal
import sys
import time

import pytest

from support.hosts.faults.processes import freeze_host, pause
from support.hosts.network import Hosts
from support.hosts.probes import ECHO_PORT, answers, echo, start_echo
from support.programs import lives
from support.waiting import until

PYTHON = [sys.executable, "-IS", "-c"]
MEBIBYTE = 1 << 20
LIMIT_BYTES = 64 * MEBIBYTE
GREEDY = "blocks = []\nfor _ in range({count}): blocks.append(b'x' * (1 << 20))\nprint(len(blocks))"
CHILD_OF_ITS_OWN = "import subprocess, sys, time; print(subprocess.Popen({argv!r}).pid, flush=True); time.sleep(600)"
SLEEPER = [*PYTHON, "import time; time.sleep(600)"]
CLOCKS = (
    "import subprocess, sys, time; print(time.monotonic(), time.time(), flush=True); "
    "subprocess.run([sys.executable, '-IS', '-c', 'import time; print(time.monotonic())'])"
)
TOLERANCE_S = 5.0
"""From reading the clock here to reading it there."""


def test_a_paused_program_is_silent_but_connected(pair: Hosts) -> None:
    """It answers what it was asked meanwhile when it goes on."""
    program = start_echo(pair["b"])
    with pair["a"].connect(pair["b"].address, ECHO_PORT) as connection:
        with pause(program.pid):
            assert not answers(connection)
            assert program.is_running
        assert connection.recv(1) == b"?"


def test_a_frozen_host_stands_still_with_all_its_processes(pair: Hosts) -> None:
    """The others go on."""
    start_echo(pair["a"])
    start_echo(pair["b"])
    with (
        pair["c"].connect(pair["a"].address, ECHO_PORT) as frozen,
        pair["c"].connect(pair["b"].address, ECHO_PORT) as spared,
    ):
        with freeze_host(pair["a"]):
            assert not answers(frozen)
            assert answers(spared, 10)
        assert frozen.recv(1) == b"?"


def test_a_killed_program_resets_its_connections_and_spares_its_children(pair: Hosts) -> None:
    """SIGKILL of one process is no more than that; of its group it is."""
    program = start_echo(pair["b"])
    with pair["a"].connect(pair["b"].address, ECHO_PORT) as connection:
        assert echo(connection) == b"hello"
        program.kill()
        assert program.code == -signal.SIGKILL
        connection.settimeout(10)
        assert connection.recv(1) == b""
    parents = [pair["a"].run([*PYTHON, CHILD_OF_ITS_OWN.format(argv=SLEEPER)]) for _ in range(2)]
    until(lambda: all(parent.out.read_text().endswith("\n") for parent in parents))
    orphan, victim = (int(parent.out.read_text()) for parent in parents)
    parents[0].kill()
    parents[1].kill(group=True)
    until(lambda: not lives(victim))
    assert lives(orphan)


def test_a_program_that_does_not_end_is_an_error_that_quotes_it(pair: Hosts) -> None:
    """And it can be asked to end."""
    program = pair["a"].run([*PYTHON, "import time; print('busy', flush=True); time.sleep(600)"], name="busybody")
    until(lambda: program.out.read_text() != "")
    with pytest.raises(AssertionError, match=r"a\.0\.busybody did not end within 0.01 s.\n(.|\n)*busy"):
        program.wait(0.01)
    program.terminate()
    assert program.wait() == -signal.SIGTERM


def test_a_program_over_its_memory_limit_is_killed_and_counted(pair: Hosts) -> None:
    """By the kernel where it limits groups of processes; else its own allocation fails. Others are spared."""
    group = pair["a"].new_memory_group(LIMIT_BYTES)
    modest = pair["a"].run([*PYTHON, GREEDY.format(count=20)], memory=group)
    assert modest.wait() == 0, modest.said()
    greedy = pair["a"].run([*PYTHON, GREEDY.format(count=200)], memory=group)
    assert greedy.wait() == (-signal.SIGKILL if group.kills else 1)
    assert group.kills_so_far == (1 if group.kills else 0)
    assert group.kills or "MemoryError" in greedy.said()
    unlimited = pair["a"].run([*PYTHON, GREEDY.format(count=200)])
    assert unlimited.wait() == 0, unlimited.said()


def test_a_limit_of_the_host_holds_for_all_its_programs(pair: Hosts) -> None:
    """From when it is set; another host has none."""
    group = pair["a"].limit_memory(LIMIT_BYTES)
    assert pair["a"].run([*PYTHON, GREEDY.format(count=200)]).wait() != 0
    assert group.kills_so_far == (1 if group.kills else 0)
    assert pair["b"].run([*PYTHON, GREEDY.format(count=200)]).wait() == 0


@pytest.mark.parametrize("offset_s", [86_400, -100])
def test_a_host_has_a_clock_of_its_own(pair: Hosts, offset_s: int) -> None:
    """The monotonic one, of children too, until it is set back; the wall clock is the machine's."""
    host = pair["a"]
    host.set_clock(offset_s)
    shifted = host.run([*PYTHON, CLOCKS])
    assert shifted.wait() == 0, shifted.said()
    monotonic, wall, monotonic_of_child = map(float, shifted.out.read_text().split())
    assert abs(monotonic - time.monotonic() - offset_s) < TOLERANCE_S
    assert abs(monotonic_of_child - time.monotonic() - offset_s) < TOLERANCE_S
    assert abs(wall - time.time()) < TOLERANCE_S
    host.set_clock(0)
    restored = host.run([*PYTHON, CLOCKS])
    assert restored.wait() == 0, restored.said()
    assert abs(float(restored.out.read_text().split()[0]) - time.monotonic()) < TOLERANCE_S
