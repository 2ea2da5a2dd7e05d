"""The gate on real sockets: who gets in, who does not, and that without an answer nobody does."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from keepwarm_scheduler.intake import PARTS_MAX
from keepwarm_scheduler.security.handshakes import PATIENCE_NS, SILENT_MAX
from keepwarm_scheduler.security.hanging_up import Source, hang_up, source_of
from keepwarm_scheduler.security.records import TokenRecord
from keepwarm_scheduler.security.registry import Registry
from keepwarm_scheduler.security.rests import REST_FIRST_NS, Rests
from keepwarm_scheduler.security.zap import Gate, Incoming, receive
from keepwarm_wire.credentials import KeyPair
from support.waiting import until

Context = zmq.Context[zmq.Socket[bytes]]

NOW_S = 1_700_000_000
PATIENCE_MS = 50

GOT_IN = "HANDSHAKE_SUCCEEDED"
TURNED_AWAY = "HANDSHAKE_FAILED_AUTH"
NO_DETAIL = "HANDSHAKE_FAILED_NO_DETAIL"
NOT_OUR_PROTOCOL = "HANDSHAKE_FAILED_PROTOCOL"
OUTCOMES = {GOT_IN, TURNED_AWAY, NO_DETAIL, NOT_OUR_PROTOCOL}


def new_pair() -> KeyPair:
    return KeyPair.from_z85(*zmq.curve_keypair())


class Peer:
    """A DEALER in a context of its own, whose handshake is watched."""

    def __init__(self, stack: ExitStack) -> None:
        self.context: Context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, PATIENCE_MS)
        self._monitor = self.socket.get_monitor_socket()
        self._seen: list[str] = []
        stack.callback(self.leave)

    def connect(self, address: str, server: bytes | None = None, pair: KeyPair | None = None) -> "Peer":
        """Dial, with CURVE if there are keys."""
        if pair is not None and server is not None:
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, KeyPair(server, b"x" * 32).public_z85)
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public_z85)
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret_z85)
        self.socket.connect(address)
        return self

    def leave(self) -> None:
        """Hang up. Repeating it is harmless."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self._monitor.close()
            self.socket.close()
            self.context.term()

    def events(self) -> list[str]:
        """What has become of its handshakes so far."""
        while self._monitor.poll(0):
            event = zmq.Event(parse_monitor_message(self._monitor.recv_multipart())["event"])
            if event.name in OUTCOMES:
                self._seen.append(event.name)
        return self._seen


class House:
    """A guarded ROUTER, its gate, and the loop of a scheduler that has nothing else to do."""

    def __init__(self, stack: ExitStack, address: str, *, gate_is_elsewhere: bool = False, gate: bool = True) -> None:
        self.stack = stack
        self.server = new_pair()
        self.registry = Registry(self.server.public)
        self.rests = Rests()
        self.now_s, self.now_ns = NOW_S, 0
        self.came_in: list[Incoming] = []
        self.context: Context = zmq.Context()
        elsewhere: Context = zmq.Context() if gate_is_elsewhere else self.context
        for context in (self.context, elsewhere):
            stack.callback(context.term)
        self.gate = Gate(elsewhere, self.registry, self.rests) if gate else None
        if self.gate is not None:
            stack.callback(self.gate.close)
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, 1_000)
        stack.callback(self.socket.close)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        Gate.guard(self.socket, self.server)
        self.socket.bind(address)
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def turn(self) -> None:
        """Answer what was asked, take what has come in."""
        if self.gate is not None:
            self.gate.serve(self.now_ns, self.now_s)
        try:
            while True:
                self.came_in.append(receive(self.socket))
        except zmq.Again:
            pass

    def until(self, condition: Callable[[], bool]) -> None:
        """Take turns until something is so."""

        def turn_and_look() -> bool:
            self.turn()
            return condition()

        until(turn_and_look)

    def outcome_of(self, peer: Peer) -> str:
        """What becomes of a peer's first handshake."""
        self.until(lambda: bool(peer.events()))
        return peer.events()[0]

    def knock(self, pair: KeyPair, server: bytes | None = None) -> str:
        """What becomes of somebody with this key, who says something at once."""
        peer = Peer(self.stack).connect(self.address, server or self.server.public, pair)
        peer.socket.send(b"let me in")
        return self.outcome_of(peer)

    def token(self, role: str = "agent", uses: int = 1) -> KeyPair:
        """A join token's key, good for an hour."""
        pair = new_pair()
        namespace = "team-a" if role == "client" else ""
        wanted = TokenRecord(pair.public, role, namespace, "", uses, 0, 0, 0, b"")
        self.registry.new_token(wanted, 3600, self.now_s)
        return pair

    def enrolled(self, name: str, role: str = "client") -> KeyPair:
        """A key that has been enrolled."""
        pair, token = new_pair(), self.token(role)
        self.registry.enrol(token.public, pair.public, name, self.now_s)
        return pair


