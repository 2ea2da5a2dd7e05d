"""The client's link to its cluster: the session, its socket, and what to do when the cluster does not answer.

Rules: ``turn`` and ``close`` belong to the thread that owns the turn; the session is touched only under ``lock``; no
I/O, no delivery and no start of a cluster happens under it. Calls are never dropped in silence: they wait, are sent
again, or fail with an error that names the address.
"""

import os
import secrets
import socket as sockets
import sys
import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import NamedTuple

from keepwarm import local, logins
from keepwarm.direct_transport import DirectTransport
from keepwarm.errors import (
    ClusterStartError,
    ClusterUnreachable,
    InternalError,
    KeepwarmError,
    OptionError,
    ProtocolMismatch,
    SchedulerRefused,
)
from keepwarm.gathering import Gathering
from keepwarm.interruptions import BestEffort
from keepwarm.loan_sockets import Closed, LoanSockets, Received
from keepwarm.loans import Loans
from keepwarm.session import Session
from keepwarm.session_calls import Call, CallState
from keepwarm.session_deliveries import Delivery
from keepwarm.transport import KEY_REFUSED, Arrivals, Transport
from keepwarm.waking import Wakeup
from keepwarm_wire.key_files import StoredKey
from keepwarm_wire.streams import is_direct_offered

__all__ = ["Connection", "Dropped", "Failed", "Patience", "not_let_in"]

SECOND_NS = 1_000_000_000
WATCH_S = 0.25
"""How often trouble is looked at while there is any."""

RESTART_PAUSE_NS = SECOND_NS // 2
NEXT_ADDRESS_NS = 2 * SECOND_NS
"""How long one of several addresses is tried before the next."""

LONE_ADDRESS_NS = 10 * SECOND_NS
"""How long the only one is tried before another socket tries: ZeroMQ does not after a damaged handshake."""

COMPLAINTS_MAX = 3
AGENT_LOOK_NS = SECOND_NS
"""How often a client of the local cluster with unanswered calls sees whether its agent still runs."""

AGENT_STARTS_MAX = 5
AGENT_STARTS_WITHIN_NS = 60 * SECOND_NS
"""An agent that has to be started again so often in so short a time will not stay: calls fail then."""

STALE_NS = SECOND_NS // 10
"""After so long without a turn, what has come meanwhile is read before anything is sent."""

LINGER_S = 0.5


class Patience(NamedTuple):
    """How long calls wait for a cluster that does not answer, in seconds."""

    connect_s: float = 10.0
    warn_s: float = 3.0
    give_up_s: float = 60.0

    @classmethod
    def from_environment(cls) -> "Patience":
        """The defaults, with ``KEEPWARM_CONNECT_TIMEOUT`` in seconds. Raises ``OptionError`` for what is no number."""
        text = os.environ.get("KEEPWARM_CONNECT_TIMEOUT", "").strip()
        try:
            connect_s = float(text) if text else cls().connect_s
        except ValueError:
            connect_s = -1.0
        if not 0 < connect_s < threading.TIMEOUT_MAX:
            raise OptionError(f"KEEPWARM_CONNECT_TIMEOUT={text!r}: this is a number of seconds above zero")
        return cls(connect_s=connect_s)


class Failed(NamedTuple):
    """A call that ends because of this connection, not by an outcome."""

    call: Call
    error: KeepwarmError


class Dropped(NamedTuple):
    """Somebody who waited for an answer about a detached call, and will not get one over this connection."""

    owner: object
    error: KeepwarmError


