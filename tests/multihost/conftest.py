"""What every test on several hosts gets: it is skipped where there can be none, and must leave no process behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster_fixtures import no_process_left
from support.hosts.network import Hosts
from support.hosts.recoveries import FILE_VARIABLE, Measured, Recovery, keep, table
from support.hosts.requirements import why_not

__all__ = ["measured", "no_process_left", "pair"]

FOLDER = Path(__file__).parent

_RECOVERIES = pytest.StashKey[list[Recovery]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, where this machine grants no hosts."""
    here = [item for item in items if item.path.is_relative_to(FOLDER)]
    if here and (reason := why_not()):
        for item in here:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def pair(no_process_left: None) -> Iterator[Hosts]:
    """Two hosts, ``a`` and ``b``, and a third, ``c``, for what is to go on undisturbed."""
    with Hosts("a", "b", "c") as hosts:
        yield hosts


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Notes a measured recovery, and fails the test if it took longer than is allowed."""
    rows = request.config.stash.setdefault(_RECOVERIES, [])

    def note(recovery: Recovery) -> None:
        rows.append(recovery)
        assert 0 <= recovery.measured_s <= recovery.allowed_s, recovery

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the measured recoveries, and keep them if that was asked for."""
    rows = terminalreporter.config.stash.get(_RECOVERIES, [])
    if rows:
        terminalreporter.section("recoveries")
        for line in table(rows):
            terminalreporter.write_line(line)
        if file := os.environ.get(FILE_VARIABLE):
            keep(Path(file), rows)
