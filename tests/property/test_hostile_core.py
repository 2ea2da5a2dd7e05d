"""The scheduler's core among enrolled peers that lie, and the innocent ones beside them.

An agent and two clients, one of them in the innocent client's namespace, do their work and say legal things that are
not true: about instances, attempts, sessions and calls of others, with numbers at every limit. After every turn the
scheduler's records fit together and everything that it sends can be read; once the liars are gone an innocent call
runs as ever.
"""

import random

import pytest

from keepwarm_scheduler.core.events import LOCAL, PeerLost, PeerMessage, Principal
from keepwarm_wire import messages as wire
from support.hostile import HostilePeer
from support.scheduler_driver import Client, Driver

SEEDS = 60
SEEDS_LONG = 6_000
STEPS = 60


class Siege:
    """A cluster of one innocent client and one innocent node, and three liars in it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.driver = driver = Driver()
        if seed % 3 == 0:
            driver.restart(nodes=("innocent", "liar"))
        self.agent, self.client = driver.agent("innocent"), driver.client("innocent")
        self.function = self.client.declare()
        self.admin = driver.new_peer()
        self.ask(wire.AdminHello(1, 1, "test"))
        self.liars = [self._agent(), self._client("same", "default"), self._client("other", "other")]

    def _agent(self) -> HostilePeer:
        self.driver.joining = Principal("agent's key", "agent", "")
        liar = HostilePeer(self.driver, self.rng, self.driver.agent("liar", cpu=8000))
        self.driver.joining = LOCAL
        return liar

    def _client(self, name: str, namespace: str) -> HostilePeer:
        self.driver.joining = Principal(f"{name} key", "client", namespace)
        client: Client = self.driver.client(name)
        client.declare()
        self.driver.joining = LOCAL
        return HostilePeer(self.driver, self.rng, client)

    def ask(self, message: wire.Message) -> None:
        """What an administrator says."""
        self.driver.feed(PeerMessage(self.admin, LOCAL, message))

    def step(self) -> None:
        """One thing happens: mostly a lie."""
        chance, driver = self.rng.random(), self.driver
        agent, same, other = self.liars
        if chance < 0.75:
            self.rng.choice((agent, agent, same, other)).strike()
        elif chance < 0.84:
            self.rng.choice((agent, agent, same, other)).work()
        elif chance < 0.87:
            self.client.submit(self.function)
        elif chance < 0.92:
            self.agent.complete()
        elif chance < 0.95:
            driver.advance(self.rng.choice((0.1, 1.0, 3.0)))
        else:
            self.ask(wire.StatusRequest(1))
            self.ask(wire.ListDetached(1, b"", "", "", 100))
            for session_id, session in driver.cluster.sessions.items():
                for number in list(session.calls)[:3]:
                    self.ask(wire.ExplainRequest(1, f"{session_id.hex()[:8]}-{number}"))

    def end(self) -> None:
        """The liars are gone; after a while their nodes and sessions are, too."""
        driver = self.driver
        for liar in self.liars:
            driver.agents.pop(liar.honest.peer, None)
            driver.clients.pop(liar.honest.peer, None)
            driver.feed(PeerLost(liar.honest.peer))
            driver.settle()
        for _ in range(6):
            driver.advance(20.0)
            self.agent.complete()

    def run(self) -> None:
        """All of it."""
        for _ in range(STEPS):
            self.step()
        self.end()
        call = self.client.submit(self.function)
        for _ in range(2):
            self.driver.advance(3.0)
            self.agent.complete()
        assert self.client.status(call) == "succeeded"


@pytest.mark.parametrize("block", range(4))
def test_liars_break_nothing_and_harm_nobody(block: int) -> None:
    for seed in range(block * SEEDS // 4, (block + 1) * SEEDS // 4):
        try:
            Siege(seed).run()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_liars_break_nothing_and_harm_nobody() -> None:
    for seed in range(SEEDS, SEEDS_LONG):
        try:
            Siege(seed).run()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


def test_the_liars_are_heard() -> None:
    """Or the other tests would prove nothing: the agent has been given calls and has ended some with made-up words."""
    outcomes = []
    for seed in range(2, 6):
        siege = Siege(seed)
        for _ in range(4 * STEPS):
            siege.step()
        outcomes += [each for each in siege.driver.log if isinstance(each, wire.Outcome | wire.DetachedOutcome)]
    nodes = {outcome.report.node for outcome in outcomes if outcome.report is not None}
    assert nodes == {"innocent", "liar"}
    assert {outcome.status for outcome in outcomes} > {wire.Status.SUCCEEDED, wire.Status.CANCELLED}
