"""Loans among calls of several clients: nobody waits for ever for what is lent, however long it would be kept."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.events import Principal
from keepwarm_wire import messages as wire
from support.scheduler_driver import Agent, Client, Driver

SMALL, OTHER, BIG, FAT = 1, 2, 3, 4
"""Functions: two of one core in different pools, one of all cores, one of nearly all memory."""
OBEYS_S = 0.02
SERVED_S = 60
REMOTE = Principal("key", "any", "default")

WHO = st.sampled_from([0, 1])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("borrow"), WHO, st.sampled_from([SMALL, SMALL, OTHER])),
        st.tuples(st.just("submit"), WHO, st.sampled_from([SMALL, SMALL, OTHER, BIG, FAT])),
        st.tuples(st.sampled_from(["cancel", "return"]), WHO, st.integers(0, 5)),
        st.tuples(st.sampled_from(["obey", "hang up"]), WHO, st.just(0)),
        st.tuples(st.sampled_from(["complete", "die", "reconnect", "start", "hold starts"]), st.just(0), st.just(0)),
        st.tuples(st.just("advance"), st.just(0), st.sampled_from([1, 6, 12, 30, 300, 1_200, 5_000])),
    ),
    max_size=40,
)


class World:
    """One machine, and two clients on it who keep what they borrow until it is called back."""

    def __init__(self, cpus: int) -> None:
        self.driver = Driver()
        self.agent: Agent = self.driver.agent(cpu=cpus * 1000, memory=4 << 30, can_lend=True)
        self.clients = [self.client(name) for name in "AB"]
        self.loans: dict[tuple[bytes, int], Client] = {}
        self.calls: dict[tuple[bytes, int], Client] = {}
        self.cpus = cpus
        self.joined = 0

    def client(self, name: str) -> Client:
        client = self.driver.client(name)
        client.declare("m:small", memory_bytes=1 << 30)
        client.declare("m:other", memory_bytes=1 << 30, env_vars=(wire.Pair("A", "b"),))
        client.declare("m:big", memory_bytes=1 << 28, cpu=self.agent.resources["cpu"])
        client.declare("m:fat", memory_bytes=7 << 29, cpu=0)
        return client

    def step(self, what: str, who: int, how: int) -> None:
        client, agent = self.clients[who], self.agent
        if what == "borrow":
            self.borrow(client, how)
        elif what == "submit":
            self.calls[client.session_id, client.submit(how)] = client
        elif what == "cancel":
            client.cancel(max(0, client.last - how))
        elif what == "return":
            self.give_back(client, client.last - how)
        elif what == "obey":
            self.obey(client)
        elif what == "hang up":
            self.hang_up(who)
        elif what == "complete":
            self.complete()
        elif what == "die" and agent.instances:
            agent.die(min(agent.instances))
            self.driver.settle()
        elif what == "reconnect":
            agent.disconnect()
            agent.connect()
        elif what in ("start", "hold starts"):
            agent.starts = what == "start"
            self.driver.settle()
        elif what == "advance":
            self.driver.advance(how / 1000)

    def borrow(self, client: Client, function: int) -> None:
        self.loans[client.session_id, client.borrow(function)] = client

    def give_back(self, client: Client, number: int) -> bool:
        if (client.session_id, number) not in self.loans or self.agent.token_of(
            client, number
        ) not in self.agent.runnable():
            return False
        self.agent.end(client, number)
        return True

    def obey(self, client: Client) -> bool:
        """What was called back is given back."""
        given = [self.give_back(client, number) for number in dict.fromkeys(client.wanted())]
        return any(given)

    def hang_up(self, who: int) -> None:
        client = self.clients[who]
        client.say(wire.Goodbye("done"))
        del self.driver.clients[client.peer]
        for known in (self.loans, self.calls):
            for key in [key for key, owner in known.items() if owner is client]:
                del known[key]
        self.joined += 1
        self.clients[who] = self.client(f"{'AB'[who]}{self.joined}")

    def complete(self) -> None:
        """Every ordinary call that runs ends, and what was cancelled."""
        for token in self.agent.runnable():
            dispatch = self.agent.attempts.get(token)
            if dispatch is not None and (not dispatch.is_loan or token in self.agent.cancelled):
                self.agent.complete(token)

    def unserved(self) -> list[tuple[bytes, int]]:
        return [key for key, client in self.calls.items() if not client.outcomes(key[1])]

    def finish(self, *, greedy: bool) -> None:
        """Clients obey from now on; they keep what is not called back, and the greedy ask again at once."""
        self.agent.starts = True
        until_ns = self.driver.now_ns + SERVED_S * 10**9
        while self.unserved() and self.driver.now_ns < until_ns:
            self.complete()
            for client in self.clients:
                if self.obey(client) and greedy:
                    self.borrow(client, SMALL)
            self.driver.advance(OBEYS_S)


@given(st.integers(1, 3), st.booleans(), STEPS)
def test_every_call_is_served_though_everything_is_lent(
    cpus: int, greedy: bool, steps: list[tuple[str, int, int]]
) -> None:
    world = World(cpus)
    for step in steps:
        world.step(*step)
    world.finish(greedy=greedy)
    assert not world.unserved(), "calls wait for what is lent"


@given(st.integers(1, 3), STEPS)
def test_every_loan_ends_once_a_node_elsewhere_has_joined(cpus: int, steps: list[tuple[str, int, int]]) -> None:
    world = World(cpus)
    for step in steps:
        world.step(*step)
    world.agent.starts = True
    world.driver.joining = REMOTE
    world.driver.agent("far", cpu=1000, memory=1 << 30)
    world.finish(greedy=False)
    for _ in range(3):
        world.driver.advance(1)
        for client in world.clients:
            world.obey(client)
        world.complete()
    assert not world.driver.cluster.loans
    assert all(client.outcomes(number) for (_, number), client in world.loans.items())
    assert not any(pool.loans for pool in world.driver.cluster.pools.values())
