"""Real sockets to a real scheduler: a peer that speaks, an agent that runs calls at once, a process to kill."""

import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from keepwarm_wire import messages as wire
from keepwarm_wire.codec import FRAME_BYTES_MAX, decode_frame, encode_frames
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.spec import canonical_spec
from support.model_agent import ModelAgent

__all__ = ["LocalScheduler", "RawPeer", "RunningAgent", "declaration", "sockets"]

LIMIT_MS = 15_000

_OPEN: "list[zmq.Socket[Any]]" = []


@contextmanager
def sockets() -> "Iterator[zmq.Context[Any]]":
    """A context; at the end every peer's socket is closed."""
    context: zmq.Context[Any] = zmq.Context()
    yield context
    while _OPEN:
        _OPEN.pop().close()
    context.term()


def declaration(number: int = 1, name: str = "m:f", **options: Any) -> wire.DeclareFunction:
    """A function of an empty environment."""
    values = wire.FunctionOptions(10_000_000, *(FOREVER_US,) * 4, wire.RetryLimits(), 1000, 0, 0)
    version = name.encode().ljust(32, b"v")
    spec = canonical_spec([], "3.11")
    return wire.DeclareFunction(
        number, name, version, "cloudpickle:cp311", spec, False, values._replace(**options), b"body"
    )


class LocalScheduler:
    """A scheduler's process on a socket of its own; ``flags`` are added to its command line."""

    def __init__(self, home: Path, *flags: str) -> None:
        self.address = f"ipc://{home}/s/scheduler.sock"
        self.state = home / "s" / "state"
        self._command = [
            *(sys.executable, "-m", "keepwarm_scheduler", "--bind", self.address, "--state", str(self.state)),
            *flags,
        ]
        self._log = home / "scheduler.log"
        self.start()

    def start(self) -> None:
        """Start, or start again."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM, and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


class RawPeer:
    """A DEALER socket. ``pump`` is called while it waits, so that others in the same thread go on."""

    def __init__(self, context: "zmq.Context[Any]", address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self.socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        self.socket.connect(address)
        self.heard: deque[Any] = deque()
        _OPEN.append(self.socket)

    def say(self, *messages: Any) -> None:
        """Send messages in as few frames as may be."""
        for frame in encode_frames(messages):
            self.socket.send(frame)

    def take(self, wait_ms: int = 0) -> bool:
        """Read what has come; whether anything has."""
        if not self.socket.poll(wait_ms):
            return False
        while self.socket.poll(0):
            self.heard.extend(decode_frame(self.socket.recv()))
        return True

    def hear(self, kind: type[Any], *, among: "tuple[RunningAgent, ...]" = ()) -> Any:
        """The next message of a kind; others before it are dropped."""
        end_s = time.monotonic() + LIMIT_MS / 1000
        while time.monotonic() < end_s:
            while self.heard:
                message = self.heard.popleft()
                if type(message) is kind:
                    return message
            for agent in among:
                agent.work()
            self.take(5 if among else 1_000)
        raise AssertionError(f"no {kind.__name__} came")

    def hello(self, session: bytes = b"c" * 16) -> wire.Welcome:
        """Say hello as a client, and again until answered."""
        for _ in range(100):
            self.say(wire.ClientHello(1, 1, "test", session, "test", 0))
            self.take(200)
            welcomes = [message for message in self.heard if type(message) is wire.Welcome]
            self.heard.clear()
            if welcomes:
                return welcomes[-1]
        raise AssertionError("no welcome")


class RunningAgent(RawPeer):
    """A model agent on a real socket, whose processes start at once and whose calls succeed at once."""

    def __init__(self, context: "zmq.Context[Any]", address: str, name: str = "n", **resources: Any) -> None:
        super().__init__(context, address)
        self.model = ModelAgent(name, name.encode().ljust(16, b"-"), **resources)
        self.model.hello()
        self.is_holding = False
        """While true calls run without end."""
        self._beat_s = 0.0

    def work(self) -> None:
        """One turn: read, obey, run, speak."""
        model = self.model
        self.take()
        model.now_ns = time.monotonic_ns()
        while self.heard:
            model.receive(model.now_ns, self.heard.popleft())
        for key in list(model.locks):
            model.finish_lock(key)
        for instance_id, instance in list(model.instances.items()):
            if instance.state == "starting":
                model.finish_start(instance_id)
        if not self.is_holding:
            for token in model.runnable():
                model.finish(token)
        if time.monotonic() - self._beat_s > 0.2:
            self._beat_s = time.monotonic()
            model.beat() if model.welcomed else model.hello()
        if model.outbox:
            outbox, model.outbox = model.outbox, []
            self.say(*outbox)
