"""A node without its agent: disk, builds, processes. It performs the effects of an agent's core, in virtual time.

What runners do with calls is in ``runners``, payloads are in ``handover``. The disk survives the agent, processes die
with it.
"""

import hashlib
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from keepwarm_wire.messages import Failure
from keepwarm_worker.core import effects, events
from support.simulation import handover, runners
from support.simulation.clock import MILLISECOND, SECOND, Clock
from support.simulation.history import History
from support.simulation.lending import Doors
from support.simulation.runners import Process
from support.simulation.shelf import Shelf
from support.simulation.tally import Tally
from support.simulation.trouble import Trouble

if TYPE_CHECKING:
    from support.simulation.agent_host import AgentHost

__all__ = ["Machine"]

_PLATFORM = "linux-x86_64-glibc"
_SLOW_BUILD_MAX_NS = 40 * SECOND
_SLOW_LOCK_MAX_NS = 12 * SECOND


class Machine:
    """One node's hardware and disk."""

    def __init__(
        self,
        node: str,
        capacity: dict[str, int],
        clock: Clock,
        history: History,
        tally: Tally,
        random: Random,
        trouble: Trouble,
        shelf: Shelf,
        crashed: dict[str, None],
        ahead_max: int,
        doors: Doors,
    ) -> None:
        self.node, self.capacity, self.clock, self.history = node, capacity, clock, history
        self.tally, self.random, self.trouble, self.shelf = tally, random, trouble, shelf
        self.doors = doors
        self.environments: dict[str, None] = {}
        self.processes: dict[int, Process] = {}
        self.host: AgentHost | None = None
        self.ahead_max = ahead_max
        """How many calls its agents take for a busy process."""
        self.crashed = crashed
        """Calls that have killed a process, in the whole cluster: those that do it once only know by this."""
        self.results: dict[int, bytes] = {}
        """Large results of attempts that are not settled."""
        self.payloads: dict[bytes, bytes | None] = {}
        """Fetched payloads; None for one on its way."""
        self._builds: dict[str, int] = {}
        self._builds_begun = 0

    def start(self, host: "AgentHost") -> None:
        """An agent runs here now."""
        self.host = host

    def stop(self) -> None:
        """The agent is gone, and its processes with it."""
        self.host = None
        for process in list(self.processes.values()):
            self._gone(process, "killed with its agent")
        for records in (self.results, self.payloads, self._builds):
            records.clear()

    def perform(self, effect: effects.Effect) -> None:
        """Do what an agent's core wants done."""
        doer = _DOERS.get(type(effect))
        if doer is not None:
            doer(self, effect)

    # ------------------------------------------------------------ faults

    def kill_process(self, *, is_busy: bool, out_of_memory: str = "") -> bool:
        """A process dies: of itself while it is idle, or with its call. False if there is none such."""
        for process in self.processes.values():
            if process.is_ready and bool(process.attempt) is is_busy:
                self.exit(process, None, "SIGKILL" if out_of_memory else "SIGSEGV", out_of_memory)
                return True
        return False

    def lose_runner(self) -> bool:
        """A runner closes its socket, busy or not. False if there is none."""
        for process in self.processes.values():
            if process.is_ready:
                process.is_lost = True
                process.host.feed(events.RunnerLost(process.instance_id, "simulated"))
                return True
        return False

    def lose_environments(self) -> bool:
        """Somebody deletes the environments on disk, and the agent does not know. False if there are none."""
        were_there = bool(self.environments)
        self.environments.clear()
        return were_there

    # ------------------------------------------------------------ time and chance

    def happens(self, probability: float, kind: str) -> bool:
        """Whether a kind of trouble strikes now."""
        if not probability or self.random.random() >= probability:
            return False
        self.tally.strike(kind)
        return True

    def later(self, low_ns: int, high_ns: int, action: Callable[["AgentHost"], None]) -> None:
        """Do something after a while, unless the agent of now is gone by then."""
        host = self.host
        assert host is not None
        self.clock.after(self.random.randrange(low_ns, high_ns), lambda: action(host) if host.is_alive else None)

    def tell(self, low_ns: int, high_ns: int, event: events.Event) -> None:
        """Tell the agent something after a while."""
        self.later(low_ns, high_ns, lambda host: host.feed(event))

    # ------------------------------------------------------------ locks and builds

    def _lock(self, effect: effects.RunLock) -> None:
        self.tell(MILLISECOND, 50 * MILLISECOND, events.LockPhase(effect.spec_key, "resolve", ""))
        longest_ns = _SLOW_LOCK_MAX_NS if self.happens(self.trouble.slow_lock, "lock is slow") else SECOND
        if self.happens(self.trouble.lock, "lock fails"):
            failure = Failure("lock_failed", "simulated")
            self.tell(60 * MILLISECOND, longest_ns, events.LockProblem(effect.spec_key, failure, True))
        else:
            lock = hashlib.sha256(effect.spec).hexdigest().encode()
            self.tell(60 * MILLISECOND, longest_ns, events.LockFinished(effect.spec_key, _PLATFORM, lock))

    def _build(self, effect: effects.RunBuild) -> None:
        name = effect.environment_id
        self.tell(MILLISECOND, 50 * MILLISECOND, events.BuildPhase(name, "install", ""))
        fails = self.happens(self.trouble.build, "build fails")
        longest_ns = 2 * SECOND
        if self.happens(self.trouble.slow_build, "build is slow"):
            longest_ns = _SLOW_BUILD_MAX_NS
        self._builds_begun += 1
        number = self._builds[name] = self._builds_begun

        def end(host: "AgentHost") -> None:
            if self._builds.get(name) != number:
                return
            del self._builds[name]
            if fails:
                host.feed(events.BuildProblem(name, Failure("build_failed", "simulated"), True))
            else:
                was_built = name in self.environments
                self.environments[name] = None
                host.feed(events.BuildFinished(name, 1000, was_built))

        self.later(100 * MILLISECOND, longest_ns, end)

    def _cancel_build(self, effect: effects.CancelBuild) -> None:
        if self._builds.pop(effect.environment_id, None) is not None:
            self.tally.strike("slow build is given up")
            failure = Failure("build_failed", "given up")
            self.tell(MILLISECOND, 500 * MILLISECOND, events.BuildProblem(effect.environment_id, failure, True))

    # ------------------------------------------------------------ processes

    def _spawn(self, effect: effects.SpawnInstance) -> None:
        assert self.host is not None
        instance_id, trouble = effect.instance_id, self.trouble
        if effect.environment_id not in self.environments:
            self.tell(MILLISECOND, 2 * MILLISECOND, events.EnvironmentMissing(instance_id))
            return
        if self.happens(trouble.spawn / 2, "process does not start"):
            problem = events.SpawnProblem(instance_id, Failure("start_failed", "simulated"), True)
            self.tell(MILLISECOND, 20 * MILLISECOND, problem)
            return
        process = Process(instance_id, self.host, self.random.random() < trouble.slow_exit)
        self.processes[instance_id] = process
        self.history.add(self.clock.now_ns, "spawn", self.node, instance_id, effect.memory_bytes, effect.gpus * 1000)
        if self.happens(trouble.spawn / 2, "process dies at its start"):
            self.later(MILLISECOND, 50 * MILLISECOND, lambda _: self.exit(process, None, "SIGSEGV"))
        else:
            self.later(20 * MILLISECOND, 400 * MILLISECOND, lambda host: self._hello(host, process))

    def _hello(self, host: "AgentHost", process: Process) -> None:
        if self.processes.get(process.instance_id) is process:
            process.is_ready = True
            instance = host.core.state.instances.get(process.instance_id)
            keep_alive_us = 0 if instance is None else instance.command.keep_alive_us
            self.history.add(self.clock.now_ns, "ready", self.node, process.instance_id, keep_alive_us)
            host.feed(events.RunnerHello(process.instance_id, process.instance_id & 0xFFFF))

    def _ask(self, effect: effects.AskToExit) -> None:
        process = self._stopped(effect.instance_id)
        if process is not None and process.is_deaf:
            self.tally.strike("process does not end when asked to")
        elif process is not None:
            self.later(MILLISECOND, 60 * MILLISECOND, lambda _: self.exit(process, 0, ""))

    def _terminate(self, effect: effects.Terminate) -> None:
        process = self._stopped(effect.instance_id)
        if process is not None and self.random.random() < 0.5:
            self.later(MILLISECOND, 60 * MILLISECOND, lambda _: self.exit(process, None, "SIGTERM"))

    def _kill(self, effect: effects.KillTree) -> None:
        process = self._stopped(effect.instance_id)
        if process is not None:
            self.later(MILLISECOND, 60 * MILLISECOND, lambda _: self.exit(process, None, "SIGKILL"))

    def _stopped(self, instance_id: int) -> Process | None:
        process = self.processes.get(instance_id)
        if process is not None:
            instance = process.host.core.state.instances.get(instance_id)
            cause = "" if instance is None else instance.end_cause
            self.history.add(self.clock.now_ns, "stop", self.node, instance_id, cause, process.attempt)
        return process

    def exit(self, process: Process, exit_code: int | None, signal_name: str, out_of_memory: str = "") -> None:
        """A process ends, if it has not yet, and its agent reaps it."""
        if self.processes.get(process.instance_id) is process:
            runners.announce(process)
            self._gone(process, signal_name or "exit")
            process.host.feed(events.ProcessExited(process.instance_id, exit_code, signal_name, out_of_memory))

    def _gone(self, process: Process, how: str) -> None:
        del self.processes[process.instance_id]
        if process.lending is not None:
            process.lending.die()
        if process.attempt:
            what = "ran" if process.lending is None else "lend over"
            self.history.add(self.clock.now_ns, what, self.node, process.instance_id, process.attempt, "died")
        self.history.add(self.clock.now_ns, "gone", self.node, process.instance_id, how)


_DOERS: dict[type[Any], Callable[[Machine, Any], None]] = {
    effects.RunLock: Machine._lock,
    effects.RunBuild: Machine._build,
    effects.CancelBuild: Machine._cancel_build,
    effects.SpawnInstance: Machine._spawn,
    effects.AskToExit: Machine._ask,
    effects.Terminate: Machine._terminate,
    effects.KillTree: Machine._kill,
    effects.LoadFunction: runners.load,
    effects.StartCall: runners.call,
    effects.CancelCall: runners.cancel,
    effects.RecallCall: runners.recall,
    effects.FetchPayload: handover.fetch,
    effects.DropPayload: handover.drop_payload,
    effects.UploadResult: handover.upload,
    effects.DropResult: handover.drop_result,
}
