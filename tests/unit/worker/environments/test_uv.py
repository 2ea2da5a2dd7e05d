"""What uv is told, what it may see, and that it never outlives its build. Nothing here needs an index."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from keepwarm_worker.environments import errors
from keepwarm_worker.environments import uv as uv_module
from keepwarm_worker.environments.control import BuildControl
from keepwarm_worker.environments.errors import EnvironmentFailure
from keepwarm_worker.environments.uv import Uv, check_lock, check_requirements
from support.environments import ends, own_interpreter, script
from support.shortage import without_descriptors

FOREVER = "tail -f /dev/null"


@pytest.fixture
def printing_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[str], dict[str, str]]]:
    """Locks with an executable that prints what it was given: (arguments, environment)."""

    def lock(inherited: dict[str, str], extra: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        for name, value in inherited.items():
            monkeypatch.setenv(name, value)
        printer = script(tmp_path / "uv", 'printf "%s\\n" "$@"; echo ----; exec env')
        output = Uv(printer, tmp_path / "cache", extra).lock(["six"], own_interpreter())
        arguments, _, variables = output.partition("----\n")
        return arguments.splitlines(), dict(line.split("=", 1) for line in variables.splitlines())

    return lock


@pytest.mark.parametrize(
    "name",
    [
        "UV_NO_VERIFY_HASHES",
        "UV_INDEX_URL",
        "UV_EXTRA_INDEX_URL",
        "UV_LINK_MODE",
        "UV_CONFIG_FILE",
        "PIP_INDEX_URL",
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "SOME_SECRET",
    ],
)
def test_inherited_variables_do_not_reach_uv(
    name: str, printing_uv: Callable[..., tuple[list[str], dict[str, str]]]
) -> None:
    _, seen = printing_uv({name: "inherited"}, {})
    assert "inherited" not in seen.values()


def test_tls_proxy_and_home_variables_reach_uv(
    printing_uv: Callable[..., tuple[list[str], dict[str, str]]],
) -> None:
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "HOME", "TMPDIR", "LANG")
    _, seen = printing_uv(dict.fromkeys(names, "kept"), {})
    assert {name for name, value in seen.items() if value == "kept"} == set(names)


def test_the_settings_that_correctness_depends_on_cannot_be_overridden(
    tmp_path: Path, printing_uv: Callable[..., tuple[list[str], dict[str, str]]]
) -> None:
    arguments, seen = printing_uv({}, {"UV_NO_CONFIG": "0", "UV_PYTHON_DOWNLOADS": "automatic", "UV_CACHE_DIR": "/x"})
    assert (seen["UV_NO_CONFIG"], seen["UV_PYTHON_DOWNLOADS"]) == ("1", "never")
    assert seen["UV_CACHE_DIR"] == str(tmp_path / "cache")
    assert "--no-build" in arguments
    assert "--generate-hashes" in arguments
    assert "--offline" not in arguments


def test_the_operator_chooses_the_index_and_the_caller_goes_before_the_environment(
    printing_uv: Callable[..., tuple[list[str], dict[str, str]]],
) -> None:
    inherited = {"KEEPWARM_INDEX_URL": "https://inherited/simple"}
    arguments, seen = printing_uv(inherited, {})
    assert seen["UV_DEFAULT_INDEX"] == "https://inherited/simple"
    arguments, seen = printing_uv(inherited, {"KEEPWARM_INDEX_URL": "https://me:pw@given/simple"})
    assert seen["UV_DEFAULT_INDEX"] == "https://me:pw@given/simple"
    assert not any("pw" in argument for argument in arguments), "arguments are visible to every user of the machine"


def test_a_password_of_the_index_is_masked_in_whatever_uv_says(tmp_path: Path) -> None:
    talkative = script(
        tmp_path / "uv", 'echo "error: I was given hunter%402 or hunter@2 for $UV_DEFAULT_INDEX" >&2; exit 2'
    )
    uv = Uv(talkative, tmp_path / "cache", {"KEEPWARM_INDEX_URL": "https://me:hunter%402@host/simple"})
    with pytest.raises(EnvironmentFailure) as caught:
        uv.lock(["six"], own_interpreter())
    told = str(caught.value) + caught.value.detail
    assert "hunter" not in told
    assert "https://***@host/simple" in told


@pytest.mark.parametrize(
    ("requirement", "kind", "hint"),
    [
        ("-e x", errors.REQUIREMENTS_MALFORMED, "editable"),
        ("--editable=x", errors.REQUIREMENTS_MALFORMED, "editable"),
        ("--index-url elsewhere", errors.REQUIREMENTS_MALFORMED, "options"),
        ("-r other.txt", errors.REQUIREMENTS_MALFORMED, "options"),
        ("./dir", errors.REQUIREMENTS_MALFORMED, "path"),
        ("/abs/dir", errors.REQUIREMENTS_MALFORMED, "path"),
        ("git+https://host/x", errors.REQUIREMENTS_MALFORMED, "name @ URL"),
        ("# nothing", errors.REQUIREMENTS_MALFORMED, "comments"),
        ("six # why", errors.REQUIREMENTS_MALFORMED, "six # why"),
        ("", errors.REQUIREMENTS_MALFORMED, "''"),
        ("foo bar", errors.REQUIREMENTS_MALFORMED, "foo bar"),
        ("six\n--index-url elsewhere", errors.REQUIREMENTS_MALFORMED, "line break"),
        ("six\n", errors.REQUIREMENTS_MALFORMED, "line break"),
        ("six\u2028-e x", errors.REQUIREMENTS_MALFORMED, "line break"),
        ("x @ https://evil/${HTTPS_PROXY}/x.whl", errors.REQUIREMENTS_MALFORMED, "variables"),
        ("x @ https://me:hunter2@host/x.whl", errors.REQUIREMENTS_MALFORMED, "credentials"),
        ("x @ git+https://host/x", errors.BUILD_FORBIDDEN, "wheel"),
        ("x @ https://host/x.tar.gz", errors.BUILD_FORBIDDEN, "wheel"),
        ("x @ file:///some/project", errors.BUILD_FORBIDDEN, "wheel"),
    ],
)
def test_what_is_not_a_plain_requirement_is_refused_by_name(requirement: str, kind: str, hint: str) -> None:
    with pytest.raises(EnvironmentFailure) as caught:
        check_requirements(["idna", requirement])
    failure = caught.value
    assert (failure.kind, failure.retryable) == (kind, False)
    assert hint in failure.message
    assert "idna" not in failure.message
    assert "hunter2" not in str(failure)


def test_plain_requirements_pass() -> None:
    given = [
        "requests [socks] >= 2, <3",
        "six; python_version < '4'",
        "x @ https://host/x-1-py3-none-any.whl#sha256=00",
    ]
    assert check_requirements(given) == [
        "requests[socks]<3,>=2",
        'six; python_version < "4"',
        "x @ https://host/x-1-py3-none-any.whl#sha256=00",
    ]


@pytest.mark.parametrize(
    "lock_text",
    [
        "--index-url elsewhere\nidna==3.20 --hash=sha256:00",
        "idna==3.20 \\\n    --hash=sha256:00\n  --extra-index-url elsewhere",
        "-r /etc/passwd",
        "-e .",
        "x @ https://evil/${HOME}/x.whl --hash=sha256:00",
    ],
)
def test_a_lock_that_holds_more_than_packages_is_refused(lock_text: str) -> None:
    with pytest.raises(EnvironmentFailure) as caught:
        check_lock(lock_text)
    assert caught.value.kind == errors.INTEGRITY


def test_a_lock_without_packages_is_empty() -> None:
    assert [check_lock(text) for text in ("", "\n", "# nothing\n", "idna==3.20 --hash=sha256:00\n")] == [
        False,
        False,
        False,
        True,
    ]


def test_nothing_to_lock_or_install_starts_no_uv(tmp_path: Path) -> None:
    uv = Uv(tmp_path / "absent", tmp_path / "cache")
    phases: list[str] = []
    assert uv.lock([], own_interpreter(), lambda phase, _: phases.append(phase)) == ""
    uv.install(tmp_path, "")
    assert phases == []


def test_a_uv_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="absent") as caught:
        Uv(tmp_path / "absent", tmp_path / "cache").lock(["six"], own_interpreter())
    assert caught.value.kind == errors.INTERNAL


def test_a_venv_is_relocatable_and_runs_its_interpreter(tmp_path: Path) -> None:
    uv = Uv(None, tmp_path / "cache")
    uv.create_venv(tmp_path / "first", own_interpreter())
    (tmp_path / "first").rename(tmp_path / "second")
    assert (tmp_path / "second" / "bin" / "python").resolve() == Path(own_interpreter().path)


def test_a_missing_interpreter_is_told_from_other_failures(tmp_path: Path) -> None:
    gone = own_interpreter()._replace(path=str(tmp_path / "python3"))
    with pytest.raises(EnvironmentFailure, match="python3") as caught:
        Uv(None, tmp_path / "cache").create_venv(tmp_path / "venv", gone)
    assert (caught.value.kind, caught.value.retryable) == (errors.PYTHON_MISSING, True)


def test_what_cannot_be_started_now_may_be_started_later_or_elsewhere(tmp_path: Path) -> None:
    """A missing uv, a node without descriptors, a cache that cannot be made: nothing that the requirements are to blame
    for.
    """
    gone = Uv(tmp_path / "uv", tmp_path / "cache")
    with pytest.raises(EnvironmentFailure, match="cannot start") as caught:
        gone.lock(["six"], own_interpreter())
    assert caught.value.retryable
    with without_descriptors(), pytest.raises(EnvironmentFailure, match="Too many open files") as caught:
        gone.lock(["six"], own_interpreter())
    assert caught.value.retryable
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFailure, match="disk failed during lock") as caught:
        Uv(tmp_path / "uv", tmp_path / "file" / "cache").lock(["six"], own_interpreter())
    assert caught.value.retryable


def test_a_small_cache_is_pruned_and_a_large_one_goes_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a real uv; whatever is the matter with the cache is not told here."""
    cache = tmp_path / "cache"
    uv = Uv(None, cache)
    assert uv.make_room() == 0
    kept, stray = cache / "wheels-v9" / "kept", cache / "archive-v0" / "stray"
    for path in (kept, stray):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100_000)
    monkeypatch.setattr(uv_module, "CACHE_BYTES_MAX", 1)
    assert uv.make_room() >= 200_000
    assert not kept.exists()
    assert Uv(script(tmp_path / "uv", "exit 2"), cache).make_room() == 0


