"""Detached calls while the scheduler is killed at any step, between any two of them, on a real journal.

The client repeats what is unanswered; messages are lost and doubled; agents are replaced. In the end every accepted
call has one outcome, of an execution that really happened; a key has stood for one call; nothing ran twice unless its
node was lost; and nothing is left over.
"""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from keepwarm_scheduler.core.effects import ForgetNode
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import RetryLimits, Status
from support.durable_driver import DetachedClient, DurableDriver, session
from support.scheduler_driver import Agent

LOSABLE = (
    wire.SubmitDetached,
    wire.DetachedAccepted,
    wire.DetachedOutcome,
    wire.DetachedCancelled,
    wire.AttemptDone,
    wire.Dispatch,
    wire.Final,
    wire.InstanceReady,
    wire.AgentBeat,
)


class Detached(RuleBasedStateMachine):
    """One scheduler after another, one agent after another, and a client that follows the protocol."""

    @initialize()
    def begin(self) -> None:
        self.driver = DurableDriver()
        self.past_agents: list[Agent] = []
        self.agent = self.driver.agent("a", "a1")
        self.has_lost_node = False
        self.keys: dict[str, bytes] = {}
        self.submits: dict[bytes, tuple[int, str]] = {}
        """What was ever submitted, by id: function and key."""
        self.accepted: dict[bytes, bytes] = {}
        self.outcomes: dict[bytes, wire.DetachedOutcome] = {}
        self.cancelled: dict[bytes, None] = {}
        self.connect()

    def connect(self) -> None:
        self.client: DetachedClient = session(self.driver)
        self.client.declare("m:plain", retries=RetryLimits(lost_node=100))
        self.client.declare("m:once", at_most_once=True)
        self.listen()

    def listen(self) -> None:
        """Take in what has come; whatever was promised once has to stay true."""
        heard, self.client.heard = self.client.heard, []
        for message in heard:
            if isinstance(message, wire.DetachedAccepted):
                known = self.accepted.setdefault(message.call_id, message.accepted_id)
                assert known == message.accepted_id, "accepted as two calls"
                key = self.submits[message.call_id][1]
                if key:
                    assert self.keys.setdefault(key, known) == known, f"the key {key} stands for two calls"
            elif isinstance(message, wire.DetachedOutcome):
                assert self.outcomes.setdefault(message.call_id, message) == message, "two outcomes of one call"
            elif isinstance(message, wire.DetachedRefused):
                assert message.call_id not in self.accepted, f"{message} of a call that was accepted"

    # ------------------------------------------------------------ the client

    @rule(function=st.sampled_from([1, 1, 2]), key=st.sampled_from(["", "", "k", "l"]))
    def submit(self, function: int, key: str) -> None:
        call_id = b"%016d" % len(self.submits)
        self.submits[call_id] = (1 if key else function, key)
        self.say(call_id)

    def say(self, call_id: bytes) -> None:
        function, key = self.submits[call_id]
        self.client.spawn(call_id, function, key=key)
        self.listen()

    @rule()
    def repeat(self) -> None:
        """Everything that is unanswered."""
        for call_id in self.submits:
            if call_id not in self.accepted:
                self.say(call_id)
        self.client.attach(*[call_id for call_id in self.accepted.values() if call_id not in self.outcomes])
        self.listen()

    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        if self.accepted:
            call_id = list(self.accepted.values())[which % len(self.accepted)]
            self.cancelled[call_id] = None
            self.client.say(wire.CancelDetached(call_id))
            self.listen()

    # ------------------------------------------------------------ the node

    @rule(which=st.integers(0, 9))
    def finish(self, which: int) -> None:
        runnable = self.agent.runnable()
        if runnable:
            self.agent.complete(runnable[which % len(runnable)])
            self.listen()

    @rule()
    def beat(self) -> None:
        if self.agent.peer in self.driver.agents:
            self.agent.beats()
            self.listen()

    @precondition(lambda self: len(self.past_agents) < 3)
    @rule()
    def replace_agent(self) -> None:
        """Its machine dies, with everything that ran there."""
        self.has_lost_node = True
        self.driver.catch_up()  # an agent is welcomed by the disk's leave
        self.past_agents.append(self.agent)
        self.driver.agents.pop(self.agent.peer, None)
        self.agent = self.driver.agent("a", f"a{len(self.past_agents) + 1}")
        self.listen()

    # ------------------------------------------------------------ the scheduler

    @rule(kind=st.sampled_from(LOSABLE))
    def lose(self, kind: type[Any]) -> None:
        self.driver.lose(kind)

    @rule(on=st.booleans())
    def double(self, on: bool) -> None:
        self.driver.twice = on

    @rule()
    def crash_at_the_next_sync(self) -> None:
        self.driver.crashes_at_sync = True

    @rule()
    def disk_becomes_slow(self) -> None:
        """Much is decided before any of it is on disk, and lost if the next step is a crash."""
        self.driver.is_disk_slow = True

    @rule()
    def disk_catches_up(self) -> None:
        self.driver.catch_up()
        self.listen()

    @rule(does_agent_return=st.booleans(), after_s=st.sampled_from([0.0, 1.0, 20.0]))
    def reboot(self, does_agent_return: bool, after_s: float) -> None:
        self.driver.reboot(after_s)
        if does_agent_return:
            self.agent.connect()
        self.connect()

    @rule(seconds=st.sampled_from([0.5, 3.0, 7.0]))
    def advance(self, seconds: float) -> None:
        self.driver.advance(seconds)
        self.listen()

    # ------------------------------------------------------------ the end

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        self.driver.to_lose, self.driver.twice = [], False
        self.driver.reboot()
        self.agent.connect()
        self.connect()
        for _ in range(60):
            self.repeat()
            self.agent.complete()
            self.driver.advance(2.0)
            self.listen()
        self.check()
        self.driver.close()

    def check(self) -> None:
        assert set(self.accepted) == set(self.submits), "submitted again and again, and never accepted"
        calls = dict.fromkeys(self.accepted.values())
        assert set(self.outcomes) == set(calls), "accepted, and without an outcome"
        agents = (*self.past_agents, self.agent)
        executed = {token: key for agent in agents for token, key in agent.executed.items()}
        for call_id, outcome in self.outcomes.items():
            function, _ = self.submits[call_id]
            if outcome.status == Status.SUCCEEDED:
                assert isinstance(outcome.result, bytes)
                assert int(outcome.result) in executed, "a result that no execution has made"
            elif outcome.status == Status.LOST:
                assert function == 2, outcome
            else:
                assert outcome.status == Status.CANCELLED, outcome
                assert call_id in self.cancelled
        results = Counter(outcome.result for outcome in self.outcomes.values() if outcome.result)
        assert not results or max(results.values()) == 1, "one execution is two calls' outcome"
        # A node that is not heard within the grace after a start is given up like a lost one.
        has_lost_node = self.has_lost_node or bool(self.driver.done(ForgetNode))
        times = Counter(executed.values())
        for key, count in times.items():
            once = self.driver.cluster.book.records[key[1]].function == "m:once"
            assert count == 1 or (has_lost_node and not once), f"{key} ran {count} times"
        assert not self.agent.held, "the node was never told that its outcomes are final"
        book = self.driver.cluster.book
        assert not book.unfinished
        assert not book.doubts
        assert not self.driver.cluster.attempts


TestDetached = Detached.TestCase
TestDetached.settings = settings(stateful_step_count=40)
