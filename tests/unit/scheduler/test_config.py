"""Settings: sizes and places."""

from pathlib import Path

import pytest

from keepwarm_scheduler.config import CoreConfig, SchedulerConfig, default_bind, default_state, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("12B", 12),
        ("2KiB", 2048),
        ("2kib", 2048),
        ("1.5MiB", 3 << 19),
        ("1GB", 10**9),
        ("3 MB", 3 * 10**6),
        (" 4GiB ", 4 << 30),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "12 parsecs", "-1MiB", "0", "1TiBB", "nan", "inf", "1e400GiB", "0.1B"])
def test_what_is_no_size_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_the_defaults_follow_the_home_that_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEEPWARM_HOME", str(tmp_path / "home"))
    assert default_bind() == f"ipc://{tmp_path}/home/cluster/scheduler.sock"
    assert default_state() == tmp_path / "home" / "cluster" / "scheduler"
    monkeypatch.setenv("KEEPWARM_HOME", "")
    assert default_state() == Path.home() / ".keepwarm" / "cluster" / "scheduler"


def test_settings_cannot_be_changed_and_fit_together() -> None:
    config = SchedulerConfig(("ipc:///s",), Path("/state"))
    with pytest.raises(AttributeError):
        config.core.tick_ns = 1  # type: ignore[misc]
    core = CoreConfig()
    assert core.suspect_beats * core.beat_interval_ns < core.node_lost_ns
    assert core.tick_ns < core.patience_ns
