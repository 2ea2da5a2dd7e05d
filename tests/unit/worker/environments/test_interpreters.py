"""Finding interpreters: only real, usable ones, by absolute path, and without running anything the second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keepwarm_worker.environments import interpreters
from keepwarm_worker.environments.interpreters import discover
from support.environments import MINOR, own_interpreter, script


@pytest.fixture
def cache_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "interpreters.json"


def counting(path: Path, runs: Path) -> Path:
    """A wrapper around this Python that notes each time it is run."""
    return script(path, f'echo run >> "{runs}"\nexec "{own_interpreter().path}" "$@"')


def test_the_agents_own_interpreter_is_found_first() -> None:
    assert discover()[MINOR] == own_interpreter()


def test_a_virtual_environment_resolves_to_its_base_interpreter(tmp_path: Path) -> None:
    for kind in ("--symlinks", "--copies"):
        subprocess.run(
            [own_interpreter().path, "-m", "venv", "--without-pip", kind, tmp_path / kind], check=True, timeout=60
        )
        assert discover([str(tmp_path / kind / "bin" / "python")]) == {MINOR: own_interpreter()}


def test_explicit_paths_are_the_only_ones_looked_at(tmp_path: Path) -> None:
    assert discover([str(tmp_path / "absent")]) == {}
    assert set(discover([own_interpreter().path])) == {MINOR}


@pytest.mark.parametrize(
    "body",
    [
        "exit 1",
        "echo nonsense",
        "echo '{}'",
        "echo '[]'",
        """echo '{"implementation": "pypy", "version": [3, 11, 0], "path": "/bin/sh"}'""",
    ],
)
def test_a_broken_interpreter_is_skipped(tmp_path: Path, body: str) -> None:
    broken = script(tmp_path / "python3", body)
    assert discover([str(broken), own_interpreter().path]) == {MINOR: own_interpreter()}


def test_a_file_that_cannot_be_run_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "python3").write_text("not executable")
    assert discover([str(tmp_path / "python3")]) == {}
    assert "left out" in caplog.text


@pytest.mark.parametrize(
    ("changes", "usable"),
    [
        ({}, True),
        ({"implementation": "pypy"}, False),
        ({"version": [3, 7, 16]}, False),
        ({"version": [2, 7, 18]}, False),
        ({"release": "candidate"}, False),
        ({"abi": "t"}, False),
        ({"maxsize": 2**31 - 1}, False),
        ({"path": "/nonexistent/python"}, False),
        ({"version": "3.11.7"}, False),
    ],
)
def test_only_a_plain_cpython_of_our_word_size_is_usable(changes: dict[str, object], usable: bool) -> None:
    told = {
        "implementation": "cpython",
        "version": [3, 11, 7],
        "release": "final",
        "abi": "",
        "maxsize": sys.maxsize,
        "path": sys.executable,
    }
    assert (interpreters._parse(json.dumps(told | changes).encode()) is not None) == usable


def test_the_second_start_runs_nothing_and_takes_under_5_ms(tmp_path: Path, cache_file: Path) -> None:
    runs = tmp_path / "runs"
    wrapped = str(counting(tmp_path / "python3", runs))
    first = discover([wrapped], cache_file=cache_file)
    assert first == {MINOR: own_interpreter()}
    assert discover([wrapped], cache_file=cache_file) == first
    assert runs.read_text() == "run\n"
    discover(cache_file=cache_file)
    timings_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        discover(cache_file=cache_file)
        timings_s.append(time.perf_counter() - start_s)
    assert min(timings_s) < 0.005


def test_broken_interpreters_are_remembered_too(tmp_path: Path, cache_file: Path) -> None:
    runs = tmp_path / "runs"
    broken = script(tmp_path / "python3", f'echo run >> "{runs}"; exit 1')
    for _ in range(2):
        assert discover([str(broken)], cache_file=cache_file) == {}
    assert runs.read_text() == "run\n"


def test_a_changed_file_is_asked_again(tmp_path: Path, cache_file: Path) -> None:
    path = script(tmp_path / "python3", "exit 1")
    assert discover([str(path)], cache_file=cache_file) == {}
    counting(path, tmp_path / "runs")
    assert set(discover([str(path)], cache_file=cache_file)) == {MINOR}


def test_an_answer_whose_base_interpreter_is_gone_does_not_hold(tmp_path: Path, cache_file: Path) -> None:
    path = counting(tmp_path / "python3", tmp_path / "runs")
    discover([str(path)], cache_file=cache_file)
    content = json.loads(cache_file.read_text())
    content["interpreters"][str(path)][2][2] = str(tmp_path / "gone")
    cache_file.write_text(json.dumps(content))
    assert discover([str(path)], cache_file=cache_file) == {MINOR: own_interpreter()}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 0}', '{"version": 1, "interpreters": {"x": 1}}', "\0"])
def test_a_damaged_cache_file_is_replaced(cache_file: Path, content: str) -> None:
    cache_file.parent.mkdir()
    cache_file.write_text(content)
    assert set(discover([own_interpreter().path], cache_file=cache_file)) == {MINOR}
    assert json.loads(cache_file.read_text())["version"] == interpreters.CACHE_VERSION
    assert list(cache_file.parent.iterdir()) == [cache_file]


def test_a_cache_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert set(discover([own_interpreter().path], cache_file=tmp_path / "file" / "cache.json")) == {MINOR}


def test_a_slow_interpreter_is_left_out_this_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreters, "PROBE_TIMEOUT_S", 0.05)
    slow = script(tmp_path / "python3", "exec tail -f /dev/null")
    cache_file = tmp_path / "cache.json"
    assert discover([str(slow)], cache_file=cache_file) == {}
    assert str(slow) not in json.loads(cache_file.read_text())["interpreters"]


def test_neither_path_nor_python_variables_have_a_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    counting(tmp_path / "python3", runs)
    counting(tmp_path / "python3.99", runs)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    assert discover()[MINOR] == own_interpreter()
    assert not runs.exists()


def test_a_user_without_a_home_directory_has_interpreters_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that does not know its user."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321_987)
    assert discover()


def test_newer_versions_come_first(tmp_path: Path) -> None:
    for name in ("3.9.18", "3.10.2", "3.10.13", "cpython-3.8"):
        (tmp_path / name).mkdir()
    assert interpreters._newest_first(str(tmp_path)) == ["3.10.13", "3.10.2", "3.9.18", "cpython-3.8"]
    assert interpreters._newest_first(str(tmp_path / "absent")) == []
