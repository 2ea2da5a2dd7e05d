"""A node without its agent: disk, processes, builds. It performs the effects of an agent's core, in virtual time.

Runners do what their calls' arguments say. The disk survives the agent, processes die with it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import Failure, Reference
from keepwarm_worker.core import effects, events
from support.simulation.clock import MILLISECOND, SECOND, Clock
from support.simulation.history import History
from support.simulation.workload import ENDLESS, Work, result_of

if TYPE_CHECKING:
    from support.simulation.agent_host import AgentHost

__all__ = ["Machine", "Process", "Trouble"]

_PLATFORM = "linux-x86_64-glibc"
_ENDLESS_NS = 3_600 * SECOND


@dataclass
class Trouble:
    """How often what a node does goes wrong."""

    build: float = 0.0
    lock: float = 0.0
    spawn: float = 0.0
    slow_exit: float = 0.1


@dataclass(eq=False)
class Process:
    """A runner. ``attempt`` is what it is running; ``is_deaf`` when it does not exit when asked to."""

    instance_id: int
    host: "AgentHost"
    is_deaf: bool
    attempt: int = 0
    loaded: dict[str, bytes] = field(default_factory=dict)
    set_up: dict[str, bytes] = field(default_factory=dict)
    work: Work | None = None


class Machine:
    """One node's hardware and disk."""

    def __init__(
        self,
        node: str,
        capacity: dict[str, int],
        clock: Clock,
        history: History,
        random: Random,
        trouble: Trouble,
        payloads: dict[bytes, bytes],
        crashed: dict[str, None],
    ) -> None:
        self.node, self.capacity, self.clock, self.history, self.random = node, capacity, clock, history, random
        self.trouble = trouble
        self.payloads = payloads
        self.environments: dict[str, None] = {}
        self.processes: dict[int, Process] = {}
        self.host: AgentHost | None = None
        self._crashed = crashed
        self._spooled: dict[int, bytes] = {}

    def start(self, host: "AgentHost") -> None:
        """An agent runs here now."""
        self.host = host

    def stop(self) -> None:
        """The agent is gone, and its processes with it."""
        self.host = None
        for process in list(self.processes.values()):
            self._gone(process, "killed with its agent")
        self._spooled.clear()

    def perform(self, effect: effects.Effect) -> None:
        """Do what an agent's core wants done."""
        doer = _DOERS.get(type(effect))
        if doer is not None:
            doer(self, effect)

    def kill_idle_process(self) -> None:
        """A process dies of itself."""
        for process in self.processes.values():
            if not process.attempt:
                self._exit(process, None, "SIGSEGV")
                return

    def _later(self, low_ns: int, high_ns: int, action: Callable[["AgentHost"], None]) -> None:
        host = self.host
        assert host is not None
        self.clock.after(self.random.randrange(low_ns, high_ns), lambda: action(host) if host.is_alive else None)

    def _tell(self, low_ns: int, high_ns: int, event: events.Event) -> None:
        self._later(low_ns, high_ns, lambda host: host.feed(event))

    # ------------------------------------------------------------ locks and builds

    def _lock(self, effect: effects.RunLock) -> None:
        self._tell(MILLISECOND, 50 * MILLISECOND, events.LockPhase(effect.spec_key, "resolve", ""))
        if self.random.random() < self.trouble.lock:
            failure = Failure("lock_failed", "simulated")
            self._tell(60 * MILLISECOND, SECOND, events.LockProblem(effect.spec_key, failure, True))
        else:
            lock = hashlib.sha256(effect.spec).hexdigest().encode()
            self._tell(60 * MILLISECOND, SECOND, events.LockFinished(effect.spec_key, _PLATFORM, lock))

    def _build(self, effect: effects.RunBuild) -> None:
        name = effect.environment_id
        self._tell(MILLISECOND, 50 * MILLISECOND, events.BuildPhase(name, "install", ""))
        fails = self.random.random() < self.trouble.build

        def end(host: "AgentHost") -> None:
            if fails:
                host.feed(events.BuildProblem(name, Failure("build_failed", "simulated"), True))
            else:
                was_built = name in self.environments
                self.environments[name] = None
                host.feed(events.BuildFinished(name, 1000, was_built))

        self._later(100 * MILLISECOND, 2 * SECOND, end)

    def _cancel_build(self, effect: effects.CancelBuild) -> None:
        """Too late: builds here end by themselves soon."""

    # ------------------------------------------------------------ processes

    def _spawn(self, effect: effects.SpawnInstance) -> None:
        assert self.host is not None
        instance_id, luck = effect.instance_id, self.random.random()
        if effect.environment_id not in self.environments:
            self._tell(MILLISECOND, 2 * MILLISECOND, events.EnvironmentMissing(instance_id))
            return
        if luck < self.trouble.spawn / 2:
            problem = events.SpawnProblem(instance_id, Failure("start_failed", "simulated"), True)
            self._tell(MILLISECOND, 20 * MILLISECOND, problem)
            return
        process = Process(instance_id, self.host, self.random.random() < self.trouble.slow_exit)
        self.processes[instance_id] = process
        self.history.add(self.clock.now_ns, "spawn", self.node, instance_id, effect.memory_bytes, effect.gpus * 1000)
        if luck < self.trouble.spawn:
            self._later(MILLISECOND, 50 * MILLISECOND, lambda _: self._exit(process, None, "SIGSEGV"))
        else:
            self._later(20 * MILLISECOND, 400 * MILLISECOND, lambda host: self._hello(host, process))

    def _hello(self, host: "AgentHost", process: Process) -> None:
        if self.processes.get(process.instance_id) is process:
            instance = host.core.state.instances.get(process.instance_id)
            keep_alive_us = 0 if instance is None else instance.command.keep_alive_us
            self.history.add(self.clock.now_ns, "ready", self.node, process.instance_id, keep_alive_us)
            host.feed(events.RunnerHello(process.instance_id, process.instance_id & 0xFFFF))

    def _ask(self, effect: effects.AskToExit) -> None:
        process = self._stopped(effect.instance_id)
        if process is not None and not process.is_deaf:
            self._later(MILLISECOND, 60 * MILLISECOND, lambda _: self._exit(process, 0, ""))

    def _terminate(self, effect: effects.Terminate) -> None:
        process = self._stopped(effect.instance_id)
        if process is not None and self.random.random() < 0.5:
            self._later(MILLISECOND, 60 * MILLISECOND, lambda _: self._exit(process, None, "SIGTERM"))

    def _kill(self, effect: effects.KillTree) -> None:
        process = self._stopped(effect.instance_id)
        if process is not None:
            self._later(MILLISECOND, 60 * MILLISECOND, lambda _: self._exit(process, None, "SIGKILL"))

    def _stopped(self, instance_id: int) -> Process | None:
        process = self.processes.get(instance_id)
        if process is not None:
            instance = process.host.core.state.instances.get(instance_id)
            cause = "" if instance is None else instance.end_cause
            self.history.add(self.clock.now_ns, "stop", self.node, instance_id, cause, process.attempt)
        return process

    def _exit(self, process: Process, exit_code: int | None, signal_name: str) -> None:
        if self.processes.get(process.instance_id) is process:
            self._gone(process, signal_name or "exit")
            process.host.feed(events.ProcessExited(process.instance_id, exit_code, signal_name, ""))

    def _gone(self, process: Process, how: str) -> None:
        del self.processes[process.instance_id]
        if process.attempt:
            self.history.add(self.clock.now_ns, "ran", self.node, process.instance_id, process.attempt, "died")
        self.history.add(self.clock.now_ns, "gone", self.node, process.instance_id, how)

    # ------------------------------------------------------------ calls

    def _load(self, effect: effects.LoadFunction) -> None:
        process = self.processes.get(effect.instance_id)
        if process is not None:
            process.loaded[effect.name] = effect.version

    def _call(self, effect: effects.StartCall) -> None:
        process = self.processes.get(effect.instance_id)
        if process is None:
            return
        assert process.loaded.get(effect.name) == effect.version, f"{effect} without its function"
        assert isinstance(effect.arguments, bytes)
        work = Work.decode(effect.arguments)
        attempt = process.host.core.state.attempts[effect.attempt]
        command = attempt.command
        self.history.add(
            self.clock.now_ns, "run", self.node, effect.instance_id, effect.attempt, work.uid, effect.name,
            command.keep_alive_us, process.attempt,
        )  # fmt: skip
        process.attempt, process.work = effect.attempt, work
        needs_setup = process.set_up.get(effect.name) != effect.version
        process.set_up[effect.name] = effect.version
        token = effect.attempt
        self._of(process, token, MILLISECOND, events.RunnerStarted(effect.instance_id, token, needs_setup))
        if needs_setup:
            self._of(process, token, 3 * MILLISECOND, events.RunnerSetupDone(effect.instance_id, token))
        if work.behaviour == "print":
            self._of(process, token, 4 * MILLISECOND, events.RunnerOutput(effect.instance_id, 1, b"printed"))
        run_ns = _ENDLESS_NS if work.behaviour in ENDLESS else work.run_ns
        self.clock.after(5 * MILLISECOND + run_ns, lambda: self._end_call(process, token))

    def _of(self, process: Process, attempt: int, delay_ns: int, event: events.Event) -> None:
        self.clock.after(delay_ns, lambda: process.host.feed(event) if process.attempt == attempt else None)

    def _end_call(self, process: Process, token: int) -> None:
        if process.attempt != token or self.processes.get(process.instance_id) is not process:
            return
        assert process.work is not None
        work = process.work
        crashes = work.behaviour == "crash" or (work.behaviour == "flaky" and work.uid not in self._crashed)
        if crashes:
            self._crashed[work.uid] = None
            self._exit(process, None, "SIGSEGV")
        elif work.behaviour == "raise":
            self._result(process, b"", Failure("user_exception", f"{work.uid}|{token}|"))
        else:
            self._result(process, result_of(work, token), None)

    def _result(self, process: Process, result: bytes, failure: Failure | None) -> None:
        token, process.attempt = process.attempt, 0
        how = "returned" if failure is None else "raised"
        self.history.add(self.clock.now_ns, "ran", self.node, process.instance_id, token, how)
        spooled: bytes | events.SpooledResult = result
        if len(result) > INLINE_BYTES_MAX:
            self._spooled[token] = result
            spooled = events.SpooledResult(len(result))
        process.host.feed(events.RunnerResult(process.instance_id, token, spooled, failure, 0, 1000))

    def _cancel_call(self, effect: effects.CancelCall) -> None:
        process = self.processes.get(effect.instance_id)
        if process is None or process.work is None or process.work.behaviour == "stubborn":
            return

        def interrupt(_: "AgentHost") -> None:
            alive = self.processes.get(process.instance_id) is process
            if alive and process.attempt == effect.attempt:
                self._result(process, b"", Failure("cancelled", "interrupted"))

        self._later(MILLISECOND, 100 * MILLISECOND, interrupt)

    # ------------------------------------------------------------ large results

    def _upload(self, effect: effects.UploadResult) -> None:
        self._later(10 * MILLISECOND, 300 * MILLISECOND, lambda host: self._uploaded(host, effect.attempt))

    def _uploaded(self, host: "AgentHost", attempt: int) -> None:
        data = self._spooled.get(attempt)
        if data is None:
            return
        if not host.link.is_connected or host.link.blocked_up:
            self._later(200 * MILLISECOND, SECOND, lambda _: self._uploaded(host, attempt))
            return
        payload_id = hashlib.blake2b(str(attempt).encode(), digest_size=16).digest()
        self.payloads[payload_id] = data
        self.history.add(self.clock.now_ns, "stored", self.node, 0, attempt)
        reference = Reference(payload_id, len(data), hashlib.sha256(data).digest())
        host.feed(events.ResultStored(attempt, reference))

    def _drop(self, effect: effects.DropResult) -> None:
        self._spooled.pop(effect.attempt, None)


_DOERS: dict[type[Any], Callable[[Machine, Any], None]] = {
    effects.RunLock: Machine._lock,
    effects.RunBuild: Machine._build,
    effects.CancelBuild: Machine._cancel_build,
    effects.SpawnInstance: Machine._spawn,
    effects.LoadFunction: Machine._load,
    effects.StartCall: Machine._call,
    effects.CancelCall: Machine._cancel_call,
    effects.AskToExit: Machine._ask,
    effects.Terminate: Machine._terminate,
    effects.KillTree: Machine._kill,
    effects.UploadResult: Machine._upload,
    effects.DropResult: Machine._drop,
}
