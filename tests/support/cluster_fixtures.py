"""Fixtures for tests that start clusters: a home of its own, and a check that no process is left behind.

A ``conftest.py`` imports them by name.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.homes import HOME_VARIABLE, children, leftovers, temporary_home

__all__ = ["home", "no_process_left", "shared_home"]


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail a test after which a child process of this one is still there, running or not collected."""
    before = children()
    yield
    left = leftovers(before)
    if left:
        pytest.fail("the test left processes behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def home(no_process_left: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new, short ``KEEPWARM_HOME``, set for this process too; whatever cluster was started in it is stopped after."""
    with temporary_home() as path:
        monkeypatch.setenv(HOME_VARIABLE, str(path))
        yield path


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Path]:
    """One for all tests of a file, which only the programs that they start are told of."""
    with temporary_home() as path:
        yield path