@pytest.fixture(autouse=True)
def log_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that configures logging may have switched off every logger that it did not know."""
    monkeypatch.setattr(logging.getLogger("keepwarm.scheduler.security"), "disabled", False)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["tcp", "ipc"])
def house(request: pytest.FixtureRequest, stack: ExitStack, tmp_path: Path) -> House:
    """A house on each kind of street."""
    return House(stack, "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/s.sock")


def test_an_enrolled_key_gets_in_and_its_messages_say_whose_they_are(house: House) -> None:
    pair = house.enrolled("alice")
    assert house.knock(pair) == GOT_IN
    house.until(lambda: bool(house.came_in))
    [incoming] = house.came_in
    assert incoming.frames == [b"let me in"]
    assert incoming.user_id is not None
    principal = house.registry.principal_of(incoming.user_id)
    assert principal == (pair.public_z85.decode(), "client", "team-a")


def test_a_token_gets_in_until_it_is_spent(house: House) -> None:
    token = house.token(uses=2)
    for name in ("a", "b"):
        assert house.knock(token) == GOT_IN
        house.registry.enrol(token.public, new_pair().public, name, house.now_s)
    assert house.knock(token) == TURNED_AWAY


def test_an_expired_token_is_turned_away(house: House, caplog: pytest.LogCaptureFixture) -> None:
    token = house.token()
    house.now_s += 3600
    assert house.knock(token) == TURNED_AWAY
    assert "expired token token-" in caplog.text


def test_an_unknown_key_is_turned_away_and_says_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    assert house.knock(new_pair()) == TURNED_AWAY
    assert house.knock(house.enrolled("alice")) == GOT_IN
    house.until(lambda: bool(house.came_in))
    assert len(house.came_in) == 1  # alice's
    assert "unknown key" in caplog.text


def test_a_revoked_key_is_turned_away_and_one_that_is_inside_is_nobody(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    pair = house.enrolled("alice")
    inside = Peer(house.stack).connect(house.address, house.server.public, pair)
    assert house.outcome_of(inside) == GOT_IN
    house.registry.revoke("alice", house.now_s)
    assert house.knock(pair) == TURNED_AWAY
    assert "revoked key alice" in caplog.text
    inside.socket.send(b"still here")
    house.until(lambda: bool(house.came_in))
    assert house.registry.principal_of(house.came_in[0].user_id or "") is None


# ---------------------------------------------------------------- hanging up


def test_one_connection_is_hung_up_on_and_the_others_are_not(house: House) -> None:
    peers = [Peer(house.stack).connect(house.address, house.server.public, house.enrolled(name)) for name in "ab"]
    for peer in peers:
        peer.socket.send(b"hello")
    house.until(lambda: len(house.came_in) == 2)
    source = source_of(house.came_in[0].source)
    assert source is not None
    assert hang_up(source) is house.address.startswith("tcp")
    if house.address.startswith("tcp"):
        house.until(lambda: any(len(peer.events()) == 2 for peer in peers))  # made anew by ZeroMQ
        assert sorted(len(peer.events()) for peer in peers) == [1, 2]


def heard(stack: ExitStack) -> tuple[Peer, Source]:
    """Somebody who has connected over TCP and said something, and where that came from."""
    house = House(stack, "tcp://127.0.0.1:*")
    peer = Peer(house.stack).connect(house.address, house.server.public, house.enrolled("alice"))
    peer.socket.send(b"hello")
    house.until(lambda: bool(house.came_in))
    source = source_of(house.came_in[0].source)
    assert source is not None
    return peer, source


def test_a_connection_that_is_gone_is_not_hung_up_on(stack: ExitStack) -> None:
    peer, source = heard(stack)
    peer.leave()
    until(lambda: not hang_up(source))


def test_nothing_else_is_touched_that_has_its_descriptor_by_now(stack: ExitStack, tmp_path: Path) -> None:
    peer, source = heard(stack)
    before = psutil.Process().num_fds()
    with (tmp_path / "file").open("wb") as file:
        for inode in (source.inode + 1, os.fstat(file.fileno()).st_ino):
            assert not hang_up(source._replace(inode=inode))
            assert not hang_up(source._replace(descriptor=file.fileno(), inode=inode))
    assert not hang_up(source._replace(address="192.0.2.1"))
    assert psutil.Process().num_fds() == before
    assert peer.events() == [GOT_IN]


def test_a_key_that_rests_waits_and_the_others_do_not(house: House) -> None:
    alice, bob = house.enrolled("alice"), house.enrolled("bob")
    house.rests.begin(alice.public_z85.decode(), house.now_ns)
    waiting = Peer(house.stack).connect(house.address, house.server.public, alice)
    house.until(lambda: house.gate is not None and house.gate.next_ns == REST_FIRST_NS)
    assert house.knock(bob) == GOT_IN
    assert waiting.events() == []
    house.now_ns = REST_FIRST_NS
    assert house.outcome_of(waiting) == GOT_IN
    assert house.gate is not None
    assert house.gate.next_ns is None


def test_a_key_that_connects_again_and_again_and_says_nothing_has_to_wait(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = house.enrolled("alice"), house.enrolled("bob")
    for _ in range(SILENT_MAX):
        assert house.outcome_of(Peer(house.stack).connect(house.address, house.server.public, alice)) == GOT_IN
    house.now_ns = PATIENCE_NS
    waiting = Peer(house.stack).connect(house.address, house.server.public, alice)
    house.until(lambda: house.gate is not None and house.gate.next_ns == PATIENCE_NS + REST_FIRST_NS)
    assert house.knock(bob) == GOT_IN
    assert waiting.events() == []
    assert "alice connects again and again and says nothing" in caplog.text
    house.now_ns = PATIENCE_NS + REST_FIRST_NS
    assert house.outcome_of(waiting) == GOT_IN


def test_a_key_that_is_revoked_while_it_rests_is_turned_away(house: House) -> None:
    alice = house.enrolled("alice")
    house.rests.begin(alice.public_z85.decode(), house.now_ns)
    waiting = Peer(house.stack).connect(house.address, house.server.public, alice)
    house.until(lambda: house.gate is not None and house.gate.next_ns is not None)
    house.registry.revoke("alice", house.now_s)
    house.now_ns = REST_FIRST_NS
    assert house.outcome_of(waiting) == TURNED_AWAY


def test_a_wrong_server_key_is_noticed_by_the_peer(house: House) -> None:
    """Who is deceived about the scheduler sends it nothing, not even its key."""
    assert house.knock(house.enrolled("alice"), server=new_pair().public) == NO_DETAIL
    assert not house.came_in


def test_a_public_key_alone_does_not_get_in(house: House) -> None:
    pair = house.enrolled("alice")
    assert house.knock(KeyPair(pair.public, new_pair().secret)) != GOT_IN
    assert not house.came_in


def test_peers_without_a_key_are_turned_away(house: House) -> None:
    peers = {"null": Peer(house.stack), "plain": Peer(house.stack)}
    peers["plain"].socket.setsockopt(zmq.PLAIN_USERNAME, b"admin")
    peers["plain"].socket.setsockopt(zmq.PLAIN_PASSWORD, b"admin")
    for peer in peers.values():
        peer.connect(house.address)
        peer.socket.send(b"let me in")
    for name, peer in peers.items():
        assert house.outcome_of(peer) in {NOT_OUR_PROTOCOL, NO_DETAIL}, name
    assert house.knock(house.enrolled("alice")) == GOT_IN
    house.until(lambda: bool(house.came_in))
    assert all(GOT_IN not in peer.events() for peer in peers.values())
    assert len(house.came_in) == 1  # alice's


@pytest.mark.parametrize("elsewhere", [False, True], ids=["no gate", "a gate in another context"])
def test_without_an_answer_nobody_gets_in(stack: ExitStack, elsewhere: bool) -> None:
    """ZeroMQ's own default would be to let everybody in who knows the server's public key."""
    house = House(stack, "tcp://127.0.0.1:*", gate=elsewhere, gate_is_elsewhere=elsewhere)
    pair = house.enrolled("alice")
    peer = Peer(stack).connect(house.address, house.server.public, pair)
    peer.socket.send(b"let me in")
    outcome = house.outcome_of(peer)
    assert outcome in {TURNED_AWAY, NO_DETAIL}
    assert not house.came_in


def test_a_gate_that_was_closed_lets_nobody_in(house: House) -> None:
    pair = house.enrolled("alice")
    assert house.gate is not None
    house.gate.close()
    house.gate = None
    assert house.knock(pair) in {TURNED_AWAY, NO_DETAIL}
    assert not house.came_in


def test_a_context_has_one_gate(house: House) -> None:
    with pytest.raises(zmq.ZMQError, match="in use"):
        Gate(house.context, house.registry, Rests())


def test_the_key_of_a_message_is_its_connections_whatever_routing_id_it_chose(house: House) -> None:
    """A routing id may be chosen, even one that looks assigned, and be used again by somebody else."""
    chosen = b"\0abcd"
    for name in ("alice", "bob"):
        peer = Peer(house.stack)
        peer.socket.setsockopt(zmq.ROUTING_ID, chosen)
        peer.connect(house.address, house.server.public, house.enrolled(name))
        peer.socket.send(name.encode())
        house.until(lambda: bool(house.came_in))
        incoming = house.came_in.pop()
        assert incoming.peer == chosen
        principal = house.registry.principal_of(incoming.user_id or "")
        assert principal is not None
        assert house.registry.name_of(principal) == name
        peer.leave()
        house.until(lambda: is_gone(house, chosen))


def is_gone(house: House, peer: bytes) -> bool:
    try:
        house.socket.send_multipart((peer, b""), zmq.NOBLOCK)
    except zmq.ZMQError:
        return True
    return False


def test_surplus_frames_are_dropped_with_their_message(house: House) -> None:
    peer = Peer(house.stack).connect(house.address, house.server.public, house.enrolled("alice"))
    peer.socket.send_multipart([b"frame"] * 100)
    peer.socket.send(b"next")
    house.until(lambda: len(house.came_in) == 2)
    told = [b"frame"] * 2 + [b""] * (PARTS_MAX - 2)
    assert [incoming.frames for incoming in house.came_in] == [told, [b"next"]]
    assert house.came_in[0].user_id == house.came_in[1].user_id
