"""Driving real instances in tests: interpreters to run under, pickles made by them, and a blocking conversation."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import itertools
import os
import pickle
import select
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwarm_worker.processes import ExitReason, FrameReader, FrameWriter, InstanceProcess, open_result, spawn_instance
from keepwarm_worker.runner import frames

PATIENCE_S = 30.0
NO_ARGUMENTS = pickle.dumps(((), {}))
OWN_FRAMES = ("execution.py", "control.py", "serialization.py", "_keepwarm")
"""What no traceback of a user's error may show."""

_INSTANCES = itertools.count(1)
FUNCTIONS = Path(__file__).parents[1] / "integration" / "runner" / "script.py"
_PICKLER = """
import sys
functions, cloudpickle_parent = sys.argv[1:]
sys.path.insert(0, cloudpickle_parent)
import cloudpickle, pickle
exec(compile(open(functions).read(), functions, "exec"))
pickles = {name: cloudpickle.dumps(pair) for name, pair in FUNCTIONS.items()}
pickles["a point"] = cloudpickle.dumps(((Point(3, 4),), {}))
sys.stdout.buffer.write(pickle.dumps((sys.implementation.name, sys.version_info[:2], pickles)))
"""


def interpreter(minor: str) -> Path | None:
    """The newest installed interpreter of a minor version such as "3.8", or None. "own" is the tests' own."""
    if minor == "own":
        return Path(sys.executable)
    found = sorted(Path.home().glob(f".pyenv/versions/{minor}.*/bin/python"))
    return found[-1] if found else None


class Pickles:
    """The functions of `script.py`, pickled by value by one interpreter, as a driver of that version does."""

    def __init__(self, python: Path, scratch: Path) -> None:
        specification = importlib.util.find_spec("cloudpickle")
        assert specification is not None
        assert specification.origin is not None
        if not (scratch / "cloudpickle").exists():
            shutil.copytree(Path(specification.origin).parent, scratch / "cloudpickle")
        command = [str(python), "-I", "-c", _PICKLER, str(FUNCTIONS), str(scratch)]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        implementation, (major, minor), self.bodies = pickle.loads(output)
        self.codec = frames.codec_tag(implementation, major, minor)


@dataclass
class Answer:
    """All that came back for one attempt."""

    received: list[frames.Frame]
    spool: Path

    @property
    def result(self) -> frames.Result:
        last = self.received[-1]
        if isinstance(last, frames.Done):
            texts = ("", "", "", "")
            return frames.Result(
                last.attempt, frames.STATUS_OK, "", last.payload, 0, last.run_us, *texts, last.printed
            )  # fmt: skip
        assert isinstance(last, frames.Result)
        return last

    @property
    def payload(self) -> bytes:
        """The pickle, read from its file if it has one; the file's facts are checked against what was said."""
        payload = self.result.payload
        if not isinstance(payload, frames.Stored):
            return payload
        with os.fdopen(open_result(self.spool, payload), "rb") as file:
            assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
            data: bytes = file.read()
        assert hashlib.sha256(data).digest() == payload.sha256
        return data

    def value(self) -> Any:
        """The value of a call that succeeded."""
        assert self.result.status == frames.STATUS_OK, self.result
        return pickle.loads(self.payload)


