"""All about keys for one daemon: who may connect, whose message this is, and what administrators do with keys.

It owns the registry, the gate, and which connections belong to which key. A key that is revoked is not let in again,
and what its open connections still say is answered with a refusal: ZeroMQ cannot close a connection by itself.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import zmq

from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.journal import Opened
from keepwarm_scheduler.security.answering import answer
from keepwarm_scheduler.security.records import Record
from keepwarm_scheduler.security.registry import Registry
from keepwarm_scheduler.security.zap import Gate, receive
from keepwarm_wire.credentials import as_name
from keepwarm_wire.key_files import read_key_store
from keepwarm_wire.messages import AgentHello, Message, Refused

__all__ = ["Doorkeeper", "Received"]

log = logging.getLogger("keepwarm.scheduler.security")


class Received(NamedTuple):
    """A message and who sent it: ``principal`` is None for a key that is let in no more.

    ``is_another``: the id was another key's connection before, which is gone. Peers can choose their routing ids.
    """

    peer: bytes
    principal: Principal | None
    frames: list[bytes]
    is_another: bool


class Doorkeeper:
    """The keys of one scheduler at work.

    Args:
        context: that of the socket to guard.
        keys: the key store.
        opened: what the journal held.
        save: writes records and returns when they are on disk.

    Raises:
        KeyFileError: the key store cannot be used.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        keys: Path,
        opened: Opened,
        save: Callable[[list[Record]], None],
    ) -> None:
        store = read_key_store(keys)
        self._server, self._save = store.server, save
        self._cluster_id = opened.cluster_id
        self._registry = Registry(store.server.public, opened.keys, opened.tokens)
        changed = list(self._registry.prune(_wall_s()))
        if store.admin:
            changed += self._registry.adopt_admin(store.admin, _wall_s()).records
        if changed:
            save(changed)
        self._gate = Gate(context, self._registry)
        self._peers_of: dict[str, dict[bytes, None]] = {}
        self._key_of: dict[bytes, str] = {}

    @property
    def gate(self) -> "zmq.Socket[bytes]":
        """For the poller: call ``serve_gate`` when it is readable."""
        return self._gate.socket

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Let a socket, before it is bound, take only connections that the gate lets in."""
        self._gate.guard(socket, self._server)

    def serve_gate(self) -> None:
        """Decide about the handshakes under way."""
        seen = self._gate.serve(time.monotonic_ns(), _wall_s())
        if seen:
            self._save(seen)

    def receive(self, socket: "zmq.Socket[bytes]") -> Received:
        """One message, with its sender's principal. Raises ``zmq.Again`` if there is none."""
        peer, user_id, frames = receive(socket)
        if user_id is None:
            return Received(peer, None, frames, is_another=False)
        known = self._key_of.get(peer)
        if known != user_id:
            self.forget(peer)
            self._key_of[peer] = user_id
            self._peers_of.setdefault(user_id, {})[peer] = None
        return Received(peer, self._registry.principal_of(user_id), frames, known not in (None, user_id))

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

    def answer(self, peer: bytes, principal: Principal, message: Message) -> tuple[Message, list[bytes]]:
        """Do what a message about keys asks, on disk too. Returns the reply, and the connections that are over."""
        done = answer(self._registry, principal, message, self._cluster_id, _wall_s())
        if done.records:
            self._save(list(done.records))
        if done.event:
            log.info("%s", done.event)
        ended = [each for key in done.ended for each in self._peers_of.get(key, ()) if each != peer]
        return done.message, ended

    def forget(self, peer: bytes) -> None:
        """A connection is gone."""
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
