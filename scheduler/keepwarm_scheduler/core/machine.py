"""The scheduler's core: one state machine, ``handle(now_ns, event) -> effects``, and the time of its next deadline.

What each message means is in the modules named in the tables below; this one only finds the right function, keeps
the order of a turn (messages before expiries at equal times), and decides when a local cluster's work is over.
"""

from collections.abc import Callable, Iterable
from typing import Any

from keepwarm_scheduler.core import (
    beats,
    calls,
    cordons,
    detached,
    detached_asking,
    detached_ends,
    detached_restoring,
    explaining,
    instances,
    lending,
    nodes,
    notices,
    platforms,
    recovery,
    relaying,
    sessions,
    starting,
    status,
)
from keepwarm_scheduler.core.ahead import recall_due
from keepwarm_scheduler.core.at_most_once import forget_doubt
from keepwarm_scheduler.core.cluster import Cluster
from keepwarm_scheduler.core.config import CoreConfig
from keepwarm_scheduler.core.detached_asking import ABOUT_CALLS, Asker
from keepwarm_scheduler.core.dispatching import expire, serve_node
from keepwarm_scheduler.core.effects import Effect, Send, StopProcess
from keepwarm_scheduler.core.events import Event, PeerLost, PeerMessage, Principal, Restored, Tick
from keepwarm_scheduler.core.state import Call, Node, Session
from keepwarm_scheduler.core.transitions import NodeState
from keepwarm_wire.identifiers import epoch_of
from keepwarm_wire.messages import (
    AdminHello,
    AgentBeat,
    AgentHello,
    AttachDetached,
    AttemptDone,
    AttemptOutput,
    AttemptRefused,
    AttemptStarted,
    Borrow,
    Cancel,
    ClientBeat,
    ClientHello,
    CordonNode,
    DeclareFunction,
    ExplainReply,
    ExplainRequest,
    ForgetFunctions,
    Goodbye,
    InstanceBusy,
    InstanceEnded,
    InstanceProgress,
    InstanceReady,
    LockFailed,
    LockMade,
    LockProgress,
    NeedFunction,
    Received,
    Refused,
    ShowNode,
    StatusReply,
    StatusRequest,
    StopCluster,
    StopRefused,
    Submit,
    SubmitDetached,
    Welcome,
)
from keepwarm_wire.texts import TEXT_BYTES_MAX, text_bytes
from keepwarm_wire.version import negotiate

__all__ = ["SchedulerCore"]

_REPLACED_BLAME = 20
"""For hello in another session's name on a connection that has one: no program does that."""

_FROM_CLIENT: dict[type, Callable[[Cluster, Session, Any], None]] = {
    Submit: sessions.submit_call,
    Borrow: sessions.submit_call,
    Received: sessions.received,
    ClientBeat: sessions.beat,
    Cancel: sessions.cancel_call,
    ForgetFunctions: sessions.forget_functions,
    DeclareFunction: sessions.declare,
    Goodbye: lambda cluster, session, _: sessions.end(cluster, session),
    ExplainRequest: lambda cluster, session, message: cluster.send(
        session, ExplainReply(message.request_number, explaining.explain_own(cluster, session, message.call))
    ),
    SubmitDetached: detached.submit_call,
    AttachDetached: detached_asking.attach,
}

_FROM_AGENT: dict[type, Callable[[Cluster, Node, Any], None]] = {
    AttemptDone: calls.attempt_done,
    AttemptStarted: calls.attempt_started,
    AttemptOutput: relaying.output,
    AttemptRefused: calls.attempt_refused,
    AgentBeat: beats.on_beat,
    InstanceReady: instances.instance_ready,
    InstanceEnded: instances.instance_ended,
    InstanceBusy: instances.instance_busy,
    InstanceProgress: instances.instance_progress,
    LockMade: relaying.lock_made,
    LockFailed: relaying.lock_failed,
    LockProgress: relaying.lock_progress,
    NeedFunction: relaying.need_function,
    Goodbye: lambda cluster, node, _: _agent_left(cluster, node),
}


