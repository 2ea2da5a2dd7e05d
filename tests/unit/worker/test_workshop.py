"""Locks and builds in their threads, on a node that is out of something; uv is a script that says what a test wants."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import pytest

from keepwarm_wire.spec import canonical_spec, spec_key
from keepwarm_worker.core import effects, events
from keepwarm_worker.environments.control import BuildControl
from keepwarm_worker.environments.store import EnvironmentStore
from keepwarm_worker.environments.uv import Uv
from keepwarm_worker.workshop import Workshop
from support.environments import MINOR, made_up_id, own_interpreter, script
from support.shortage import without_descriptors

A, B, C, NEW = (made_up_id(number) for number in (10, 11, 12, 13))
HOUR_NS = 3_600_000_000_000
PATIENCE_S = 20.0
FULL = 'echo "error: No space left on device (os error 28)" >&2; exit 2'

T = TypeVar("T")


class Bench:
    """A workshop and what it tells."""

    def __init__(self, folder: Path, store: EnvironmentStore) -> None:
        self.folder = folder
        self.store = store
        self.told: SimpleQueue[events.Event] = SimpleQueue()
        self.runs = folder / "runs"
        self.uv_says("true")
        uv = Uv(folder / "uv", folder / "cache")
        interpreters = {MINOR: own_interpreter()}
        self.workshop = Workshop(store, uv, interpreters, "linux", 1 << 40, self.told.put)

    def uv_says(self, before: str) -> None:
        """Let uv do this first, and then make what passes for an environment."""
        venv = 'for last; do :; done; [ "$1" != venv ] || { mkdir -p "$last/bin"; : > "$last/bin/python"; }'
        script(self.folder / "uv", f'echo "$1 $2" >> "{self.runs}"\n{before}\n{venv}')

    def wait_for(self, kind: type[T]) -> T:
        while True:
            told = self.told.get(timeout=PATIENCE_S)
            if isinstance(told, kind):
                return told

    def build(self, environment_id: str = NEW) -> events.Event:
        self.workshop.build(effects.RunBuild(environment_id, b"", MINOR))
        while True:
            told = self.told.get(timeout=PATIENCE_S)
            if isinstance(told, events.BuildFinished | events.BuildProblem):
                return told

    def used(self, *environment_ids: str) -> None:
        """Environments on disk, an hour and more ago, the first one being the longest unused."""
        for age, environment_id in enumerate(reversed(environment_ids), start=1):
            assert isinstance(self.build(environment_id), events.BuildFinished)
            used_ns = time.time_ns() - age * HOUR_NS
            os.utime(self.path_of(environment_id) / ".complete", ns=(used_ns, used_ns))

    def path_of(self, environment_id: str) -> Path:
        return self.folder / "store" / "environments" / environment_id

    def on_disk(self) -> list[str]:
        return [entry.environment_id for entry in self.store.usage()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with EnvironmentStore(tmp_path / "store") as store:
        made = Bench(tmp_path, store)
        yield made
        made.workshop.close()


def full_while(*paths: Path) -> str:
    """A disk that these leave no room on."""
    return f'[ "$1" = cache ] || {{ {" || ".join(f"[ -e {path} ]" for path in paths)}; }} && {{ {FULL}; }}'


def test_what_nothing_uses_makes_room_for_what_is_needed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused environment and the cache; no more than asked for, and the core is told."""
    bench.used(A, B)
    monkeypatch.setattr("keepwarm_worker.workshop.ROOM_BYTES", 1)
    bench.uv_says(full_while(bench.path_of(A)))
    finished = bench.build()
    assert isinstance(finished, events.BuildFinished), finished
    assert bench.on_disk() == [B, NEW]
    assert "cache prune" in bench.runs.read_text().splitlines()


def test_the_core_is_told_of_what_has_gone(bench: Bench) -> None:
    bench.used(A)
    bench.uv_says(full_while(bench.path_of(A)))
    bench.workshop.build(effects.RunBuild(NEW, b"", MINOR))
    assert bench.wait_for(events.EnvironmentsOnDisk).environments == ()
    bench.wait_for(events.BuildFinished)


def test_what_is_used_or_was_just_now_stays(bench: Bench) -> None:
    """And the failure says what was tried."""
    bench.used(A, B, C)
    assert bench.workshop.gate.enter(A)
    bench.store.touch(C)
    bench.uv_says(full_while(bench.path_of(A), bench.path_of(C)))
    problem = bench.build()
    assert isinstance(problem, events.BuildProblem)
    assert (problem.failure.kind, problem.retryable) == ("disk_full", True)
    assert "out of disk space, and to delete 1 MiB that nothing used was not enough;" in problem.failure.message
    assert bench.on_disk() == [A, C]


def test_a_disk_that_others_have_filled_is_told_as_such(bench: Bench) -> None:
    bench.uv_says(f'[ "$1" = cache ] || {{ {FULL}; }}')
    problem = bench.build()
    assert isinstance(problem, events.BuildProblem)
    assert "nothing is left there unused that the agent could delete" in problem.failure.message
    assert bench.runs.read_text().splitlines() == ["venv -q", "cache prune"]


def test_a_lock_needs_room_too(bench: Bench) -> None:
    bench.used(A)
    bench.uv_says(full_while(bench.path_of(A)))
    spec = canonical_spec(("six",), MINOR)
    bench.workshop.lock(effects.RunLock(spec_key(spec), spec))
    assert bench.wait_for(events.LockFinished).spec_key == spec_key(spec)


def test_a_node_out_of_descriptors_is_nobodys_mistake(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next attempt, or another node, may do better."""

    def fail(*_: object, **__: object) -> str:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Uv, "lock", fail)
    monkeypatch.setattr(EnvironmentStore, "build", fail)
    spec = canonical_spec(("six",), MINOR)
    bench.workshop.lock(effects.RunLock(spec_key(spec), spec))
    assert bench.wait_for(events.LockProblem).retryable
    problem = bench.build()
    assert isinstance(problem, events.BuildProblem)
    assert problem.retryable
    assert "short of something that build needs: Too many open files" in problem.failure.message


def test_an_environment_that_cannot_be_looked_at_is_not_taken_for_missing(bench: Bench) -> None:
    """It would be built over, with processes in it."""
    bench.used(A)
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        bench.workshop.find(A, MINOR)
    assert bench.workshop.find(A, MINOR)
    assert bench.workshop.find(B, MINOR) is None


def test_a_cancelled_build_deletes_nothing(bench: Bench) -> None:
    bench.used(A)
    control = BuildControl()
    control.cancel()
    bench.workshop._make_room(control)
    assert bench.on_disk() == [A]
