"""``keepwarm simulate`` as a user runs it: files in, tables, JSON and charts out, and what it says when it cannot."""

import contextlib
import gzip
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.homes import HOME_VARIABLE
from support.programs import Ended, environment_of, run_command
from support.waiting import until

HOURLY = "time,function,duration,memory\n" + "".join(f"{at},report,2,512MiB\n" for at in range(0, 3_600, 120))
FREQUENT = "1,thumbnail,0.1,256MiB\n" + "".join(f"{20 + 1.7 * at:.1f},thumbnail,0.1,256MiB\n" for at in range(1_999))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "calls.csv"
    path.write_text(HOURLY + FREQUENT, encoding="utf-8")
    return path


def simulate(home: Path, *arguments: str | Path) -> Ended:
    return run_command(home, "simulate", *map(str, arguments))


def test_a_table_with_a_row_for_each_term(tmp_path: Path, trace: Path) -> None:
    """A call every two minutes: cold with a term of one, warm with one of five."""
    ended = simulate(tmp_path, trace, "--keep-alive", "60", "--keep-alive", "300")
    assert (ended.code, ended.err) == (0, "")
    title, minute, five_minutes = ended.out.splitlines()
    assert title.split()[:3] == ["keep_alive", "cold", "starts"]
    assert minute.split()[:4] == ["60", "s", "31", "1.53"]
    assert five_minutes.split()[:4] == ["300", "s", "2", "0.10"]


def test_nothing_is_started_and_nothing_is_written(tmp_path: Path, trace: Path) -> None:
    """No cluster, no home."""
    home = tmp_path / "home"
    home.mkdir()
    assert run_command(home, "simulate", str(trace)).code == 0
    assert list(home.iterdir()) == []


def test_json_has_the_same_figures_for_programs(tmp_path: Path, trace: Path) -> None:
    """One function's own term, a term without end, and a small cluster."""
    common = ["--json", "--keep-alive", "60", "--keep-alive", "inf", "--cold", "1", "--build", "0"]
    ended = simulate(tmp_path, trace, *common, "--keep-alive-of", "report=300", "--nodes", "2", "--cpu", "2")
    rows = json.loads(ended.out)["rows"]
    assert [row["keep_alive_s"] for row in rows] == [60, None]
    assert [row["cold_starts"] for row in rows] == [2, 2]
    assert [row["invocations"] for row in rows] == [2_030, 2_030]
    assert rows[0]["wait_p99_ms"] <= 1_000
    assert rows[1]["idle_gib_s"] > rows[0]["idle_gib_s"] > 0


def test_too_little_memory_shows_as_broken_promises(tmp_path: Path, trace: Path) -> None:
    """A node with room for one of two functions."""
    ended = simulate(tmp_path, trace, "--json", "--keep-alive", "300", "--memory", "600MiB")
    [row] = json.loads(ended.out)["rows"]
    assert row["evictions"] > 5
    assert row["failed"] == 0