def _agent_left(cluster: Cluster, node: Node) -> None:
    nodes.leave(cluster, node)
    cordons.has_left(cluster, node.name)


class SchedulerCore:
    """The whole scheduler without its sockets, clock and disk.

    Args:
        config: the settings, frozen.
        epoch: how many times this cluster's scheduler has started; on disk before it is given here.
        cluster_id: 16 random bytes, made once per cluster.
        now_ns: the monotonic clock at the start.
    """

    def __init__(self, config: CoreConfig, epoch: int, cluster_id: bytes, now_ns: int) -> None:
        self.cluster = Cluster(config, epoch, cluster_id, now_ns)
        if config.local:
            self.cluster.timer("first client", "", config.local_first_client_ns)

    def handle(self, now_ns: int, event: Event) -> list[Effect]:
        """Take one event and return what is to be done, in order."""
        cluster = self.cluster
        cluster.now_ns = max(cluster.now_ns, now_ns)
        if type(event) is PeerMessage:
            self._message(*event)
        elif type(event) is Tick:
            self._expiries()
        elif type(event) is PeerLost:
            self._peer_lost(event.peer)
        else:
            assert type(event) is Restored
            self._restore(event)
        return self._end_turn()

    def _end_turn(self) -> list[Effect]:
        cluster = self.cluster
        cluster.flush_finals()
        if cluster.notices:
            notices.flush(cluster)
        self._maybe_finished()
        effects, cluster.effects = cluster.effects, []
        return effects

    def handle_messages(self, now_ns: int, messages: Iterable[tuple[bytes, Principal, Any]]) -> list[Effect]:
        """Take the messages of one turn, each with its connection and whose that is: as ``handle`` one by one."""
        cluster = self.cluster
        cluster.now_ns = max(cluster.now_ns, now_ns)
        for event in messages:
            self._message(*event)
        return self._end_turn()

    def stop(self, reason: str) -> list[Effect]:
        """Tell everyone that the scheduler is leaving. Calls that run are cancelled with their agents' end."""
        self._stop(reason)
        effects, self.cluster.effects = self.cluster.effects, []
        return effects

    def wants_result(self, message: AttemptDone) -> bool:
        """Whether an outcome may still become a call's: if not, its bytes need not be here for it to be settled."""
        cluster = self.cluster
        if message.attempt in cluster.attempts:
            return True
        if message.attempt in cluster.given_up:
            return False
        session = cluster.sessions.get(message.session_id)
        if session is None or message.call_number not in session.seen:
            return epoch_of(message.attempt) < cluster.epoch
        return (message.session_id, message.call_number) in cluster.recovering

    def wants_arguments(self, principal: Principal, message: SubmitDetached) -> bool:
        """Whether the arguments of a detached call are needed: not when it is known already."""
        return detached.wants(self.cluster, principal.namespace, message)

    def oversteps(self) -> dict[bytes, int]:
        """Connections that have said what honest ones do not, or seldom, each with how much that is to be blamed."""
        oversteps, self.cluster.oversteps = self.cluster.oversteps, {}
        return oversteps

    def next_deadline(self) -> int | None:
        """When a ``Tick`` is due, on the clock that ``handle`` is given; None when nothing is timed."""
        deadlines = (self.cluster.leases.next_deadline(), self.cluster.timers.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    # ------------------------------------------------------------ messages

    def _message(self, peer: bytes, principal: Principal, message: Any) -> None:
        cluster = self.cluster
        kind = type(message)
        owner = cluster.peers.get(peer)
        if type(owner) is Session:
            owner.heard_ns = cluster.now_ns
            from_client = _FROM_CLIENT.get(kind)
            if from_client is not None:
                from_client(cluster, owner, message)
                return
            if kind in ABOUT_CALLS:
                ABOUT_CALLS[kind](cluster, Asker(peer, principal), message)
                return
        elif type(owner) is Node:
            owner.heard_ns = cluster.now_ns
            if owner.state is NodeState.SUSPECT:
                nodes.heard_again(cluster, owner)
            from_agent = _FROM_AGENT.get(kind)
            if from_agent is not None:
                from_agent(cluster, owner, message)
                if owner.is_closed:
                    cordons.attend(cluster, owner)
                return
        self._hello_or_admin(PeerMessage(peer, principal, message))

    def _hello_or_admin(self, event: PeerMessage) -> None:
        message = event.message
        if type(message) in (ClientHello, AgentHello, AdminHello):
            self._hello(event)
        elif event.peer in self.cluster.admins:
            self._admin(event)
        else:
            reason = f"{type(message).__name__} from a connection that has not said hello in that role."
            self._reply(event.peer, Refused("hello_first", reason))

    def _hello(self, event: PeerMessage) -> None:
        cluster, message = self.cluster, event.message
        is_operator = type(message) is AdminHello
        agreed = negotiate(message.protocol_min, message.protocol_max, message.software, may_be_newer=is_operator)
        if not agreed.protocol:
            self._reply(event.peer, Refused("version", agreed.reason))
        elif type(message) is ClientHello:
            if self._unplug(event.peer, cluster.sessions.get(message.session_id)):
                cluster.overstepped(event.peer, _REPLACED_BLAME)
            sessions.open_session(cluster, event.peer, event.principal, message)
        elif (
            type(message) is AgentHello
            and text_bytes((message.pythons, *message.labels, *message.resources)) > TEXT_BYTES_MAX
        ):
            reason = f"The labels and resources of node {message.node} are more than {TEXT_BYTES_MAX} bytes."
            self._reply(event.peer, Refused("too_large", reason))
        elif type(message) is AgentHello:
            self._unplug(event.peer, cluster.nodes.get(message.node))
            nodes.register(cluster, event.peer, event.principal, message)
        else:
            cluster.admins[event.peer] = None
            interval_us = cluster.config.beat_interval_ns // 1_000
            self._reply(
                event.peer, Welcome(agreed.protocol, cluster.cluster_id, cluster.epoch, True, 0, 0, interval_us)
            )

    def _admin(self, event: PeerMessage) -> None:
        cluster, message = self.cluster, event.message
        if type(message) in ABOUT_CALLS:
            ABOUT_CALLS[type(message)](cluster, Asker(event.peer, event.principal), message)
        elif type(message) is CordonNode:
            cordons.order(cluster, event.peer, message)
        elif type(message) is ShowNode:
            cordons.show(cluster, event.peer, message)
        elif type(message) is StatusRequest:
            self._reply(event.peer, StatusReply(message.request_number, status.document(cluster)))
        elif type(message) is ExplainRequest:
            self._reply(event.peer, ExplainReply(message.request_number, explaining.explain(cluster, message.call)))
        elif type(message) is StopCluster:
            unfinished = sum(len(session.calls) for session in cluster.sessions.values())
            if unfinished and not message.force:
                self._reply(event.peer, StopRefused(unfinished))
            else:
                self._reply(event.peer, Goodbye("the cluster is stopping, as asked"))
                self._stop("stopped by an operator")
        elif type(message) is Goodbye:
            del cluster.admins[event.peer]

    def _reply(self, peer: bytes, message: Any) -> None:
        self.cluster.effects.append(Send(peer, message))

    def _peer_lost(self, peer: bytes) -> None:
        self.cluster.admins.pop(peer, None)
        self._unplug(peer)

    def _unplug(self, peer: bytes, stays: Session | Node | None = None) -> bool:
        """A connection is gone, or is another's from now on: whose it was is not on it any more, but for ``stays``.

        Returns whether it was somebody's.
        """
        cluster = self.cluster
        owner = cluster.peers.get(peer)
        if owner is None or owner is stays:
            return False
        if type(owner) is Session:
            sessions.unplug(cluster, owner)
        elif type(owner) is Node:
            nodes.unplug(cluster, owner)
        return True

    def _restore(self, event: Restored) -> None:
        relaying.restore_locks(self.cluster, event.locks)
        cordons.restore(self.cluster, event.cordons)
        recovery.begin(self.cluster, event.nodes)
        detached_restoring.restore(self.cluster, event.detached)

    # ------------------------------------------------------------ time

    def _expiries(self) -> None:
        cluster = self.cluster
        limit = cluster.config.expiries_per_turn_max
        for instance_id, _ in cluster.leases.advance(cluster.now_ns, limit):
            expire(cluster, instance_id)
        for (kind, subject), _ in cluster.timers.advance(cluster.now_ns, limit):
            self._timer(kind, subject)

    def _timer(self, kind: str, subject: Any) -> None:
        cluster = self.cluster
        if kind in _CALL_TIMERS:
            call = self._call(subject)
            if call is not None:
                _CALL_TIMERS[kind](cluster, call)
        elif kind == "recheck" and subject in cluster.pools:
            starting.recheck(cluster, cluster.pools[subject])
        elif kind == "node" and subject in cluster.nodes:
            nodes.timer_due(cluster, cluster.nodes[subject])
        elif kind == "session" and subject in cluster.sessions:
            sessions.timer_due(cluster, cluster.sessions[subject])
        elif kind in _OTHER_TIMERS:
            _OTHER_TIMERS[kind](cluster, subject)
        elif kind == "first client":
            cluster.had_client = True
        elif kind == "linger":
            self._stop("nothing left to do")

    def _call(self, key: tuple[bytes, int]) -> Call | None:
        session = self.cluster.sessions.get(key[0])
        return None if session is None else session.calls.get(key[1])

    # ------------------------------------------------------------ the end of a local cluster

    def _maybe_finished(self) -> None:
        """A local cluster ends itself: no client, no call, no build, no lease."""
        cluster = self.cluster
        if not cluster.config.local or not cluster.had_client or cluster.is_stopping:
            return
        book = cluster.book
        is_busy = len(cluster.sessions) > len(book.keepers) or book.unfinished or cluster.instances or cluster.attempts
        is_timed = ("linger", "") in cluster.timers
        if is_busy and is_timed:
            cluster.cancel_timer("linger", "")
        elif not is_busy and not is_timed:
            cluster.timer("linger", "", cluster.config.local_linger_ns)

    def _stop(self, reason: str) -> None:
        cluster = self.cluster
        cluster.is_stopping = True
        for session in cluster.sessions.values():
            cluster.send(session, Goodbye(reason))
        for node in cluster.nodes.values():
            cluster.send(node, Goodbye(reason))
        cluster.effects.append(StopProcess(reason))


_CALL_TIMERS: dict[str, Callable[[Cluster, Call], None]] = {
    "queue": lambda cluster, call: calls.time_out(cluster, call, "queue"),
    "overall": lambda cluster, call: calls.time_out(cluster, call, "overall"),
    "retry": calls.retry_due,
    "infeasible": platforms.infeasible_due,
}


def _unclaimed(cluster: Cluster, token: int) -> None:
    attempt = cluster.attempts.get(token)
    if attempt is not None and attempt.call is None:
        calls.abandon(cluster, attempt)


def _saved(cluster: Cluster, name: str) -> None:
    node = cluster.nodes.get(name)
    if node is not None:
        serve_node(cluster, node)


def _held(cluster: Cluster, key: tuple[bytes, int]) -> None:
    if key in cluster.held:
        calls.give_up_held(cluster, key)


_OTHER_TIMERS: dict[str, Callable[[Cluster, Any], None]] = {
    "recovery": lambda cluster, _: recovery.end(cluster),
    "drain": cordons.timer_due,
    "recall": recall_due,
    "loan": lending.look,
    "loans": lending.weigh,
    "saved": _saved,
    "unclaimed": _unclaimed,
    "held": _held,
    "expiry": detached_ends.expire,
    "function": detached_ends.forget_function,
    "key": detached_ends.forget_key,
    "tombstones": lambda cluster, _: detached_ends.forget_tombstones(cluster),
    "doubt": forget_doubt,
}