class Connection:
    """A session with one cluster. ``address`` is ``None`` for the local cluster, which is started when needed."""

    def __init__(
        self, address: str | None, patience: Patience, lock: AbstractContextManager[bool], wakeup: Wakeup
    ) -> None:
        self.address = address
        self.session = _new_session()
        self.generation = 0
        """Counts sessions: functions are declared anew in each."""
        self.deliveries: deque[Delivery | Failed | Dropped] = deque()
        self.roused = False
        """Whether the owner has been woken and has not looked since. Guarded by the lock."""
        self._patience = patience
        self._lock = lock
        self._wakeup = wakeup
        self._transport: Transport | DirectTransport | None = None
        self._key: StoredKey | None = None
        self._is_connected = False
        self._trouble_since_ns: int | None = None
        self._warned = False
        self._restart_at_ns = 0
        self._last_turn_ns = 0
        self._look_at_ns = 0
        self._agent_starts: deque[int] = deque(maxlen=AGENT_STARTS_MAX)
        self._addresses: tuple[str, ...] = ()
        self._gathering = Gathering()
        self._loan_sockets = LoanSockets(lambda: self.session.loans.borrower.requested)

    # ------------------------------------------------------------ one turn

    def turn(self, timeout_s: float | None) -> None:
        """Send what is due, wait for at most ``timeout_s`` (``None``: until something is due), take in what came."""
        try:
            transport = self._transport or self._open()
        except KeepwarmError as error:
            self._fail_all(error)
            return
        now_ns = time.monotonic_ns()
        if now_ns - self._last_turn_ns > STALE_NS:
            self.collect()  # a farewell or a lost connection may have waited here
            if self._transport is None:
                return  # the next turn connects anew
        self._last_turn_ns = now_ns
        if not self._is_connected:
            transport = self._suitable(transport)
        can_send = self._is_connected and not transport.is_congested
        with self._lock:
            self.roused = False
            self.session.tick(now_ns)
            outgoing = self.session.take_outgoing(now_ns) if can_send else []
            self._loan_sockets.take(self.session.loans.take_outgoing())
            wait_s = self._wait_s(now_ns, timeout_s, can_send)
            pause_s = self._gathering.pause_ns(self.session.submitted_calls) / SECOND_NS
            lent_pause_s = self.session.loans.pause_ns() / SECOND_NS if self.session.loans.inflight else 0.0
        transport.send(outgoing)
        self._loan_sockets.send()
        if lent_pause_s and isinstance(transport, DirectTransport) and (wait_s is None or lent_pause_s < wait_s):
            transport.pause(lent_pause_s)
        elif pause_s and (wait_s is None or pause_s < wait_s):
            self._wakeup.await_wake(pause_s)
        self._take(transport.receive(wait_s))
        if self._trouble_since_ns is not None or not self.session.is_open or self._is_unwelcome:
            self._watch(time.monotonic_ns())
        elif self.address is None and self.session.waiting and now_ns >= self._look_at_ns:
            self._look_after_agent(now_ns)

    def collect(self) -> None:
        """Take in what has come already, without waiting or sending."""
        if self._transport is not None:
            self._take(self._transport.receive(0))
            if self.session.goodbye is not None or self._is_unwelcome:
                self._watch(time.monotonic_ns())

    @property
    def _is_unwelcome(self) -> bool:
        """Whether the scheduler refuses this program, also in the middle of a session, or what it has sent."""
        return self.session.refusal is not None or bool(self.session.protocol_complaints)

    def _wait_s(self, now_ns: int, timeout_s: float | None, can_send: bool) -> float | None:
        if self.deliveries or self.session.deliveries:
            return 0
        waits = [] if timeout_s is None else [timeout_s]
        if self.address is None and self.session.waiting:
            waits.append(AGENT_LOOK_NS / SECOND_NS)
        if not self.session.is_open or not can_send:
            waits.append(WATCH_S)
        else:
            deadline_ns = self.session.next_deadline()
            if deadline_ns is not None:
                waits.append(max(0, deadline_ns - now_ns) / SECOND_NS)
        return min(waits, default=None)

    def _take(self, arrivals: Arrivals) -> None:
        if arrivals.refusal:
            self._fail_all(SchedulerRefused(not_let_in(self.where(), arrivals.refusal)))
            return
        if not (arrivals.messages or arrivals.lost or arrivals.made or self._loan_sockets.arrivals):
            return
        now_ns = time.monotonic_ns()
        if arrivals.messages:
            self._gathering.arrived(now_ns, len(arrivals.messages))
        with self._lock:
            session = self.session
            for message in arrivals.messages:
                session.handle(now_ns, message)
            if arrivals.lost:
                self._is_connected = False
                session.connection_lost()
            if arrivals.made:
                self._is_connected = True
                session.connection_made(now_ns)
            if self._loan_sockets.arrivals:
                self._take_lent(now_ns, session.loans)
            self.deliveries.extend(session.deliveries)
            session.deliveries.clear()

    def _take_lent(self, now_ns: int, loans: Loans) -> None:
        """Under the lock: what came from lent processes."""
        arrivals, self._loan_sockets.arrivals = self._loan_sockets.arrivals, []
        for arrival in arrivals:
            if type(arrival) is Received:
                loan, data, is_control = arrival
                (loans.received_control if is_control else loans.received)(now_ns, loan, data)
            elif type(arrival) is Closed:
                loans.closed(now_ns, *arrival)
            else:
                loans.opened(now_ns, arrival.loan)

    # ------------------------------------------------------------ opening and closing

    def _open(self) -> Transport | DirectTransport:
        address, self._key = local.find_or_start() if self.address is None else "", None
        if self.address is not None:
            self._addresses = logins.parse(self.address)
            address, self._key = self._addresses[0], logins.key_for(self._addresses)
        now_ns = time.monotonic_ns()
        self._restart_at_ns, self._look_at_ns = now_ns + RESTART_PAUSE_NS, now_ns + AGENT_LOOK_NS
        self._transport = self._made(address)
        return self._transport

    def _made(self, address: str) -> Transport | DirectTransport:
        if self._is_direct(address):
            self._loan_sockets.listen()
            self.session.loans.borrower.address = self._loan_sockets.address
            return DirectTransport(address, self._wakeup, self._loan_sockets)
        return Transport(address, self._wakeup, self._key)

    def _is_direct(self, address: str) -> bool:
        return self._key is None and os.name == "posix" and is_direct_offered(address)

    def _suitable(self, transport: Transport | DirectTransport) -> Transport | DirectTransport:
        """The same, unless it was chosen before it could be known how this scheduler is to be talked to."""
        if self._is_direct(transport.address) == isinstance(transport, DirectTransport):
            return transport
        return self._reconnect(transport, transport.address)

    def _reconnect(self, transport: Transport | DirectTransport, address: str) -> Transport | DirectTransport:
        """Drop a connection that is not there, and try to make one, maybe elsewhere."""
        transport.close(linger_s=0)
        self._transport = self._made(address)
        return self._transport

    def _drop(self) -> None:
        transport, self._transport, self._is_connected = self._transport, None, False
        if transport is not None:
            transport.close(linger_s=0)

    def close(self, reason: str) -> int:
        """Say goodbye and close. Returns how many calls were unanswered."""
        with self._lock:
            unanswered = self.session.held_calls
            self.session.say_goodbye(reason)
            outgoing = self.session.take_outgoing(time.monotonic_ns())
        transport, self._transport = self._transport, None
        self._loan_sockets.end()
        if transport is not None:
            if self._is_connected:
                transport.send(outgoing)
            transport.close(LINGER_S)
        return unanswered

    # ------------------------------------------------------------ trouble

    def _watch(self, now_ns: int) -> None:
        """Act on a cluster that refuses, leaves or does not answer while calls wait for it."""
        session = self.session
        if session.refusal is not None:
            refusal = session.refusal
            kind = ProtocolMismatch if refusal.code in ("protocol", "version") else SchedulerRefused
            self._fail_all(kind(f"the scheduler at {self.where()} refuses this program: {refusal.reason}"))
        elif len(session.protocol_complaints) >= COMPLAINTS_MAX:
            said = session.protocol_complaints[-1]
            self._fail_all(InternalError(f"the scheduler cannot read what this program sends: {said}"))
        elif session.goodbye is not None:
            self._on_farewell(session.goodbye.reason)
        elif session.is_open or not session.waiting:
            self._trouble_since_ns = None
            if self._warned:
                self._warned = False
                _warn(f"the cluster at {self.where()} is back")
        else:
            self._wait_or_fail(now_ns)

    def _on_farewell(self, reason: str) -> None:
        """The cluster was stopped on purpose: what it had fails with it, what it never saw may go to another.

        Who waits for detached calls goes on waiting, unless that would start a local cluster again that was stopped.
        """
        with self._lock:
            self.session.goodbye = None
            was_sent = any(call.number or call.state is CallState.LENT for call in self.session.unanswered())
            was_sent |= self.session.held_calls > 0 and bool(
                self.session.loans.inflight or self.session.loans.borrower.on
            )
            was_sent |= self.address is None and len(self.session.detached) > 0
        if was_sent:
            self._fail_all(ClusterUnreachable(f"the cluster at {self.where()} was stopped: {reason}"))
        else:
            self._drop()

    def _wait_or_fail(self, now_ns: int) -> None:
        if self._trouble_since_ns is None:
            self._trouble_since_ns = now_ns
        waited_s = (now_ns - self._trouble_since_ns) / SECOND_NS
        was_open = self.session.was_open
        limit_s = self._patience.give_up_s if was_open else self._patience.connect_s
        if waited_s >= limit_s:
            what = "has not answered" if was_open else "does not answer: no scheduler was reached"
            self._fail_all(ClusterUnreachable(_unreachable(self.where(), what, limit_s, self.address is None)))
            return
        if was_open and waited_s >= self._patience.warn_s and not self._warned:
            self._warned = True
            _warn(
                f"the cluster at {self.where()} does not answer; "
                f"{self.session.waiting} calls wait for it, {limit_s:.0f} s at most"
            )
        if not self._is_connected and now_ns >= self._restart_at_ns:
            if self.address is None:
                self._restart_local()
            elif len(self._addresses) > 1 or now_ns >= self._trouble_since_ns + LONE_ADDRESS_NS:
                self._try_next(now_ns)

    def _try_next(self, now_ns: int) -> None:
        """The cluster has other addresses: one of them may answer. Else the same is tried anew."""
        self._restart_at_ns = now_ns + (NEXT_ADDRESS_NS if len(self._addresses) > 1 else LONE_ADDRESS_NS)
        if self._transport is not None:
            self._addresses = (*self._addresses[1:], self._addresses[0])
            self._reconnect(self._transport, self._addresses[0])

    def _look_after_agent(self, now_ns: int) -> None:
        """The scheduler answers, but without an agent the calls would wait in vain: start a lost one again."""
        self._look_at_ns = now_ns + AGENT_LOOK_NS
        try:
            if local.has_agent():
                return
            starts = self._agent_starts
            if len(starts) == AGENT_STARTS_MAX and now_ns - starts[0] < AGENT_STARTS_WITHIN_NS:
                raise ClusterStartError(f"the local agent ends again and again.{local.end_of_log('agent')}")
            starts.append(now_ns)
            local.find_or_start()
        except KeepwarmError as error:
            self._fail_all(error)

    def _restart_local(self) -> None:
        self._restart_at_ns = time.monotonic_ns() + RESTART_PAUSE_NS
        try:
            address = local.find_or_start()
        except KeepwarmError as error:
            self._fail_all(error)
            return
        if self._transport is not None:
            self._reconnect(self._transport, address)

    def _fail_all(self, error: KeepwarmError) -> None:
        """End every call and begin a new session: the scheduler ends the old one once it is unheard."""
        with self._lock:
            calls = self.session.unanswered()
            for call in calls:
                call.state = CallState.DONE
            waiting = self.session.detached.owners()
            self.deliveries.extend(self.session.deliveries)
            self.session = _new_session()
            self.generation += 1
        self._loan_sockets.close()
        self._trouble_since_ns = None
        self._warned = False
        self._drop()
        self.deliveries.extend(Failed(call, type(error)(error.message)) for call in calls)
        self.deliveries.extend(Dropped(owner, type(error)(error.message)) for owner in waiting)

    def fail_internally(self, error: BaseException) -> None:
        """A bug here ends every call rather than leave any waiting for ever."""
        self._fail_all(InternalError(f"the connection failed: {type(error).__name__}: {error}"))

    def where(self) -> str:
        """The address, for people."""
        if self._transport is not None:
            return self._transport.address
        return self.address or "the local address"


