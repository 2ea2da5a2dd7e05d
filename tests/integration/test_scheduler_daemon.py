"""The scheduler's process on a real socket: peers that misbehave, restarts, signals, and what it refuses."""

import json
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import (
    AdminHello,
    AgentBeat,
    AgentBeatReply,
    AgentHello,
    ClientHello,
    DeclareFunction,
    Dispatch,
    FunctionOptions,
    Goodbye,
    InstanceReady,
    NodeLoad,
    Outcome,
    PayloadCredit,
    Quantity,
    Reference,
    Refused,
    RetryLimits,
    StartInstance,
    StatusReply,
    StatusRequest,
    Submit,
    Welcome,
)
from keepwarm_wire.spec import canonical_spec
from support.waiting import until

LIMIT_MS = 10_000
OPEN: list[zmq.Socket[bytes]] = []
"""Sockets of the test that runs; the ``context`` fixture closes them."""

OPTIONS = FunctionOptions(10_000_000, FOREVER_US, FOREVER_US, FOREVER_US, FOREVER_US, RetryLimits(), 1000, 0, 0)


class Peer:
    """A DEALER socket that speaks messages, or any bytes."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(address)
        self._heard: deque[Any] = deque()
        OPEN.append(self.socket)

    def say(self, *messages: Any) -> None:
        """Send messages in one frame."""
        self.socket.send(encode_frame(messages))

    def hear(self, kind: type[Any]) -> Any:
        """The next message of a kind; others before it are dropped."""
        while True:
            while self._heard:
                message = self._heard.popleft()
                if type(message) is kind:
                    return message
            assert self.socket.poll(LIMIT_MS), f"no {kind.__name__} came"
            self._heard.extend(decode_frame(self.socket.recv()))

    def as_client(self, session: bytes = b"c" * 16) -> Welcome:
        """Say hello as a client."""
        self.say(ClientHello(1, 1, "test", session, "test", 0))
        welcome: Welcome = self.hear(Welcome)
        return welcome

    def as_agent(self, node: str = "n", incarnation: bytes = b"a" * 16) -> Welcome:
        """Say hello as an agent with one core."""
        resources = (Quantity("cpu", 1000), Quantity("memory", 1 << 34))
        self.say(AgentHello(1, 1, "test", node, incarnation, "linux-test", ("3.11",), resources, (), 0))
        welcome: Welcome = self.hear(Welcome)
        self.say(AgentBeat(1, 0, (), (), (), (), NodeLoad(0, 1 << 34, 1 << 34)))
        self.hear(AgentBeatReply)
        return welcome


class Scheduler:
    """A scheduler's process."""

    def __init__(self, home: Path) -> None:
        self.address = f"ipc://{home}/s/scheduler.sock"
        self.command = [
            *(sys.executable, "-m", "keepwarm_scheduler"),
            *("--bind", self.address, "--state", str(home / "s" / "state"), "--log-level", "debug"),
        ]
        self.log = home / "scheduler.log"
        self.start()

    def start(self) -> None:
        """Start, or start again."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, stdout=log)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture
def scheduler(home: Path) -> Iterator[Scheduler]:
    """A scheduler of the test's own."""
    started = Scheduler(home)
    yield started
    if started.process.poll() is None:
        started.stop()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context; at the end every socket made in it is closed."""
    context = zmq.Context()
    yield context
    while OPEN:
        OPEN.pop().close()
    context.term()


def status(peer: Peer) -> dict[str, Any]:
    """The cluster's description."""
    peer.say(AdminHello(1, 1, "test"), StatusRequest(1))
    document: dict[str, Any] = json.loads(peer.hear(StatusReply).document)
    return document


