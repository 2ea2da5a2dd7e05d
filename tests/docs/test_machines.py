"""Pages about several machines run too: each machine is a home of its own here, its commands are real processes.

A ``console`` block that names a machine is typed there. ``TOKEN`` is what the last ``token new`` printed; the port is a
free one; daemons stay in the background until the page is over; the page's Python is ``five.py`` and the like.
"""

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.homes import temporary_home
from support.programs import environment_of
from support.secured import Daemon, free_port

ROOT = Path(__file__).parents[2]
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if re.search(r"^```console \w", page.read_text(), re.M)]
_BLOCK = re.compile(r"^```(python|console) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DAEMONS = {"scheduler": "Scheduler ready", "agent": "welcomed by the scheduler"}
_HEAD = "head:7437"


class Machines:
    """The machines of one page, made as they are named."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._homes: dict[str, Path] = {}
        self._exports: dict[str, dict[str, str]] = {}
        self._head = f"127.0.0.1:{free_port()}"
        self._token = ""

    def home(self, machine: str) -> Path:
        if machine not in self._homes:
            self._homes[machine] = self._stack.enter_context(temporary_home())
        return self._homes[machine]

    def type(self, machine: str, line: str) -> None:
        """One command, as a person would type it there."""
        home = self.home(machine)
        line = line.replace("TOKEN", self._token).replace(_HEAD, self._head).replace("0.0.0.0:7437", self._head)
        words = shlex.split(line)
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self._exports.setdefault(machine, {})[name] = value
        elif words[:1] == ["keepwarm"] and words[1] in _DAEMONS:
            daemon = Daemon(home, f"{machine}-{words[1]}", *words[1:])
            self._stack.callback(daemon.end)
            daemon.until_says(_DAEMONS[words[1]])
        else:
            self._run(machine, words)

    def _run(self, machine: str, words: list[str]) -> None:
        environment = environment_of(self.home(machine), self._exports.get(machine))
        program = [sys.executable, "-m", "keepwarm"] if words[0] == "keepwarm" else [sys.executable]
        done = subprocess.run(
            [*program, *words[1:]],
            env=environment,
            cwd=self.home(machine),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{machine}$ {shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        if words[1:3] == ["token", "new"]:
            self._token = done.stdout.strip()


@pytest.mark.skipif(os.name != "posix", reason="agents need Linux")
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_about_machines_works_as_it_is_written(page: Path, no_process_left: None) -> None:
    with ExitStack() as stack:
        machines = Machines(stack)
        text = page.read_text(encoding="utf-8")
        programs = re.findall(r"`(\w+\.py)`", text)
        for language, machine, block in _BLOCK.findall(text):
            if language == "python":
                (machines.home("laptop") / programs.pop(0)).write_text(block)
                continue
            assert machine, f"on which machine is this typed?\n{block}"
            for line in block.splitlines():
                machines.type(machine, line.removeprefix("$ "))
