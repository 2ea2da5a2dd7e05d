"""Installing the runner's files where instances can start them.

The runner is copied out of this package, with the installed cloudpickle beside it under a private name, to a directory
named by the hash of all its content. Rules: a directory is complete from the moment it has its name; agents may race;
content that no longer matches its name is replaced, because user code may run under the agent's own user.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

__all__ = ["install_runner"]

RUNNER_MODULES = (
    "main.py",
    "frames.py",
    "execution.py",
    "serialization.py",
    "failures.py",
    "control.py",
    "running.py",
    "unread.py",
    "lending.py",
)
CLOUDPICKLE_DIRECTORY = "_keepwarm_cloudpickle"
_HASH_DIGITS = 16
_INSTALL_ATTEMPTS = 3


def install_runner(target: Path) -> Path:
    """Put the runner into a directory under `target` unless it is there; return the path of its `main.py`.

    `target` must be absolute and readable by the user that instances run as.

    Raises:
        OSError: the directory cannot be written: the node's disk or its permissions.

    Example:
        `install_runner(Path("/var/lib/keepwarm/runner"))` returns
        `/var/lib/keepwarm/runner/runner-0f3a.../main.py`
    """
    content = _content()
    destination = target / f"runner-{_content_hash(content)}"
    for _ in range(_INSTALL_ATTEMPTS):
        if _is_intact(destination, content):
            return destination / "main.py"
        _replace(destination, content)
    raise OSError(f"the runner's files in {destination} do not stay as they are written; is something editing them?")


def _content() -> dict[str, bytes]:
    """Relative path to bytes, of everything that is installed."""
    here = Path(__file__).parent / "runner"
    specification = importlib.util.find_spec("cloudpickle")
    assert specification is not None, "cloudpickle is a dependency of ours"
    assert specification.origin is not None
    cloudpickle = Path(specification.origin).parent
    content = {name: (here / name).read_bytes() for name in RUNNER_MODULES}
    content |= {f"{CLOUDPICKLE_DIRECTORY}/{path.name}": path.read_bytes() for path in sorted(cloudpickle.glob("*.py"))}
    return content


def _content_hash(content: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in sorted(content.items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:_HASH_DIGITS]


def _is_intact(directory: Path, content: dict[str, bytes]) -> bool:
    try:
        return all((directory / name).read_bytes() == data for name, data in content.items())
    except OSError:
        return False


def _replace(destination: Path, content: dict[str, bytes]) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".installing-", dir=destination.parent))
    replaced = Path(tempfile.mkdtemp(prefix=".replaced-", dir=destination.parent))
    try:
        for name, data in content.items():
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        temporary.chmod(0o755)  # mkdtemp makes it private; instances may run as another user
        if not _is_intact(destination, content):  # another agent may have been faster
            _swap(temporary, destination, replaced / "damaged")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _swap(temporary: Path, destination: Path, aside: Path) -> None:
    """Move a damaged directory out of the way if there is one, and the new one in. Losing a race is no error."""
    with contextlib.suppress(FileNotFoundError):
        destination.rename(aside)
    with contextlib.suppress(OSError):  # it exists again: the caller looks whether it is intact
        temporary.rename(destination)
