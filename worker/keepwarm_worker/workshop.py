"""Locks and builds, each in a thread of its own, and the room that environments take on disk.

Rules:
- The core decides how many run at once; this module runs what it is told.
- Threads touch nothing of the daemon: they post events, and the daemon takes them in its own time.
- An environment is removed only while the gate says that no process uses it; none starts in one being removed.
- Where the disk is full, what nothing uses goes first; only if that was not enough is it anybody's failure.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from keepwarm_wire import spec as wire_spec
from keepwarm_wire.messages import EnvironmentState, Failure
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.failures import failure
from keepwarm_worker.environments import disk
from keepwarm_worker.environments.control import BuildControl
from keepwarm_worker.environments.errors import DISK_FULL, INTEGRITY, INTERNAL, PYTHON_MISSING, EnvironmentFailure
from keepwarm_worker.environments.interpreters import Interpreter
from keepwarm_worker.environments.store import EnvironmentStore, Usage
from keepwarm_worker.environments.uv import Uv

__all__ = ["Gate", "Workshop"]

JOIN_S = 1.0

ROOM_BYTES = 2 << 30
"""So much is made free at once where the disk is full: few environments take more, and they can be tried again."""
FRESH_NS = 5_000_000_000
"""One that was used so lately is about to be used again, or was built for an instance that has not started yet."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Gate:
    """Which environments have processes, and which are being removed: never one of both. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: dict[str, int] = {}
        self._leaving: set[str] = set()

    def enter(self, environment_id: str) -> bool:
        """Note one more use; false, and nothing noted, if it is being removed."""
        with self._lock:
            if environment_id in self._leaving:
                return False
            self._uses[environment_id] = self._uses.get(environment_id, 0) + 1
            return True

    def leave(self, environment_id: str) -> None:
        with self._lock:
            self._uses[environment_id] -= 1
            if not self._uses[environment_id]:
                del self._uses[environment_id]

    def begin_removal(self, environment_id: str) -> bool:
        """False if it is in use."""
        with self._lock:
            if environment_id in self._uses or environment_id in self._leaving:
                return False
            self._leaving.add(environment_id)
            return True

    def end_removal(self, environment_id: str) -> None:
        with self._lock:
            self._leaving.discard(environment_id)


class Workshop:
    """Makes locks and environments. ``post`` takes events from any thread."""

    def __init__(
        self,
        store: EnvironmentStore,
        uv: Uv,
        interpreters: dict[str, Interpreter],
        platform: str,
        store_bytes: int,
        post: Callable[[events.Event], None],
    ) -> None:
        self._store = store
        self._uv = uv
        self._interpreters = interpreters
        self._platform = platform
        self._store_bytes = store_bytes
        self._post = post
        self._controls: dict[bytes | str, BuildControl] = {}
        self._making_room = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.gate = Gate()

    @property
    def is_busy(self) -> bool:
        """Whether a thread of ours may have child processes."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return bool(self._threads)

    def survey(self) -> None:
        """Clean up after earlier agents, then tell which environments are on disk."""
        self._run("survey", self._survey)

    def lock(self, effect: effects.RunLock) -> None:
        control = self._controls[effect.spec_key] = BuildControl()
        self._run(f"lock-{effect.spec_key.hex()[:8]}", lambda: self._lock(effect, control))

    def build(self, effect: effects.RunBuild) -> None:
        control = self._controls[effect.environment_id] = BuildControl()
        self._run(f"build-{effect.environment_id[:8]}", lambda: self._build(effect, control))

    def cancel_build(self, effect: effects.CancelBuild) -> None:
        control = self._controls.get(effect.environment_id)
        if control is not None:
            control.cancel()

    def find(self, environment_id: str, python: str) -> Path | None:
        """The interpreter inside an environment on disk, or None. Quick enough for the event loop.

        Raises OSError if it cannot be known whether it is there.
        """
        interpreter = self._interpreters.get(_minor(python))
        with suppress(ValueError, EnvironmentFailure):
            directory = None if interpreter is None else self._store.lookup(environment_id, interpreter)
            return None if directory is None else directory / "bin" / "python"
        return None

    def touch(self, environment_id: str) -> None:
        """Note that an environment was used now."""
        with suppress(ValueError, OSError):
            self._store.touch(environment_id)

    def close(self) -> None:
        """Stop whatever runs; wait a moment for its processes to be gone."""
        for control in list(self._controls.values()):
            control.cancel()
        for thread in self._threads:
            thread.join(JOIN_S)

    def _run(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _survey(self) -> None:
        try:
            self._store.sweep()
            self._tell_environments()
        except OSError as error:
            _log.warning("the environment store cannot be read: %s", error)

    def _tell_environments(self) -> None:
        found = [EnvironmentState(usage.environment_id, usage.size_bytes) for usage in self._store.usage()]
        self._post(events.EnvironmentsOnDisk(tuple(found)))

    def _lock(self, effect: effects.RunLock, control: BuildControl) -> None:
        def on_phase(phase: str, detail: str) -> None:
            self._post(events.LockPhase(effect.spec_key, phase, detail))

        try:
            with disk.failures_named("lock"):
                lock = self._with_room(control, lambda: self._make_lock(effect, control, on_phase))
            self._post(events.LockFinished(effect.spec_key, self._platform, lock.encode()))
        except EnvironmentFailure as problem:
            self._post(events.LockProblem(effect.spec_key, _failure(problem), problem.retryable))
        except Exception as error:
            _log.exception("lock %s failed", effect.spec_key.hex())
            self._post(events.LockProblem(effect.spec_key, _unexpected(error), False))
        finally:
            self._controls.pop(effect.spec_key, None)

    def _make_lock(self, effect: effects.RunLock, control: BuildControl, on_phase: Callable[[str, str], None]) -> str:
        try:
            parsed = wire_spec.parse_spec(effect.spec)
        except wire_spec.SpecError as error:
            raise EnvironmentFailure(INTEGRITY, f"The spec cannot be used: {error}.") from error
        if wire_spec.spec_key(effect.spec) != effect.spec_key:
            raise EnvironmentFailure(INTEGRITY, "The spec does not have the key under which it was sent.")
        return self._uv.lock(parsed.requirements, self._interpreter(parsed.python), on_phase, control=control)

    def _build(self, effect: effects.RunBuild, control: BuildControl) -> None:
        environment_id = effect.environment_id

        def on_phase(phase: str, detail: str) -> None:
            self._post(events.BuildPhase(environment_id, phase, detail))

        try:
            interpreter, lock = self._interpreter(effect.python), effect.lock.decode()
            with disk.failures_named("build"):
                built = self._with_room(
                    control,
                    lambda: self._store.build(environment_id, lock, interpreter, self._uv, on_phase, control),
                )
            size_bytes = disk.size_bytes(built.path)
            self._post(events.BuildFinished(environment_id, size_bytes, built.from_disk))
            if not built.from_disk:
                self._keep_limit(environment_id)
        except EnvironmentFailure as problem:
            self._post(events.BuildProblem(environment_id, _failure(problem), problem.retryable))
        except Exception as error:
            _log.exception("build %s failed", environment_id)
            self._post(events.BuildProblem(environment_id, _unexpected(error), False))
        finally:
            if self._controls.get(environment_id) is control:
                del self._controls[environment_id]

    def _with_room(self, control: BuildControl, make: Callable[[], T]) -> T:
        """Make something, and once more if the disk was full and some of it could be freed."""
        try:
            return make()
        except EnvironmentFailure as problem:
            if problem.kind != DISK_FULL:
                raise
            freed_bytes = self._make_room(control)
            control.check()
            if not freed_bytes:
                raise _full("nothing is left there unused that the agent could delete", problem) from problem
        try:
            return make()
        except EnvironmentFailure as problem:
            if problem.kind != DISK_FULL:
                raise
            raise _full(f"to delete {-(-freed_bytes >> 20)} MiB that nothing used was not enough", problem) from problem

    def _make_room(self, control: BuildControl) -> int:
        """Delete what is not needed of uv's cache, and the longest unused environments; the bytes freed."""
        now_ns = time.time_ns()
        with self._making_room:
            freed_bytes = self._uv.make_room(control)
            if not control.cancelled:
                freed_bytes += self._evict(ROOM_BYTES, lambda entry: now_ns - entry.last_used_ns < FRESH_NS)
        _log.warning("the disk is full: %d bytes that nothing used were deleted", freed_bytes)
        return freed_bytes

    def _keep_limit(self, newest: str) -> None:
        """Remove the longest unused environments over the limit, but not the one just built."""
        total = sum(entry.size_bytes for entry in self._store.usage())
        self._evict(total - self._store_bytes, lambda entry: entry.environment_id == newest)

    def _evict(self, wanted_bytes: int, is_spared: Callable[[Usage], bool]) -> int:
        """Remove the longest unused environments, none that is used, until so much is free; how much that is."""
        freed_bytes = 0
        for entry in sorted(self._store.usage(), key=lambda entry: (entry.last_used_ns, entry.environment_id)):
            if freed_bytes >= wanted_bytes:
                break
            if not is_spared(entry) and self._remove(entry.environment_id):
                freed_bytes += entry.size_bytes
        if freed_bytes:
            self._tell_environments()
        return freed_bytes

    def _remove(self, environment_id: str) -> bool:
        if not self.gate.begin_removal(environment_id):
            return False
        try:
            removed = self._store.remove(environment_id)
        except OSError as error:
            _log.warning("environment %s cannot be removed: %s", environment_id, error)
            return False
        finally:
            self.gate.end_removal(environment_id)
        if removed:
            _log.info("environment %s removed: it is the longest unused, and room is needed", environment_id)
        return removed

    def _interpreter(self, python: str) -> Interpreter:
        interpreter = self._interpreters.get(_minor(python))
        if interpreter is None:
            have = ", ".join(self._interpreters) or "none"
            raise EnvironmentFailure(
                PYTHON_MISSING,
                f"This node has no Python {python}, only: {have}. Install it, or name it with --python PATH.",
            )
        return interpreter


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _full(tried: str, problem: EnvironmentFailure) -> EnvironmentFailure:
    return EnvironmentFailure(DISK_FULL, f"The node ran out of disk space, and {tried}; free some.", problem.detail)


def _failure(problem: EnvironmentFailure) -> Failure:
    return failure(problem.kind, problem.message, problem.detail)


def _unexpected(error: Exception) -> Failure:
    return failure(INTERNAL, f"The agent met an error of its own: {type(error).__name__}: {error}")
