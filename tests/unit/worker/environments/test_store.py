"""The store with a real uv and empty locks: everything about directories, locks and deletion, nothing from an index."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepwarm_worker.environments import errors
from keepwarm_worker.environments.control import BuildControl
from keepwarm_worker.environments.errors import EnvironmentFailure, StoreInUse
from keepwarm_worker.environments.store import BuiltEnvironment, EnvironmentStore
from keepwarm_worker.environments.uv import Uv
from support.environments import made_up_id, own_interpreter, script

A, B, C = (made_up_id(number) for number in (10, 11, 12))
INTERPRETER = own_interpreter()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EnvironmentStore]:
    with EnvironmentStore(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def uv(tmp_path: Path) -> Uv:
    return Uv(None, tmp_path / "cache")


def counting_uv(tmp_path: Path) -> tuple[Uv, Path]:
    """A real uv that notes each of its runs in a file."""
    from uv import find_uv_bin

    runs = tmp_path / "runs"
    return Uv(script(tmp_path / "uv", f'echo "$1" >> "{runs}"\nexec "{find_uv_bin()}" "$@"'), tmp_path / "cache"), runs


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_environment_is_built_once_and_found_again(store: EnvironmentStore, tmp_path: Path) -> None:
    uv, runs = counting_uv(tmp_path)
    phases: list[tuple[str, str]] = []
    assert store.lookup(A, INTERPRETER) is None
    built = store.build(A, "", INTERPRETER, uv, lambda *phase: phases.append(phase))
    assert [phase for phase, _ in phases] == ["venv", "install"]
    assert set(built.phases_us) == {"venv", "install"}
    assert not built.from_disk
    assert store.lookup(A, INTERPRETER) == built.path
    again = store.build(A, "", INTERPRETER, uv, lambda *phase: phases.append(phase))
    assert again == BuiltEnvironment(built.path, built.python, True, {})
    assert len(phases) == 2
    assert runs.read_text() == "venv\n"
    prefix = subprocess.run(
        [built.python, "-I", "-c", "import sys; print(sys.prefix)"], stdout=subprocess.PIPE, check=True
    )
    assert Path(prefix.stdout.decode().strip()) == built.path


def test_a_lookup_takes_less_than_a_millisecond(store: EnvironmentStore, uv: Uv) -> None:
    store.build(A, "", INTERPRETER, uv)
    timings_s = []
    for _ in range(20):
        start_s = time.perf_counter()
        assert store.lookup(A, INTERPRETER) is not None
        timings_s.append(time.perf_counter() - start_s)
    assert sorted(timings_s)[10] < 0.001


def test_another_interpreter_does_not_fit_and_is_built_anew(store: EnvironmentStore, uv: Uv, tmp_path: Path) -> None:
    built = store.build(A, "", INTERPRETER, uv)
    assert store.lookup(A, INTERPRETER._replace(version="3.11.99")) is None
    other = tmp_path / "python3"
    other.symlink_to(INTERPRETER.path)
    moved = INTERPRETER._replace(path=str(other))
    assert store.lookup(A, moved) is None
    assert store.build(A, "", moved, uv)[:3] == (built.path, built.python, False)
    assert store.lookup(A, moved) is not None
    assert names(tmp_path / "store" / "trash") == names(tmp_path / "store" / "tmp") == []


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null", '{"layout": 0}', "\xff"])
def test_an_environment_with_a_damaged_marker_is_not_there(store: EnvironmentStore, uv: Uv, content: str) -> None:
    built = store.build(A, "", INTERPRETER, uv)
    (built.path / ".complete").write_text(content, encoding="latin-1")
    assert store.lookup(A, INTERPRETER) is None
    assert not store.build(A, "", INTERPRETER, uv).from_disk


def test_an_environment_of_another_layout_or_id_is_not_there(store: EnvironmentStore, uv: Uv) -> None:
    built = store.build(A, "", INTERPRETER, uv)
    marker = built.path / ".complete"
    content = json.loads(marker.read_text())
    for change in ({"layout": 99}, {"environment_id": B}):
        marker.write_text(json.dumps(content | change))
        assert store.lookup(A, INTERPRETER) is None
    marker.write_text(json.dumps(content))
    assert store.lookup(A, INTERPRETER) == built.path
    built.python.unlink()
    assert store.lookup(A, INTERPRETER) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../" * 21 + "a",
        "/" + "a" * 63,
        "A" * 64,
        "a" * 63,
        "a" * 65,
        "a" * 63 + "/",
        "a" * 63 + "\n",
        "٣" * 64,
    ],
)
def test_only_64_lower_case_hex_digits_become_a_path(store: EnvironmentStore, uv: Uv, text: str) -> None:
    for act in (
        lambda: store.lookup(text, INTERPRETER),
        lambda: store.build(text, "", INTERPRETER, uv),
        lambda: store.remove(text),
        lambda: store.touch(text),
    ):
        with pytest.raises(ValueError, match="64 lower-case hex digits"):
            act()


def test_racing_threads_build_once(store: EnvironmentStore, tmp_path: Path) -> None:
    uv, runs = counting_uv(tmp_path)
    barrier = threading.Barrier(3)
    results: list[BuiltEnvironment] = []

    def build() -> None:
        barrier.wait()
        results.append(store.build(A, "", INTERPRETER, uv))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.from_disk for result in results) == [False, True, True]
    assert len({result.path for result in results}) == 1
    assert runs.read_text() == "venv\n"


@pytest.fixture
def held_up(store: EnvironmentStore, tmp_path: Path) -> Iterator[tuple[Uv, Path]]:
    """A builder of A that runs in a thread and goes on when its named pipe is opened for writing."""
    pipe, started = tmp_path / "go", threading.Event()
    os.mkfifo(pipe)
    from uv import find_uv_bin

    slow = Uv(script(tmp_path / "slow-uv", f'read line < "{pipe}"\nexec "{find_uv_bin()}" "$@"'), tmp_path / "cache")
    builder = threading.Thread(target=lambda: store.build(A, "", INTERPRETER, slow, lambda *_: started.set()))
    builder.start()
    started.wait()
    yield slow, pipe
    if builder.is_alive():
        pipe.write_text("go\n")
    builder.join()


def test_a_second_builder_says_that_it_waits_and_takes_what_the_first_made(
    store: EnvironmentStore, uv: Uv, held_up: tuple[Uv, Path]
) -> None:
    phases: list[str] = []

    def on_phase(phase: str, _: str) -> None:
        phases.append(phase)
        held_up[1].write_text("go\n")

    built = store.build(A, "", INTERPRETER, uv, on_phase)
    assert phases == ["waiting"]
    assert built.from_disk
    assert set(built.phases_us) == {"waiting"}


def test_a_waiting_builder_can_be_cancelled(store: EnvironmentStore, uv: Uv, held_up: tuple[Uv, Path]) -> None:
    control = BuildControl()
    with pytest.raises(EnvironmentFailure) as caught:
        store.build(A, "", INTERPRETER, uv, lambda *_: control.cancel(), control)
    assert caught.value.kind == errors.CANCELLED


def test_what_is_being_built_is_neither_swept_nor_removed(
    store: EnvironmentStore, held_up: tuple[Uv, Path], tmp_path: Path
) -> None:
    tmp = tmp_path / "store" / "tmp"
    before = names(tmp)
    assert len(before) == 1
    assert store.sweep() == []
    assert not store.remove(A)
    assert names(tmp) == before


def test_a_failed_or_cancelled_build_leaves_nothing(store: EnvironmentStore, tmp_path: Path, uv: Uv) -> None:
    failing = Uv(script(tmp_path / "uv", 'mkdir -p "$9/bin"; echo "error: broken" >&2; exit 2'), tmp_path / "cache")
    with pytest.raises(EnvironmentFailure, match="broken"):
        store.build(A, "", INTERPRETER, failing)
    control = BuildControl()
    with pytest.raises(EnvironmentFailure, match="cancelled"):
        store.build(A, "", INTERPRETER, uv, lambda *_: control.cancel(), control)
    assert names(tmp_path / "store" / "tmp") == names(tmp_path / "store" / "environments") == []
    assert not store.build(A, "", INTERPRETER, uv).from_disk


def test_an_error_in_the_listener_ends_the_build_cleanly(store: EnvironmentStore, uv: Uv, tmp_path: Path) -> None:
    def on_phase(phase: str, _: str) -> None:
        if phase == "install":
            raise LookupError(phase)

    with pytest.raises(LookupError):
        store.build(A, "", INTERPRETER, uv, on_phase)
    assert names(tmp_path / "store" / "tmp") == []
    assert not store.build(A, "", INTERPRETER, uv).from_disk


def test_sweep_deletes_what_dead_builders_left(store: EnvironmentStore, uv: Uv, tmp_path: Path) -> None:
    built = store.build(A, "", INTERPRETER, uv)
    root = tmp_path / "store"
    left = [root / "tmp" / f"{B}.x", root / "tmp" / "stray", root / "trash" / f"{C}.y"]
    for directory in left:
        (directory / "lib").mkdir(parents=True)
        (directory / "lib" / "file").write_text("x")
    (root / "tmp" / "file").write_text("x")
    (root / "tmp" / "link").symlink_to(built.path)
    assert sorted(store.sweep()) == sorted([*(directory.name for directory in left), "file", "link"])
    assert names(root / "tmp") == names(root / "trash") == []
    assert store.lookup(A, INTERPRETER) == built.path


def test_what_user_code_made_read_only_is_deleted_too_and_links_are_not_followed(
    store: EnvironmentStore, uv: Uv, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    built = store.build(A, "", INTERPRETER, uv)
    (built.path / "link").symlink_to(outside)
    (built.path / "closed").mkdir()
    (built.path / "closed" / "file").write_text("x")
    (built.path / "closed").chmod(0)
    assert store.remove(A)
    assert names(tmp_path / "store" / "environments") == names(tmp_path / "store" / "trash") == []
    assert (outside / "precious").exists()


def test_remove_takes_the_environment_and_its_lock_file(store: EnvironmentStore, uv: Uv, tmp_path: Path) -> None:
    store.build(A, "", INTERPRETER, uv)
    assert store.remove(A)
    assert not store.remove(A)
    assert store.lookup(A, INTERPRETER) is None
    assert [names(tmp_path / "store" / part) for part in ("environments", "trash", "tmp", "locks")] == [[], [], [], []]
    assert not store.build(A, "", INTERPRETER, uv).from_disk


def test_usage_counts_bytes_and_touch_moves_the_last_use(store: EnvironmentStore, uv: Uv) -> None:
    paths = {environment_id: store.build(environment_id, "", INTERPRETER, uv).path for environment_id in (A, B)}
    for path in paths.values():
        os.utime(path / ".complete", ns=(1, 1))
    before = {entry.environment_id: entry for entry in store.usage()}
    assert {entry.last_used_ns for entry in before.values()} == {1}
    (paths[A] / "more").write_bytes(b"x" * 100_000)
    store.touch(A)
    store.touch(C)
    after = {entry.environment_id: entry for entry in store.usage()}
    assert set(after) == {A, B}
    assert after[A].size_bytes >= before[A].size_bytes + 100_000
    assert after[A].last_used_ns > 1
    assert after[B] == before[B]


def age(store: EnvironmentStore, uv: Uv, *environment_ids: str) -> int:
    """Build these, the first being the longest unused; the bytes of all."""
    for used_ns, environment_id in enumerate(environment_ids, start=1):
        path = store.build(environment_id, "", INTERPRETER, uv).path
        os.utime(path / ".complete", ns=(used_ns, used_ns))
    return sum(entry.size_bytes for entry in store.usage())


def test_eviction_takes_the_longest_unused_and_no_more_than_needed(store: EnvironmentStore, uv: Uv) -> None:
    total = age(store, uv, B, C, A)
    assert store.evict_to(total, frozenset()) == []
    assert store.evict_to(total - 1, frozenset()) == [B]
    store.touch(C)
    assert store.evict_to(1, frozenset({C})) == [A]


def test_eviction_never_takes_one_in_use(store: EnvironmentStore, uv: Uv) -> None:
    age(store, uv, A, B, C)
    assert store.evict_to(0, frozenset({A, C})) == [B]
    assert store.lookup(A, INTERPRETER)
    assert store.lookup(C, INTERPRETER)
    assert store.evict_to(0, frozenset({A, C})) == []


def test_an_unusable_environment_is_the_first_to_go(store: EnvironmentStore, uv: Uv) -> None:
    total = age(store, uv, A, B)
    path = store.lookup(B, INTERPRETER)
    assert path is not None
    (path / ".complete").unlink()
    assert store.evict_to(total - 1, frozenset()) == [B]


def test_a_second_agent_on_the_same_store_is_refused(store: EnvironmentStore, tmp_path: Path) -> None:
    second = EnvironmentStore(tmp_path / "store")
    with pytest.raises(StoreInUse, match=rf"process {os.getpid()}\b"):
        second.open()
    store.close()
    store.close()
    with second:
        assert names(tmp_path / "store") == ["environments", "locks", "owner.lock", "tmp", "trash"]


def test_everything_is_readable_by_the_owner_only(tmp_path: Path, uv: Uv) -> None:
    root = tmp_path / "store"
    root.mkdir(mode=0o755)
    with EnvironmentStore(root) as store:
        built = store.build(A, "", INTERPRETER, uv)
    for directory in (root, *(root / part for part in ("environments", "locks", "tmp", "trash")), built.path):
        assert directory.stat().st_mode & 0o777 == 0o700, directory


def test_a_full_or_broken_disk_is_told_from_other_failures(store: EnvironmentStore, uv: Uv, tmp_path: Path) -> None:
    (tmp_path / "store" / "tmp").rmdir()
    (tmp_path / "store" / "tmp").symlink_to("/proc/self/nowhere")
    with pytest.raises(EnvironmentFailure) as caught:
        store.build(A, "", INTERPRETER, uv)
    assert caught.value.kind == errors.INTERNAL
