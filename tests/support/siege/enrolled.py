"""What somebody with a key can do: floods, lies, silence. As frames that are made once and sent again and again.

Each attack is a function of a target and a deadline on the monotonic clock; it returns how many frames it sent.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from itertools import cycle

import zmq

from keepwarm_wire import messages as wire
from keepwarm_wire.codec import FRAME_BYTES_MAX, ProtocolError, decode_frame, encode_frame
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.identifiers import token
from keepwarm_wire.spec import canonical_spec
from support.mutations import mutate
from support.siege.target import Target
from support.wire_values import example

__all__ = ["AGENTS", "CLIENTS", "VICTIM_ROUTING_ID", "VICTIM_SESSION", "victim_frames"]

VICTIM_SESSION = b"victim's session"
VICTIM_ROUTING_ID = b"victim"
_PER_FRAME = 1_000
_PARTS = 200_000


def victim_frames() -> list[bytes]:
    """What an innocent session has said: an attacker has recorded it."""
    return [
        encode_frame([wire.ClientHello(1, 1, "victim", VICTIM_SESSION, "victim", 0)]),
        encode_frame([_declaration(1)]),
        encode_frame([wire.Submit(number, 1, 0, False, b"arguments") for number in range(1, 4)]),
        encode_frame([wire.Cancel(number) for number in range(1, 4)]),
        encode_frame([wire.Received((1, 2, 3)), wire.ClientBeat(1, 3)]),
        encode_frame([wire.Goodbye("bye")]),
    ]


def _declaration(number: int, requirements: tuple[str, ...] = ()) -> wire.DeclareFunction:
    never = (FOREVER_US,) * 5
    nowhere = (wire.Quantity("none has this", 1),)
    options = wire.FunctionOptions(*never, wire.RetryLimits(), 1_000, 0, 0, nowhere)
    version, spec = number.to_bytes(32, "big"), canonical_spec(requirements, "3.11")
    return wire.DeclareFunction(number, f"m:f{number}", version, "cloudpickle:cp311", spec, False, options, b"body")


def _hello(session: bytes = b"") -> bytes:
    return encode_frame([wire.ClientHello(1, 1, "x", session or os.urandom(16), "x", 0)])


class _Sender:
    """One connection, made anew when nothing goes out any more."""

    def __init__(self, target: Target, end_s: float, first: bytes = b"") -> None:
        self._target, self._first, self.end_s = target, first, end_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sent = 0
        self.connect()

    def connect(self, routing_id: bytes = b"") -> None:
        self.socket = self._target.dealer(self._context, routing_id=routing_id)
        if self._first:
            self.send([self._first])

    def send(self, parts: list[bytes]) -> bool:
        try:
            self.socket.send_multipart(parts, copy=True)
        except zmq.Again:
            return False
        self.sent += 1
        return True

    def hear(self) -> None:
        while self.socket.poll(0):
            self.socket.recv_multipart()

    def again(self, routing_id: bytes = b"") -> None:
        self.socket.close(0)
        self.connect(routing_id)

    def run(self, frames: Iterator[bytes], *, listens: bool = True) -> int:
        """Send frames until time is up, as fast as they go."""
        for frame in frames:
            if time.monotonic() >= self.end_s:
                break
            self.send([frame])
            if listens:
                self.hear()
        self.socket.close(0)
        self._context.term()
        return self.sent


def _repeat(target: Target, end_s: float, frames: list[bytes], first: bytes = b"", *, listens: bool = True) -> int:
    return _Sender(target, end_s, first).run(cycle(frames), listens=listens)


# ---------------------------------------------------------------- clients


def _unreadable(rng: random.Random) -> bytes:
    """A mutated frame that is refused: one that is not may well be an order to revoke the attacker's own key."""
    while True:
        frame = mutate(rng)
        try:
            decode_frame(frame)
        except ProtocolError:
            return frame


def bad_frames(target: Target, end_s: float) -> int:
    """Frames that are no messages; a new connection for every few."""
    rng, sender = random.Random(1), _Sender(target, end_s)
    while time.monotonic() < end_s:
        for _ in range(10):
            sender.send([_unreadable(rng)])
        sender.socket.poll(20)
        sender.again()
    return sender.run(iter(()))


def bad_frames_on_one_connection(target: Target, end_s: float) -> int:
    """The same, as many as go."""
    rng = random.Random(2)
    return _repeat(target, end_s, [_unreadable(rng) for _ in range(5_000)])


