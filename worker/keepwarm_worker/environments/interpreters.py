"""The Python interpreters of a node: a table from minor version ("3.11") to one absolute path.

Owns: where interpreters are looked for, how one is asked what it is, and the file that remembers the answers.

Rules:
- PATH is never searched: what comes first there may be a shim that starts something else tomorrow.
- An entry names the real base interpreter, never a virtual environment's link to it, which could be deleted.
- Only CPython 3.8 and later, of the agent's own word size, without a special ABI (debug, free-threaded): the ones for
  which a wheel and a pickle mean the same on every node.
- A broken interpreter is skipped and remembered as broken; one that was merely slow is asked again next time.
- Must never fail because of the cache file: it is a speed-up, and rebuilt when it cannot be read or written.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

MINIMUM: Final = (3, 8)
NEWEST_MINOR_LOOKED_FOR: Final = 25
PROBE_TIMEOUT_S: Final = 10.0
CACHE_VERSION: Final = 1

_log = logging.getLogger(__name__)

# Runs inside the interpreter under question, which may be any Python back to 2.7: it must at least parse there.
_PROBE: Final = """
import json, os, sys
base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
for folder in (os.path.dirname(base), os.path.dirname(os.path.dirname(base))):
    config = os.path.join(folder, "pyvenv.cfg")
    if os.path.exists(config):
        with open(config) as lines:
            home = dict([part.strip() for part in line.split("=", 1)] for line in lines if "=" in line)["home"]
        base = os.path.realpath(os.path.join(home, "python%d.%d" % sys.version_info[:2]))
        break
print(json.dumps({
    "implementation": sys.implementation.name, "version": list(sys.version_info[:3]), "release": sys.version_info[3],
    "abi": getattr(sys, "abiflags", ""), "maxsize": sys.maxsize, "path": base,
}))
"""

# What dynamically linked interpreters of module systems need in order to start at all; -I shuts out the rest.
_PROBE_VARIABLES: Final = ("LD_LIBRARY_PATH", "HOME")


class Interpreter(NamedTuple):
    """One base interpreter: "3.11.7", "3.11", "/usr/bin/python3.11", "cpython"."""

    version: str
    minor: str
    path: str
    implementation: str


class _Stamp(NamedTuple):
    """What must be unchanged for a remembered answer to hold."""

    mtime_ns: int
    size: int


class _Answer(NamedTuple):
    stamp: _Stamp
    interpreter: Interpreter | None


def discover(explicit: Sequence[str] = (), *, cache_file: Path | None = None) -> dict[str, Interpreter]:
    """The interpreters of this node, minor version -> Interpreter; of two with the same minor the first found wins.

    `explicit` are paths given by the operator; if there are any, nothing else is looked at. `cache_file` remembers
    answers between starts (keyed by path, mtime and size), so that nothing is executed and the call takes a few
    milliseconds at most. What cannot be used is left out; if the operator named it, with a warning in the log.

        discover()["3.11"].path      # '/usr/bin/python3.11'
    """
    candidates = [str(Path(path).absolute()) for path in explicit] or _well_known()
    stamps = {path: stamp for path in candidates if (stamp := _stamp(path)) is not None}
    known = _read_cache(cache_file)
    answers = {path: answer for path, stamp in stamps.items() if (answer := known.get(path)) and _holds(answer, stamp)}
    missing = [path for path in stamps if path not in answers]
    if missing:
        answers.update(_probe_all(missing, stamps))
        _write_cache(cache_file, known | answers)
    table: dict[str, Interpreter] = {}
    for path in candidates:
        interpreter = answers[path].interpreter if path in answers else None
        if interpreter is not None:
            table.setdefault(interpreter.minor, interpreter)
        elif explicit:
            _log.warning("%s is not a usable CPython >= %d.%d; it is left out", path, *MINIMUM)
    return table


def _well_known() -> list[str]:
    """Where interpreters usually are, the agent's own first."""
    minors = range(NEWEST_MINOR_LOOKED_FOR, MINIMUM[1] - 1, -1)
    found = [str(getattr(sys, "_base_executable", None) or sys.executable)]
    found += [f"{folder}/python3.{minor}" for folder in ("/usr/bin", "/usr/local/bin") for minor in minors]
    for parent in ("~/.pyenv/versions", "~/.local/share/uv/python"):
        folder = os.path.expanduser(parent)  # noqa: PTH111  # where nobody knows this user's home, it is left as it is
        found += [f"{folder}/{name}/bin/python3" for name in _newest_first(folder)]
    return list(dict.fromkeys(found))