def _new_session() -> Session:
    program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"  # noqa: PTH119
    label = f"{program} {os.getpid()} on {sockets.gethostname()}"[:512]
    return Session(secrets.token_bytes(16), label, secrets.token_bytes(32))


def _unreachable(where: str, what: str, limit_s: float, is_local: bool) -> str:
    remedy = (
        "Look at the logs in its home directory (~/.keepwarm/logs, or under KEEPWARM_HOME)"
        if is_local
        else "Check KEEPWARM_ADDRESS and that the scheduler runs there, or unset it to use a local cluster"
    )
    return f"the cluster at {where} {what} within {limit_s:g} s. {remedy}."


def not_let_in(where: str, refusal: str) -> str:
    """Why there is no connection, for people: ``refusal`` is one of the transport's."""
    at = where.partition("://")[2]
    if refusal == KEY_REFUSED:
        return (
            f"the scheduler at {where} does not accept this user's key: it was revoked, or the scheduler's keys were "
            f"made anew. Ask for a token and run `keepwarm login TOKEN --at {at}`."
        )
    return (
        f"who answers at {where} does not prove to be the scheduler that this user's key belongs to: its keys were "
        f"made anew, it has none, or it is another. Check the address, then log in again: "
        f"`keepwarm login TOKEN --at {at}`."
    )


def _warn(text: str) -> None:
    with BestEffort():
        sys.stderr.write(f"keepwarm: {text}\n")
