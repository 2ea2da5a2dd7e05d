"""The whole cluster under thousands of fault schedules: every promise holds, and the schedules deserve their name.

What each scenario is made of is in ``support.simulation.faults``; what is promised, in ``support.simulation.checkers``.
``PYTHONPATH=tests python -m support.simulation --campaign`` prints the figures.
"""

import pytest

from support.simulation.campaign import Report
from support.simulation.faults import SCENARIOS
from support.simulation.rows import TABLES, Row

pytestmark = pytest.mark.timeout(3600)  # the first test that needs it runs the campaign

SCHEDULES_MIN = 5_000
EVENTS_MIN = 5_000_000
STRIKES_MIN = 50
"""Per kind of fault, over all scenarios."""

LENT_MIN, LENT_SHARE = 20_000, 0.1
"""So many calls are given to a process directly at least, and such a part of all calls where anything is lent."""

MET_MIN = 5

AMID_LOANS = (
    "lent call dies", "lent call prints", "lent call is interrupted", "lent call is given back", "loan is wanted",
    "loan is wanted when idle", "loan is refused", "client does not take a process in",
    "lent process waits for its client to read",
    "give up loans while lent", "pause client while lent", "client dies while lent", "client restarts while lent",
    "break client while lent", "partition client while lent", "kill busy process while lent", "lose runner while lent",
    "crash scheduler while lent", "crash agent while lent", "stop agent while lent", "partition agent while lent",
    "pause agent while lent",
)  # fmt: skip
"""What is to happen while something is lent."""

_FAILURES_SHOWN = 3

NEVER_USED: dict[Row, str] = {
    ("instance (scheduler)", "starting", "stopping"): "the scheduler never gives up an instance that is starting",
    ("instance (scheduler)", "stopping", "busy"): "no code makes this change: a refused stop leads to idle",
    ("instance (scheduler)", "stopping", "idle"): (
        "the agent refuses a stop only if it knows of a later call than its scheduler, which takes an error in one of "
        "them: the unit tests say such messages by hand"
    ),
    ("instance (agent)", "busy", "ended"): "a call that dies with its process is settled first, which leaves it idle",
}
"""Rows of transition tables that no schedule can use, and why."""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_promises_hold(scenario: str, campaign: Report) -> None:
    """In every schedule of a scenario. A failure names its seed and how to replay it."""
    failures = campaign.scenarios[scenario].failures
    shown = "\n".join(map(str, failures[:_FAILURES_SHOWN]))
    assert not failures, f"{len(failures)} of {campaign.scenarios[scenario].schedules} schedules fail\n{shown}"


def test_there_are_thousands_of_schedules_and_millions_of_events(campaign: Report) -> None:
    """An event is a message that a core was given or a timer that woke one."""
    assert campaign.schedules >= SCHEDULES_MIN
    assert campaign.events >= EVENTS_MIN


def test_every_fault_of_every_scenario_strikes(campaign: Report) -> None:
    """A fault that finds nobody to harm does not count."""
    idle = [
        f"{name}: {kind}"
        for name, scenario in SCENARIOS.items()
        for kind in scenario.fault_kinds
        if not campaign.scenarios[name].faults[kind]
    ]
    assert not idle
    assert {kind: count for kind, count in campaign.faults.items() if count < STRIKES_MIN} == {}


def test_every_row_of_every_transition_table_is_used(campaign: Report) -> None:
    """Else the schedules leave a way that is never gone. An exception that is no longer one fails too."""
    every = {(table, was.value, to.value) for table, rows in TABLES.items() for was, to in rows}
    assert sorted(every - set(campaign.rows) - set(NEVER_USED)) == []
    assert sorted(row for row in NEVER_USED if campaign.rows[row] or row not in every) == []


@pytest.mark.parametrize("kind", ["call is sent ahead", "call is given back", "call follows without a word"])
def test_calls_are_sent_ahead_given_back_and_follow_one_another(kind: str, campaign: Report) -> None:
    """In every second run they may be, whatever else happens in it."""
    assert campaign.faults[kind] >= STRIKES_MIN


def test_thousands_of_calls_are_lent(campaign: Report) -> None:
    """A good part of those that are made in bursts where anything is lent."""
    assert campaign.met["call is lent"] >= LENT_MIN
    assert campaign.met["call is lent"] >= LENT_SHARE * campaign.met["call where anything is lent"]


@pytest.mark.parametrize("kind", AMID_LOANS)
def test_everything_happens_amid_loans(kind: str, campaign: Report) -> None:
    """Whatever may end a loan, or what runs under it, does so in some schedule."""
    assert campaign.met[kind] >= MET_MIN
