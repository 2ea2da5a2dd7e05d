"""What every storm gets: it must leave no process behind, and its figures are told at the end of the run."""

from collections.abc import Callable

import pytest

from chaos.storming import Weather
from support.cluster_fixtures import no_process_left

__all__ = ["no_process_left", "report_weather"]

_WEATHER = pytest.StashKey[list[Weather]]()


@pytest.fixture
def report_weather(request: pytest.FixtureRequest) -> Callable[[Weather], None]:
    """Keeps the figures of a storm."""
    return request.config.stash.setdefault(_WEATHER, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the figures of all storms."""
    for weather in terminalreporter.config.stash.get(_WEATHER, []):
        terminalreporter.write_line(weather.line())
