"""All about keys for one daemon: who may connect, whose message this is, and what administrators do with keys.

It owns the registry, the gate, and which connections belong to which key. A key that is revoked is not let in again,
and what its open connections still say is answered with a refusal. Who floods us is hung up on.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import zmq

from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.journal import Opened
from keepwarm_scheduler.security.answering import answer
from keepwarm_scheduler.security.hanging_up import Source, hang_up, source_of
from keepwarm_scheduler.security.records import Record
from keepwarm_scheduler.security.registry import Registry
from keepwarm_scheduler.security.rests import Rests, first_rest_ns
from keepwarm_scheduler.security.zap import Gate, receive
from keepwarm_wire.credentials import as_name
from keepwarm_wire.key_files import read_key_store
from keepwarm_wire.messages import AgentHello, KeysListed, Message, Refused

__all__ = ["Disk", "Doorkeeper", "Received"]

_TOLD_MAX = 16

log = logging.getLogger("keepwarm.scheduler.security")


class Received(NamedTuple):
    """A message and who sent it: ``principal`` is None for a key that is let in no more.

    ``is_another``: the id was another key's connection before, which is gone. Peers can choose their routing ids.
    """

    peer: bytes
    principal: Principal | None
    frames: list[bytes]
    is_another: bool


class Disk(Protocol):
    """How the records of the registry get to the disk; ``Performer`` is one. Each raises ``JournalError``."""

    def save(self, records: Sequence[Record]) -> None:
        """Write them, and return when they are on disk."""

    def note(self, records: Sequence[Record]) -> None:
        """Have them written, some time."""

    def answer(self, records: Sequence[Record], peer: bytes, message: Message) -> None:
        """Have them written, and the message sent once they, and all before them, are on disk."""


class Doorkeeper:
    """The keys of one scheduler at work.

    Args:
        context: that of the socket to guard.
        keys: the key store.
        opened: what the journal held.
        disk: takes what the registry has to remember.
        send: sends a peer a message at once.

    Raises:
        KeyFileError: the key store cannot be used.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        keys: Path,
        opened: Opened,
        disk: Disk,
        send: Callable[[bytes, Message], None],
    ) -> None:
        store = read_key_store(keys)
        self._server, self._disk, self._send = store.server, disk, send
        self._cluster_id = opened.cluster_id
        self._registry = Registry(store.server.public, opened.keys, opened.tokens)
        changed = list(self._registry.prune(_wall_s()))
        if store.admin:
            changed += self._registry.adopt_admin(store.admin, _wall_s()).records
        if changed:
            disk.save(changed)
        self._rests = Rests()
        self._gate = Gate(context, self._registry, self._rests)
        self._peers_of: dict[str, dict[bytes, None]] = {}
        self._key_of: dict[bytes, str] = {}
        self._sources: dict[bytes, Source] = {}
        """By which sockets connections have come."""
        self._told: dict[bytes, int] = {}
        """How often connections of keys that are let in no more have been told so."""

    @property
    def gate(self) -> "zmq.Socket[bytes]":
        """For the poller: call ``serve_gate`` when it is readable."""
        return self._gate.socket

    @property
    def next_ns(self) -> int | None:
        """When to call ``serve_gate`` even if it is not readable, on the monotonic clock."""
        return self._gate.next_ns

    @property
    def is_due(self) -> bool:
        """Whether it is time for that."""
        next_ns = self._gate.next_ns
        return next_ns is not None and next_ns <= time.monotonic_ns()

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Let a socket, before it is bound, take only connections that the gate lets in."""
        self._gate.guard(socket, self._server)

    def serve_gate(self) -> None:
        """Decide about the handshakes under way. Nobody waits until it is on disk who was seen."""
        seen = self._gate.serve(time.monotonic_ns(), _wall_s())
        if seen:
            self._disk.note(seen)

    def receive(self, socket: "zmq.Socket[bytes]") -> Received:
        """One message, with its sender's principal. Raises ``zmq.Again`` if there is none."""
        peer, user_id, frames, frame = receive(socket)
        if user_id is None:
            return Received(peer, None, frames, is_another=False)
        known = self._key_of.get(peer)
        if known != user_id:
            self.forget(peer)
            self._key_of[peer] = user_id
            self._gate.spoke(user_id)
            source = source_of(frame)
            if source is not None:
                self._sources[peer] = source
            self._peers_of.setdefault(user_id, {})[peer] = None
        principal = self._registry.principal_of(user_id)
        if principal is None:
            self._hang_up_on_the_revoked(peer)
        return Received(peer, principal, frames, known not in (None, user_id))

    def hang_up(self, peer: bytes, principal: Principal) -> bool:
        """Break a connection; its key has to rest before it is let in again. False if it is gone, or none over TCP.

        One line is logged for each rest, which bounds them.
        """
        source = self._sources.pop(peer, None)
        if source is None or not hang_up(source):
            return False
        now_ns = time.monotonic_ns()
        is_new = self._rests.until_ns(principal.key, now_ns) is None
        rest_s = self._rests.begin(principal.key, now_ns, first_rest_ns(principal.role)) / 1e9
        if is_new:
            name = self._registry.name_of(principal)
            log.warning("%s floods us: hung up on, and let in again after %g s", name, rest_s)
        return True

    def has_rested(self, principal: Principal) -> bool:
        """Whether a connection of this key has flooded us not long ago."""
        return self._rests.is_known(principal.key, time.monotonic_ns())

    def _hang_up_on_the_revoked(self, peer: bytes) -> None:
        """Those who have been told often enough that they are let in no more."""
        told = self._told[peer] = self._told.get(peer, 0) + 1
        if told >= _TOLD_MAX and (source := self._sources.pop(peer, None)) is not None:
            hang_up(source)

    def refusal(self, principal: Principal, message: Message) -> Refused | None:
        """What a key may not claim, its role apart: a node is called what its key is called."""
        if type(message) is not AgentHello:
            return None
        name = self._registry.name_of(principal)
        if as_name(message.node) == name:
            return None
        reason = (
            f"This key is that of node {name}, not of {message.node}. Start the agent with --node {name}, or join anew."
        )
        return Refused("node_name", reason[:1000])

    def answer(self, peer: bytes, principal: Principal, message: Message) -> list[bytes]:
        """Do what a message about keys asks; it is answered once that is on disk. Returns connections that are over.

        They are over at once: what a revoked key still says while the disk is slow is not to be heard.
        """
        done = answer(self._registry, principal, message, self._cluster_id, _wall_s())
        if type(done.message) is KeysListed:  # has changed nothing, and is of use when the disk is full, too
            self._send(peer, done.message)
        else:
            self._disk.answer(done.records, peer, done.message)
        if done.event:
            log.info("%s", done.event)
        return [each for key in done.ended for each in self._peers_of.get(key, ()) if each != peer]

    def forget(self, peer: bytes) -> None:
        """A connection is gone."""
        self._told.pop(peer, None)
        self._sources.pop(peer, None)
        key = self._key_of.pop(peer, None)
        if key is not None:
            peers = self._peers_of[key]
            peers.pop(peer, None)
            if not peers:
                del self._peers_of[key]

    def close(self) -> None:
        """Let nobody in any more."""
        self._gate.close()


def _wall_s() -> int:
    return int(time.time())
