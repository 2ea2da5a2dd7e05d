"""The scheduler's process: the real core, a simulated journal, turns as the daemon makes them.

A turn takes what has arrived, then the tick; what is to be saved is synced before anything of the turn is sent. A
crash in the middle of a sync loses all that the turn would have sent, and maybe what it would have saved. With a real
journal, for detached calls, what does not have to wait for the disk may have left before such a crash.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any

from keepwarm_scheduler.config import CoreConfig
from keepwarm_scheduler.core.effects import (
    RECORDS,
    ClaimPayload,
    DropPayload,
    Effect,
    ForgetCall,
    ForgetNode,
    KeepPayload,
    ReleasePayload,
    SaveCall,
    SaveLock,
    SaveNode,
    SaveOutcome,
    Send,
    SendOutcome,
    SendStored,
    StopProcess,
)
from keepwarm_scheduler.core.events import LOCAL, Event, PeerLost, PeerMessage, Restored, SavedLock, Tick
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.core.state import Node, Session
from keepwarm_scheduler.core.transitions import CallState
from keepwarm_wire.identifiers import epoch_of
from keepwarm_wire.messages import (
    AdminHello,
    AttemptDone,
    DeclareFunction,
    DetachedOutcome,
    Dispatch,
    Message,
    Outcome,
    Reference,
    StopCluster,
    StopInstance,
    SubmitDetached,
)
from support.simulation.clock import MILLISECOND, Alarm, HostClock, Pauses
from support.simulation.disk import Disk
from support.simulation.history import History
from support.simulation.invariants import check_scheduler
from support.simulation.network import Network
from support.simulation.shelf import Shelf
from support.simulation.tally import Tally

__all__ = ["Journal", "SchedulerHost"]

CLUSTER_ID = b"simulated clustr"
_SYNC_MAX_NS = 3 * MILLISECOND
_OPERATOR = b"operator"


@dataclass
class Journal:
    """What is on disk, and survives the process; without detached calls, for which there is ``Disk``."""

    is_real = False
    payloads = ()

    epoch: int = 0
    locks: dict[tuple[str, bytes, str], SavedLock] = field(default_factory=dict)
    nodes: dict[str, None] = field(default_factory=dict)

    def begin_epoch(self) -> Restored:
        """Count a start and read back what earlier ones left; a node is kept until it is forgotten on purpose."""
        self.epoch += 1
        return Restored(tuple(self.locks.values()), tuple(self.nodes))

    def sync(self, records: list[Any]) -> None:
        """Keep what a turn has saved."""
        for record in records:
            self._write(record)

    def arguments(self, number: int) -> bytes | None:
        """There are no detached calls."""
        raise NotImplementedError

    def outcome(self, number: int) -> DetachedOutcome | None:
        """There are no detached calls."""
        raise NotImplementedError

    def end_process(self) -> None:
        """Nothing is open."""

    def _write(self, record: SaveLock | SaveNode | ForgetNode) -> None:
        if isinstance(record, SaveLock):
            self.locks[(record.namespace, record.spec_key, record.platform)] = SavedLock(*record)
        elif isinstance(record, SaveNode):
            self.nodes[record.name] = None
        else:
            self.nodes.pop(record.name, None)


class SchedulerHost:
    """One process of the scheduler, from its start to its crash."""

    def __init__(
        self,
        clock: HostClock,
        network: Network,
        journal: Journal | Disk,
        shelf: Shelf,
        history: History,
        tally: Tally,
        random: Random,
        config: CoreConfig,
        *,
        checked: bool,
        knows_run_times: bool = False,
    ) -> None:
        self.host_clock, self.clock = clock, clock.clock
        self.network, self.journal, self.shelf, self.history, self.tally = network, journal, shelf, history, tally
        self.random = random
        self.checked, self.knows_run_times = checked, knows_run_times
        self.is_alive = True
        self.pauses = Pauses(self.clock)
        restored = journal.begin_epoch()
        shelf.clear(journal.payloads)
        self.epoch = journal.epoch
        self.core = SchedulerCore(config, self.epoch, CLUSTER_ID, clock.now())
        self._inbox: list[Event] = []
        self._is_syncing = self._is_stopping = False
        self.crashes_at_sync = False
        self._syncing: list[Any] = []
        self._released: dict[bytes, None] = {}
        self._outgoing: dict[bytes, list[Any]] = {}
        self._early: dict[bytes, list[Message]] = {}
        """What may leave before the sync."""
        self._sessions: dict[bytes, tuple[Session, int]] = {}
        self._alarm = Alarm(self.clock, self._wake)
        history.add(self.clock.now_ns, "scheduler started", self.epoch)
        self._feed(restored)
        network.scheduler_started(self)
        self._turn()

    def crash(self) -> None:
        """The process is killed, wherever it is."""
        if self.random.random() < 0.5:
            self._save()
        if self.journal.is_real and self.random.random() < 0.5:
            for peer, messages in self._early.items():
                self.network.send_down(peer, messages)
        self._end("scheduler crashed")

    def stop(self) -> None:
        """Somebody stops the process in order."""
        if not self._is_stopping:
            self._perform_all(self.core.stop("told to stop"))
            self._turn()

    def stop_cluster(self, *, force: bool) -> None:
        """An operator stops the cluster, if it is idle or by force."""
        for message in (AdminHello(1, 1, "keepwarm simulated"), StopCluster(force)):
            self._inbox.append(PeerMessage(_OPERATOR, LOCAL, message))
        self._inbox.append(PeerLost(_OPERATOR))
        self._turn()

    def _end(self, kind: str) -> None:
        self.is_alive = False
        self._alarm.set(None)
        self.journal.end_process()
        self.history.add(self.clock.now_ns, kind, self.epoch)
        self.network.scheduler_ended()

    # ------------------------------------------------------------ what arrives

    def receive(self, peer: bytes, messages: Sequence[Message]) -> None:
        """A frame."""
        for message in messages:
            self._inbox.append(PeerMessage(peer, LOCAL, message))
        self._turn()

    def peer_lost(self, peer: bytes) -> None:
        """A connection is broken."""
        self._inbox.append(PeerLost(peer))
        self._turn()

    # ------------------------------------------------------------ turns

    def _now(self) -> int:
        return self.host_clock.now()

    def _wake(self) -> None:
        if not (self._is_syncing or self.pauses.is_on):
            self.tally.timers += 1
        self._turn()

    def _turn(self) -> None:
        if self._is_syncing or not self.is_alive:
            return
        if self.pauses.is_on:
            self.pauses.keep(self._turn)
            return
        inbox, self._inbox = self._inbox, []
        for event in inbox:
            self._take(event)
        self._feed(_TICK)
        self.shelf.expire()
        if self._syncing and self.crashes_at_sync:
            self.tally.strike("crash at sync")
            self.crash()
        elif self._syncing:
            self._is_syncing = True
            self.clock.after(self.random.randrange(_SYNC_MAX_NS), self._synced)
        else:
            self._send()

    def _synced(self) -> None:
        if not self.is_alive:
            return
        if self.pauses.is_on:
            self.pauses.keep(self._synced)
            return
        self._is_syncing = False
        self._save()
        self._send()
        self._turn()

    def _save(self) -> None:
        if self._syncing:
            self.journal.sync(self._syncing)
        for record in self._syncing:
            self._note_record(record)
        self._syncing = []

    def _send(self) -> None:
        outgoing, self._outgoing, self._early = self._outgoing, {}, {}
        for peer, messages in outgoing.items():
            self.network.send_down(peer, [each for each in map(self._as_stored, messages) if each is not None])
        for payload_id in self._released:
            self.shelf.release(payload_id)
        self._released = {}
        if self._is_stopping:
            if self.is_alive:
                self._end("scheduler stopped")
            return
        due_ns = self.core.next_deadline()
        self._alarm.set(None if due_ns is None else self.host_clock.when(due_ns))

    def _as_stored(self, message: Any) -> Message | None:
        """What is on disk only is read when it is sent; nothing is there of what has ended or expired by then."""
        if type(message) is SendOutcome:
            return self.journal.outcome(message.number)
        if type(message) is not SendStored:
            sent: Message = message
            return sent
        arguments = self.journal.arguments(message.message.call_number)
        if arguments is None:
            return None
        dispatch = message.message._replace(arguments=arguments)
        self._note(Send(message.peer, dispatch))
        return dispatch

    def _take(self, event: Event) -> None:
        """An event from outside: the bytes of payloads go to the shelf, all else to the core."""
        if type(event) is PeerMessage:
            answers = self.shelf.take(event.message, is_wanted=self._wants(event.message))
            if answers is not None:
                for answer in answers:
                    self._queue(event.peer, answer)
                return
        self.tally.messages += 1
        self._feed(event)
        if self.knows_run_times and type(event) is PeerMessage and type(event.message) is DeclareFunction:
            self._measure_all()

    def _measure_all(self) -> None:
        """As if every function had run before, for as long as runners say of all calls that they run."""
        for session in self.core.cluster.sessions.values():
            for function in session.functions.values():
                while not function.run_times.is_measured:
                    function.run_times.add(_RUN_NS)

    def _wants(self, message: Message) -> bool:
        """Whether the bytes that a message refers to are needed."""
        if type(message) is AttemptDone:
            return self.core.wants_result(message)
        return type(message) is not SubmitDetached or self.core.wants_arguments(LOCAL, message)

    def _feed(self, event: Event) -> None:
        if type(event) is PeerMessage and type(event.message) is AttemptDone:
            effects = self._feed_outcome(event, event.message)
        else:
            effects = self.core.handle(self._now(), event)
        if effects:
            self._perform_all(effects)
        if self.checked:
            check_scheduler(self.core.cluster)

    def _perform_all(self, effects: list[Effect]) -> None:
        dropped: list[bytes] = []
        for effect in effects:
            if type(effect) is Send:
                self._note(effect)
                self._queue(effect.peer, effect.message)
                if not effect.after_sync:
                    self._early.setdefault(effect.peer, []).append(effect.message)
            elif isinstance(effect, SendStored | SendOutcome):
                self._queue(effect.peer, effect)
            elif type(effect) in RECORDS:
                self._syncing.append(effect)
            elif isinstance(effect, ClaimPayload):
                self.shelf.claim(effect.payload_id)
            elif isinstance(effect, DropPayload):
                dropped.append(effect.payload_id)
            elif isinstance(effect, KeepPayload):
                self.shelf.keep(effect.payload_id)
                self._released.pop(effect.payload_id, None)
            elif isinstance(effect, ReleasePayload):
                self._released[effect.payload_id] = None
            else:
                assert isinstance(effect, StopProcess), effect
                self._is_stopping = True
        for payload_id in dropped:  # last: what one session has done with, a detached call may begin to need
            self.shelf.drop(payload_id)

    def _queue(self, peer: bytes, message: Message | SendStored | SendOutcome) -> None:
        self._outgoing.setdefault(peer, []).append(message)

    # ------------------------------------------------------------ what the checkers need to know

    def _feed_outcome(self, event: PeerMessage, message: AttemptDone) -> list[Effect]:
        """Note which attempt was the call's current one when an outcome was recorded."""
        session = self.core.cluster.sessions.get(message.session_id)
        call = None if session is None else session.calls.get(message.call_number)
        if call is None or call.state is CallState.DONE:
            return self.core.handle(self._now(), event)
        current = 0 if call.attempt is None else call.attempt.token
        is_recovered = call.reason == "recovering" and epoch_of(message.attempt) < self.epoch
        effects = self.core.handle(self._now(), event)
        if call.outcome is not None:
            key = (message.session_id, message.call_number)
            self.history.add(self.clock.now_ns, "recorded", self.epoch, *key, message.attempt, current, is_recovered)
        return effects

    def _note(self, effect: Send) -> None:
        message = effect.message
        if type(message) not in _NOTED:
            return
        owner, now_ns = self.core.cluster.peers.get(effect.peer), self.clock.now_ns
        if type(message) is Outcome and isinstance(owner, Session):
            what = repr((message.status, message.result, message.failure))
            self.history.add(
                now_ns, "outcome", self.epoch, owner.session_id, self._life(owner), message.call_number, what
            )
        elif type(message) is Dispatch and isinstance(owner, Node):
            if message.is_ahead:
                self.tally.strike("call is sent ahead")
            self.history.add(
                now_ns, "dispatch", owner.name, message.instance_id, message.attempt, message.session_id,
                message.call_number,
            )  # fmt: skip
        elif type(message) is StopInstance and isinstance(owner, Node):
            self.history.add(now_ns, "order to stop", owner.name, message.instance_id, message.sequence, message.cause)

    def _note_record(self, record: Any) -> None:
        """What is on disk of detached calls from now on."""
        now_ns = self.clock.now_ns
        if type(record) is SaveCall:
            self.history.add(now_ns, "kept call", record.call_id, record.key)
        elif type(record) is SaveOutcome:
            outcome, failure = record.outcome, record.outcome.failure
            result = outcome.result
            digest = result.sha256 if isinstance(result, Reference) else sha256(result).digest()
            kind = "" if failure is None else failure.kind
            self.history.add(now_ns, "kept outcome", outcome.call_id, outcome.status, digest, kind, record.left_us)
        elif type(record) is ForgetCall:
            self.history.add(now_ns, "forgot call", record.call_id)

    def _life(self, session: Session) -> int:
        """How often the scheduler has begun the session anew: after its end it may run its calls again."""
        known, life = self._sessions.get(session.session_id, (session, 0))
        if known is not session:
            life += 1
        self._sessions[session.session_id] = (session, life)
        return life


_NOTED = (Outcome, Dispatch, StopInstance)
_TICK = Tick()
_RUN_NS = 1_000_000
