"""What a node says of itself, read from this machine and from made-up control groups."""

import os
from pathlib import Path

import psutil
import pytest

from keepwarm_worker import detection
from support.shortage import without_descriptors


def _files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "permille"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1500),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 500),
        ({"cpu.max": "100 0\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, None),
        ({"cpu.max": "\n"}, None),
    ],
)
def test_cpu_limits_of_both_versions_of_control_groups(
    tmp_path: Path, files: dict[str, str], permille: int | None
) -> None:
    assert detection.cgroup_cpu_permille(_files(tmp_path, files)) == permille


@pytest.mark.parametrize(
    ("files", "size"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "1048576\n"}, 1048576),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory/memory.limit_in_bytes": "2097152\n"}, 2097152),
    ],
)
def test_memory_limits_of_both_versions_of_control_groups(
    tmp_path: Path, files: dict[str, str], size: int | None
) -> None:
    assert detection.cgroup_memory_bytes(_files(tmp_path, files)) == size


def test_a_limit_lowers_what_is_offered_and_never_raises_it(tmp_path: Path) -> None:
    _files(tmp_path, {"cpu.max": "10000 100000", "memory.max": "1000"})
    assert detection.cpu_permille(tmp_path) == 100
    assert detection.memory_bytes(tmp_path) == 1000
    _files(tmp_path, {"cpu.max": "99900000 100000", "memory.max": str(1 << 59)})
    assert detection.cpu_permille(tmp_path) == len(os.sched_getaffinity(0)) * 1000
    assert detection.memory_bytes(tmp_path) == psutil.virtual_memory().total


def test_resources_are_what_was_configured_else_what_is_here() -> None:
    assert [tuple(each) for each in detection.resources(500, 7)] == [("cpu", 500), ("memory", 7), ("gpu", 0)]
    found = {each.name: each.amount for each in detection.resources(None, None)}
    assert found["cpu"] > 0
    assert found["memory"] > 0


def test_configured_labels_win_over_the_nodes_own() -> None:
    labels = {each.name: each.value for each in detection.labels("n1", [("arch", "mine"), ("zone", "a")])}
    assert (labels["node"], labels["arch"], labels["zone"]) == ("n1", "mine", "a")


def test_the_platform_names_system_architecture_and_library() -> None:
    system, _architecture, library = detection.platform_name().split("-", 2)
    assert system == "linux"
    assert library in ("glibc", "musl")


def test_a_load_is_measured(tmp_path: Path) -> None:
    load = detection.LoadMeter(tmp_path).measure()
    assert 0 <= load.cpu_permille <= 1000
    assert load.memory_free_bytes > 0
    assert load.disk_free_bytes > 0


def test_what_cannot_be_measured_is_told_as_it_was(tmp_path: Path) -> None:
    meter = detection.LoadMeter(tmp_path)
    measured = meter.measure()
    with without_descriptors():
        assert meter.measure() == measured


def test_the_memory_of_a_process_that_is_gone_is_nothing() -> None:
    assert detection.process_memory_bytes(os.getpid()) > 1_000_000
    assert detection.process_memory_bytes(2**22 + 1) == 0
