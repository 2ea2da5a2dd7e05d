"""uv: from requirements to a lock, from a lock to an installed virtual environment.

Owns: the exact uv commands, the environment variables uv may see, and the check of requirements before uv sees them.

Rules:
- uv sees an allow-list of the agent's variables. Inherited UV_*, PIP_*, PYTHON*, VIRTUAL_ENV and CONDA_PREFIX never
  reach it: a forgotten UV_INDEX or UV_OVERRIDE would change what every user of the node gets. The operator sets the
  index by KEEPWARM_INDEX_URL.
- Nothing is ever built from source (`--no-build`): a build script is foreign code that would run as the agent.
- Files are copied into an environment, never hard-linked from uv's cache: with links, one write to a file of
  site-packages inside one environment changes the cache and every environment built later, and no hash check notices.
- A requirement cannot smuggle in an option or a variable: uv expands `${NAME}` inside requirements, which would send
  the agent's own variables to whatever host the requirement names.
- Locking always asks the index: an answer from the cache could be months old. Installing tries the cache first: a lock
  names its files by hash, so cached bytes are the right bytes.
- Must never be on the path of a warm call.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from . import disk
from .control import BuildControl, Completed, run
from .errors import (
    BUILD_FORBIDDEN,
    INTEGRITY,
    INTERNAL,
    REQUIREMENTS_MALFORMED,
    EnvironmentFailure,
    classify,
    is_cache_miss,
    scrub,
)
from .interpreters import Interpreter

OnPhase = Callable[[str, str], None]
"""Called from the building thread as (phase, detail) when a phase begins."""

STEP_TIMEOUT_S: Final = 600.0
ROOM_TIMEOUT_S: Final = 30.0
"""The cache is not touched while other builds use it, and nobody should wait for them only to fail."""
CACHE_BYTES_MAX: Final = 1 << 30
"""When room is needed, a cache above this goes as a whole: what was downloaded can be downloaded again."""
HTTP_RETRIES: Final = 1
MAX_PHASE_DETAIL_CHARACTERS: Final = 200

_WORKING_DIRECTORY: Final = Path("/")
"""Not the agent's own: uv looks for projects around it, and refuses to work inside its cache."""

INDEX_VARIABLE: Final = "KEEPWARM_INDEX_URL"

