"""The agent's core under random commands (duplicated, reordered, lost), runners that do anything, a failing network.

What must hold however they interleave: every instance ends once, every accepted attempt is refused or done once, none
runs on two instances, a busy instance is never stopped by a stop, outcomes are held until final, output is bounded.
"""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.leaving import LEAVE_STEPS
from keepwarm_worker.core.machine import AgentCore
from keepwarm_worker.core.state import check_invariants
from keepwarm_worker.core.transitions import InstanceState
from support.agent_core import BODY, CONFIG, SECOND

LIMITS = CONFIG._replace(output_bytes_max=100, output_piece_bytes=16, function_bytes_max=12)
VERSIONS = [bytes([letter]) * 32 for letter in b"ab"]
ENVIRONMENTS = ["a" * 64, "b" * 64]
LARGE = [wire.Reference(bytes([letter]) * 16, 1_000_000, b"d" * 32) for letter in b"xy"]
FAILURE = wire.Failure("user_exception", "boom")
TIMEOUTS = st.sampled_from([FOREVER_US, 500_000, 3_000_000])


class AgentMachine(RuleBasedStateMachine):
    """One agent; ``alive`` holds the processes that its effects started."""

    def __init__(self) -> None:
        super().__init__()
        self.core = AgentCore(LIMITS)
        self.now_ns = 0
        self.epoch = 1
        self.command = 0
        self.tokens = 100
        self.delayed: list[wire.Message] = []
        self.alive: dict[int, int] = {}
        """Instances with a process, and the attempt that their runner was given last (0: answered)."""
        self.waiting: dict[int, list[int]] = {}
        """What their runners were given to run after that."""
        self.spawned: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.running_on: dict[int, int] = {}
        self.settled: dict[int, str] = {}
        self.output: Counter[int] = Counter()
        self.final: set[int] = set()
        self.ahead: set[int] = set()
        self.began: set[int] = set()
        self.large: set[int] = set()
        self.builds: list[str] = []
        self.locks: list[bytes] = []
        self.uploads: list[int] = []
        self.fetches: list[wire.Reference] = []

    # ------------------------------------------------------------ plumbing

    def feed(self, event: events.Event) -> list[effects.Effect]:
        out = self.core.handle(self.now_ns, event)
        for effect in out:
            self.watch(effect)
        return out

    def watch(self, effect: effects.Effect) -> None:
        """What an effect does to the world, and what it must never do."""
        match effect:
            case effects.SpawnInstance():
                assert effect.instance_id not in self.alive
                self.spawned[effect.instance_id] += 1
                self.alive[effect.instance_id] = 0
            case effects.StartCall():
                assert self.running_on.get(effect.attempt, effect.instance_id) == effect.instance_id
                assert effect.attempt not in self.running_on, "an attempt was given to a runner twice"
                self.running_on[effect.attempt] = effect.instance_id
                if self.alive[effect.instance_id]:
                    assert effect.attempt in self.ahead, "the runner still has a call"
                    self.waiting.setdefault(effect.instance_id, []).append(effect.attempt)
                else:
                    self.alive[effect.instance_id] = effect.attempt
            case effects.RunBuild():
                assert effect.environment_id not in self.builds
                self.builds.append(effect.environment_id)
            case effects.RunLock():
                self.locks.append(effect.spec_key)
            case effects.UploadResult():
                self.uploads.append(effect.attempt)
            case effects.FetchPayload():
                self.fetches.append(effect.reference)
            case effects.SendMessage():
                self.hear(effect.message)
            case _:
                pass
        assert len(self.builds) + len(self.locks) <= LIMITS.builds_max

    def hear(self, message: wire.Message) -> None:
        match message:
            case wire.InstanceEnded():
                self.ended[message.instance_id] += 1
            case wire.AttemptStarted():
                assert message.attempt not in self.settled
                self.began.add(message.attempt)
            case wire.AttemptOutput():
                assert message.attempt not in self.settled, "output after the outcome"
                assert len(message.data) <= LIMITS.output_piece_bytes
                self.output[message.attempt] += len(message.data)
            case wire.AttemptDone():
                before = self.settled.setdefault(message.attempt, f"done {message.status}")
                assert before == f"done {message.status}", "two outcomes for one attempt"
                handed_over = isinstance(message.result, wire.Reference)
                assert handed_over or message.attempt not in self.large, "an outcome came before its result"
                assert message.attempt not in self.final, "an outcome repeated after Final"
            case wire.AttemptRefused():
                assert message.attempt not in self.settled, "refused after it was settled"
                assert message.attempt not in self.began, "refused after it had begun"
                self.settled[message.attempt] = "refused"
            case _:
                pass

    def send(self, message: wire.Message) -> None:
        self.feed(events.Received(message))

    def new_token(self) -> int:
        """Of an instance or an attempt: never given twice."""
        self.tokens += 1
        return self.tokens

    def number(self) -> int:
        self.command += 1
        return self.command

    # ------------------------------------------------------------ the scheduler

    @initialize()
    def meet(self) -> None:
        self.feed(events.Tick())
        self.welcome(False)

    @rule(restarted=st.booleans())
    def welcome(self, restarted: bool) -> None:
        """A scheduler takes the agent in, perhaps a new one; what an old one had under way is lost."""
        if restarted:
            self.epoch += 1
            self.command = 0
            self.delayed.clear()
        known = not restarted and self.core.state.link.epoch == self.epoch
        self.send(wire.Welcome(1, b"c" * 16, self.epoch, known, 0, 0, 1_000_000))

    @rule()
    def reply(self) -> None:
        self.send(wire.AgentBeatReply(1, self.core.state.link.last_command))

    @rule()
    def forget(self) -> None:
        self.send(wire.Refused("hello_first", "who?"))

    def command_out(self, message: wire.Message, fate: str) -> None:
        """Deliver a command now, twice, late (after others: out of order), or never."""
        if fate == "late":
            self.delayed.append(message)
        elif fate != "lost":
            for _ in range(2 if fate == "twice" else 1):
                self.send(message)

    FATES = st.sampled_from(["now", "now", "now", "twice", "late", "lost"])

    @rule(environment=st.sampled_from(ENVIRONMENTS), timeout=TIMEOUTS, fate=FATES)
    def start(self, environment: str, timeout: int, fate: str) -> None:
        command = wire.StartInstance(
            self.number(), self.new_token(), b"p" * 32, environment, "3.11", b"lock", (), 0, 0, timeout, 1_000_000
        )
        self.command_out(command, fate)

    @rule(environment=st.sampled_from(ENVIRONMENTS))
    def make_ready(self, environment: str) -> None:
        """The whole way to a ready instance at once, so that runs get to interesting places."""
        self.start(environment, FOREVER_US, "now")
        while self.builds and self.tokens not in self.alive:
            self.build_ends(True, False)
        if self.tokens in self.alive:
            self.feed(events.RunnerHello(self.tokens, 1000))

    @rule(version=st.sampled_from(VERSIONS))
    def run_one(self, version: bytes) -> None:
        """A call that is running, on whichever instance is idle."""
        for instance in list(self.core.state.instances.values()):
            if instance.state is InstanceState.IDLE:
                self.send(BODY._replace(version=version, name=f"function {version[0]}"))
                attempt = self.new_token()
                self.send(
                    wire.Dispatch(
                        self.number(),
                        instance.instance_id,
                        attempt,
                        b"s" * 16,
                        attempt,
                        version,
                        0,
                        500_000,
                        500_000,
                        b"",
                    )
                )
                self.feed(events.RunnerStarted(instance.instance_id, attempt, False))
                return

    @rule(data=st.data())
    def start_again(self, data: st.DataObject) -> None:
        """The scheduler was not sure: an instance that is there is started once more, under a new command."""
        instances = self.core.state.instances
        if instances:
            known = instances[data.draw(st.sampled_from(list(instances)))].command
            self.send(known._replace(command=self.number()))

    @rule(data=st.data(), fate=FATES, off=st.integers(-1, 1))
    def stop(self, data: st.DataObject, fate: str, off: int) -> None:
        instances = self.core.state.instances
        if not instances:
            return
        instance = instances[data.draw(st.sampled_from(list(instances)))]
        was_busy = instance.state is InstanceState.BUSY
        before, sequence = instance.state, max(0, instance.sequence + off)
        self.command_out(wire.StopInstance(self.number(), instance.instance_id, sequence, "expired"), fate)
        if was_busy:
            assert instance.state in (InstanceState.BUSY, InstanceState.STOPPING)
            assert instance.end_cause != "expired", "a busy instance was stopped"
        if sequence != instance.sequence:
            assert instance.state is before, "an instance was stopped on old news"

    @rule(
        data=st.data(),
        version=st.sampled_from(VERSIONS),
        arguments=st.sampled_from([b"small", *LARGE]),
        timeout=TIMEOUTS,
        fate=FATES,
    )
    def dispatch(self, data: st.DataObject, version: bytes, arguments: wire.Payload, timeout: int, fate: str) -> None:
        target = data.draw(st.sampled_from([*self.core.state.instances, 99]))
        attempt = self.new_token()
        command = wire.Dispatch(
            self.number(), target, attempt, b"s" * 16, attempt, version, 1_000_000, timeout, timeout, arguments
        )
        self.command_out(command, fate)

    @rule(count=st.integers(1, 3), version=st.sampled_from(VERSIONS), fate=FATES)
    def dispatch_ahead(self, count: int, version: bytes, fate: str) -> None:
        """Calls for an instance that is busy."""
        busy = [each for each in self.core.state.instances.values() if each.state is InstanceState.BUSY]
        for instance in busy[:1] * count:
            attempt = self.new_token()
            self.ahead.add(attempt)
            command = wire.Dispatch(
                self.number(),
                instance.instance_id,
                attempt,
                b"s" * 16,
                attempt,
                version,
                0,
                500_000,
                500_000,
                b"",
                True,
            )
            self.command_out(command, fate)

    @rule(data=st.data(), fate=FATES)
    def ask_back(self, data: st.DataObject, fate: str) -> None:
        """Some of everything, whether it can be given back or not."""
        attempts = list(self.core.state.attempts)
        if attempts:
            some = data.draw(st.lists(st.sampled_from(attempts), max_size=4))
            self.command_out(wire.RecallAttempts(self.number(), tuple(some)), fate)

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def runner_gives_back(self, data: st.DataObject) -> None:
        instance_id = data.draw(st.sampled_from([each for each, waiting in self.waiting.items() if waiting]))
        attempt = data.draw(st.sampled_from(self.waiting[instance_id]))
        self.waiting[instance_id].remove(attempt)
        self.feed(events.RunnerRecalled(instance_id, attempt))

    @rule(data=st.data())
    def dispatch_again(self, data: st.DataObject) -> None:
        """The scheduler was not sure: a known attempt once more, under a new command."""
        attempts = self.core.state.attempts
        if attempts:
            known = attempts[data.draw(st.sampled_from(list(attempts)))].command
            out = self.feed(events.Received(known._replace(command=self.number())))
            assert not out or not isinstance(out[0], effects.StartCall)

    @rule(data=st.data(), fate=FATES)
    def cancel(self, data: st.DataObject, fate: str) -> None:
        attempts = list(self.core.state.attempts)
        if attempts:
            token = data.draw(st.sampled_from(attempts))
            self.command_out(wire.CancelAttempt(self.number(), token, 1_000_000), fate)

    @rule(version=st.sampled_from(VERSIONS), body=st.sampled_from([b"123456", *LARGE[:1]]))
    def function(self, version: bytes, body: wire.Payload) -> None:
        self.send(BODY._replace(version=version, name=f"function {version[0]}", body=body))

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        held = [token for token, attempt in self.core.state.attempts.items() if attempt.outcome is not None]
        if held:
            token = data.draw(st.sampled_from(held))
            self.final.add(token)
            self.settled.setdefault(token, "final before it was heard")
            self.send(wire.Final((token,)))

    @precondition(lambda self: self.delayed)
    @rule(data=st.data())
    def deliver_late(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.delayed) - 1))
        self.send(self.delayed.pop(at))

    # ------------------------------------------------------------ the node

    @precondition(lambda self: self.builds)
    @rule(works=st.booleans(), was_built=st.booleans())
    def build_ends(self, works: bool, was_built: bool) -> None:
        environment = self.builds.pop(0)
        if works:
            self.feed(events.BuildFinished(environment, 1, was_built))
        else:
            self.feed(events.BuildProblem(environment, FAILURE, False))

    @rule(key=st.sampled_from([b"k" * 32, b"l" * 32]), fate=FATES)
    def make_lock(self, key: bytes, fate: str) -> None:
        self.command_out(wire.MakeLock(self.number(), key, b"spec"), fate)

    @precondition(lambda self: self.locks)
    @rule(works=st.booleans())
    def lock_ends(self, works: bool) -> None:
        key = self.locks.pop(0)
        self.feed(events.LockFinished(key, "linux", b"") if works else events.LockProblem(key, FAILURE, True))

    @precondition(lambda self: self.fetches)
    @rule(works=st.booleans())
    def fetch_ends(self, works: bool) -> None:
        reference = self.fetches.pop(0)
        if works:
            self.feed(events.PayloadFetched(reference.payload_id))
        else:
            self.feed(events.PayloadMissing(reference.payload_id, FAILURE))

    @precondition(lambda self: self.uploads)
    @rule()
    def upload_ends(self) -> None:
        attempt = self.uploads.pop(0)
        self.feed(events.ResultStored(attempt, LARGE[0]))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), what=st.sampled_from(["hello", "started", "setup", "set up", "result", "large", "fails"]))
    def runner_says(self, data: st.DataObject, what: str) -> None:
        instance_id = data.draw(st.sampled_from(list(self.alive)))
        attempt = self.alive[instance_id]
        if what == "hello":
            self.feed(events.RunnerHello(instance_id, 1000))
        elif attempt == 0:
            return
        elif what in ("started", "setup"):
            self.feed(events.RunnerStarted(instance_id, attempt, what == "setup"))
        elif what == "set up":
            self.feed(events.RunnerSetupDone(instance_id, attempt))
        else:
            waiting = self.waiting.get(instance_id)
            self.alive[instance_id] = waiting.pop(0) if waiting else 0
            result = events.SpooledResult(1_000_000) if what == "large" else b"result"
            if what == "large":
                self.large.add(attempt)
            self.feed(events.RunnerResult(instance_id, attempt, result, FAILURE if what == "fails" else None, 0, 0))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def runner_lies(self, data: st.DataObject) -> None:
        """It speaks of an attempt that it was not given."""
        instance_id = data.draw(st.sampled_from(list(self.alive)))
        attempt = data.draw(st.sampled_from([*self.core.state.attempts, 99]))
        if self.alive[instance_id] != attempt:
            before = len(self.settled)
            self.feed(events.RunnerStarted(instance_id, attempt, False))
            self.feed(events.RunnerResult(instance_id, attempt, b"lie", None, 0, 0))
            assert len(self.settled) == before

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), sizes=st.lists(st.integers(1, 150), max_size=3))
    def runner_prints(self, data: st.DataObject, sizes: list[int]) -> None:
        instance_id = data.draw(st.sampled_from(list(self.alive)))
        for size in sizes:
            self.feed(events.RunnerOutput(instance_id, 1 + size % 2, b"x" * size))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), how=st.sampled_from(["exit", "signal", "lost", "missing", "problem"]))
    def process_ends(self, data: st.DataObject, how: str) -> None:
        instance_id = data.draw(st.sampled_from(list(self.alive)))
        state = self.core.state.instances[instance_id].state
        if how == "lost":
            self.feed(events.RunnerLost(instance_id, "nonsense."))
            return
        if how in ("missing", "problem") and state is not InstanceState.STARTING:
            return
        del self.alive[instance_id]
        self.waiting.pop(instance_id, None)
        if how == "missing":
            self.spawned[instance_id] -= 1
            self.feed(events.EnvironmentMissing(instance_id))
        elif how == "problem":
            self.feed(events.SpawnProblem(instance_id, FAILURE, True))
        else:
            exit_code, name = (1, "") if how == "exit" else (None, "SIGKILL")
            self.feed(events.ProcessExited(instance_id, exit_code, name, ""))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5, 70.0]))
    def time_passes(self, seconds: float) -> None:
        until_ns = self.now_ns + int(seconds * SECOND)
        while (due := self.core.next_deadline()) is not None and due <= until_ns:
            self.now_ns = max(self.now_ns, due)
            self.feed(events.Tick())
        self.now_ns = until_ns

    # ------------------------------------------------------------ what must hold

    @invariant()
    def records_agree(self) -> None:
        check_invariants(self.core.state)

    @invariant()
    def every_end_is_said_once(self) -> None:
        assert all(count == 1 for count in self.ended.values()), self.ended

    @invariant()
    def no_instance_runs_twice(self) -> None:
        assert all(count <= 1 for count in self.spawned.values()), self.spawned

    @invariant()
    def output_is_bounded(self) -> None:
        assert all(count <= LIMITS.output_bytes_max for count in self.output.values())

    @invariant()
    def outcomes_are_held_until_final(self) -> None:
        for token, how in self.settled.items():
            if how.startswith("done") and token not in self.final:
                assert token in self.core.state.attempts, f"attempt {token} was forgotten"

    @invariant()
    def every_process_has_its_record(self) -> None:
        assert set(self.alive) <= set(self.core.state.instances)

    def teardown(self) -> None:
        """In the end everything ends: each instance once, every attempt that was taken on is accounted for."""
        self.welcome(False)
        self.feed(events.StopRequested("the test is over"))
        for instance_id in list(self.alive):
            del self.alive[instance_id]
            self.waiting.pop(instance_id, None)
            self.feed(events.ProcessExited(instance_id, None, "SIGKILL", ""))
        state = self.core.state
        if not state.exited:
            assert any(attempt.uploading for attempt in state.attempts.values()), "the agent stays for nothing"
            self.now_ns += LEAVE_STEPS * state.config.shutdown_step_ns
            self.feed(events.Tick())  # nobody takes what it has to hand over
        assert state.exited
        assert not state.instances
        for instance_id in self.spawned:
            assert self.ended[instance_id] == 1, f"instance {instance_id} has not ended once"


TestAgentCore = AgentMachine.TestCase
TestAgentCore.settings = settings(stateful_step_count=80)
