"""Environments with the real uv and the real package index: locking, installing, racing, dying, and being lied to."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keepwarm_worker.environments import errors
from keepwarm_worker.environments.control import BuildControl
from keepwarm_worker.environments.errors import EnvironmentFailure
from keepwarm_worker.environments.store import BuiltEnvironment, EnvironmentStore
from keepwarm_worker.environments.uv import Uv
from support.environments import ends, made_up_id, own_interpreter, script

pytestmark = pytest.mark.integration

A, B = made_up_id(10), made_up_id(11)
INTERPRETER = own_interpreter()
DEAD_INDEX = {"KEEPWARM_INDEX_URL": "http://me:hunter2@127.0.0.1:9/simple"}
DEAD_NETWORK = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
"""Unlike DEAD_INDEX this leaves the index's address alone, by which uv files what it has cached."""
CONDITION_DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A uv cache shared by the tests that do not care whether it is cold."""
    return tmp_path_factory.mktemp("uv-cache")


@pytest.fixture
def uv(warm_cache: Path) -> Uv:
    return Uv(None, warm_cache)


@pytest.fixture(scope="module")
def idna_lock(warm_cache: Path) -> str:
    return Uv(None, warm_cache).lock(["idna"], INTERPRETER)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EnvironmentStore]:
    with EnvironmentStore(tmp_path / "store") as opened:
        yield opened


def run_python(built: BuiltEnvironment, code: str) -> str:
    """What `code` prints inside the environment, isolated from everything else."""
    done = subprocess.run([built.python, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def failure_of(act: Callable[[], object]) -> EnvironmentFailure:
    with pytest.raises(EnvironmentFailure) as caught:
        act()
    return caught.value


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another process brings about."""
    deadline_s = time.monotonic() + CONDITION_DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come about"
        time.sleep(0.01)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_requirements_become_a_working_environment_that_is_found_again(store: EnvironmentStore, uv: Uv) -> None:
    phases: list[tuple[str, str]] = []
    lock_text = uv.lock(["requests"], INTERPRETER, lambda *phase: phases.append(phase))
    assert re.search(r"^requests==[\d.]+ \\$", lock_text, re.MULTILINE)
    assert "://" not in lock_text
    built = store.build(A, lock_text, INTERPRETER, uv, lambda *phase: phases.append(phase))
    assert phases == [
        ("lock", "requests"),
        ("venv", INTERPRETER.version),
        ("install", f"{len(re.findall('==', lock_text))} packages"),
    ]
    assert min(built.phases_us.values()) > 0
    assert run_python(built, "import requests, sys; print(requests.__file__.startswith(sys.prefix))") == "True"
    assert store.lookup(A, INTERPRETER) == built.path
    assert store.build(A, lock_text, INTERPRETER, uv).from_disk


def test_the_same_requirements_give_the_same_lock(uv: Uv, idna_lock: str) -> None:
    assert uv.lock(["idna"], INTERPRETER) == idna_lock


def test_what_is_cached_is_installed_without_an_index(
    store: EnvironmentStore, warm_cache: Path, uv: Uv, idna_lock: str
) -> None:
    store.build(A, idna_lock, INTERPRETER, uv)
    built = store.build(B, idna_lock, INTERPRETER, Uv(None, warm_cache, DEAD_NETWORK))
    assert run_python(built, "import idna; print('imported')") == "imported"


@pytest.mark.parametrize(
    ("requirements", "kind", "named"),
    [
        (["requests==99.99"], errors.REQUIREMENTS_UNSATISFIABLE, "requests==99.99"),
        (["idna<2.0", "requests==2.32.3"], errors.REQUIREMENTS_UNSATISFIABLE, "idna"),
        (["keepwarm-there-is-no-such-package"], errors.REQUIREMENTS_UNSATISFIABLE, "keepwarm-there-is-no-such-package"),
        (["docopt==0.6.2"], errors.BUILD_FORBIDDEN, "docopt==0.6.2"),
        (["idna", "not a requirement"], errors.REQUIREMENTS_MALFORMED, "not a requirement"),
    ],
)
def test_requirements_that_cannot_be_locked_are_named(uv: Uv, requirements: list[str], kind: str, named: str) -> None:
    failure = failure_of(lambda: uv.lock(requirements, INTERPRETER))
    assert (failure.kind, failure.retryable) == (kind, False)
    assert named in failure.message


def test_variables_that_the_agent_inherited_for_its_own_uv_change_nothing(
    tmp_path: Path, idna_lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"UV_OFFLINE": "1", "UV_DEFAULT_INDEX": "http://127.0.0.1:9", "UV_PYTHON": "2.7"}.items():
        monkeypatch.setenv(name, value)
    assert Uv(None, tmp_path / "cold-cache").lock(["idna"], INTERPRETER) == idna_lock


