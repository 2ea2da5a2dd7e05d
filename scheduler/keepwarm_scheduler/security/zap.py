"""The gate: which connections ZeroMQ lets through, asked of the registry while their handshake is under way.

ZeroMQ asks on ``inproc://zeromq.zap.01`` of the context that the guarded socket belongs to (RFC 27, ZAP 1.0). The
questions are answered in the scheduler's own loop: ``Gate.socket`` is in its poller, and a turn calls ``Gate.serve``.

Rules: fail closed. A guarded socket demands an answer (``ZAP_ENFORCE_DOMAIN``), so without a gate, or with one in
another context, nobody gets in. Only CURVE is let through, only for our domain, only keys that the registry accepts.
Whoever is turned away is told nothing; the scheduler's log says why, a few lines at a time. The decision is a pure
function, ``decide``. A key that rests (``rests``) is answered once it has rested.
"""

import heapq
import logging
from collections import deque
from typing import NamedTuple

import zmq

from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.intake import PARTS_MAX
from keepwarm_scheduler.security.handshakes import Handshakes
from keepwarm_scheduler.security.records import Record
from keepwarm_scheduler.security.registry import Accepted, Registry, Rejected
from keepwarm_scheduler.security.rests import Rests, first_rest_ns
from keepwarm_wire.credentials import KEY_BYTES, KeyPair

__all__ = ["Decision", "Gate", "Incoming", "LogBudget", "decide", "receive"]

DOMAIN = b"keepwarm"

_ADDRESS = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_QUESTIONS_PER_TURN = 256
_WAITING_MAX = 256
"""Handshakes of keys that rest; of further ones nothing is heard until ZeroMQ ends them."""

_FIRST_FRAMES = 7
"""Delimiter, version, request id, domain, address, identity, mechanism; the credentials follow."""

_LOG_LINES = 20
_LOG_SPAN_NS = 60 * 1_000_000_000

log = logging.getLogger("keepwarm.scheduler.security")


class Decision(NamedTuple):
    """What a question of ZeroMQ is answered with. ``frames`` is empty for one that cannot be answered at all."""

    frames: tuple[bytes, ...]
    accepted: Principal | None
    reason: str


def decide(question: list[bytes], registry: Registry, wall_now_s: int) -> Decision:
    """Decide about one handshake. ``question`` are the frames of ZAP after the routing id, the delimiter first."""
    if len(question) < _FIRST_FRAMES or question[0] or question[1] != _VERSION:
        return Decision((), None, "a question that is not of ZAP 1.0")
    _, _, request, domain, address, _, mechanism, *credentials = question
    verdict = _judge(domain, mechanism, credentials, registry, wall_now_s)
    if isinstance(verdict, Accepted):
        user_id = verdict.principal.key.encode("ascii")
        frames = (b"", _VERSION, request, b"200", b"", user_id, b"")
        return Decision(frames, verdict.principal, "")
    refused = (b"", _VERSION, request, b"400", b"", b"", b"")
    where = address.decode("utf-8", "replace")
    return Decision(refused, None, f"{verdict.reason}, from {where!a}")


def _judge(
    domain: bytes, mechanism: bytes, credentials: list[bytes], registry: Registry, wall_now_s: int
) -> Accepted | Rejected:
    if domain != DOMAIN:
        return Rejected("domain", "a connection to a socket of another domain")
    if mechanism != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != KEY_BYTES:
        return Rejected("mechanism", "a connection without a key")
    return registry.authenticate(credentials[0], wall_now_s)


class LogBudget:
    """Says which lines may be logged: at most ``_LOG_LINES`` in any ``_LOG_SPAN_NS``, and how many were left out."""

    def __init__(self) -> None:
        self._logged_ns: deque[int] = deque()
        self._left_out = 0

    def take(self, now_ns: int) -> int | None:
        """None if a line has to be left out, else how many were left out since the last one that was not."""
        logged = self._logged_ns
        while logged and now_ns - logged[0] >= _LOG_SPAN_NS:
            logged.popleft()
        if len(logged) >= _LOG_LINES:
            self._left_out += 1
            return None
        logged.append(now_ns)
        left_out, self._left_out = self._left_out, 0
        return left_out