def other_roles(target: Target, end_s: float) -> int:
    """Messages of agents and of administrators."""
    kinds = (wire.AgentHello, wire.AttemptDone, wire.StopCluster, wire.NewToken, wire.StatusRequest, wire.MakeLock)
    return _repeat(target, end_s, [encode_frame([example(kind) for kind in kinds] * 100)])


def oversize(target: Target, end_s: float) -> int:
    """Frames larger than any that is read: each ends its connection."""
    frame = bytes(FRAME_BYTES_MAX + 1)
    return _repeat(target, end_s, [frame])


def largest(target: Target, end_s: float) -> int:
    """Frames as large as may be, of bytes that mean nothing."""
    return _repeat(
        target, end_s, [b"\x91\xc6" + (FRAME_BYTES_MAX - 10).to_bytes(4, "big") + bytes(FRAME_BYTES_MAX - 10)]
    )


def multipart(target: Target, end_s: float) -> int:
    """Messages of very many parts."""
    sender, parts = _Sender(target, end_s), [b""] * _PARTS
    while time.monotonic() < end_s:
        sender.send(parts)
        sender.hear()
        time.sleep(1.0)
    return sender.run(iter(()))


def hellos(target: Target, end_s: float) -> int:
    """Sessions without end."""

    def frames() -> Iterator[bytes]:
        while True:
            hello = [wire.ClientHello(1, 1, "x", os.urandom(16), "x", 0) for _ in range(100)]
            yield encode_frame(hello)

    return _Sender(target, end_s).run(frames())


def declares(target: Target, end_s: float) -> int:
    """Functions without end, each of another environment."""

    def frames() -> Iterator[bytes]:
        number = 0
        while True:
            number += 50
            yield encode_frame([_declaration(each, (f"p{each}",)) for each in range(number, number + 50)])

    return _Sender(target, end_s, _hello()).run(frames())


def submits(target: Target, end_s: float) -> int:
    """Calls far beyond any credit, of a function that can run nowhere."""

    def frames() -> Iterator[bytes]:
        number = 0
        while True:
            number += _PER_FRAME
            yield encode_frame([wire.Submit(n, 1, 0, False, bytes(100)) for n in range(number, number + _PER_FRAME)])

    sender = _Sender(target, end_s, _hello())
    sender.send([encode_frame([_declaration(1)])])
    return sender.run(frames())


def beats(target: Target, end_s: float) -> int:
    """Beats that ask for ten thousand numbers each."""
    return _repeat(target, end_s, [encode_frame([wire.ClientBeat(n, 1 << 60) for n in range(_PER_FRAME)])], _hello())


def received(target: Target, end_s: float) -> int:
    """Acknowledgements of outcomes that never were, with gaps between their numbers."""
    numbers = [tuple(range(2 * at, 2 * at + 2 * _PER_FRAME, 2)) for at in range(0, 5_000_000, _PER_FRAME)]
    frames = [encode_frame([wire.Received(each) for each in numbers[at : at + 10]]) for at in range(0, 5_000, 10)]
    return _repeat(target, end_s, frames, _hello())


def replay(target: Target, end_s: float) -> int:
    """A recorded session of somebody else, again and in any order."""
    rng, frames = random.Random(3), victim_frames()

    def shuffled() -> Iterator[bytes]:
        while True:
            yield rng.choice(frames)

    return _Sender(target, end_s).run(shuffled())


def spoofed_ids(target: Target, end_s: float) -> int:
    """Under the routing id of a live connection, and under those that look assigned."""
    sender = _Sender(target, end_s)
    ids = cycle([VICTIM_ROUTING_ID, *(b"\0" + number.to_bytes(4, "big") for number in range(1, 30))])
    for routing_id in ids:
        if time.monotonic() >= end_s:
            break
        sender.again(routing_id)
        for frame in victim_frames():
            sender.send([frame])
        sender.socket.poll(30)
    return sender.run(iter(()))


def offers(target: Target, end_s: float) -> int:
    """Payloads that never come, the largest that are taken and many small ones."""

    def frames() -> Iterator[bytes]:
        size = 256 << 20
        while True:
            yield encode_frame([wire.PayloadOffer(os.urandom(16), size, bytes(32)) for _ in range(100)])
            size = 1

    return _Sender(target, end_s, _hello()).run(frames())