def test_bytes_that_are_no_protocol_are_refused_and_change_nothing(scheduler: Scheduler, context: Any) -> None:
    """Garbage, several frames, a message before hello: each is answered in words, and the scheduler goes on."""
    honest = Peer(context, scheduler.address)
    for garbage in (b"", b"\xc1", b"\xff" * 1000, b"\x91\x91\xcd\xff\xff", encode_frame([])[:-1] or b"\x00"):
        hostile = Peer(context, scheduler.address)
        hostile.socket.send(garbage)
        assert hostile.hear(Refused).code == "protocol"
    hostile.socket.send_multipart([encode_frame([AdminHello(1, 1, "x")]), b"more"])
    assert "2 frames" in hostile.hear(Refused).reason
    hostile.say(Submit(1, 1, 0, False, b""))
    assert hostile.hear(Refused).code == "hello_first"
    hostile.say(ClientHello(7, 9, "keepwarm 9.0", b"h" * 16, "", 0))
    assert "too old" in hostile.hear(Refused).reason
    assert honest.as_client().epoch == 1


def test_all_that_was_under_way_when_a_peer_was_forgotten_is_one_mistake_a_turn(
    scheduler: Scheduler, context: Any
) -> None:
    """Else the beats and outcomes of an agent that has been away would make a flood of it."""
    peer = Peer(context, scheduler.address)
    peer.say(*[StatusRequest(number) for number in range(1_000)])
    peer.say(ClientHello(1, 1, "test", b"c" * 16, "test", 0))
    heard: list[Any] = []
    while not heard or type(heard[-1]) is not Welcome:
        assert peer.socket.poll(LIMIT_MS)
        heard += decode_frame(peer.socket.recv())
    refusals = heard[:-1]
    assert {each.code for each in refusals} == {"hello_first"}
    assert len(refusals) <= 100, "one for each part of the frame would be ten"


def test_after_three_frames_that_cannot_be_read_a_connection_is_not_read_any_more(
    scheduler: Scheduler, context: Any
) -> None:
    """Its node is out of reach, and so is what it says next; the same agent on a new connection is as good as any."""
    agent, admin = Peer(context, scheduler.address), Peer(context, scheduler.address)
    agent.as_agent()
    agent.say(AdminHello(1, 1, "x"))
    assert agent.hear(Welcome)
    for _ in range(3):
        agent.socket.send(b"\xc1")
        assert agent.hear(Refused).code == "protocol"
    agent.say(StatusRequest(1))
    until(lambda: [node["state"] for node in status(admin)["nodes"]] == ["lost"], limit_s=15)
    assert not agent.socket.poll(200)
    again = Peer(context, scheduler.address)
    again.as_agent(incarnation=b"b" * 16)
    assert [node["state"] for node in status(admin)["nodes"]] == ["alive"]


def test_a_node_whose_process_dies_is_lost_long_before_heartbeats_would_tell(
    scheduler: Scheduler, context: Any
) -> None:
    """The broken connection is noticed; nobody waits for heartbeats to stay away."""
    admin, agent = Peer(context, scheduler.address), Peer(context, scheduler.address)
    agent.as_agent()
    assert [node["state"] for node in status(admin)["nodes"]] == ["alive"]
    agent.socket.close()
    until(lambda: [node["state"] for node in status(admin)["nodes"]] == ["lost"], limit_s=15)


def test_the_epoch_grows_over_kill_9_and_peers_say_hello_again(scheduler: Scheduler, context: Any) -> None:
    """A restart is noticed by the answer to anything, and tokens of the new epoch are above all old ones."""
    client, agent = Peer(context, scheduler.address), Peer(context, scheduler.address)
    welcome = client.as_client()
    assert (welcome.epoch, welcome.known) == (1, False)
    assert client.as_client() == welcome, "nothing has been declared: there is nothing to be known"
    agent.as_agent()
    spec = canonical_spec([], "3.11")
    declare = DeclareFunction(1, "m:f", b"v" * 32, "cloudpickle:cp311", spec, False, OPTIONS, b"body")
    client.say(declare, Submit(1, 1, 0, False, b"arguments"))
    first = agent.hear(StartInstance).instance_id
    assert scheduler.stop(signal.SIGKILL) == -signal.SIGKILL
    scheduler.start()
    until(lambda: hello_first(client))
    assert client.as_client().epoch == 2
    assert not agent.as_agent().known
    client.say(declare, Submit(1, 1, 0, True, b"arguments"))
    # The node has reported that it runs nothing: the call, sent again, starts anew.
    again = agent.hear(StartInstance)
    assert again.instance_id > first
    agent.say(InstanceReady(again.instance_id, 1, False, 0, 0))
    assert agent.hear(Dispatch).arguments == b"arguments"