class Gate:
    """Answers ZeroMQ's questions about the sockets of one context. Make it before a guarded socket is bound.

    Args:
        context: that of the sockets to guard.
        registry: who may come in.
        rests: whose connections have to wait.

    Raises:
        zmq.ZMQError: the context has a gate already.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", registry: Registry, rests: Rests) -> None:
        self._registry, self._rests = registry, rests
        self._waiting: list[tuple[int, bytes, list[bytes]]] = []
        """Questions about keys that rest, a heap: until when, and who asks what."""
        self._handshakes = Handshakes()
        self._budget = LogBudget()
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        """For the poller of the loop: readable when there is a question."""
        try:
            self.socket.setsockopt(zmq.LINGER, 0)
            self.socket.bind(_ADDRESS)
        except zmq.ZMQError:
            self.socket.close()
            raise

    @staticmethod
    def guard(socket: "zmq.Socket[bytes]", server: KeyPair) -> None:
        """Let a socket, before it is bound, take connections by CURVE alone, and none without an answer of a gate."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, server.secret_z85)
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    @property
    def next_ns(self) -> int | None:
        """When to ``serve`` even if nothing is asked, on the monotonic clock."""
        return self._waiting[0][0] if self._waiting else None

    def serve(self, now_ns: int, wall_now_s: int) -> list[Record]:
        """Answer what is asked. The records say who was seen; they may be written when something else is.

        Args:
            now_ns: monotonic time, for rests and the log.
            wall_now_s: wall time, for the ends of tokens.
        """
        records: list[Record] = []
        while self._waiting and self._waiting[0][0] <= now_ns:
            _, asker, question = heapq.heappop(self._waiting)
            records += self._answer(asker, question, now_ns, wall_now_s)
        for _ in range(_QUESTIONS_PER_TURN):
            try:
                asker, *question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            records += self._answer(asker, question, now_ns, wall_now_s)
        return records

    def _answer(self, asker: bytes, question: list[bytes], now_ns: int, wall_now_s: int) -> list[Record]:
        records: list[Record] = []
        decision = decide(question, self._registry, wall_now_s)
        if decision.accepted is not None:
            until_ns = self._rests_until_ns(decision.accepted, now_ns)
            if until_ns is not None:
                if len(self._waiting) < _WAITING_MAX:
                    heapq.heappush(self._waiting, (until_ns, asker, question))
                return records
            self._handshakes.begun(decision.accepted.key, now_ns)
            records += self._registry.seen(decision.accepted, wall_now_s)
        else:
            self._log(decision.reason, now_ns)
        if decision.frames:
            self.socket.send_multipart((asker, *decision.frames), zmq.NOBLOCK)
        return records

    def _rests_until_ns(self, principal: Principal, now_ns: int) -> int | None:
        """Until when the key has to wait, if it has to. One with many connections that say nothing begins to."""
        key, role = principal.key, principal.role
        until_ns = self._rests.until_ns(key, now_ns)
        is_suspect = self._rests.is_known(key, now_ns)
        if until_ns is not None or not self._handshakes.are_too_many(key, now_ns, is_suspect=is_suspect):
            return until_ns
        self._handshakes.forget(key)
        rest_s = self._rests.begin(key, now_ns, first_rest_ns(role)) / 1e9
        name = self._registry.name_of(principal)
        log.warning("%s connects again and again and says nothing: let in again after %g s", name, rest_s)
        return self._rests.until_ns(key, now_ns)

    def spoke(self, key: str) -> None:
        """The first message of a connection of this key has come."""
        self._handshakes.spoke(key)

    def _log(self, reason: str, now_ns: int) -> None:
        left_out = self._budget.take(now_ns)
        if left_out is not None:
            more = f" ({left_out} more were turned away and not logged)" if left_out else ""
            log.warning("turned away: %s%s", reason, more)

    def close(self) -> None:
        """Let nobody in any more."""
        self.socket.close()


class Incoming(NamedTuple):
    """A message as it came in. ``user_id`` is the key that its connection has proved to hold.

    It says that of a guarded socket only: on one without CURVE it is None, or whatever the peer made up.
    ``frames`` are the first ``PARTS_MAX`` at most, those after the second without what was in them: a message of the
    protocol is one. ``source`` is the first as ZeroMQ gave it, which knows its connection.
    """

    peer: bytes
    user_id: str | None
    frames: list[bytes]
    source: zmq.Frame


def receive(socket: "zmq.Socket[bytes]") -> Incoming:
    """Receive one message from a ROUTER socket, with the key of its connection. Raises ``zmq.Again`` if there is none.

    The key is read from every message, not remembered by ``peer``: that is a routing id, which a peer may choose, and
    which may be another's tomorrow.
    """
    peer = socket.recv(zmq.NOBLOCK)
    frame = socket.recv(zmq.NOBLOCK, copy=False)
    try:
        user_id: str | None = str(frame.get("User-Id"))
    except zmq.ZMQError:
        user_id = None
    frames = [frame.bytes]
    while socket.getsockopt(zmq.RCVMORE):
        surplus = socket.recv(zmq.NOBLOCK)
        if len(frames) < PARTS_MAX:
            frames.append(surplus if len(frames) < 2 else b"")
    return Incoming(peer, user_id, frames, frame)
