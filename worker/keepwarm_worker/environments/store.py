"""The environments of a node on disk: building them once, finding them fast, ending them to save space.

Owns the directory `root`, mode 0700, on one file system:

    root/environments/<environment id>/   a finished environment; `.complete` inside says what it was built with
    root/tmp/<environment id>.<random>/   one being built
    root/trash/<environment id>.<random>/ one being deleted
    root/locks/<environment id>           flock: held by whoever builds or deletes this environment
    root/owner.lock                       flock: held by the one agent that uses this store

Rules:
- A directory under `environments` is always whole: it gets there by one rename, after everything in it is on the disk.
- An environment id is 64 lower-case hex digits; anything else is refused before it becomes a path.
- A killed builder leaves only a directory under `tmp` and a free flock: the next one builds anew, `sweep` cleans up.
- Must never delete an environment in use: the caller says which are, and starts no process in another one meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from . import disk
from .control import BuildControl
from .errors import TIMED_OUT, EnvironmentFailure, StoreInUse
from .interpreters import Interpreter
from .marker import MARKER_NAME, Marker
from .uv import OnPhase, Uv, ignore_phase

WAIT_FOR_BUILDER_S: Final = 1800.0
"""Longer than any builder can take: each of its steps has a timeout of its own."""
LOCK_POLL_S: Final = 0.02
ENVIRONMENT_ID_DIGITS: Final = 64

_HEX: Final = frozenset("0123456789abcdef")


class BuiltEnvironment(NamedTuple):
    """An environment that can be used now. `from_disk`: it was there already. `phases_us`: what took how long."""

    path: Path
    python: Path
    from_disk: bool
    phases_us: dict[str, int]


class Usage(NamedTuple):
    """One environment's share of the disk, and when it was last touched (wall clock)."""

    environment_id: str
    size_bytes: int
    last_used_ns: int


