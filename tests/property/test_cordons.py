"""Cordons and drains among everything else: no call is lost or run twice, and leases are waited for."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_wire import messages as wire
from support.model_agent import NEVER_NS
from support.scheduler_driver import SECOND_NS, Agent, Driver

WAIT_S = 20
KEEP_ALIVE_S = 8.0
FINITE, ENDLESS = 1, 2

NODES = st.sampled_from(["a", "b"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from([FINITE, ENDLESS])),
        st.tuples(st.just("complete"), NODES),
        st.tuples(st.just("advance"), st.sampled_from([0.3, 1.0, 3.0, 7.0, 25.0])),
        st.tuples(st.sampled_from(["cordon", "drain", "uncordon", "drop"]), NODES),
    ),
    max_size=30,
)


class World:
    """Two nodes, a client with a function whose lease ends and one whose does not, and an operator."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.agents: dict[str, Agent] = {name: self.driver.agent(name) for name in ("a", "b")}
        self.client = self.driver.client()
        self.client.declare("m:finite", keep_alive=KEEP_ALIVE_S)
        self.client.declare("m:endless", keep_alive=None, env_vars=(wire.Pair("A", "b"),))
        self.operator = self.driver.new_peer()
        self.driver.transmit(self.operator, wire.AdminHello(1, 1, "test"))
        self.drained_ns: dict[str, int] = {}

    def order(self, mode: str, node: str) -> None:
        self.driver.transmit(self.operator, wire.CordonNode(1, node, mode, WAIT_S * 1_000_000))
        self.driver.settle()
        if mode == "drain":
            self.drained_ns[node] = self.driver.now_ns

    def step(self, what: str, which: object) -> None:
        if what == "submit":
            self.client.submit(int(str(which)))
        elif what == "complete":
            self.agents[str(which)].complete()
        elif what == "advance":
            self.driver.advance(float(str(which)))
        elif what == "drop":
            agent = self.agents[str(which)]
            agent.disconnect()
            agent.connect()
        else:
            self.order(what, str(which))
        self.check()

    def check(self) -> None:
        for node, agent in self.agents.items():
            for ending in agent.endings:
                if ending.cause == "evicted: drain" and ending.lease_end_ns < NEVER_NS:
                    assert ending.at_ns >= self.drained_ns[node] + WAIT_S * SECOND_NS
            agent.endings.clear()  # a later drain of the node counts from itself

    def finish(self) -> None:
        for node in self.agents:
            self.order("uncordon", node)
        for _ in range(60):
            for agent in self.agents.values():
                agent.complete()
            self.driver.advance(1)


@given(STEPS)
def test_every_call_is_served_once_and_leases_are_waited_for(steps: list[tuple[str, object]]) -> None:
    world = World()
    for what, which in steps:
        world.step(what, which)
    world.finish()
    for number in range(1, world.client.last + 1):
        assert world.client.status(number) == "succeeded"
    executed = [call for agent in world.agents.values() for call in agent.executed.values()]
    assert len(executed) == len(set(executed)), "a call ran twice"


@given(STEPS)
def test_a_closed_node_is_sent_nothing_new(steps: list[tuple[str, object]]) -> None:
    world = World()
    for what, which in steps:
        before = {name: len(agent.of(wire.Dispatch)) for name, agent in world.agents.items()}
        closed = {name for name in world.agents if name in world.driver.cluster.cordons}
        world.step(what, which)
        if what != "uncordon":
            for name in closed:
                assert len(world.agents[name].of(wire.Dispatch)) == before[name]