def hello_first(client: Peer) -> bool:
    """Whether the scheduler is back and does not know this connection."""
    client.say(Submit(9, 1, 0, False, b""))
    if not client.socket.poll(200):
        return False
    return any(type(message) is Refused for message in decode_frame(client.socket.recv()))


def test_sigterm_to_a_local_scheduler_says_goodbye_and_ends(scheduler: Scheduler, context: Any) -> None:
    """Its cluster is over; another one, which will be started again, says nothing."""
    scheduler.stop()
    scheduler.command.append("--local")
    scheduler.start()
    client = Peer(context, scheduler.address)
    client.as_client()
    assert scheduler.stop() == 0
    assert client.hear(Goodbye).reason


def test_a_second_scheduler_is_refused_in_words(scheduler: Scheduler, home: Path, context: Any) -> None:
    """On the same socket, on the same state, in an open directory, on a network address."""
    Peer(context, scheduler.address).as_client()

    def refusal(*flags: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "keepwarm_scheduler", *flags],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr

    state = ("--state", str(home / "other"))
    assert "already serving" in refusal("--bind", scheduler.address, *state)
    other = ("--bind", f"ipc://{home}/o/scheduler.sock")
    assert "Another scheduler" in refusal(*other, "--state", str(home / "s" / "state"))
    open_directory = home / "open"
    open_directory.mkdir(mode=0o777)
    open_directory.chmod(0o777)
    assert "chmod 700" in refusal("--bind", f"ipc://{open_directory}/s.sock", *state)
    assert "chmod 700" in refusal(*other, "--state", str(open_directory))
    assert "keys" in refusal("--bind", "tcp://0.0.0.0:7437", *state)


def test_an_outcome_is_repeated_until_it_is_received(scheduler: Scheduler, context: Any) -> None:
    """A client that comes back on another connection gets what it missed."""
    client, agent = Peer(context, scheduler.address), Peer(context, scheduler.address)
    client.as_client()
    agent.as_agent()
    options = OPTIONS._replace(cpu=2_000)  # more than the node has
    spec = canonical_spec([], "3.11")
    client.say(
        DeclareFunction(1, "m:f", b"v" * 32, "cloudpickle:cp311", spec, False, options, b"body"),
        Submit(1, 1, 0, False, b""),
    )
    outcome = client.hear(Outcome)
    assert "cpu=2" in outcome.failure.message
    client.socket.close()
    back = Peer(context, scheduler.address)
    assert back.as_client().known
    assert back.hear(Outcome) == outcome


def test_bytes_that_a_message_refers_to_and_that_are_not_here_are_asked_for(scheduler: Scheduler, context: Any) -> None:
    """A refusal could be taken for one of an upload of theirs that is under way by the time it arrives."""
    client = Peer(context, scheduler.address)
    client.as_client()
    body, arguments = Reference(b"b" * 16, 100_000, bytes(32)), Reference(b"a" * 16, 100_000, bytes(32))
    declaration = DeclareFunction(
        1, "m:f", b"v" * 32, "cloudpickle:cp311", canonical_spec([], "3.11"), False, OPTIONS, body
    )
    client.say(declaration, Submit(1, 1, 0, False, arguments))
    assert client.hear(PayloadCredit) == PayloadCredit(body.payload_id, 0, 0)
    assert client.hear(PayloadCredit) == PayloadCredit(arguments.payload_id, 0, 0)