class EnvironmentStore:
    """The node's environments under `root`. Safe to use from several threads.

    with EnvironmentStore(home / "store") as store:
        store.sweep()
        built = store.build(environment_id, lock_text, interpreter, uv)
        subprocess.run([built.python, "-I", "runner.py"])
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._environments = self._root / "environments"
        self._tmp = self._root / "tmp"
        self._trash = self._root / "trash"
        self._locks = self._root / "locks"
        self._owner: int | None = None
        self._sizes: dict[str, int] = {}

    def open(self) -> Self:
        """Make the directories and become the store's only agent. Raises StoreInUse if there is one already."""
        self._make_directories()
        descriptor = os.open(self._root / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreInUse(
                f"The environment store {self._root} is used by another agent (process {owner}). "
                "Stop that one, or give this one a store directory of its own."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._owner = descriptor
        return self

    def close(self) -> None:
        """Let another agent open the store. Harmless when not open."""
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    def __enter__(self) -> Self:
        return self if self._owner is not None else self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def lookup(self, environment_id: str, interpreter: Interpreter) -> Path | None:
        """The finished environment built for exactly this interpreter, or None. Takes well under a millisecond."""
        directory = self._environments / checked_id(environment_id)
        marker = Marker.read(directory)
        if marker is None or not marker.fits(environment_id, interpreter):
            return None
        return directory if (directory / "bin" / "python").exists() else None

    def build(
        self,
        environment_id: str,
        lock_text: str,
        interpreter: Interpreter,
        uv: Uv,
        on_phase: OnPhase = ignore_phase,
        control: BuildControl | None = None,
    ) -> BuiltEnvironment:
        """The environment of this id, built if it is not there. Of many callers at once one builds, the rest wait.

        Phases reported: "waiting" (for another builder), "venv", "install". Raises EnvironmentFailure.
        """
        control = control or BuildControl()
        phases = _Phases(on_phase)
        with disk.failures_named("build"):
            if (found := self.lookup(environment_id, interpreter)) is not None:
                return _built(found, True, phases)
            self._make_directories()
            with self._locked(environment_id, phases, control):
                if (found := self.lookup(environment_id, interpreter)) is not None:
                    return _built(found, True, phases)
                directory = self._build_locked(environment_id, lock_text, interpreter, uv, phases, control)
                return _built(directory, False, phases)

    def sweep(self) -> list[str]:
        """Delete what dead builders and unfinished deletions left behind; the names of what was deleted.

        What a live builder of another process is working on stays.
        """
        swept = disk.empty(self._trash)
        for path in disk.children(self._tmp):
            environment_id = path.name.partition(".")[0]
            if not is_id(environment_id):
                disk.delete_tree(path)
                swept.append(path.name)
                continue
            with self._try_locked(environment_id) as locked:
                if locked and self._discard(path):
                    swept.append(path.name)
        return swept

    def remove(self, environment_id: str) -> bool:
        """Delete one environment that nothing uses; false if it is not there, or is being built at this moment."""
        directory = self._environments / checked_id(environment_id)
        if not directory.exists():
            return False
        with self._try_locked(environment_id) as locked:
            removed = locked and self._discard(directory)
        if removed:
            self._sizes.pop(environment_id, None)
        return removed

    def touch(self, environment_id: str) -> None:
        """Note that the environment was used now. Harmless if it is not there."""
        marker = self._environments / checked_id(environment_id) / MARKER_NAME
        with suppress(FileNotFoundError, NotADirectoryError):
            os.utime(marker)
        # Use writes byte code next to the sources: measure again when asked next.
        self._sizes.pop(environment_id, None)

    def usage(self) -> list[Usage]:
        """Every environment with its size in bytes and the time of its last use, in nanoseconds of the wall clock."""
        found = []
        for path in disk.children(self._environments):
            if not is_id(path.name):
                continue
            try:
                last_used_ns = (path / MARKER_NAME).stat().st_mtime_ns
            except OSError:
                last_used_ns = 0  # unusable, so the first to go
            size = self._sizes.get(path.name)
            if size is None:
                size = self._sizes[path.name] = disk.size_bytes(path)
            found.append(Usage(path.name, size, last_used_ns))
        return found

    def evict_to(self, limit_bytes: int, in_use: frozenset[str]) -> list[str]:
        """Delete the longest unused environments until at most `limit_bytes` are left; the ids of those deleted.

        None of `in_use` is deleted, so the store may stay above the limit.
        """
        usage = self.usage()
        total = sum(entry.size_bytes for entry in usage)
        evicted: list[str] = []
        for entry in sorted(usage, key=lambda entry: (entry.last_used_ns, entry.environment_id)):
            if total <= limit_bytes:
                break
            if entry.environment_id not in in_use and self.remove(entry.environment_id):
                evicted.append(entry.environment_id)
                total -= entry.size_bytes
        return evicted

    def _build_locked(
        self,
        environment_id: str,
        lock_text: str,
        interpreter: Interpreter,
        uv: Uv,
        phases: _Phases,
        control: BuildControl,
    ) -> Path:
        """Build in `tmp`, then move into place; whatever happens, nothing stays in `tmp`."""
        destination = self._environments / environment_id
        temporary = Path(tempfile.mkdtemp(dir=self._tmp, prefix=f"{environment_id}."))
        try:
            with phases.timed("venv", interpreter.version):
                uv.create_venv(temporary, interpreter, control=control)
            with phases.timed("install", f"{_package_count(lock_text)} packages"):
                uv.install(temporary, lock_text, control=control)
                control.check()
                # After a power cut the mark must not have outlived the files it vouches for.
                disk.flush(temporary)
                Marker.of(environment_id, interpreter).write(temporary)
            # An unusable one may be in the way: built by an older layout, or for an interpreter that has been replaced.
            self._discard(destination)
            temporary.rename(destination)
            disk.flush_directory(self._environments)
        finally:
            disk.delete_tree(temporary)
        self._sizes.pop(environment_id, None)
        return destination

    def _discard(self, directory: Path) -> bool:
        """Delete a directory: gone from its place in one step, then from the disk. False if it was not there."""
        trash = self._trash / f"{directory.name.partition('.')[0]}.{os.urandom(8).hex()}"
        try:
            directory.rename(trash)
        except FileNotFoundError:
            return False
        disk.delete_tree(trash)
        return True

    def _make_directories(self) -> None:
        for directory in (self._root, self._environments, self._tmp, self._trash, self._locks):
            disk.make_private(directory)

    @contextmanager
    def _locked(self, environment_id: str, phases: _Phases, control: BuildControl) -> Iterator[None]:
        """Hold this environment's flock; while another builder has it, wait, and be cancellable."""
        descriptor = self._acquire(environment_id)
        if descriptor is None:
            with phases.timed("waiting", "another build of the same environment"):
                descriptor = self._acquire_by(time.monotonic() + WAIT_FOR_BUILDER_S, environment_id, control)
        try:
            yield
        finally:
            os.close(descriptor)

    def _acquire_by(self, deadline_s: float, environment_id: str, control: BuildControl) -> int:
        # A blocking flock could not be cancelled; a waiter that looks 50 times a second costs nothing next to a build.
        while time.monotonic() < deadline_s:
            control.wait(LOCK_POLL_S)
            control.check()
            if (descriptor := self._acquire(environment_id)) is not None:
                return descriptor
        raise EnvironmentFailure(
            TIMED_OUT, f"Another build of this environment did not end in {WAIT_FOR_BUILDER_S:g} s."
        )

    @contextmanager
    def _try_locked(self, environment_id: str) -> Iterator[bool]:
        """Hold the flock if it is free, and delete its file at the end; yields whether it is held."""
        descriptor = self._acquire(environment_id)
        if descriptor is None:
            yield False
            return
        try:
            yield True
        finally:
            with suppress(FileNotFoundError):
                (self._locks / environment_id).unlink()
            os.close(descriptor)

    def _acquire(self, environment_id: str) -> int | None:
        """A descriptor that holds the flock, or None if somebody else does."""
        path = self._locks / checked_id(environment_id)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            # The file may have been deleted between open and flock; a lock on a nameless file excludes nobody.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            os.close(descriptor)


class _Phases:
    """Reports each phase as it begins, and adds up how long each took."""

    def __init__(self, on_phase: Callable[[str, str], None]) -> None:
        self._on_phase = on_phase
        self.durations_us: dict[str, int] = {}

    @contextmanager
    def timed(self, phase: str, detail: str) -> Iterator[None]:
        self._on_phase(phase, detail)
        start_ns = time.monotonic_ns()
        try:
            yield
        finally:
            self.durations_us[phase] = self.durations_us.get(phase, 0) + (time.monotonic_ns() - start_ns) // 1000


def is_id(text: str) -> bool:
    """Whether this is an environment id: 64 lower-case hex digits."""
    return len(text) == ENVIRONMENT_ID_DIGITS and _HEX.issuperset(text)


def checked_id(text: str) -> str:
    """`text` itself if it is an environment id. Raises ValueError otherwise: it may not become part of a path."""
    if not is_id(text):
        raise ValueError(f"{text[:100]!r} is not an environment id: it must be 64 lower-case hex digits")
    return text


def _built(directory: Path, from_disk: bool, phases: _Phases) -> BuiltEnvironment:
    return BuiltEnvironment(directory, directory / "bin" / "python", from_disk, phases.durations_us)


def _package_count(lock_text: str) -> int:
    return sum(1 for line in lock_text.splitlines() if line[:1].isalnum())
