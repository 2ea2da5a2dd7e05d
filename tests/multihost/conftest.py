"""What every test on several hosts gets: it is skipped where there can be none, and must leave no process behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster_fixtures import no_process_left
from support.hosts.network import Hosts
from support.hosts.requirements import why_not

__all__ = ["no_process_left", "pair"]

FOLDER = Path(__file__).parent


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
