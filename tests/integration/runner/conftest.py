"""Instances under every supported Python that is installed, driven over their sockets as an agent drives them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keepwarm_worker.runner_files import install_runner
from support.instances import Instance, Pickles, Start, interpreter, start_instance
from support.lending_runner import Lender

PYTHONS = ("own", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed runner."""
    return install_runner(tmp_path_factory.mktemp("runner"))


@pytest.fixture(scope="session")
def pickles_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Pickles]:
    """The script's functions as pickled by an interpreter; made once each."""
    scratch = tmp_path_factory.mktemp("cloudpickle")
    made: dict[Path, Pickles] = {}
    return lambda python: made.get(python) or made.setdefault(python, Pickles(python, scratch))


def _starter(python: Path, runner: Path, tmp_path: Path, pickles: Pickles) -> Iterator[Start]:
    instances: list[Instance] = []

    def start(**variables: str) -> Instance:
        instance = start_instance(python, runner, tmp_path, pickles, variables)
        instances.append(instance)
        instance.hello()
        return instance

    yield start
    for instance in instances:
        instance.close()


@pytest.fixture(params=PYTHONS)
def start(
    request: pytest.FixtureRequest,
    no_process_left: None,
    runner: Path,
    tmp_path: Path,
    pickles_of: Callable[[Path], Pickles],
) -> Iterator[Start]:
    """Starts instances under one interpreter after another."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} is installed here")
    yield from _starter(python, runner, tmp_path, pickles_of(python))


@pytest.fixture
def start_own(
    no_process_left: None, runner: Path, tmp_path: Path, pickles_of: Callable[[Path], Pickles]
) -> Iterator[Start]:
    """Starts instances under the tests' own interpreter only, for what does not depend on it."""
    python = interpreter("own")
    assert python is not None
    yield from _starter(python, runner, tmp_path, pickles_of(python))


@pytest.fixture
def lender() -> Iterator[Lender]:
    """A client that processes may be lent to."""
    made = Lender()
    yield made
    made.close()
