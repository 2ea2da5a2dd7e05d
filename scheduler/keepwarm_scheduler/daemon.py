"""The scheduler process: one ROUTER socket, one loop, and a thread that waits for the disk.

With keys every connection is CURVE, and what a peer may say follows from its key; without, only sockets on this
machine are served, and their directory's permissions are the authentication: ZeroMQ's, and one beside it to which
peers write their frames themselves.

A turn: wait until something arrives or the core's next deadline; take up to 256 frames; feed the core, a slice of each
connection's messages before the tick; hand over what must be on disk, and what has to wait for that (``performing``
says what); release what has waited and is on disk by now; then send, one frame per peer. Nothing here decides anything.
"""

import contextlib
import errno
import logging
import select
import signal
import socket as sockets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import zmq

from keepwarm_scheduler.backups import BackupError
from keepwarm_scheduler.binding import (
    BindError,
    bind,
    listen_directly,
    new_socket,
    require_private_directory,
    socket_path,
)
from keepwarm_scheduler.config import SchedulerConfig
from keepwarm_scheduler.core.effects import Effect
from keepwarm_scheduler.core.events import LOCAL, PeerLost, Principal, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.departures import PROBE_DELAYS_S, Departures
from keepwarm_scheduler.direct_connections import DirectConnections, PeerFullError, PeerGoneError
from keepwarm_scheduler.intake import Intake, Taken
from keepwarm_scheduler.journal import Journal, JournalError
from keepwarm_scheduler.journal_writer import with_room
from keepwarm_scheduler.payload_store import PayloadStore
from keepwarm_scheduler.payload_traffic import PayloadTraffic
from keepwarm_scheduler.performing import Performer
from keepwarm_scheduler.security.answering import ABOUT_KEYS, answer_without_keys
from keepwarm_scheduler.security.authorisation import refusal
from keepwarm_scheduler.security.doorkeeper import Doorkeeper
from keepwarm_scheduler.security.zap import LogBudget
from keepwarm_scheduler.sources import Sources
from keepwarm_wire.addresses import is_remote
from keepwarm_wire.codec import ProtocolError, encode_frames
from keepwarm_wire.messages import (
    AttemptDone,
    BackUp,
    BackUpDone,
    BackUpRefused,
    DetachedRefused,
    Message,
    Reference,
    Refused,
    Submit,
    SubmitDetached,
)

__all__ = ["BindError", "Daemon"]

_FRAMES_PER_TURN = 256
_WAIT_MAX_NS = 60_000_000_000
_PAUSE_S = 0.0003
_REFUSED_BLAME = 10

_DEPARTURE_S = 1.0
"""How long a scheduler that has said goodbye waits for the others to leave; agents with instances take longer."""

_SWITCH_S = 0.0005
"""How long the loop may keep Python's lock from the journal's thread, which wants it twice for each commit."""

_DISK_FULL = "The scheduler's disk is full: nothing new is accepted until there is room on it."

_REVOKED = "This key is let in no more: it was revoked, or the token is used up. Join again with a new token."

log = logging.getLogger("keepwarm.scheduler")


