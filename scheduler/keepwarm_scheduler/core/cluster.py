"""The whole state of one scheduler, its two wheels, and the effects that the current turn has produced.

The other modules are functions on a ``Cluster``; this one gives them identity numbers, timers and sending, and
knows nothing of policy. Effects are collected, not performed: a turn changes state first and acts afterwards.
"""

from collections import Counter, OrderedDict
from collections.abc import Hashable

from keepwarm_scheduler.core.beat_pacing import BeatPace
from keepwarm_scheduler.core.config import CoreConfig
from keepwarm_scheduler.core.decisions import History
from keepwarm_scheduler.core.detached_records import Book
from keepwarm_scheduler.core.effects import ClaimPayload, DropPayload, Effect, Send
from keepwarm_scheduler.core.estimates import StartCosts
from keepwarm_scheduler.core.state import Attempt, Call, Cordon, Environment, Instance, Node, Pool, Session
from keepwarm_scheduler.core.wheel import TimingWheel
from keepwarm_wire.identifiers import epoch_of, number_of, token
from keepwarm_wire.messages import AttemptDone, Final, LeaseBroken, Message, Payload, Reference

__all__ = ["Cluster", "TimerKey"]

TimerKey = tuple[str, Hashable]
"""What a timer is about and whom: ("node", name), ("queue", call key), ..."""

_TIMER_TICK_NS = 10_000_000


