"""The systemd units: what they run exists, and a scheduler that is started again as they say is back in two seconds.

There is no systemd to ask here; a loop that reads the unit does what it says about starting again.
"""

import configparser
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from support.programs import run_command
from support.secured import SecuredCluster, secured_cluster

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
BACK_S = 2.0

ADD = """
@isolated(keep_alive=60)
def add(a, b):
    return a + b
print(add(1, 2))
"""


def read(unit: Path) -> configparser.ConfigParser:
    """A unit's sections; no setting of ours is written twice in one."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(unit.read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_what_a_unit_runs_is_a_command_that_exists(unit: Path, home: Path) -> None:
    program, command, *options = shlex.split(read(unit)["Service"]["ExecStart"])
    assert Path(program).name == "keepwarm"
    usage = run_command(home, command, "--help")
    assert usage.code == 0, usage
    for option in options:
        assert not option.startswith("--") or option in usage.out, option


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) / (1000 if unit == "ms" else 1)


def test_an_aborted_scheduler_is_back_in_two_seconds(no_process_left: None) -> None:
    service = read(UNITS[[unit.stem for unit in UNITS].index("keepwarm-scheduler")])["Service"]
    assert service["Restart"] == "always"
    with secured_cluster() as cluster:
        cluster.agent("near")
        user = cluster.user()
        assert cluster.run(user, ADD).code == 0
        took_s = [restarted_s(cluster, seconds(service["RestartSec"])) for _ in range(3)]
        assert min(took_s) < BACK_S, took_s  # the best of three: other work on the machine is not its doing
        assert cluster.run(user, ADD).code == 0


def restarted_s(cluster: SecuredCluster, pause_s: float) -> float:
    """How long from an abort until the scheduler serves again."""
    begun_s = time.monotonic()
    cluster.scheduler.process.send_signal(signal.SIGABRT)
    cluster.scheduler.until_ended()
    time.sleep(pause_s)  # as the unit says
    cluster.scheduler.log.unlink()
    cluster.start_scheduler()
    return time.monotonic() - begun_s