@pytest.fixture
def hanging(tmp_path: Path) -> tuple[Uv, Path]:
    """A uv that never ends, with a child that never ends, and the named pipe on which it tells both process ids."""
    pipe = tmp_path / "pids"
    os.mkfifo(pipe)
    return Uv(script(tmp_path / "uv", f'{FOREVER} & echo "$$ $!" > "{pipe}"\nwait'), tmp_path / "cache"), pipe


def processes_of(pipe: Path) -> list[int]:
    return [int(word) for word in pipe.read_text().split()]


def test_a_step_that_takes_too_long_is_killed_with_its_children(hanging: tuple[Uv, Path]) -> None:
    uv, pipe = hanging
    found: list[int] = []
    reader = threading.Thread(target=lambda: found.extend(processes_of(pipe)), daemon=True)
    reader.start()
    with pytest.raises(EnvironmentFailure, match="longer than 1 s") as caught:
        uv.lock(["six"], own_interpreter(), timeout_s=1)
    reader.join(timeout=10)
    assert (caught.value.kind, caught.value.retryable) == (errors.TIMED_OUT, True)
    assert len(found) == 2
    assert all(map(ends, found))


def test_cancel_from_another_thread_kills_the_whole_group(hanging: tuple[Uv, Path]) -> None:
    uv, pipe = hanging
    control = BuildControl()
    found: list[int] = []

    def cancel_once_running() -> None:
        found.extend(processes_of(pipe))
        control.cancel()
        control.cancel()

    canceller = threading.Thread(target=cancel_once_running)
    canceller.start()
    with pytest.raises(EnvironmentFailure) as caught:
        uv.lock(["six"], own_interpreter(), control=control)
    canceller.join()
    assert (caught.value.kind, caught.value.retryable) == (errors.CANCELLED, False)
    assert len(found) == 2
    assert all(map(ends, found))


