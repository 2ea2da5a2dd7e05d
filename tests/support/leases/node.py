"""One node of the lease world: the real agent core on hardware that does what its calls' arguments say.

It keeps its own account of every lease, from what its processes really did and not from what either core believes:
when a process became ready, when a call ended there, and with which keep_alive. ``Account.end_ns`` is the promise.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.machine import AgentCore
from keepwarm_worker.core.state import CoreConfig, check_invariants

if TYPE_CHECKING:
    from support.leases.world import World

__all__ = ["BUILD_NS", "EXIT_NS", "MILLISECOND", "ORPHAN_GRACE_NS", "ORPHAN_TTL_NS", "SECOND", "Node", "Work"]

MILLISECOND = 1_000_000
SECOND = 1_000 * MILLISECOND
BUILD_NS = 200 * MILLISECOND
SPAWN_NS = 50 * MILLISECOND
EXIT_NS = 5 * MILLISECOND
ORPHAN_GRACE_NS = 8 * SECOND
ORPHAN_TTL_NS = 30 * SECOND
PLATFORM = "linux-x86_64-glibc"
NEVER = -1
"""The end of a lease without end, in the history."""


class Work(NamedTuple):
    """What a call does (``ok``, ``raise``, ``crash``, ``hang``, ``stubborn``), for how long, and its keep_alive."""

    behaviour: str
    run_us: int
    keep_alive_us: int
    caller: str

    def encode(self) -> bytes:
        """As a call's arguments."""
        return f"{self.behaviour} {self.run_us} {self.keep_alive_us} {self.caller}".encode()

    @classmethod
    def decode(cls, arguments: bytes) -> "Work":
        """From a call's arguments."""
        behaviour, run_us, keep_alive_us, caller = arguments.decode().split(" ")
        return cls(behaviour, int(run_us), int(keep_alive_us), caller)


@dataclass
class Account:
    """What is owed to one process. ``attempt`` and ``work`` are what it runs now."""

    terms: dict[str, tuple[int, int]] = field(default_factory=dict)
    served: int = 0
    attempt: int = 0
    name: str = ""
    work: Work | None = None
    has_begun: bool = False
    """Whether the process has said that it runs it."""
    waiting: deque[effects.StartCall] = field(default_factory=deque)
    """What it was given to run after that, in this order."""
    is_ready: bool = False
    stopping: bool = False
    told_ns: int = 0
    """When it was told to go."""

    def restart(self, name: str, now_ns: int, keep_alive_us: int) -> None:
        """A call of this function ended: its term begins anew, and the one that the process was started for is over."""
        if name:
            self.terms.pop("", None)
        self.terms[name] = (now_ns, keep_alive_us)

    @property
    def end_ns(self) -> int:
        """When the last promise is over, ``NEVER`` if one has no end."""
        if any(keep_alive_us >= FOREVER_US for _, keep_alive_us in self.terms.values()):
            return NEVER
        return max((ended_ns + keep_alive_us * 1000 for ended_ns, keep_alive_us in self.terms.values()), default=0)


