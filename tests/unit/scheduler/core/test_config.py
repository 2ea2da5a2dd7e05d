"""The core's settings: frozen, and in proportion to one another."""

import pytest

from keepwarm_scheduler.core.config import CoreConfig


def test_they_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        CoreConfig().tick_ns = 1  # type: ignore[misc]


def test_their_defaults_fit_together() -> None:
    core = CoreConfig()
    assert core.suspect_beats * core.beat_interval_ns < core.node_lost_ns < core.node_forgotten_ns
    assert core.beat_interval_ns < core.recovery_grace_ns < core.session_lost_ns
    assert core.tick_ns < core.patience_ns < core.infeasible_ns < core.no_nodes_ns
    assert core.reconnect_grace_ns < core.node_lost_ns
