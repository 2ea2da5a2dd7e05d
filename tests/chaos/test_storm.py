"""Storms on real clusters: whatever dies, stands still or is cut off, no call is lost, answered twice or stuck.

``KEEPWARM_STORM_SEED`` chooses another storm of the same size.
"""

import faulthandler
import os
from collections.abc import Callable

import pytest

from chaos.storm import STORMS
from chaos.storming import Weather, carry_out
from support.hosts.requirements import why_not

SEED = int(os.environ.get("KEEPWARM_STORM_SEED", "1"))
EXECUTIONS_MAX = 1.2

STORM_S = {"short": 240, "long": 8 * 3600}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("short", marks=pytest.mark.timeout(STORM_S["short"])),
        pytest.param("long", marks=[pytest.mark.long, pytest.mark.timeout(STORM_S["long"])]),
    ],
)
def test_no_call_is_lost_answered_twice_or_stuck(name: str, report_weather: Callable[[Weather], None]) -> None:
    """And none runs again that no fault has hit."""
    if reason := why_not():
        pytest.skip(reason)
    faulthandler.cancel_dump_traceback_later()  # this takes minutes, and is not stuck
    weather = carry_out(STORMS[name], SEED)
    report_weather(weather)
    assert weather.wrong == [], "\n".join(weather.wrong)
    assert set(weather.tally) == {"returned"}, weather
    assert weather.executions_per_call <= EXECUTIONS_MAX