class Node:
    """One incarnation of an agent and its processes."""

    def __init__(self, world: "World", name: str, incarnation: int, resources: dict[str, int], offset_ns: int) -> None:
        self.world, self.name, self.offset_ns = world, name, offset_ns
        quantities = tuple(wire.Quantity(resource, amount) for resource, amount in resources.items())
        hello = wire.AgentHello(
            1, 1, "leases", name, incarnation.to_bytes(16, "big"), PLATFORM, ("3.11",), quantities, (), 0,
            world.ahead_max,
        )  # fmt: skip
        self.core = AgentCore(
            CoreConfig(hello, orphan_grace_ns=ORPHAN_GRACE_NS, orphan_ttl_ns=ORPHAN_TTL_NS, cancel_grace_ns=SECOND // 2)
        )
        self.is_alive = True
        self.deaf: dict[int, None] = {}
        """Processes that only SIGKILL ends."""
        self.accounts: dict[int, Account] = {}
        self.outbox: list[wire.Message] = []
        self.feed(events.Tick())

    # ------------------------------------------------------------ turns

    def feed(self, event: events.Event) -> None:
        """One event for the core, and all that it wants done."""
        if not self.is_alive:
            return
        for effect in self.core.handle(self.world.now_ns + self.offset_ns, event):
            doer = _DOERS.get(type(effect))
            if doer is not None:
                doer(self, effect)
        if self.world.checked:
            check_invariants(self.core.state)
        self._note_unrun()

    def receive(self, message: wire.Message) -> None:
        """A message of the scheduler."""
        self.feed(events.Received(message))

    def due_ns(self) -> int | None:
        """When the core wants to be woken, by the world's clock."""
        due_ns = self.core.next_deadline() if self.is_alive else None
        return None if due_ns is None else due_ns - self.offset_ns

    def crash(self) -> None:
        """The agent is killed, and its processes with it."""
        self.is_alive = False
        for instance_id in list(self.accounts):
            self._note("gone", instance_id, "node")
        self.accounts.clear()

    def kill_process(self, which: int) -> None:
        """A process dies of itself, busy or not."""
        ready = [instance_id for instance_id, account in self.accounts.items() if account.is_ready]
        if ready:
            instance_id = ready[which % len(ready)]
            self._after(0, lambda: self._exit(instance_id, "SIGSEGV"))

    def _note(self, kind: str, *fields: Any) -> None:
        self.world.history.add(self.world.now_ns, kind, self.name, *fields)

    def _note_unrun(self) -> None:
        """An attempt that never reached its process has ended on it: that is the end of a call too."""
        for instance_id, instance in self.core.state.instances.items():
            account = self.accounts.get(instance_id)
            if account is not None and instance.sequence > account.served:
                account.served = instance.sequence
                account.terms.pop("", None)

    def _after(self, delay_ns: int, action: Callable[[], None]) -> None:
        self.world.at(self.world.now_ns + delay_ns, lambda: action() if self.is_alive else None)

    # ------------------------------------------------------------ effects

    def _send(self, effect: effects.SendMessage) -> None:
        message = effect.message
        if isinstance(message, wire.InstanceEnded):
            self._note("ended", message.instance_id, message.cause)
        self.outbox.append(message)

    def _lock(self, effect: effects.RunLock) -> None:
        self._after(BUILD_NS, lambda: self.feed(events.LockFinished(effect.spec_key, PLATFORM, b"lock")))

    def _build(self, effect: effects.RunBuild) -> None:
        self._note("build", 0, effect.environment_id)
        name = effect.environment_id
        self._after(BUILD_NS, lambda: self.feed(events.BuildFinished(name, 1000, False)))

    def _spawn(self, effect: effects.SpawnInstance) -> None:
        instance_id = effect.instance_id
        assert instance_id not in self.accounts, "one instance, two processes"
        self.accounts[instance_id] = Account()
        self._note("spawn", instance_id)
        if self.world.random.random() < self.world.deafness:
            self.deaf[instance_id] = None
        self._after(SPAWN_NS, lambda: self._hello(instance_id))

    def _hello(self, instance_id: int) -> None:
        account, instance = self.accounts.get(instance_id), self.core.state.instances.get(instance_id)
        if account is None or instance is None or account.stopping:
            return
        account.is_ready = True
        account.restart("", self.world.now_ns, instance.command.keep_alive_us)
        self._note("ready", instance_id, instance.command.keep_alive_us, instance.command.pool)
        self.feed(events.RunnerHello(instance_id, 1000))

    def _call(self, effect: effects.StartCall) -> None:
        account = self.accounts.get(effect.instance_id)
        if account is not None:
            assert not (account.attempt and not self.world.ahead_max), "a process was given a second call"
            account.waiting.append(effect)
            self._go_on(account)

    def _go_on(self, account: Account) -> None:
        if not account.attempt and account.waiting:
            self._begin(account, account.waiting.popleft())

    def _begin(self, account: Account, effect: effects.StartCall) -> None:
        assert isinstance(effect.arguments, bytes)
        work = Work.decode(effect.arguments)
        account.attempt, account.name, account.work, account.has_begun = effect.attempt, effect.name, work, False
        self._note("begin", effect.instance_id, effect.attempt, work.caller, effect.name, work.keep_alive_us)
        self._after(0, lambda: self._started(effect.instance_id, effect.attempt))
        if work.behaviour not in ("hang", "stubborn"):
            self._after(work.run_us * 1000, lambda: self._run_over(effect.instance_id, effect.attempt))

    def _started(self, instance_id: int, attempt: int) -> None:
        account = self.accounts.get(instance_id)
        if account is not None and account.attempt == attempt:
            account.has_begun = True
            self.feed(events.RunnerStarted(instance_id, attempt, False))

    def _run_over(self, instance_id: int, attempt: int) -> None:
        account = self.accounts.get(instance_id)
        if account is None or account.attempt != attempt or account.work is None:
            return
        if account.work.behaviour == "crash":
            self._exit(instance_id, "SIGSEGV")
            return
        failure = wire.Failure("user_exception", "no") if account.work.behaviour == "raise" else None
        self._result(instance_id, failure)

    def _result(self, instance_id: int, failure: wire.Failure | None) -> None:
        account = self.accounts[instance_id]
        assert account.work is not None
        attempt, account.attempt = account.attempt, 0
        account.served += 1
        account.restart(account.name, self.world.now_ns, account.work.keep_alive_us)
        how = "returned" if failure is None else failure.kind
        self._note("end", instance_id, attempt, account.work.caller, how)
        result = events.RunnerResult(instance_id, attempt, str(attempt).encode(), failure, 0, account.work.run_us)
        self._go_on(account)  # before its agent knows
        self.feed(result)

    def _cancel(self, effect: effects.CancelCall) -> None:
        account = self.accounts.get(effect.instance_id)
        if account is not None and account.work is not None and account.work.behaviour != "stubborn":
            self._after(MILLISECOND, lambda: self._interrupt(effect.instance_id, effect.attempt))

    def _interrupt(self, instance_id: int, attempt: int) -> None:
        account = self.accounts.get(instance_id)
        if account is not None and account.attempt == attempt:
            self._result(instance_id, wire.Failure("cancelled", "interrupted"))

    def _recall(self, effect: effects.RecallCall) -> None:
        self._after(MILLISECOND, lambda: self._give_back(effect.instance_id, effect.attempt))

    def _give_back(self, instance_id: int, attempt: int) -> None:
        account = self.accounts.get(instance_id)
        waiting = [each for each in account.waiting if each.attempt == attempt] if account is not None else []
        if account is not None and waiting:
            account.waiting.remove(waiting[0])
            self._note("given back", instance_id, attempt)
            self.feed(events.RunnerRecalled(instance_id, attempt))

    def _ask(self, effect: effects.AskToExit) -> None:
        self._stop(effect.instance_id, "asked")
        if effect.instance_id not in self.deaf:
            self._after(EXIT_NS, lambda: self._exit(effect.instance_id, ""))

    def _terminate(self, effect: effects.Terminate) -> None:
        self._stop(effect.instance_id, "SIGTERM")

    def _kill(self, effect: effects.KillTree) -> None:
        self._stop(effect.instance_id, "SIGKILL")
        self._after(EXIT_NS, lambda: self._exit(effect.instance_id, "SIGKILL"))

    def _stop(self, instance_id: int, how: str) -> None:
        """Note the first order to end, with what the process was doing and what was owed to it."""
        account, instance = self.accounts.get(instance_id), self.core.state.instances.get(instance_id)
        if account is None or instance is None:
            return
        if not account.stopping:
            account.stopping, account.told_ns = True, self.world.now_ns
            ready = account.end_ns if account.is_ready else 0
            self._note("stop", instance_id, instance.end_cause, account.attempt, ready, account.served)
        self._note("told", instance_id, how)

    def _note_cut(self, instance_id: int, account: Account, cause: str) -> None:
        """The terms that an end cuts short, by function ("" for one that no call has begun), and whose call ran."""
        at_ns = account.told_ns if cause == "evicted" else self.world.now_ns
        terms = dict(account.terms)
        if account.attempt:
            terms.pop("", None)
        left = {name: keep_us for name, (ended_ns, keep_us) in terms.items() if ended_ns + keep_us * 1000 > at_ns}
        culprit = account.name if account.attempt and account.has_begun else ""
        self._note("cut", instance_id, cause, culprit, left)

    def _exit(self, instance_id: int, signal_name: str) -> None:
        account, instance = self.accounts.pop(instance_id, None), self.core.state.instances.get(instance_id)
        if account is None:
            return
        self.deaf.pop(instance_id, None)
        if account.is_ready:
            self._note_cut(instance_id, account, "died" if instance is None else instance.end_cause or "died")
        self._note("gone", instance_id, signal_name or "exit")
        self.feed(events.ProcessExited(instance_id, None if signal_name else 0, signal_name, ""))


_DOERS: dict[type[Any], Callable[[Node, Any], None]] = {
    effects.SendMessage: Node._send,
    effects.RunLock: Node._lock,
    effects.RunBuild: Node._build,
    effects.SpawnInstance: Node._spawn,
    effects.StartCall: Node._call,
    effects.CancelCall: Node._cancel,
    effects.RecallCall: Node._recall,
    effects.AskToExit: Node._ask,
    effects.Terminate: Node._terminate,
    effects.KillTree: Node._kill,
}