class _ClientUnpickler(pickle.Unpickler):
    """Maps the private name of cloudpickle back, as the client does."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module.replace("_keepwarm_cloudpickle", "cloudpickle"), name)


def load_as_client(data: bytes) -> Any:
    """What a client makes of a result that came by value."""
    return _ClientUnpickler(io.BytesIO(data)).load()


class Instance:
    """A conversation with one instance. Every wait has a deadline; `close` leaves no process behind."""

    def __init__(self, process: InstanceProcess, spool: Path, pickles: Pickles | None) -> None:
        self.process, self.spool, self.pickles = process, spool, pickles
        self.reader = FrameReader(process.data)
        self.writer, self.control = FrameWriter(process.data), FrameWriter(process.control)
        self.output: dict[int, bytes] = {process.stdout_fd: b"", process.stderr_fd: b""}
        self.frames: list[frames.Frame] = []
        self._attempts = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        for source in (process.data, process.stdout_fd, process.stderr_fd, process.pidfd):
            self._selector.register(source, selectors.EVENT_READ)

    @property
    def stdout(self) -> str:
        return self.output[self.process.stdout_fd].decode()

    @property
    def stderr(self) -> str:
        return self.output[self.process.stderr_fd].decode()

    def wait(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Move bytes until the condition holds; fail at the deadline."""
        deadline_s = time.monotonic() + patience_s
        while not condition():
            rest_s = deadline_s - time.monotonic()
            if rest_s <= 0:
                raise TimeoutError(f"not so after {patience_s} s; stderr: {self.stderr!r}; frames: {self.frames!r}")
            self._selector.select(min(rest_s, 0.05))
            self.pump()

    def pump(self) -> None:
        """Send and receive what can be now; after the frames the output, as an agent must."""
        self.writer.flush()
        self.control.flush()
        for frame in self.reader.receive():
            self.frames.append(frame)
            if isinstance(frame, frames.Done | frames.Result) and frame.printed:
                self._read_output()
                self.writer.queue(frames.Drained())
        self._read_output()
        self.writer.flush()

    def _read_output(self) -> None:
        for descriptor in self.output:
            with contextlib.suppress(BlockingIOError):
                while data := os.read(descriptor, 1 << 16):
                    self.output[descriptor] += data
                with contextlib.suppress(KeyError):  # the end: readable for ever
                    self._selector.unregister(descriptor)

    def hello(self) -> frames.Hello:
        """Wait for the greeting."""
        self.wait(lambda: bool(self.frames) or self.reader.closed)
        first = self.frames.pop(0)
        assert isinstance(first, frames.Hello)
        return first

    def load(self, name: str, codec: str | None = None, body: frames.Payload | None = None, alias: str = "") -> bytes:
        """Load a function of the script under its name, or under an alias; returns its version."""
        assert self.pickles is not None
        version = hashlib.sha256(f"{name} {codec} {body!r}".encode()).digest()
        body = self.pickles.bodies[name] if body is None else body
        self.writer.queue(frames.Load(version, codec or self.pickles.codec, alias or name, body))
        return version

    def start(self, version: bytes, arguments: frames.Payload, flags: int = 0) -> int:
        """Send a call; returns its attempt."""
        attempt = next(self._attempts)
        self.writer.queue(frames.Call(attempt, version, flags, arguments))
        self.pump()
        return attempt

    def started(self, attempt: int) -> None:
        """Wait until the runner says that the attempt runs."""
        self.wait(lambda: any(isinstance(f, frames.Started) and f.attempt == attempt for f in self.frames))

    def running(self, attempt: int) -> None:
        """Wait until the attempt's function itself runs: it is past its setup. For a first call of a version."""
        self.wait(lambda: any(isinstance(f, frames.SetupDone) and f.attempt == attempt for f in self.frames))

    def answer(self, attempt: int) -> Answer:
        """Wait for the result of an attempt and take its frames."""
        self.wait(lambda: any(isinstance(f, frames.Done | frames.Result) and f.attempt == attempt for f in self.frames))
        mine = [frame for frame in self.frames if getattr(frame, "attempt", None) == attempt]
        self.frames = [frame for frame in self.frames if frame not in mine]
        return Answer(mine, self.spool)

    def run(self, name: str, *args: object, **kwargs: object) -> Answer:
        """Load a function of the script and call it once."""
        return self.answer(self.start(self.load(name), pickle.dumps((args, kwargs))))

    def ended(self) -> ExitReason:
        """Wait for the process to end."""
        self.wait(lambda: self.process.reap() is not None)
        reason = self.process.reap()
        assert reason is not None
        return reason

    def still_works(self) -> None:
        """Another call succeeds: the instance is healthy."""
        assert self.run("add", 2, b=3).value() == 5

    def close(self) -> None:
        """Kill whatever is left and collect it."""
        self.process.kill_tree()
        ended, _, _ = select.select([self.process.pidfd], [], [], PATIENCE_S)  # not `wait`: the stream may be broken
        assert ended, "a killed instance lives on"
        self.process.reap()
        self.process.kill_tree()
        self._selector.close()
        self.process.close()


def start_instance(
    python: Path,
    runner: Path,
    directory: Path,
    pickles: Pickles | None = None,
    variables: Mapping[str, str] | None = None,
) -> Instance:
    """Start an instance with its spool and working directory under `directory`."""
    spool, home = directory / "spool", directory / "home"
    for path in (spool, home):
        path.mkdir(exist_ok=True)
    marker = f"test-{os.getpid()}:{next(_INSTANCES)}"
    process = spawn_instance(python, runner, spool, variables or {}, home, marker)
    return Instance(process, spool, pickles)


Start = Callable[..., Instance]
"""Starts an instance, with keyword arguments as environment variables."""
