"""What holds for every test: the tier (see ``support.tiers``), and markers that follow from a test's folder."""

import os
import signal
from pathlib import Path

import pytest

from support.tiers import load_profile, tier_of

INTEGRATION = Path(__file__).parent / "integration"

TIER = tier_of(os.environ)
load_profile(TIER)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and each process of a test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what lies under ``tests/integration``, and leave the long tests out of the other tiers."""
    for item in items:
        if item.path.is_relative_to(INTEGRATION):
            item.add_marker(pytest.mark.integration)
    if TIER == "long":
        return
    left_out = [item for item in items if item.get_closest_marker("long") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.get_closest_marker("long") is None]


def pytest_report_header() -> str:
    """Say which tier runs."""
    return f"keepwarm tier: {TIER}"
