"""Whole programs with a client: how they end, and what a fork does."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tiny_scheduler import TinyScheduler
from support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[TinyScheduler]:
    with TinyScheduler(tmp_path) as running:
        yield running
    assert running.model.violations == []


def hold(scheduler: TinyScheduler) -> None:
    scheduler.model.answer = lambda submit, arguments: None


def run_program(scheduler: TinyScheduler, text: str) -> subprocess.CompletedProcess[str]:
    program = "from keepwarm import isolated\n@isolated\ndef echo(*args):\n    return args\n" + textwrap.dedent(text)
    environment = {**os.environ, "KEEPWARM_ADDRESS": scheduler.address}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_program_that_ends_with_calls_outstanding_says_how_many(scheduler: TinyScheduler) -> None:
    hold(scheduler)
    ended = run_program(
        scheduler,
        """
        import time
        futures = [echo.submit(n) for n in range(3)]
        try:
            futures[0].result(0.5)
        except TimeoutError:
            pass
        """,
    )
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == "keepwarm: 3 calls were unfinished when the program ended, and cancelled\n"
    until(lambda: scheduler.model.goodbyes == ["exit"])


def test_a_program_that_ends_quietly_says_nothing(scheduler: TinyScheduler) -> None:
    ended = run_program(scheduler, "print(echo(1))")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "((1,), {})\n", "")
    until(lambda: scheduler.model.goodbyes == ["exit"])


def test_a_forked_child_has_a_client_of_its_own(scheduler: TinyScheduler) -> None:
    ended = run_program(
        scheduler,
        """
        import os, sys
        from keepwarm.errors import ClusterUnreachable
        held = echo.submit("parent")
        assert echo("before") == (("before",), {})
        child = os.fork()
        if child == 0:
            ok = echo("child") == (("child",), {})
            code = 0 if ok else 3
            sys.exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert echo("after") == (("after",), {})
        assert held.result(5) == (("parent",), {})
        pid = os.fork()
        if pid == 0:
            pending = held
            os._exit(0)
        os.waitpid(pid, 0)
        assert echo("last") == (("last",), {})
        print("child ended with", status)
        """,
    )
    assert (ended.stdout, ended.stderr) == ("child ended with 0\n", "")
    until(lambda: scheduler.model.goodbyes == ["exit", "exit"])


def test_a_parents_future_is_refused_in_the_child(scheduler: TinyScheduler) -> None:
    hold(scheduler)
    ended = run_program(
        scheduler,
        """
        import os
        from keepwarm.errors import ClusterUnreachable
        held = echo.submit(1)
        pid = os.fork()
        if pid == 0:
            try:
                held.result(5)
            except ClusterUnreachable as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        """,
    )
    assert "belongs to the process that forked this one" in ended.stdout