class Daemon:
    """A scheduler serving one address until it is told to stop.

    Raises:
        JournalError: the state on disk is in use or damaged.
        BindError: the address is in use, or its directory is open to other users.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        # First, for the state may lie beside the socket, and its directories are made as they come.
        for address in config.binds:
            if not is_remote(address):
                require_private_directory(socket_path(address).parent)
        require_private_directory(config.state)
        self._signal = 0
        self._is_told_to_end = False
        """By a signal, say; whatever has come of that so far."""
        self._wake_read, self._wake_write = sockets.socketpair()
        self._wake_number = self._wake_read.fileno()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._journal = Journal(config.state)
        opened = with_room(self._journal.begin_epoch)
        self._payloads = PayloadStore(
            config.state / "payloads", config.payload_bytes_max, config.payloads_bytes_max, opened.payloads
        )
        self._core = SchedulerCore(config.core, opened.epoch, opened.cluster_id, time.monotonic_ns())
        self._performer = Performer(
            self._journal,
            opened.epoch,
            self._payloads,
            self._queue,
            self._wake,
            lambda: self._is_told_to_end,
            self._core.cluster.book.call_id_of,
        )
        self._perform = self._performer.perform
        self._context = zmq.Context()
        self._doorkeeper: Doorkeeper | None = None
        if config.keys is not None:
            self._doorkeeper = Doorkeeper(self._context, config.keys, opened, self._performer, self._queue)
        self._sources = Sources()
        self._sources.epoll.register(self._wake_number, select.EPOLLIN)
        self._socket, self._direct = self._bind(config.binds)
        self._departures = Departures(self._socket)
        self._sources.add(self._socket)
        self._sources.add(self._departures.monitor)
        if self._doorkeeper is not None:
            self._sources.add(self._doorkeeper.gate)
        self._peers: dict[bytes, None] = {}
        """Those that have come through ZeroMQ."""
        self._is_all_read = True
        """Whether ZeroMQ had nothing left to be read when it was last asked."""
        self._outgoing: dict[bytes, list[Message]] = {}
        self._intake = Intake(self._on_bad_frame, self._on_overflow)
        self._payload_traffic = PayloadTraffic(self._payloads, self._core, self._queue, self._intake.blame, self._warn)
        self._unreadable: list[bytes] = []
        """Connections of which nothing more is read, from this turn on."""
        self._budget = LogBudget()
        self._is_leaving = False
        """Ended by a signal, without a word to anybody."""
        self._perform(self._core.handle(time.monotonic_ns(), opened.restored))
        log.info("epoch %d, %d locks restored, serving %s", opened.epoch, len(opened.restored.locks), config.binds)

    # ------------------------------------------------------------ sockets

    def _bind(self, addresses: tuple[str, ...]) -> tuple[zmq.Socket[bytes], DirectConnections]:
        socket = new_socket(self._context)
        if self._doorkeeper is not None:
            self._doorkeeper.guard(socket)
        # The direct sockets first: who finds ZeroMQ's there can rely on them.
        direct = listen_directly(addresses if self._doorkeeper is None else (), self._sources.epoll)
        bind(socket, addresses, is_guarded=self._doorkeeper is not None)
        return socket, direct

    # ------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve until stopped by a message, by SIGTERM or by SIGINT.

        Raises:
            JournalError: the disk fails. The process must end at once, as if killed.
        """
        sys.setswitchinterval(_SWITCH_S)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while not (self._performer.is_stopped or self._is_leaving):
                self._turn()
        except JournalError:
            raise  # with nothing closed: to write what is left could hide what was lost
        except BaseException:
            self._is_told_to_end = True  # by a fault of our own, and not to wait for room on a full disk
            self._close()
            raise
        self._close()

    def _turn(self) -> None:
        if self._intake.is_flooded:
            # ZeroMQ cannot be told whom to read: whoever floods is made to wait by making everybody wait, a little.
            self._intake.is_flooded = False
            time.sleep(_PAUSE_S)
        deadline_ns = self._deadline_ns()
        ready, sockets = self._sources.wait(max(0, deadline_ns - time.monotonic_ns()) / 1e9)
        if self._wake_number in ready:
            self._wake_read.recv(4096)
        if self._signal:
            self._obey_signal()
        self._serve_gate(sockets)
        self._is_all_read = self._socket not in sockets
        if ready or sockets or self._is_input_waiting or self._direct.next_ns is not None:
            self._receive(ready, self._socket in sockets)
            self._send()  # before all that nobody waits for
        self._lose_departed()
        now_ns = time.monotonic_ns()
        if deadline_ns <= now_ns:
            self._perform(self._core.handle(now_ns, Tick()))
        self._payloads.expire(now_ns)
        if self._payloads.is_sending:
            for peer, chunk in self._payloads.send_some():
                self._queue(peer, chunk)
        if self._performer.is_due:
            self._performer.settle()
        self._send()

    def _deadline_ns(self) -> int:
        """Until when nothing is to be done, unless something comes; 0 when something is left to be done now."""
        if self._payloads.is_sending or self._is_input_waiting or self._departures.is_waiting:
            return 0
        earliest_ns = self._core.next_deadline()
        gate_ns = None if self._doorkeeper is None else self._doorkeeper.next_ns
        for other_ns in (self._departures.next_ns, self._direct.next_ns, gate_ns):
            if other_ns is not None and (earliest_ns is None or other_ns < earliest_ns):
                earliest_ns = other_ns
        return time.monotonic_ns() + _WAIT_MAX_NS if earliest_ns is None else earliest_ns

    def _serve_gate(self, ready: dict[zmq.Socket[bytes], None]) -> None:
        """Look at what ZeroMQ has besides messages: who wants to connect, and that somebody has left."""
        doorkeeper = self._doorkeeper
        if doorkeeper is not None and (doorkeeper.gate in ready or doorkeeper.is_due):
            self._sources.used(doorkeeper.gate)
            doorkeeper.serve_gate()
        if self._departures.monitor in ready:
            self._sources.used(self._departures.monitor)
            self._departures.on_event()

    @property
    def _is_input_waiting(self) -> bool:
        return self._intake.is_waiting or self._direct.is_waiting

    def _receive(self, ready: Mapping[int, int], has_input: bool) -> None:
        """Take in what has come to ``ready`` descriptors, and, if it ``has_input``, to the ROUTER."""
        core = self._core
        now_ns = time.monotonic_ns()
        effects: list[Effect] = []
        for peer in self._direct.receive(ready, self._take_direct):
            self._departures.note(peer)
        if has_input:
            self._sources.used(self._socket)
        for _ in range(_FRAMES_PER_TURN if has_input else 0):
            try:
                peer, principal, frames = self._receive_one(effects)
            except zmq.Again:
                self._is_all_read = True
                break
            if peer in self._direct:  # an id that was chosen to be another's
                continue
            is_new = peer not in self._peers
            self._peers[peer] = None
            if principal is None:
                self._queue(peer, Refused("revoked", _REVOKED))
                continue
            if is_new and self._doorkeeper is not None and self._doorkeeper.has_rested(principal):
                self._intake.suspect(peer)
            is_more_read = self._intake.put(peer, principal, frames)
            if not (self._intake.is_deaf and self._hang_up(peer, principal)) and not is_more_read:
                break
        effects += core.handle_messages(now_ns, self._for_the_core())
        for peer, weight in core.oversteps().items():
            self._intake.blame(peer, weight)
        for peer in self._unreadable:
            effects += core.handle(now_ns, PeerLost(peer))
            if peer in self._direct:
                self._departures.note(peer)  # once it has been told why, it may come anew
        self._unreadable.clear()
        self._perform(effects)

    def _hang_up(self, peer: bytes, principal: Principal) -> bool:
        """Break a connection that goes on though it is not served. Only one with a key."""
        if self._doorkeeper is None or not self._doorkeeper.hang_up(peer, principal):
            return False
        self._intake.cut(peer)
        return True

    def _take_direct(self, peer: bytes, frame: bytes) -> bool:
        return self._intake.put(peer, LOCAL, [frame])

    def _for_the_core(self) -> Iterator[Taken]:
        """The messages of this turn that are the core's affair."""
        for taken in self._intake.take():
            peer, principal, message = taken
            if not self._is_allowed(peer, principal, message):
                continue
            kind = type(message)
            if kind is Submit or kind is AttemptDone:
                # The two of every call: their payloads are in them, or are looked for.
                payload = message.arguments if kind is Submit else message.result
                if type(payload) is Reference and self._payload_traffic.takes(taken):
                    continue
            elif self._is_too_much(peer, principal, message) or self._payload_traffic.takes(taken):
                continue
            yield taken

    def _receive_one(self, effects: list[Effect]) -> tuple[bytes, Principal | None, list[bytes]]:
        """A message and whose it is; None for a key that is let in no more. Raises ``zmq.Again``."""
        if self._doorkeeper is None:
            peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            return peer, LOCAL, frames
        peer, principal, frames, is_another = self._doorkeeper.receive(self._socket)
        if is_another:  # the id was another key's connection, whose end nobody has noticed yet
            self._payloads.forget_peer(peer)
            self._intake.forget(peer)
            self._performer.forget(peer)
            effects += self._core.handle(time.monotonic_ns(), PeerLost(peer))
        return peer, principal, frames

    def _is_allowed(self, peer: bytes, principal: Principal, message: Message) -> bool:
        """Whether the core, or the store, is to see it; else its sender has been answered."""
        if principal is LOCAL and type(message) not in _FOR_THE_DAEMON:
            return True
        refused = refusal(principal, message)
        doorkeeper = self._doorkeeper
        if refused is None and doorkeeper is not None:
            refused = doorkeeper.refusal(principal, message)
        if refused is None and type(message) not in _FOR_THE_DAEMON:
            return True
        if refused is not None:
            self._queue(peer, refused)
        elif type(message) is BackUp:
            self._queue(peer, self._back_up(message))
        elif doorkeeper is None:
            self._queue(peer, answer_without_keys(message))
        else:
            self._lose(doorkeeper.answer(peer, principal, message))
        return False

    def _is_too_much(self, peer: bytes, principal: Principal, message: Message) -> bool:
        """On a full disk what was accepted goes on, and nothing new is."""
        if type(message) is not SubmitDetached or not self._journal.is_low:
            return False
        is_new = self._core.wants_arguments(principal, message)
        if is_new:
            self._queue(peer, DetachedRefused(message.call_id, "results_full", _DISK_FULL))
        return is_new

    def _back_up(self, message: BackUp) -> Message:
        """Everybody waits meanwhile: a copy is to be of one moment."""
        self._performer.flush()
        try:
            summary = self._journal.back_up(Path(message.directory))
        except BackupError as error:
            return BackUpRefused(message.request_number, str(error)[:1000])
        log.info("backed up to %s: %d bytes in %.2f s", message.directory, *summary)
        return BackUpDone(message.request_number, summary.size_bytes, int(summary.duration_s * 1e6))

    def _on_bad_frame(self, peer: bytes, error: ProtocolError, is_over: bool) -> None:
        self._warn(f"peer {peer.hex()}: {error}{': nothing more of this connection is read' if is_over else ''}")
        self._queue(peer, Refused("protocol", str(error)))
        if is_over:
            self._unreadable.append(peer)

    def _on_overflow(self, peer: bytes) -> None:
        self._warn(f"peer {peer.hex()} says more than can be handled: some of it is dropped")

    def _warn(self, line: str) -> None:
        """Log what a peer has brought about, which it may do as often as it likes: not every time."""
        left_out = self._budget.take(time.monotonic_ns())
        if left_out is not None:
            log.warning("%s%s", line, f" ({left_out} more lines were left out)" if left_out else "")

    # ------------------------------------------------------------ sending

    def _queue(self, peer: bytes, message: Message) -> None:
        messages = self._outgoing.setdefault(peer, [])
        if type(message) is Refused:
            if messages and type(messages[-1]) is Refused and messages[-1].code == message.code == "hello_first":
                return  # all that was under way when a peer was forgotten is one mistake
            self._intake.blame(peer, _REFUSED_BLAME)
        messages.append(message)

    def _send(self) -> None:
        """One frame per peer. A peer that is gone, or that does not read, gets nothing: it will repair that."""
        if not self._outgoing:
            return
        outgoing, self._outgoing = self._outgoing, {}
        for peer, messages in outgoing.items():
            try:
                for frame in encode_frames(messages):
                    (self._direct.send if peer in self._direct else self._send_by_router)(peer, frame)
            except PeerFullError:
                self._warn(f"peer {peer.hex()} does not read: {len(messages)} messages dropped")
            except PeerGoneError:
                self._departures.note(peer)

    def _send_by_router(self, peer: bytes, frame: bytes) -> None:
        self._sources.used(self._socket)
        try:
            self._socket.send_multipart((peer, frame), zmq.NOBLOCK)
        except zmq.Again:
            raise PeerFullError from None
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            raise PeerGoneError from None

    def _lose_departed(self) -> None:
        departures = self._departures
        if departures.is_due:
            self._sources.used(self._socket)
            departures.look(self._peers)
        if departures.is_waiting:
            self._lose(departures.lost(self._direct, self._intake.holds, is_all_read=self._is_all_read))

    def _lose(self, peers: list[bytes]) -> None:
        for peer in peers:
            self._intake.forget(peer)
            self._performer.forget(peer)
            if self._doorkeeper is not None:
                self._doorkeeper.forget(peer)
            if self._peers.pop(peer, 0) is None or self._direct.drop(peer):
                self._payloads.forget_peer(peer)
                self._perform(self._core.handle(time.monotonic_ns(), PeerLost(peer)))
        self._send()

    def _on_signal(self, number: int, _: object) -> None:
        # Only a note: a signal may come in the middle of a turn. The wake-up socket ends the wait.
        self._signal, self._is_told_to_end = number, True

    def _wake(self) -> None:
        """From any thread: have a turn begin, if none is under way."""
        with contextlib.suppress(BlockingIOError):  # enough has been written there to wake the loop
            self._wake_write.send(b"\0")

    def _obey_signal(self) -> None:
        log.info("stopping: %s", signal.Signals(self._signal).name)
        self._signal = 0
        if self._config.core.local:
            self._perform(self._core.stop("the scheduler was told to stop"))
        else:
            # It will be started again, upgraded perhaps: without a goodbye agents and clients wait for that, and what
            # is warm stays warm. `keepwarm stop` is the end of a cluster.
            self._is_leaving = True

    def _close(self) -> None:
        self._performer.flush()
        self._send()
        self._performer.close()  # nothing is recorded any more: another scheduler may take the state over
        if self._performer.is_stopped:
            self._await_departures()
        self._socket.setsockopt(zmq.LINGER, 500)
        self._departures.close()
        self._socket.close()
        self._direct.close()
        self._sources.close()
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        self._context.term()
        self._payloads.close()
        self._wake_read.close()
        self._wake_write.close()

    def _await_departures(self) -> None:
        """Let the others close first, for a moment. What a peer has not read when this side closes, it never reads."""
        end_s = time.monotonic() + _DEPARTURE_S
        direct = self._direct
        while (self._peers or direct) and (left_s := end_s - time.monotonic()) > 0:
            ready, sockets = self._sources.wait(min(left_s, PROBE_DELAYS_S[0]))
            self._sources.used(self._socket)
            if self._wake_number in ready:
                self._wake_read.recv(4096)
            if self._departures.monitor in sockets:
                self._departures.on_event()
            if self._socket in sockets:
                self._socket.recv_multipart(zmq.NOBLOCK)
            for peer in direct.receive(ready, lambda _peer, _frame: True):
                direct.drop(peer)
            for peer in self._departures.gone(self._peers):
                del self._peers[peer]


_FOR_THE_DAEMON = ABOUT_KEYS | {BackUp}
"""The core never sees these."""
