"""A peer for a real agent: a ROUTER socket that speaks the scheduler's side of the protocol, driven by the test.

It answers hellos, beats and payload messages on its own and keeps everything that it heard; commands are sent when the
test says so. Nothing of the agent is replaced: the frames travel through ZeroMQ.
"""

import contextlib
import hashlib
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import psutil
import zmq

from keepwarm_wire import messages as wire
from keepwarm_wire.codec import FRAME_BYTES_MAX, decode_frame, encode_frames
from keepwarm_wire.fields import FOREVER_US, INLINE_BYTES_MAX
from keepwarm_wire.identifiers import token
from keepwarm_wire.spec import canonical_spec, environment_id, spec_key

PATIENCE_S = 60.0
WINDOW = 8 * 1024 * 1024
PIECE = 1024 * 1024
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
CODEC = f"cloudpickle:cp{sys.version_info.major}{sys.version_info.minor}"

T = TypeVar("T")


def start_agent(home: Path, address: str, *flags: str) -> subprocess.Popen[bytes]:
    """A real agent process whose home lies in ``home``; its log is ``home/agent.log``."""
    with (home / "agent.log").open("ab") as log:
        command = [
            sys.executable,
            "-m",
            "keepwarm_worker",
            "--scheduler",
            address,
            "--home",
            str(home / "node"),
            *flags,
        ]
        return subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL, cwd="/")


@contextlib.contextmanager
def agent_and_peer(home: Path, *flags: str) -> Iterator[tuple["AgentPeer", psutil.Popen]]:
    """An agent that has been welcomed. Afterwards it is told to end and is reaped."""
    with AgentPeer(home / "scheduler.sock") as peer:
        agent = start_agent(home, peer.address, *flags)
        try:
            peer.wait_for(wire.AgentBeat)
            yield peer, agent
        finally:
            agent.terminate()
            try:
                agent.wait(10)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()


def returned(done: wire.AttemptDone, peer: "AgentPeer") -> Any:
    """What the function returned; fails with the call's own words if it did not."""
    assert done.status == wire.Status.SUCCEEDED, done.failure
    result = done.result
    return pickle.loads(result if isinstance(result, bytes) else peer.stored[result.payload_id])