def test_minute_counts_are_read_from_a_directory(tmp_path: Path) -> None:
    """In the form of the Azure trace, compressed; the same seed gives the same answer."""
    files = {
        "inv.csv": "HashFunction,HashOwner,HashApp,1,2,3,4\nf,o,f,3,0,2,1\n",
        "run.csv": "HashOwner,HashApp,HashFunction,Average\no,f,f,20\n",
        "mem.csv": "HashOwner,HashApp,AverageAllocatedMb\no,f,128\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    first, second = (simulate(tmp_path, tmp_path, "--json", "--seed", "7") for _ in range(2))
    assert first == second
    assert [row["invocations"] for row in json.loads(first.out)["rows"]] == [6, 6, 6]


@pytest.mark.parametrize(("name", "begins"), [("chart.svg", b"<?xml"), ("chart.PNG", b"\x89PNG\r\n\x1a\n")])
def test_a_chart_is_drawn_in_the_format_of_its_name(tmp_path: Path, trace: Path, name: str, begins: bytes) -> None:
    """The table is printed as well."""
    ended = simulate(tmp_path, trace, "--chart", tmp_path / name)
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.splitlines()) == 4
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_chart_needs_matplotlib_and_says_so_before_the_work(tmp_path: Path, trace: Path) -> None:
    """The extra is named; there is no table, because nothing was replayed."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "matplotlib.py").write_text("raise ModuleNotFoundError('No module named matplotlib', name='matplotlib')")
    arguments = map(str, ("simulate", trace, "--chart", tmp_path / "chart.svg"))
    ended = run_command(tmp_path, *arguments, variables={"PYTHONPATH": str(hidden)})
    assert (ended.code, ended.out) == (2, "")
    assert "pip install 'keepwarm[plots]'" in ended.err


def test_a_chart_that_cannot_be_written_does_not_take_the_table_with_it(tmp_path: Path, trace: Path) -> None:
    """Work that is done is shown."""
    ended = simulate(tmp_path, trace, "--chart", tmp_path / "none" / "chart.svg")
    assert ended.code == 2
    assert len(ended.out.splitlines()) == 4
    assert "cannot be written: No such file or directory." in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.csv"], "there is no such file or directory"),
        (["bad.csv"], "bad.csv:2: "),
        (["."], "neither run.csv nor run.csv.gz"),
        (["good.csv", "--keep-alive-of", "g=5"], "the trace has no function of that name"),
        (["good.csv", "--keep-alive", "-1"], "argument --keep-alive: '-1' is not a number from 0 up"),
        (["good.csv", "--keep-alive", "nan"], "is not a number from 0 up"),
        (["good.csv", "--keep-alive-of", "5"], "is not FUNCTION=SECONDS"),
        (["good.csv", "--nodes", "0"], "is not a finite number from 1 up"),
        (["good.csv", "--nodes", "1.5"], "is not a whole number"),
        (["good.csv", "--memory", "lots"], "is not a size"),
        (["good.csv", "--chart", "chart.gif"], "ends neither in .svg nor in .png"),
        ([], "the following arguments are required: trace"),
    ],
)
def test_mistakes_get_a_sentence_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    """Never a traceback."""
    (tmp_path / "good.csv").write_text("0,f,1\n", encoding="utf-8")
    (tmp_path / "bad.csv").write_text("0,f,1\n0,f,long\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ended = simulate(tmp_path, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_help_names_the_command_as_users_type_it(tmp_path: Path) -> None:
    """Not the module."""
    ended = simulate(tmp_path, "--help")
    assert ended.code == 0
    assert ended.out.startswith("usage: keepwarm simulate ")


def endless(tmp_path: Path) -> Path:
    """A trace that takes far longer than a test."""
    path = tmp_path / "long.csv"
    path.write_text("".join(f"{at},f{at % 50},0.1\n" for at in range(400_000)), encoding="utf-8")
    return path


def test_an_interrupt_shows_the_rows_that_are_done(tmp_path: Path, trace: Path) -> None:
    """On a terminal there is a bar, so the second row is known to be under way; status 130, no traceback."""
    leader, follower = pty.openpty()
    home = {**environment_of(tmp_path), HOME_VARIABLE: str(tmp_path), "TERM": "xterm", "COLUMNS": "100"}
    terms = [word for term in range(60, 260) for word in ("--keep-alive", str(term))]
    command = [sys.executable, "-m", "keepwarm", "simulate", str(trace), *terms]
    process = subprocess.Popen(command, env=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    os.set_blocking(leader, False)
    shown = b""

    def the_third_row_is_under_way() -> bool:
        nonlocal shown
        with contextlib.suppress(OSError):
            shown += os.read(leader, 65536)
        return b"keep_alive 62 s" in shown or process.poll() is not None

    try:
        until(the_third_row_is_under_way, 60)
        process.send_signal(signal.SIGINT)
        out = process.communicate(timeout=60)[0].decode()
        with contextlib.suppress(OSError):
            shown += os.read(leader, 65536)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert process.returncode == 130
    assert b"interrupted" in shown
    assert b"Traceback" not in shown
    assert 3 <= len(out.splitlines()) < 201


def test_an_interrupt_without_a_row_says_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """Whether it comes while the trace is read or while it is replayed."""
    command = [sys.executable, "-m", "keepwarm", "simulate", str(endless(tmp_path))]
    process = subprocess.Popen(
        command,
        env=environment_of(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: b"keepwarm_scheduler.simulate" in Path(f"/proc/{process.pid}/cmdline").read_bytes())
    fd = Path(f"/proc/{process.pid}/fd")
    until(lambda: any(each.name for each in fd.iterdir() if os.path.realpath(each).endswith("long.csv")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