def _newest_first(folder: str) -> list[str]:
    try:
        names = [path.name for path in Path(folder).iterdir()]
    except OSError:
        return []
    return sorted(names, key=lambda name: ([int(part) for part in re.findall(r"\d+", name)], name), reverse=True)


def _stamp(path: str) -> _Stamp | None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return _Stamp(status.st_mtime_ns, status.st_size)


def _holds(answer: _Answer, stamp: _Stamp) -> bool:
    """Whether a remembered answer still describes this file, and the base interpreter it names still exists."""
    found = answer.interpreter
    return answer.stamp == stamp and (found is None or os.access(found.path, os.X_OK))


def _probe_all(paths: Iterable[str], stamps: dict[str, _Stamp]) -> dict[str, _Answer]:
    """Ask every interpreter what it is, all at once; the slow ones get no answer."""
    running = [(path, _start_probe(path)) for path in paths]
    deadline_s = time.monotonic() + PROBE_TIMEOUT_S
    answers: dict[str, _Answer] = {}
    for path, process in running:
        if process is None:
            answers[path] = _Answer(stamps[path], None)
            continue
        try:
            output, _ = process.communicate(timeout=max(0.0, deadline_s - time.monotonic()))
            answers[path] = _Answer(stamps[path], _parse(output) if process.returncode == 0 else None)
        except subprocess.TimeoutExpired:
            process.kill()
            _log.warning("%s did not say within %g s what it is; it is left out", path, PROBE_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    return answers


def _start_probe(path: str) -> subprocess.Popen[bytes] | None:
    environment = {name: os.environ[name] for name in _PROBE_VARIABLES if name in os.environ}
    try:
        return subprocess.Popen(
            [path, "-I", "-S", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"LC_ALL": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        return None


def _parse(output: bytes) -> Interpreter | None:
    """The interpreter that a probe described, or None if it is not one we can use."""
    try:
        told: dict[str, Any] = json.loads(output)
        major, minor, micro = (int(part) for part in told["version"])
        path, implementation = str(told["path"]), str(told["implementation"])
        usable = (
            implementation == "cpython"
            and (major, minor) >= MINIMUM
            and told["release"] == "final"
            and told["abi"] == ""
            and told["maxsize"] == sys.maxsize
            and os.access(path, os.X_OK)
        )
    except (ValueError, TypeError, KeyError):
        return None
    if not usable:
        return None
    return Interpreter(f"{major}.{minor}.{micro}", f"{major}.{minor}", path, implementation)


def _read_cache(cache_file: Path | None) -> dict[str, _Answer]:
    if cache_file is None:
        return {}
    try:
        content = json.loads(cache_file.read_bytes())
        if content["version"] != CACHE_VERSION:
            return {}
        return {
            str(path): _Answer(
                _Stamp(int(mtime_ns), int(size)), None if found is None else Interpreter(*map(str, found))
            )
            for path, (mtime_ns, size, found) in content["interpreters"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _write_cache(cache_file: Path | None, answers: dict[str, _Answer]) -> None:
    """Replace the cache file in one step, so that a reader never sees half of it."""
    if cache_file is None:
        return
    content = {path: [*answer.stamp, answer.interpreter] for path, answer in sorted(answers.items())}
    temporary: str | None = None
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=cache_file.parent, prefix=cache_file.name)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"version": CACHE_VERSION, "interpreters": content}, file)
        Path(temporary).replace(cache_file)
    except OSError as error:
        _log.warning("cannot remember the interpreters in %s: %s", cache_file, error)
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()