def others_payloads(target: Target, end_s: float) -> int:
    """Payloads that others may have, and calls that refer to them."""
    reference = wire.Reference(b"p" * 16, 1 << 40, bytes(32))
    message = [
        wire.PayloadCredit(b"p" * 16, 0, 1 << 60),
        wire.PayloadChunk(b"p" * 16, 0, bytes(1000)),
        wire.PayloadChunk(b"p" * 16, (1 << 63) - 1, bytes(10)),
        wire.Submit(1, 1, 0, False, reference),
        wire.DeclareFunction(*_declaration(1)[:-1], reference),
    ]
    return _repeat(target, end_s, [encode_frame(message * 20)], _hello())


def never_reads(target: Target, end_s: float) -> int:
    """Whatever is answered, nothing of it is read."""
    forbidden = encode_frame([wire.StatusRequest(1)] * _PER_FRAME)
    return _repeat(target, end_s, [forbidden], _hello(), listens=False)


CLIENTS: dict[str, Callable[[Target, float], int]] = {
    "bad frames": bad_frames,
    "bad frames on one connection": bad_frames_on_one_connection,
    "messages of other roles": other_roles,
    "oversize frames": oversize,
    "largest frames": largest,
    "multipart": multipart,
    "hellos": hellos,
    "declares": declares,
    "submits": submits,
    "beats": beats,
    "received": received,
    "replay": replay,
    "spoofed ids": spoofed_ids,
    "offers": offers,
    "others' payloads": others_payloads,
    "never reads": never_reads,
}


# ---------------------------------------------------------------- agents


def _agent_hello(name: str) -> wire.AgentHello:
    resources = (wire.Quantity("cpu", 1_000), wire.Quantity("memory", 1))
    return wire.AgentHello(1, 1, "x", name, os.urandom(16), "linux-test", ("2.7",), resources, (), 0)


def _lies(instance: int, attempt: int) -> list[wire.Message]:
    huge = (1 << 63) - 1
    failure = wire.Failure("process_died", "x" * 8192)
    return [
        wire.AttemptDone(attempt, VICTIM_SESSION, 1, instance, huge, 0, b"a lie", None, 0, 0, True),
        wire.AttemptDone(attempt, VICTIM_SESSION, 2, instance, 0, (1 << 31) - 1, b"", failure, 1 << 53, 1 << 53, False),
        wire.AttemptRefused(attempt, instance, "gone"),
        wire.AttemptStarted(attempt),
        wire.AttemptOutput(attempt, 1, b"not mine", huge),
        wire.InstanceEnded(instance, "died", failure, False, attempt),
        wire.InstanceReady(instance, 1, True, 0, 0),
        wire.InstanceBusy(instance, huge),
    ]


def lies(target: Target, end_s: float) -> int:
    """About attempts and instances of others: their numbers are easy to guess."""
    guessed = [token(epoch, number) for epoch in (1, 2) for number in range(1, 60)]
    frames = [
        encode_frame([lie for one in guessed[at : at + 10] for lie in _lies(one, one)]) for at in range(0, 110, 5)
    ]
    return _repeat(target, end_s, frames, encode_frame([_agent_hello(target.key.name)]))


def beats_of_others(target: Target, end_s: float) -> int:
    """Beats that claim instances and attempts of others, and very many of one's own."""
    rng = random.Random(4)
    load = wire.NodeLoad((1 << 31) - 1, 0, 0)

    def instance(number: int) -> wire.InstanceState:
        running = (wire.RunningAttempt(number, VICTIM_SESSION, 1, 1 << 53),)
        state = rng.choice(("idle", "busy", "starting", "stopping", "?"))
        lease = (wire.FunctionLease("m:f1", 1 << 53, 1 << 53),)
        return wire.InstanceState(
            number, rng.randbytes(32), "e" * 64, state, 1, 1, 1 << 50, 1 << 53, lease, running, 1 << 50
        )

    def frames() -> Iterator[bytes]:
        number = 0
        while True:
            number += 1
            mine = [instance(token(1, each)) for each in range(1, 60)] + [
                instance(rng.getrandbits(39)) for _ in range(40)
            ]
            yield encode_frame([wire.AgentBeat(number, (1 << 63) - 1, tuple(mine), (), (), (), load)])

    return _Sender(target, end_s, encode_frame([_agent_hello(target.key.name)])).run(frames())


def names_of_others(target: Target, end_s: float) -> int:
    """Hello, I am the good node."""
    return _repeat(target, end_s, [encode_frame([_agent_hello("good")] * 100)])


AGENTS: dict[str, Callable[[Target, float], int]] = {
    "lies": lies,
    "beats of others": beats_of_others,
    "names of others": names_of_others,
}
