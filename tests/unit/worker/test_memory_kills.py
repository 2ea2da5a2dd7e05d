"""Where the kernel's counts are found, in made-up control groups, and what they tell of real processes' deaths."""

from pathlib import Path

import pytest

from keepwarm_worker.memory_kills import KillCounter, MemoryKills, find_counter

V1, V2 = "9:name=systemd:/\n4:memory:{}\n0::/\n", "0::{}\n"


def _machine(folder: Path, groups: str, files: dict[str, str]) -> KillCounter:
    """What is found where ``/proc/self/cgroup`` says this and these control groups are there."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    (folder / "proc/vmstat").write_text("pgfault 12\noom_kill 1000\n")
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text)
    return find_counter(folder / "proc", folder / "cgroup")


@pytest.mark.parametrize(
    ("groups", "files", "count"),
    [
        (V2.format("/a/b"), {"a/b/memory.events": "low 0\noom 3\noom_kill 2\n", "a/memory.events": "oom_kill 9\n"}, 2),
        (V2.format("/a/b"), {"a/b/cpu.stat": "", "a/memory.events": "oom_kill 9\n"}, 9),
        (V2.format("/"), {"memory.events": "oom_kill 4\noom_group_kill 0\n"}, 4),
        (V2.format("/"), {"cpu.stat": ""}, 1000),
        (V2.format("/../a"), {"memory.events": "oom_kill 4\n"}, 1000),
        (V2.format("/docker/c"), {"memory.events": "oom_kill 5\n"}, 5),
        (V1.format("/a"), {"memory/a/memory.oom_control": "under_oom 0\noom_kill 7\n"}, 7),
        (V1.format("/docker/c/a"), {"memory/a/memory.oom_control": "oom_kill 8\n"}, 8),
        (V1.format("/a"), {"memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, 1000),
        ("", {}, 1000),
    ],
)
def test_the_narrowest_group_that_counts_is_asked(
    tmp_path: Path, groups: str, files: dict[str, str], count: int
) -> None:
    """Else the groups above it, else the machine: of version 1 and 2, in a container and outside of one."""
    assert _machine(tmp_path, groups, files).read() == count


def test_a_machine_that_counts_nothing_explains_nothing(tmp_path: Path) -> None:
    counter = find_counter(tmp_path, tmp_path)
    assert counter.read() is None
    kills = MemoryKills(counter)
    kills.began(1)
    assert kills.evidence(1, []) == ""


def test_a_death_is_explained_by_a_rise_and_names_the_group(tmp_path: Path) -> None:
    counter = _machine(tmp_path, V2.format("/a"), {"a/memory.events": "oom_kill 3\n"})
    kills = MemoryKills(counter)
    kills.began(1)
    assert kills.evidence(1, []) == ""
    counter.path.write_text("oom_kill 4\n")
    assert "group /a" in kills.evidence(1, [])
    kills.ended(1)


def test_the_largest_measured_is_the_one_that_was_killed(tmp_path: Path) -> None:
    """A measurement of nothing is that of a process which is gone already: what was seen before counts."""
    counter = _machine(tmp_path, V2.format("/a"), {"a/memory.events": "oom_kill 0\n"})
    kills = MemoryKills(counter)
    for instance_id in (1, 2):
        kills.began(instance_id)
    kills.measured([(1, 10), (2, 20)])
    kills.measured([(1, 10), (2, 0), (3, 99)])
    counter.path.write_text("oom_kill 1\n")
    assert kills.evidence(1, [2]) == ""
    assert kills.evidence(2, []) != ""


def test_a_count_that_cannot_be_read_for_a_moment_is_no_rise(tmp_path: Path) -> None:
    counter = _machine(tmp_path, V2.format("/a"), {"a/memory.events": "oom_kill 3\n"})
    kills = MemoryKills(counter)
    kills.began(1)
    counter.path.unlink()
    kills.measured([])
    counter.path.write_text("oom_kill 3\n")
    assert kills.evidence(1, []) == ""
