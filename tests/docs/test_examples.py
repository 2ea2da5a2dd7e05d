"""Every code block of the README and of docs/ runs.

The Python blocks of a page are one program, run as a user would run it: as a file, with plain ``python``, on a local
cluster of the page's own. Web addresses are replaced by a page served here. ``console`` blocks run after the program,
command by command; ``sh`` blocks name make targets and commands, which have to exist.
"""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from keepwarm.cli.commands import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_BLOCK = re.compile(r"^```(\w*) ?\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""Blocks that name a machine run in ``test_machines``."""
_ADDRESS = re.compile(r"https://[\w./]*example\.com")
KNOWN_LANGUAGES = {"python", "console", "sh", "mermaid", ""}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return [text for found, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def names(pages: list[Path]) -> list[str]:
    """What pytest calls the pages."""
    return [str(page.relative_to(ROOT)) for page in pages]


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"an example page"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        pass


@pytest.fixture
def page_url() -> Iterator[str]:
    """A page served on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


WITH_PYTHON = [page for page in PAGES if blocks(page, "python") and "```console " not in page.read_text("utf-8")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=names(WITH_PYTHON))
def test_the_python_of_a_page_runs(page: Path, home: Path, tmp_path: Path, page_url: str) -> None:
    """One program per page, then its console commands."""
    program = tmp_path / "program.py"
    program.write_text(_ADDRESS.sub(page_url, "\n".join(blocks(page, "python"))), encoding="utf-8")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    for block in blocks(page, "console"):
        for line in block.splitlines():
            command = line.removeprefix("$ ")
            done = subprocess.run(
                command, shell=True, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_shell_blocks_name_things_that_exist(page: Path) -> None:
    """A make target has to be in the Makefile, a keepwarm command in the command line."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {group.name for group in app.registered_groups if group.name}
    for block in blocks(page, "sh"):
        for program, word in re.findall(r"^(make|keepwarm) ([a-z-]+)", block, re.MULTILINE):
            assert word in (targets if program == "make" else commands), f"{program} {word}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_blocks_are_of_a_known_kind_and_links_lead_somewhere(page: Path) -> None:
    """A block in another language would not be tested; a link to a missing page helps nobody."""
    text = page.read_text(encoding="utf-8")
    assert {language for language, _ in _ANY_BLOCK.findall(text)} <= KNOWN_LANGUAGES
    assert text.count("```") == 2 * len(_ANY_BLOCK.findall(text)), "a block that nobody reads"
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