class AgentPeer:
    """The scheduler's side of one agent's connection."""

    def __init__(self, path: Path, epoch: int = 1) -> None:
        self.path = path
        self.address = f"ipc://{path}"
        self.epoch = epoch
        self.heard: list[wire.Message] = []
        self.stored: dict[bytes, bytes] = {}
        self.offered: dict[bytes, bytes] = {}
        self.is_silent = False
        self.beats_answered = True
        self._uploads: dict[bytes, tuple[wire.PayloadOffer, bytearray]] = {}
        self._command = 0
        self._number = 0
        self._identity = b""
        self._known: set[bytes] = set()
        self._open()

    def _open(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        self._socket.bind(self.address)

    def __enter__(self) -> "AgentPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def restart(self) -> None:
        """Vanish and come back with the next epoch, knowing nobody and no payload."""
        self.close()
        self.epoch += 1
        self._command, self._number = 0, 0
        self._identity = b""
        self._known.clear()
        self.stored.clear()
        self.heard.clear()
        self._open()

    # ------------------------------------------------------------ commands

    def new_token(self) -> int:
        self._number += 1
        return token(self.epoch, self._number)

    def send(self, *messages: wire.Message) -> None:
        for frame in encode_frames(messages):
            self._socket.send_multipart([self._identity, frame])

    def command(self) -> int:
        self._command += 1
        return self._command

    def lock(self, *requirements: str) -> wire.LockMade | wire.LockFailed:
        """Have the agent make a lock; what it answers."""
        spec = canonical_spec(requirements, MINOR)
        self.send(wire.MakeLock(self.command(), spec_key(spec), spec))
        made: wire.LockMade | wire.LockFailed = self.wait_for(
            (wire.LockMade, wire.LockFailed), lambda made: made.spec_key == spec_key(spec)
        )
        return made

    def start(self, lock: bytes = b"", platform: str = "linux", **changes: Any) -> int:
        """Have the agent start an instance; its id."""
        instance_id = self.new_token()
        environment = environment_id(lock.decode(), MINOR, platform)
        start = wire.StartInstance(
            self.command(), instance_id, b"p" * 32, environment, MINOR, lock, (), 0, 0, FOREVER_US, 60_000_000
        )
        self.send(start._replace(**changes))
        return instance_id

    def ready(self, **changes: Any) -> int:
        """Start an instance without requirements and wait until it is ready."""
        instance_id = self.start(**changes)
        self.wait_for((wire.InstanceReady, wire.InstanceEnded), lambda message: message.instance_id == instance_id)
        assert self.last(wire.InstanceReady).instance_id == instance_id, self.heard[-1]
        return instance_id

    def declare(self, function: Callable[..., Any], setup: Callable[[], Any] | None = None) -> bytes:
        """Send a function; its version."""
        body = cloudpickle.dumps((function, setup))
        version = hashlib.sha256(body).digest()
        name = f"tests:{function.__name__}"
        self.send(wire.FunctionBody(version, name, CODEC, setup is not None, self.payload(body)))
        return version

    def payload(self, data: bytes) -> wire.Payload:
        """Bytes as they travel: inline, or as a reference that the agent may fetch here."""
        if len(data) <= INLINE_BYTES_MAX:
            return data
        name = hashlib.blake2b(data, digest_size=16).digest()
        self.offered[name] = data
        return wire.Reference(name, len(data), hashlib.sha256(data).digest())

    def dispatch(self, instance_id: int, version: bytes, *args: Any, **changes: Any) -> int:
        """Have an instance run a function; the attempt."""
        attempt = self.new_token()
        arguments = self.payload(pickle.dumps((args, {}), 5))
        dispatch = wire.Dispatch(
            self.command(), instance_id, attempt, b"s" * 16, 1, version, 60_000_000, FOREVER_US, FOREVER_US, arguments
        )
        self.send(dispatch._replace(**changes))
        return attempt

    def outcome(self, attempt: int) -> wire.AttemptDone:
        done: wire.AttemptDone = self.wait_for(wire.AttemptDone, lambda done: done.attempt == attempt)
        return done

    def call(self, instance_id: int, version: bytes, *args: Any, **changes: Any) -> wire.AttemptDone:
        """Run a function and settle its outcome."""
        done = self.outcome(self.dispatch(instance_id, version, *args, **changes))
        self.send(wire.Final((done.attempt,)))
        return done

    # ------------------------------------------------------------ listening

    def wait_for(
        self,
        kind: type[T] | tuple[type[Any], ...],
        wanted: Callable[[Any], bool] = lambda _: True,
        patience_s: float = 0,
    ) -> Any:
        """The first message of a kind that is wanted, heard before or to come; fails after a minute without."""
        deadline_s = time.monotonic() + (patience_s or PATIENCE_S)
        seen = 0
        while True:
            for message in self.heard[seen:]:
                if isinstance(message, kind) and wanted(message):
                    return message
            seen = len(self.heard)
            if time.monotonic() > deadline_s:
                tail = [message for message in self.heard if type(message) is not wire.AgentBeat][-20:]
                raise TimeoutError(f"no {kind} within {patience_s or PATIENCE_S} s; heard: {tail}")
            self.pump(0.05)

    def next(self, kind: type[T], wanted: Callable[[Any], bool] = lambda _: True) -> T:
        """Forget what was heard, then wait."""
        self.heard.clear()
        found: T = self.wait_for(kind, wanted)
        return found

    def last(self, kind: type[T]) -> T:
        return self.all(kind)[-1]

    def all(self, kind: type[T]) -> list[T]:
        return [message for message in self.heard if isinstance(message, kind)]

    def pump(self, timeout_s: float) -> None:
        """Take in what arrives within this time, at least one frame if any comes."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return
        while True:
            try:
                identity, frame = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            for message in decode_frame(frame):
                self._take(identity, message)

    def _take(self, identity: bytes, message: wire.Message) -> None:
        if self.is_silent:
            return
        if isinstance(message, wire.AgentHello):
            known = message.incarnation in self._known
            self._known.add(message.incarnation)
            self._identity = identity
            self.heard.append(message)
            self.send(wire.Welcome(1, b"c" * 16, self.epoch, known, 0, 0, 200_000))
            return
        if identity != self._identity:
            self._socket.send_multipart([identity, encode_frames([wire.Refused("hello_first", "who are you?")])[0]])
            return
        handler = self._ANSWERS.get(type(message))
        if handler is not None:
            handler(self, message)
        if not isinstance(message, wire.PayloadChunk | wire.PayloadCredit):
            self.heard.append(message)

    def _on_beat(self, beat: wire.AgentBeat) -> None:
        if self.beats_answered:
            self.send(wire.AgentBeatReply(beat.beat_number, self._command))

    def _on_credit(self, credit: wire.PayloadCredit) -> None:
        data = self.offered.get(credit.payload_id)
        if data is None:
            self.send(wire.PayloadRefused(credit.payload_id, wire.Failure("payload_unknown", "unknown payload")))
            return
        for start in range(credit.received, credit.limit, PIECE):
            self.send(wire.PayloadChunk(credit.payload_id, start, data[start : min(start + PIECE, credit.limit)]))

    def _on_offer(self, offer: wire.PayloadOffer) -> None:
        if offer.payload_id in self.stored:
            self.send(wire.PayloadStored(offer.payload_id))
            return
        _, received = self._uploads.setdefault(offer.payload_id, (offer, bytearray()))
        self._grant(offer, received)

    def _on_chunk(self, chunk: wire.PayloadChunk) -> None:
        offer, received = self._uploads[chunk.payload_id]
        if chunk.offset != len(received):
            return
        received += chunk.data
        if len(received) < offer.size:
            if len(received) % (4 * PIECE) == 0:
                self._grant(offer, received)
            return
        del self._uploads[chunk.payload_id]
        assert hashlib.sha256(received).digest() == offer.sha256
        self.stored[chunk.payload_id] = bytes(received)
        self.send(wire.PayloadStored(chunk.payload_id))

    def _grant(self, offer: wire.PayloadOffer, received: bytearray) -> None:
        limit = min(offer.size, len(received) + WINDOW)
        self.send(wire.PayloadCredit(offer.payload_id, len(received), limit))

    _ANSWERS: dict[type[Any], Callable[["AgentPeer", Any], None]] = {  # noqa: RUF012 - a table, never changed
        wire.AgentBeat: _on_beat,
        wire.PayloadCredit: _on_credit,
        wire.PayloadOffer: _on_offer,
        wire.PayloadChunk: _on_chunk,
    }


def descendants(pid: int) -> list[psutil.Process]:
    """The living descendants of a process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def pss_bytes(pid: int) -> int:
    """What a process takes of the machine's memory, shared pages by their share."""
    return int(psutil.Process(pid).memory_full_info().pss)


__all__ = [
    "CODEC",
    "MINOR",
    "AgentPeer",
    "agent_and_peer",
    "descendants",
    "is_alive",
    "pss_bytes",
    "returned",
    "start_agent",
]