def test_a_dead_index_is_reported_within_seconds_and_without_its_password(tmp_path: Path, idna_lock: str) -> None:
    uv = Uv(None, tmp_path / "cache", DEAD_INDEX)
    uv.create_venv(tmp_path / "venv", INTERPRETER)
    acts: dict[str, Callable[[], object]] = {
        "lock": lambda: uv.lock(["idna"], INTERPRETER),
        "install": lambda: uv.install(tmp_path / "venv", idna_lock),
    }
    for step, act in acts.items():
        start_s = time.monotonic()
        failure = failure_of(act)
        assert time.monotonic() - start_s < 15
        assert (failure.kind, failure.retryable) == (errors.INDEX_UNREACHABLE, True)
        assert step in failure.message
        assert "hunter2" not in failure.message + failure.detail


def test_locking_does_not_fall_back_to_what_is_cached(warm_cache: Path, idna_lock: str) -> None:
    assert "idna==" in idna_lock
    failure = failure_of(lambda: Uv(None, warm_cache, DEAD_NETWORK).lock(["idna"], INTERPRETER))
    assert failure.kind == errors.INDEX_UNREACHABLE


@pytest.mark.parametrize("inherited", [{}, {"UV_NO_VERIFY_HASHES": "1", "UV_REQUIRE_HASHES": "0"}])
def test_a_file_that_does_not_match_its_locked_hash_is_never_installed(
    store: EnvironmentStore,
    uv: Uv,
    warm_cache: Path,
    idna_lock: str,
    inherited: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    store.build(A, idna_lock, INTERPRETER, uv)  # the right bytes are cached, which must not help
    tampered = re.sub("sha256:[0-9a-f]{8}", "sha256:00000000", idna_lock)
    failure = failure_of(lambda: store.build(B, tampered, INTERPRETER, Uv(None, warm_cache)))
    assert (failure.kind, failure.retryable) == (errors.INTEGRITY, False)
    assert "idna" in failure.message
    assert store.lookup(B, INTERPRETER) is None
    assert names(tmp_path / "store" / "tmp") == []


def test_a_package_without_a_hash_is_never_installed(store: EnvironmentStore, uv: Uv) -> None:
    assert failure_of(lambda: store.build(A, "idna==3.10\n", INTERPRETER, uv)).kind == errors.INTEGRITY


def test_a_missing_interpreter_is_told_from_bad_requirements(store: EnvironmentStore, uv: Uv, idna_lock: str) -> None:
    gone = INTERPRETER._replace(path="/nonexistent/python3")
    for act in (lambda: uv.lock(["idna"], gone), lambda: store.build(A, idna_lock, gone, uv)):
        failure = failure_of(act)
        assert (failure.kind, failure.retryable) == (errors.PYTHON_MISSING, True)
        assert "/nonexistent/python3" in failure.message


def test_a_write_inside_one_environment_does_not_reach_the_next(
    store: EnvironmentStore, uv: Uv, idna_lock: str
) -> None:
    where = "import idna; print(idna.__file__)"
    spoiled = Path(run_python(store.build(A, idna_lock, INTERPRETER, uv), where))
    assert spoiled.stat().st_nlink == 1
    with spoiled.open("a") as file:
        file.write("\nSPOILED = True\n")
    clean = store.build(B, idna_lock, INTERPRETER, uv)
    assert run_python(clean, "import idna; print(hasattr(idna, 'SPOILED'))") == "False"


def test_cancel_ends_a_build_that_waits_for_the_index(store: EnvironmentStore, tmp_path: Path, idna_lock: str) -> None:
    control = BuildControl()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        uv = Uv(None, tmp_path / "cache", {"KEEPWARM_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/simple"})

        def cancel_once_connected() -> None:
            with silent.accept()[0] as connection:
                connection.recv(1)
                control.cancel()

        canceller = threading.Thread(target=cancel_once_connected)
        canceller.start()
        failure = failure_of(lambda: store.build(A, idna_lock, INTERPRETER, uv, control=control))
        canceller.join()
    assert failure.kind == errors.CANCELLED
    assert names(tmp_path / "store" / "tmp") == []


BUILDER = """
import sys
from pathlib import Path
from keepwarm_worker.environments.interpreters import Interpreter
from keepwarm_worker.environments.store import EnvironmentStore
from keepwarm_worker.environments.uv import Uv

root, executable, cache, environment_id, lock_file, *interpreter = sys.argv[1:]
sys.stdin.readline()
built = EnvironmentStore(Path(root)).build(
    environment_id, Path(lock_file).read_text(), Interpreter(*interpreter), Uv(Path(executable), Path(cache))
)
print(built.from_disk)
"""


def start_builder(root: Path, executable: Path, cache: Path, lock_file: Path) -> subprocess.Popen[str]:
    """A process that builds environment A as soon as it is sent a line, and prints whether it was there already."""
    arguments = [str(root), str(executable), str(cache), A, str(lock_file), *INTERPRETER]
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def noted_uv(tmp_path: Path, before: str = "") -> tuple[Path, Path]:
    """A real uv that notes its subcommand in a file; `before` is run first. (executable, notes)"""
    from uv import find_uv_bin

    notes = tmp_path / "notes"
    body = f'echo "$1 $$" >> "{notes}"\n{before}\nexec "{find_uv_bin()}" "$@"'
    return script(tmp_path / "uv", body), notes


def test_racing_threads_and_processes_build_once(
    store: EnvironmentStore, warm_cache: Path, idna_lock: str, tmp_path: Path
) -> None:
    executable, notes = noted_uv(tmp_path)
    lock_file = tmp_path / "lock.txt"
    lock_file.write_text(idna_lock)
    results: list[bool] = []
    barrier = threading.Barrier(4)

    def build() -> None:
        barrier.wait()
        results.append(store.build(A, idna_lock, INTERPRETER, Uv(executable, warm_cache)).from_disk)

    threads = [threading.Thread(target=build) for _ in range(3)]
    processes = [start_builder(tmp_path / "store", executable, warm_cache, lock_file) for _ in range(2)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for process in processes:
        output, _ = process.communicate("go\n", timeout=60)
        results.append(output.strip() == "True")
        assert process.returncode == 0
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, True, True, True, True]
    subcommands = [line.split()[0] for line in notes.read_text().splitlines()]
    assert subcommands.count("venv") == 1


def test_a_builder_killed_half_way_is_cleaned_up_after_and_the_next_one_succeeds(
    warm_cache: Path, uv: Uv, idna_lock: str, tmp_path: Path
) -> None:
    root, lock_file, go = tmp_path / "store", tmp_path / "lock.txt", tmp_path / "go"
    lock_file.write_text(idna_lock)
    os.mkfifo(go)
    executable, notes = noted_uv(tmp_path, before=f'[ "$1" = venv ] || read line < "{go}"')
    builder = start_builder(root, executable, warm_cache, lock_file)
    assert builder.stdin is not None
    assert builder.stdout is not None
    builder.stdin.write("go\n")
    builder.stdin.flush()
    until(lambda: notes.exists() and "pip" in notes.read_text())
    orphan = int(notes.read_text().splitlines()[-1].split()[1])
    with EnvironmentStore(root) as store:
        assert store.sweep() == [], "a live builder's work was swept away"
        builder.kill()
        builder.wait()
        builder.stdin.close()
        builder.stdout.close()
        left = names(root / "tmp")
        assert len(left) == 1
        assert store.lookup(A, INTERPRETER) is None
        # Its uv goes on for a while, as an orphan, in a directory that will never be moved into place.
        built = store.build(A, idna_lock, INTERPRETER, uv)
        assert not built.from_disk
        assert store.sweep() == left
        os.kill(orphan, signal.SIGKILL)
        assert ends(orphan)
        assert names(root / "tmp") == names(root / "trash") == []
        assert store.lookup(A, INTERPRETER) == built.path
        assert run_python(built, "import idna; print('imported')") == "imported"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a small file system")
    mounted = tmp_path / "small"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mounted], check=False).returncode != 0:
        pytest.skip("this machine does not allow mounting")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


def test_a_full_disk_is_named_cleaned_up_after_and_survived(small_disk: Path, uv: Uv, idna_lock: str) -> None:
    lock_text = uv.lock(["requests"], INTERPRETER)
    with EnvironmentStore(small_disk / "store") as store:
        failure = failure_of(lambda: store.build(A, lock_text, INTERPRETER, uv))
        assert (failure.kind, failure.retryable) == (errors.DISK_FULL, True)
        assert "disk space" in failure.message
        assert names(small_disk / "store" / "tmp") == names(small_disk / "store" / "environments") == []
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(b"x" * 2**21)
        assert failure_of(lambda: store.build(B, idna_lock, INTERPRETER, uv)).kind == errors.DISK_FULL
        filler.unlink()
        assert not store.build(B, "", INTERPRETER, uv).from_disk


def test_a_full_disk_under_the_cache_is_named(small_disk: Path, store: EnvironmentStore, uv: Uv) -> None:
    lock_text = uv.lock(["requests"], INTERPRETER)
    failure = failure_of(lambda: store.build(A, lock_text, INTERPRETER, Uv(None, small_disk / "cache")))
    assert failure.kind == errors.DISK_FULL