_KEPT_VARIABLES: Final = (
    *("HOME", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "NETRC"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)

_FIXED_VARIABLES: Final = {
    "UV_NO_CONFIG": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
    "UV_HTTP_RETRIES": str(HTTP_RETRIES),
    "NO_COLOR": "1",
}

_NOT_REQUIREMENTS: Final = (
    (("-e", "--editable"), "editable projects cannot be shipped to a node; build a wheel and name that"),
    (("-",), "options are not requirements; the index is chosen by the operator of the node"),
    (("./", "../", "/", "~", "file:"), "a path means nothing on another machine; publish a wheel or give its URL"),
    (("git+", "hg+", "svn+", "bzr+", "http:", "https:"), "write it as 'name @ URL', and let the URL end in .whl"),
    (("#",), "comments are not requirements"),
)
_VARIABLE_EXPANSION: Final = re.compile(r"\$\{")
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_WHEEL_SCHEMES: Final = frozenset({"http", "https", "file"})


def ignore_phase(_phase: str, _detail: str) -> None:
    """An OnPhase for callers that do not watch."""


class Uv:
    """uv with the settings of this agent. Safe to use from several threads at once.

    `executable`: None means the uv installed with the agent. `cache_dir`: uv's own cache, shared by all builds of the
    node. `extra_environment`: variables that uv gets besides the allowed ones; it may hold KEEPWARM_INDEX_URL, which
    otherwise comes from the agent's environment at the time of construction.

        uv = Uv(None, root / "uv-cache")
        lock_text = uv.lock(["requests"], interpreter)
    """

    def __init__(
        self, executable: Path | None, cache_dir: Path, extra_environment: Mapping[str, str] | None = None
    ) -> None:
        self._executable = str(executable) if executable is not None else _installed_uv()
        self._cache_dir = cache_dir.absolute()
        self._environment = _uv_environment(os.environ, extra_environment or {}, self._cache_dir)
        self._secrets = _secrets_of(self._environment)

    def lock(
        self,
        requirements: Sequence[str],
        interpreter: Interpreter,
        on_phase: OnPhase = ignore_phase,
        *,
        control: BuildControl | None = None,
        timeout_s: float = STEP_TIMEOUT_S,
    ) -> str:
        """Resolve `requirements` for `interpreter` on this platform: text of exact versions with their hashes.

        The index is always asked. No requirements give an empty lock without asking. Raises EnvironmentFailure.
        """
        lines = check_requirements(requirements)
        if not lines:
            return ""
        on_phase("lock", ", ".join(lines)[:MAX_PHASE_DETAIL_CHARACTERS])
        options = ["--generate-hashes", "--no-header", "--no-annotate", "--no-build", "--python", interpreter.path, "-"]
        done = self._run("lock", ["pip", "compile", "-q", *options], "\n".join(lines) + "\n", control, timeout_s)
        return self._checked("lock", done).stdout

    def create_venv(
        self,
        directory: Path,
        interpreter: Interpreter,
        *,
        control: BuildControl | None = None,
        timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        """Make an empty, relocatable virtual environment in `directory`, which may exist. Raises EnvironmentFailure."""
        options = ["--relocatable", "--no-project", "--allow-existing", "--python", interpreter.path, str(directory)]
        self._checked("venv", self._run("venv", ["venv", "-q", *options], "", control, timeout_s))

    def install(
        self,
        directory: Path,
        lock_text: str,
        *,
        control: BuildControl | None = None,
        timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        """Install exactly what the lock names, every file checked against its hash, into the environment `directory`.

        From uv's cache if all of it is there, else from the index. An empty lock installs nothing.
        Raises EnvironmentFailure.
        """
        if not check_lock(lock_text):
            return
        options = ["--require-hashes", "--no-build", "--strict", "--link-mode", "copy"]
        sync = ["pip", "sync", "-q", *options, "--python", str(directory / "bin" / "python")]
        done = self._run("install", [*sync, "--offline", "-"], lock_text, control, timeout_s)
        if done.returncode != 0 and is_cache_miss(done.stderr):
            done = self._run("install", [*sync, "-"], lock_text, control, timeout_s)
        self._checked("install", done)

    def make_room(self, control: BuildControl | None = None) -> int:
        """Delete what uv's cache need not have: what nothing refers to, or all of it if it is large. Bytes freed."""
        before = disk.size_bytes(self._cache_dir)
        command = "clean" if before > CACHE_BYTES_MAX else "prune"
        with suppress(EnvironmentFailure):  # whatever is the matter, the build will say it
            self._run("cache", ["cache", command, "-q"], "", control, ROOM_TIMEOUT_S)
        return max(0, before - disk.size_bytes(self._cache_dir))

    def _run(
        self, step: str, arguments: Sequence[str], stdin_text: str, control: BuildControl | None, timeout_s: float
    ) -> Completed:
        with disk.failures_named(step):
            self._cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return run(
            [self._executable, *arguments],
            step=step,
            environment=self._environment,
            directory=_WORKING_DIRECTORY,
            stdin_text=stdin_text,
            control=control or BuildControl(),
            timeout_s=timeout_s,
        )

    def _checked(self, step: str, done: Completed) -> Completed:
        if done.returncode != 0:
            raise classify(done.returncode, done.stderr, step, self._secrets)
        return done


def check_requirements(requirements: Sequence[str]) -> list[str]:
    """The requirements as uv may see them, one a line. Raises EnvironmentFailure naming the first that may not pass.

    check_requirements(["requests >=2"]) == ["requests>=2"]
    """
    return [_check_requirement(requirement) for requirement in requirements]


def _check_requirement(text: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement  # 60 ms, and not needed by a node that only runs

    if _CONTROL_CHARACTERS.search(text):
        raise _malformed(text, "it holds a line break or another control character")
    if _VARIABLE_EXPANSION.search(text):
        raise _malformed(text, "variables are not expanded in requirements")
    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        start = text.strip()
        why = next((why for starts, why in _NOT_REQUIREMENTS if start.startswith(starts)), str(error).splitlines()[0])
        raise _malformed(text, why) from error
    if parsed.url is not None:
        _check_url(text, parsed.url)
    return str(parsed)


def _check_url(requirement: str, url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _malformed(requirement, str(error)) from error
    if parts.username is not None or parts.password is not None:
        raise _malformed(requirement, "its URL holds credentials, and a lock is kept on disk and shown to people")
    if parts.scheme not in _WHEEL_SCHEMES or not parts.path.endswith(".whl"):
        message = f"{_quoted(requirement)} would have to be built from source, and nodes do not run build scripts; "
        raise EnvironmentFailure(BUILD_FORBIDDEN, message + "name the URL of a wheel (.whl).")


def check_lock(lock_text: str) -> bool:
    """Whether the lock names anything. Raises EnvironmentFailure(integrity) if it holds an option or a variable.

    A lock is hashed and comes from the cluster; this makes sure that even a damaged one only ever names packages.
    """
    lines = [line.strip() for line in lock_text.splitlines()]
    for line in lines:
        if (line.startswith("-") and not line.startswith("--hash=")) or _VARIABLE_EXPANSION.search(line):
            raise EnvironmentFailure(INTEGRITY, f"The lock holds {_quoted(line)}, which no lock may hold.")
    return any(line and not line.startswith("#") for line in lines)


def _malformed(requirement: str, why: str) -> EnvironmentFailure:
    message = f"{_quoted(requirement)} is not a requirement: {why.rstrip('.')}."
    return EnvironmentFailure(REQUIREMENTS_MALFORMED, message)


def _quoted(text: str) -> str:
    return repr(scrub(text[:MAX_PHASE_DETAIL_CHARACTERS]))


def _installed_uv() -> str:
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        message = "uv is not installed with this agent; reinstall keepwarm, or configure the path of uv."
        raise EnvironmentFailure(INTERNAL, message, str(error)) from error


def _uv_environment(inherited: Mapping[str, str], extra: Mapping[str, str], cache_dir: Path) -> dict[str, str]:
    """What uv sees: allowed inherited variables, then the caller's, then those on which correctness depends."""
    environment = {name: inherited[name] for name in _KEPT_VARIABLES if name in inherited} | dict(extra)
    index = environment.pop(INDEX_VARIABLE, None) or inherited.get(INDEX_VARIABLE)
    if index:
        environment["UV_DEFAULT_INDEX"] = index
    return environment | _FIXED_VARIABLES | {"UV_CACHE_DIR": str(cache_dir)}


def _secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The passwords that uv was given, to be masked wherever it repeats them."""
    found = {value for name, value in environment.items() if name.endswith(("_PASSWORD", "_TOKEN"))}
    for value in environment.values():
        if match := re.match(r"[a-zA-Z][\w+.\-]*://[^\s/:]*:([^\s/]*)@", value):
            found.add(match.group(1))
    return tuple(sorted(found - {""}))
