"""The campaign: every scenario's seeds, run once over all processors for all tests that look at it."""

import faulthandler
import os

import pytest

from support.simulation.campaign import Report, run_campaign, seeds_of
from support.simulation.faults import SCENARIOS
from support.tiers import tier_of

_REPORT = pytest.StashKey[Report]()


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> Report:
    """What came of the seeds of this tier: of all scenarios, or of those that the chosen tests name."""
    faulthandler.cancel_dump_traceback_later()  # this takes minutes, and is not stuck
    seeds = seeds_of(tier_of(os.environ), _wanted(request.session.items))
    report = request.config.stash[_REPORT] = run_campaign(seeds)
    return report


def _wanted(items: list[pytest.Item]) -> list[str]:
    """The scenarios that the tests which use the campaign are about."""
    wanted: dict[str, None] = {}
    for item in items:
        if isinstance(item, pytest.Function) and "campaign" in item.fixturenames:
            named = item.callspec.params.get("scenario") if hasattr(item, "callspec") else None
            wanted.update(dict.fromkeys(SCENARIOS if named is None else [str(named)]))
    return [name for name in SCENARIOS if name in wanted]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was simulated."""
    report = terminalreporter.config.stash.get(_REPORT, None)
    if report is not None:
        terminalreporter.write_line(report.line())
