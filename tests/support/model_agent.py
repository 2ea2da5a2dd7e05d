"""An agent as the protocol describes it, without processes: for tests of the scheduler.

It obeys numbered commands once and in order, keeps outcomes until they are final, answers a stop of a busy instance
with ``InstanceBusy``, and tells its full state in beats. With ``ahead_max`` it takes calls for busy instances, which
run them in order, tell of their starts only when that matters, and give back what they have not begun. What a real
node decides by itself (when an environment is built, how a call ends) a test decides through ``finish_start``,
``finish`` and ``die``. It remembers what really happened (``executed``, ``endings``), for tests to compare with what
the scheduler says.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import Status

GIB = 1 << 30
PLATFORM = "linux-x86_64-glibc"
NEVER_NS = 1 << 63


class Ending(NamedTuple):
    """An instance's end, with the instant at which its lease would have ended by the agent's own clock."""

    instance_id: int
    cause: str
    at_ns: int
    lease_end_ns: int
    sequence: int


@dataclass
class ModelInstance:
    """One process. ``leases`` holds each function's keep_alive and the instant of its last end."""

    command: wire.StartInstance
    state: str = "starting"
    sequence: int = 0
    attempt: int = 0
    ahead: list[int] = field(default_factory=list)
    idle_since_ns: int = 0
    leases: dict[str, tuple[int, int]] = field(default_factory=dict)

    def lease_end_ns(self) -> int:
        if any(keep_alive_us >= FOREVER_US for keep_alive_us, _ in self.leases.values()):
            return NEVER_NS
        return max((ended_ns + keep_us * 1000 for keep_us, ended_ns in self.leases.values()), default=0)