def test_a_build_cancelled_before_it_starts_starts_nothing(tmp_path: Path) -> None:
    control = BuildControl()
    control.cancel()
    marker = tmp_path / "ran"
    with pytest.raises(EnvironmentFailure) as caught:
        Uv(script(tmp_path / "uv", f'touch "{marker}"'), tmp_path / "cache").lock(
            ["six"], own_interpreter(), control=control
        )
    assert caught.value.kind == errors.CANCELLED
    assert not marker.exists()


def test_a_grandchild_that_keeps_the_output_open_cannot_hold_up_the_build(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    uv = Uv(script(tmp_path / "uv", f'{FOREVER} & echo $! > "{pid_file}"\necho done'), tmp_path / "cache")
    assert uv.lock(["six"], own_interpreter(), timeout_s=60) == "done\n"
    assert ends(int(pid_file.read_text()))


def test_a_uv_killed_from_outside_is_a_failure_that_may_be_retried(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="signal 9") as caught:
        Uv(script(tmp_path / "uv", "kill -9 $$"), tmp_path / "cache").lock(["six"], own_interpreter())
    assert (caught.value.kind, caught.value.retryable) == (errors.INTERNAL, True)


def test_an_exit_status_stolen_by_another_reaper_is_not_taken_for_success(tmp_path: Path) -> None:
    uv = Uv(script(tmp_path / "uv", "exit 1"), tmp_path / "cache")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps every child, and keeps no status
    try:
        with pytest.raises(EnvironmentFailure, match="lost") as caught:
            uv.lock(["six"], own_interpreter())
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert (caught.value.kind, caught.value.retryable) == (errors.INTERNAL, True)