class Cluster:
    """Everything the scheduler knows. One per process; made anew at each start."""

    def __init__(self, config: CoreConfig, epoch: int, cluster_id: bytes, now_ns: int) -> None:
        self.config = config
        self.epoch = epoch
        self.cluster_id = cluster_id
        self.now_ns = self.started_ns = now_ns
        self.effects: list[Effect] = []
        self.leases: TimingWheel[int] = TimingWheel(config.tick_ns, now_ns)
        self.timers: TimingWheel[TimerKey] = TimingWheel(_TIMER_TICK_NS, now_ns)
        self.peers: dict[bytes, Session | Node] = {}
        self.admins: dict[bytes, None] = {}
        self.sessions: dict[bytes, Session] = {}
        self.sessions_of: dict[str, int] = {}
        """How many of them each key has."""
        self.nodes: dict[str, Node] = {}
        self.cordons: dict[str, Cordon] = {}
        """Nodes that an operator has taken out of use, whether or not they are here."""
        self.pace = BeatPace(config)
        self.environments: dict[tuple[str, bytes], Environment] = {}
        self.locking: dict[tuple[str, bytes], Environment] = {}
        """Environments whose lock a node is making."""
        self.pools: dict[bytes, Pool] = {}
        self.blocked: dict[bytes, Pool] = {}
        """Pools that wanted a start and found no room."""
        self.starved: dict[bytes, Pool] = {}
        """Those of them whose calls have lost patience, and for whom nobody idle could make room."""
        self.pools_of: dict[str, dict[bytes, Pool]] = {}
        """The pools of each environment."""
        self.families: dict[tuple[str, ...], list[Environment]] = {}
        """Environments that differ by their Python only."""
        self.built_on: dict[str, dict[str, None]] = {}
        """The nodes that have each environment on disk."""
        self.levels: dict[int, OrderedDict[str, Node]] = {}
        """Nodes by how loaded they are; those in ``unfiled`` may be elsewhere by now."""
        self.unfiled: dict[str, Node] = {}
        self.costs: dict[str, StartCosts] = {}
        """By environment; of all of them together in ``typical_costs``."""
        self.typical_costs = StartCosts()
        self.clock = 0
        """Greedy-Dual: the value of the last victim."""
        self.namespace_turns: dict[str, int] = {}
        """The token of each namespace's last attempt."""
        self.history = History()
        self.leases_broken: dict[str, int] = {}
        """How many instances ended before their leases did, by cause: ``evicted (memory)``, ``killed (timeout)``."""
        self.notices: dict[bytes, list[LeaseBroken]] = {}
        """What sessions are to be told of that at the end of the turn."""
        self.instances: dict[int, Instance] = {}
        self.attempts: dict[int, Attempt] = {}
        self.loans: dict[int, Attempt] = {}  # those of them that are, the oldest first
        self._begin_recovery()
        self.book = Book()
        """Detached calls."""
        self.capacity_version = 0
        """Grows whenever a node could take an instance that it could not take before."""
        self.oversteps: dict[bytes, int] = {}
        """How much connections have said that was of no use, or beyond their credit, since somebody asked."""
        self.had_client = False
        self.is_stopping = False
        self._last_attempt = self._last_instance = 0
        self._finals: dict[str, list[int]] = {}

    def _begin_recovery(self) -> None:
        self.unclaimed: dict[tuple[bytes, int], Attempt] = {}
        """Attempts found on nodes after a restart, whose clients have not come back yet."""
        self.held: dict[tuple[bytes, int], tuple[Node, AttemptDone]] = {}
        """Outcomes that nodes kept over a restart, whose clients have not come back yet."""
        self.held_of: Counter[str] = Counter()
        """How many of them there are of each node."""
        self.given_up: OrderedDict[int, None] = OrderedDict()
        """Attempts whose kept outcomes nobody has come for, the latest."""
        self.waiting_nodes: dict[str, None] = {}
        """Nodes of the last epoch that have not reported yet."""
        self.recovering: dict[tuple[bytes, int], Call] = {}
        """Calls sent again that one of those nodes may be running."""
        self.is_recovering = False

    # ------------------------------------------------------------ identity

    def next_attempt(self) -> int:
        """A token that no attempt of this cluster ever had."""
        self._last_attempt += 1
        return token(self.epoch, self._last_attempt)

    def next_instance(self) -> int:
        """An id that no instance of this cluster ever had."""
        self._last_instance += 1
        return token(self.epoch, self._last_instance)

    def was_given(self, token: int) -> bool:
        """Whether an attempt or instance may have this token: of an earlier epoch, or given in this one by now."""
        epoch, last = epoch_of(token), max(self._last_attempt, self._last_instance)
        return epoch < self.epoch or (epoch == self.epoch and 0 < number_of(token) <= last)

    @staticmethod
    def next_command(node: Node) -> int:
        """The number of the next command to a node."""
        node.last_command += 1
        return node.last_command

    # ------------------------------------------------------------ effects

    def send(self, to: Session | Node, message: Message, *, after_sync: bool = False) -> None:
        """Send to a session or node, if it is connected. Else the message is lost, and repaired as any lost one."""
        if to.peer:
            self.effects.append(Send(to.peer, message, after_sync))

    def claim(self, payload: Payload) -> None:
        """The bytes of a payload are needed until they are dropped.

        Said where what refers to them is taken, and nowhere else: what is not taken is never dropped either.
        """
        if isinstance(payload, Reference):
            self.effects.append(ClaimPayload(payload.payload_id))

    def drop(self, payload: Payload) -> None:
        """The bytes of a payload are needed no longer."""
        if isinstance(payload, Reference):
            self.effects.append(DropPayload(payload.payload_id))

    def discard(self, payload: Payload) -> None:
        """Bytes that were handed over for nothing: they go, unless something else has claimed them."""
        self.claim(payload)
        self.drop(payload)

    def take_held(self, key: tuple[bytes, int]) -> tuple[Node, AttemptDone] | None:
        """The outcome that is held for a call, if one is; it is held no more, and whoever takes it claims its bytes."""
        held = self.held.pop(key, None)
        if held is not None:
            self.drop(held[1].result)
            name = held[0].name
            self.held_of[name] -= 1
            if not self.held_of[name]:
                del self.held_of[name]
        return held

    def astonished(self, node: Node) -> None:
        """A node spoke of something that it has not. That happens: of what was sent there, and is over by now."""
        if node.pardons:
            node.pardons -= 1
        else:
            self.overstepped(node.peer)

    def overstepped(self, peer: bytes, weight: int = 1) -> None:
        """A connection said what honest ones do not, or seldom."""
        self.oversteps[peer] = self.oversteps.get(peer, 0) + weight

    def settle(self, node: Node, attempt: int) -> None:
        """Tell a node, at the end of the turn, that an attempt's outcome is final."""
        self._finals.setdefault(node.name, []).append(attempt)

    def flush_finals(self) -> None:
        """Send the settled attempts of this turn, one message per node."""
        if not self._finals:
            return
        for name, attempts in self._finals.items():
            node = self.nodes.get(name)
            if node is not None:
                self.send(node, Final(tuple(attempts)), after_sync=True)
        self._finals = {}

    def add_pool(self, pool: Pool) -> Pool:
        """A pool is met for the first time."""
        self.pools[pool.key] = pool
        self.pools_of.setdefault(pool.environment_id, {})[pool.key] = pool
        return pool

    def start_cost_ns(self, pool: Pool) -> int:
        """What one more process of the pool is expected to cost where its environment is on disk."""
        return self.costs.get(pool.environment_id, self.typical_costs).start_ns

    def forget_unused(self, pool: Pool) -> None:
        """A pool without instances that no function uses any more is nothing to remember."""
        if not pool.users and not pool.instances:
            self.pools.pop(pool.key, None)
            self.blocked.pop(pool.key, None)
            self.starved.pop(pool.key, None)
            siblings = self.pools_of.get(pool.environment_id, {})
            siblings.pop(pool.key, None)
            if not siblings:
                self.pools_of.pop(pool.environment_id, None)
            self.cancel_timer("recheck", pool.key)
            self.cancel_timer("loans", pool.key)

    # ------------------------------------------------------------ time

    @property
    def peers_count(self) -> int:
        """How many nodes and clients beat, at most."""
        return len(self.nodes) + len(self.sessions)

    def next_beat_us(self) -> int:
        """In how long the peer that has just been heard is to beat again."""
        return self.pace.next_beat_ns(self.now_ns, self.peers_count) // 1_000

    def timer(self, kind: str, subject: Hashable, delay_ns: int) -> None:
        """Have something happen after a delay; setting it again moves it."""
        self.timers.schedule((kind, subject), self.now_ns + delay_ns)

    def cancel_timer(self, kind: str, subject: Hashable) -> None:
        """Forget a timer, if it is set."""
        self.timers.cancel((kind, subject))