class ModelAgent:
    """One incarnation of one node's agent. What it says is appended to ``outbox``."""

    def __init__(self, name: str, incarnation: bytes, **resources: Any) -> None:
        self.name, self.incarnation = name, incarnation
        self.pythons = resources.pop("pythons", ("3.11",))
        self.labels = resources.pop("labels", ())
        self.ahead_max: int = resources.pop("ahead_max", 0)
        self.resources = {"cpu": 4000, "memory": 8 * GIB} | resources
        self.outbox: list[wire.Message] = []
        self.now_ns = 0
        self.epoch = self.last_command = self.beat_number = 0
        self.platform = PLATFORM
        self.welcomed = False
        self.said_goodbye = False
        self.tells_terms_of_starts = True
        """Whether beats tell the term that an instance is being started for; agents of earlier versions do not."""
        self.memory_bytes = 1 << 20
        """What every process is measured to use."""
        self.instances: dict[int, ModelInstance] = {}
        self.attempts: dict[int, wire.Dispatch] = {}
        self.cancelled: dict[int, None] = {}
        self.taken_ahead = self.recalled = 0
        """How many calls were taken for a busy instance, and how many of them were given back."""
        self.held: dict[int, wire.AttemptDone] = {}
        self.memory_free_bytes = 0
        """As measured; 0 is not measured."""
        self.functions: dict[bytes, wire.FunctionBody] = {}
        self.locks: dict[bytes, wire.MakeLock] = {}
        self.environments: dict[str, None] = {}
        self.executed: dict[int, tuple[bytes, int]] = {}
        self.endings: list[Ending] = []

    # ------------------------------------------------------------ talking

    def hello(self) -> None:
        quantities = tuple(wire.Quantity(name, amount) for name, amount in self.resources.items())
        self.outbox.append(
            wire.AgentHello(
                1,
                1,
                "model",
                self.name,
                self.incarnation,
                self.platform,
                self.pythons,
                quantities,
                self.labels,
                self.epoch,
                self.ahead_max,
            )
        )

    def say(self, message: wire.Message) -> None:
        if self.welcomed:
            self.outbox.append(message)

    def beat(self) -> None:
        """Everything, as of the last command; and again what is not known to have arrived."""
        self.beat_number += 1
        for dispatch in self.attempts.values():
            if dispatch.version not in self.functions:
                self.say(wire.NeedFunction(dispatch.version))
        for done in self.held.values():
            self.say(done)
        self.say(
            wire.AgentBeat(
                self.beat_number,
                self.last_command,
                tuple(self._describe(instance) for instance in self.instances.values()),
                tuple(
                    wire.RunningAttempt(done.attempt, done.session_id, done.call_number, 0)
                    for done in self.held.values()
                ),
                tuple(self.locks),
                tuple(wire.EnvironmentState(name, 1) for name in self.environments),
                wire.NodeLoad(0, self.memory_free_bytes, 0),
                self.epoch,
            )
        )

    def _describe(self, instance: ModelInstance) -> wire.InstanceState:
        tokens = (instance.attempt, *instance.ahead) if instance.attempt else ()
        running = [self.attempts[token] for token in tokens]
        return wire.InstanceState(
            instance.command.instance_id,
            instance.command.pool,
            instance.command.environment_id,
            instance.state,
            instance.sequence,
            7,
            self.memory_bytes,
            self._since_us(instance.idle_since_ns) if instance.state == "idle" else 0,
            self._leases(instance),
            tuple(wire.RunningAttempt(each.attempt, each.session_id, each.call_number, 0) for each in running),
        )

    def _leases(self, instance: ModelInstance) -> tuple[wire.FunctionLease, ...]:
        if instance.state == "starting" and self.tells_terms_of_starts:
            return (wire.FunctionLease("", instance.command.keep_alive_us, 0),)
        return tuple(
            wire.FunctionLease(name, keep_alive_us, self._since_us(ended_ns))
            for name, (keep_alive_us, ended_ns) in instance.leases.items()
        )

    def _since_us(self, then_ns: int) -> int:
        return (self.now_ns - then_ns) // 1000

    # ------------------------------------------------------------ obeying

    def receive(self, now_ns: int, message: wire.Message) -> None:
        self.now_ns = now_ns
        kind = type(message)
        if kind is wire.Refused:
            if message.code == "hello_first":
                self.welcomed = False
                self.hello()
        elif kind in _COMMANDS:
            if message.command > self.last_command:
                self.last_command = message.command
                _COMMANDS[kind](self, message)
        elif kind in _MESSAGES:
            _MESSAGES[kind](self, message)

    def _on_welcome(self, message: wire.Welcome) -> None:
        if message.epoch != self.epoch:
            self.last_command = 0
        self.epoch, self.welcomed = message.epoch, True
        self.beat()

    def _on_goodbye(self, _: wire.Goodbye) -> None:
        self.said_goodbye, self.welcomed = True, False
        for instance_id in list(self.instances):
            self._end(instance_id, "stopped", None, False)

    def _on_beat_reply(self, message: wire.AgentBeatReply) -> None:
        self.last_command = max(self.last_command, message.last_command)

    def _on_final(self, message: wire.Final) -> None:
        for attempt in message.attempts:
            self.held.pop(attempt, None)

    def _on_function_body(self, message: wire.FunctionBody) -> None:
        self.functions[message.version] = message
        for dispatch in self.attempts.values():
            if dispatch.version == message.version and self.instances[dispatch.instance_id].attempt == dispatch.attempt:
                self.say(wire.AttemptStarted(dispatch.attempt))

    def _on_make_lock(self, message: wire.MakeLock) -> None:
        self.locks[message.spec_key] = message

    def _on_start(self, message: wire.StartInstance) -> None:
        if message.instance_id not in self.instances:
            self.instances[message.instance_id] = ModelInstance(message)

    def _on_stop(self, message: wire.StopInstance) -> None:
        instance = self.instances.get(message.instance_id)
        if instance is None:
            return
        if instance.state == "busy" or instance.sequence != message.sequence:
            self.say(wire.InstanceBusy(message.instance_id, instance.sequence))
        else:
            self._end(message.instance_id, message.cause, None, False)

    def _on_dispatch(self, message: wire.Dispatch) -> None:
        instance = self.instances.get(message.instance_id)
        if instance is not None and instance.state == "busy" and message.is_ahead:
            self._take_ahead(message, instance)
            return
        if instance is None or instance.state != "idle":
            reason = "gone" if instance is None else instance.state
            self.say(wire.AttemptRefused(message.attempt, message.instance_id, reason))
            return
        instance.state, instance.attempt = "busy", message.attempt
        self.attempts[message.attempt] = message
        if message.version in self.functions:
            self.say(wire.AttemptStarted(message.attempt))
        else:
            self.say(wire.NeedFunction(message.version))

    def _take_ahead(self, message: wire.Dispatch, instance: ModelInstance) -> None:
        is_fed = self.attempts[instance.attempt].version in self.functions
        if message.version not in self.functions:
            self.say(wire.NeedFunction(message.version))
        if message.version in self.functions and is_fed and len(instance.ahead) < self.ahead_max:
            self.taken_ahead += 1
            self.attempts[message.attempt] = message
            instance.ahead.append(message.attempt)
        else:
            self.say(wire.AttemptRefused(message.attempt, message.instance_id, wire.RECALLED))

    def _leave(self, token: int) -> wire.Dispatch | None:
        """An attempt that only waited is over and leaves no trace; None if it runs, or is not here."""
        dispatch = self.attempts.get(token)
        if dispatch is None or token not in self.instances[dispatch.instance_id].ahead:
            return None
        self.instances[dispatch.instance_id].ahead.remove(token)
        return self.attempts.pop(token)

    def _on_recall(self, message: wire.RecallAttempts) -> None:
        for token in message.attempts:
            dispatch = self._leave(token)
            if dispatch is not None:
                self.recalled += 1
                self.say(wire.AttemptRefused(token, dispatch.instance_id, wire.RECALLED))

    def _on_cancel(self, message: wire.CancelAttempt) -> None:
        dispatch = self._leave(message.attempt)
        if dispatch is not None:
            sequence = self.instances[dispatch.instance_id].sequence
            why = wire.Failure("cancelled", "The call was cancelled.")
            self._settle(dispatch, sequence, Status.CANCELLED, why, b"")
            return
        dispatch = self.attempts.get(message.attempt)
        if dispatch is not None:
            self.cancelled[message.attempt] = None
            if dispatch.version not in self.functions:
                self.finish(message.attempt)  # nothing of it has begun

    # ------------------------------------------------------------ what a test decides

    def finish_lock(self, spec_key: bytes, failure: wire.Failure | None = None, lock: bytes = b"lock") -> None:
        """A lock is made, or cannot be."""
        command = self.locks.pop(spec_key)
        if failure is None:
            self.say(wire.LockMade(spec_key, self.platform, lock + command.spec_key.hex().encode(), 1000))
        else:
            self.say(wire.LockFailed(spec_key, failure, False))

    def finish_start(self, instance_id: int, failure: wire.Failure | None = None, retryable: bool = False) -> None:
        """A process is ready, or could not be made."""
        instance = self.instances[instance_id]
        if failure is not None:
            self._end(instance_id, "start_failed", failure, retryable)
            return
        instance.state, instance.idle_since_ns = "idle", self.now_ns
        instance.leases[""] = (instance.command.keep_alive_us, self.now_ns)
        self.environments[instance.command.environment_id] = None
        self.say(wire.InstanceReady(instance_id, 7, True, 0, 1000))

    def runnable(self) -> list[int]:
        """Attempts that run: their functions are here, and nothing is to be run before them."""
        return [
            token
            for token, dispatch in self.attempts.items()
            if dispatch.version in self.functions and self.instances[dispatch.instance_id].attempt == token
        ]

    def finish(
        self,
        token: int,
        status: int = Status.SUCCEEDED,
        failure: wire.Failure | None = None,
        result: wire.Payload = b"",
    ) -> None:
        """The call ends on its own, or as it was told to when it was cancelled."""
        dispatch = self.attempts.pop(token)
        if token in self.cancelled:
            status, failure = Status.CANCELLED, wire.Failure("cancelled", "The call was cancelled.")
        instance = self.instances[dispatch.instance_id]
        instance.sequence += 1
        if instance.ahead:
            instance.attempt = instance.ahead.pop(0)
        else:
            instance.attempt, instance.state, instance.idle_since_ns = 0, "idle", self.now_ns
        function = self.functions.get(dispatch.version)
        name = dispatch.version.hex() if function is None else function.name
        instance.leases.pop("", None)  # the term that it was started for ends with its first call
        instance.leases[name] = (dispatch.keep_alive_us, self.now_ns)
        self._settle(dispatch, instance.sequence, status, failure, result)

    def die(self, instance_id: int, kind: str = "process_died") -> None:
        """A process dies, and with it the call that it served."""
        instance = self.instances[instance_id]
        dispatch = self.attempts.pop(instance.attempt, None)
        if dispatch is not None:
            instance.sequence += 1
            self.say(wire.AttemptStarted(dispatch.attempt))  # if nobody had to know it until now
            self._settle(dispatch, instance.sequence, Status.FAILED, wire.Failure(kind, "It died."), b"")
        self._refuse_ahead(instance)
        token = 0 if dispatch is None else dispatch.attempt
        self._end(instance_id, "died", wire.Failure(kind, "It died."), False, token)

    def kill(self, instance_id: int, kind: str = "run_timeout") -> None:
        """A call does not end when told to, and its process is ended for it."""
        instance = self.instances[instance_id]
        status = Status.TIMED_OUT if kind.endswith("timeout") else Status.CANCELLED
        dispatch = self.attempts.pop(instance.attempt)
        instance.sequence += 1
        self._settle(dispatch, instance.sequence, status, wire.Failure(kind, "It did not stop."), b"")
        self._refuse_ahead(instance)
        self._end(instance_id, "killed", None, False, dispatch.attempt)

    def _refuse_ahead(self, instance: ModelInstance) -> None:
        for token in list(instance.ahead):
            self._leave(token)
            self.say(wire.AttemptRefused(token, instance.command.instance_id, "ended"))

    def _settle(
        self, dispatch: wire.Dispatch, sequence: int, status: int, failure: wire.Failure | None, result: wire.Payload
    ) -> None:
        token = dispatch.attempt
        self.executed[token] = (dispatch.session_id, dispatch.call_number)
        done = wire.AttemptDone(
            token,
            dispatch.session_id,
            dispatch.call_number,
            dispatch.instance_id,
            sequence,
            status,
            result or str(token).encode(),
            failure,
            0,
            1000,
            sequence > 1,
        )
        self.held[token] = done
        self.say(done)

    def _end(
        self, instance_id: int, cause: str, failure: wire.Failure | None, retryable: bool, attempt: int = 0
    ) -> None:
        instance = self.instances.pop(instance_id)
        self.endings.append(Ending(instance_id, cause, self.now_ns, instance.lease_end_ns(), instance.sequence))
        self.say(wire.InstanceEnded(instance_id, cause, failure, retryable, attempt))


_COMMANDS: dict[type[Any], Any] = {
    wire.MakeLock: ModelAgent._on_make_lock,
    wire.StartInstance: ModelAgent._on_start,
    wire.StopInstance: ModelAgent._on_stop,
    wire.Dispatch: ModelAgent._on_dispatch,
    wire.CancelAttempt: ModelAgent._on_cancel,
    wire.RecallAttempts: ModelAgent._on_recall,
}
_MESSAGES: dict[type[Any], Any] = {
    wire.Welcome: ModelAgent._on_welcome,
    wire.Goodbye: ModelAgent._on_goodbye,
    wire.AgentBeatReply: ModelAgent._on_beat_reply,
    wire.Final: ModelAgent._on_final,
    wire.FunctionBody: ModelAgent._on_function_body,
}
