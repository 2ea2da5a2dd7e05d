"""The whole cluster in virtual time: the real cores of scheduler, agents and clients over a network that misbehaves.

``simulate(scenario, seed)`` runs one schedule and returns its history and what the checkers hold against it. A run has
three parts: work and faults; healing, after which every call must be answered in bounded time; quiet, after which
nothing may be left over. All that is random comes from the seed; nothing depends on a clock, on the hash seed or on
the order of a set, so that a seed replays bit by bit.
"""

import traceback
from dataclasses import dataclass
from random import Random

from keepwarm_scheduler.config import CoreConfig
from support.simulation.agent_host import AgentHost
from support.simulation.checkers.table import CHECKERS
from support.simulation.client_host import ClientHost
from support.simulation.clock import MILLISECOND, SECOND, Clock
from support.simulation.faults import SCENARIOS, Fault, Scenario, plan
from support.simulation.history import History
from support.simulation.leftovers import note_leftovers
from support.simulation.machines import Machine
from support.simulation.network import CALM, Link, Network
from support.simulation.scheduler_host import Journal, SchedulerHost
from support.simulation.workload import KEEP_ALIVE_MAX_NS, functions, planned_calls

__all__ = ["CONFIG", "ANSWERED_WITHIN_NS", "Run", "replay_command", "simulate"]

CONFIG = CoreConfig(
    beat_interval_ns=SECOND // 2,
    node_lost_ns=6 * SECOND,
    node_forgotten_ns=25 * SECOND,
    session_lost_ns=8 * SECOND,
    recovery_grace_ns=4 * SECOND,
    infeasible_ns=2 * SECOND,
    no_nodes_ns=20 * SECOND,
    cancel_grace_us=500_000,
    expiries_per_turn_max=3,
)
"""The real settings with shorter waits, so that a run of half a minute goes through all of them."""

ANSWERED_WITHIN_NS = 90 * SECOND
"""After healing every call is answered within this: a queue's work, a node's and a session's silence, retries."""

QUIET_NS = KEEP_ALIVE_MAX_NS + 40 * SECOND
"""Then the finite leases are over, and what was kept for clients that are gone is given up."""

_CAPACITIES = (
    {"cpu": 2000, "memory": 2048 << 20, "gpu": 1000},
    {"cpu": 1000, "memory": 1280 << 20, "gpu": 0},
    {"cpu": 4000, "memory": 3072 << 20, "gpu": 2000},
)


@dataclass
class Run:
    """One schedule, run to its end."""

    scenario: str
    seed: int
    history: History
    violations: list[str]
    steps: int

    @property
    def digest(self) -> str:
        """What must be equal in every replay."""
        return self.history.digest()


def replay_command(scenario: str, seed: int) -> str:
    """What to type to see a run again."""
    return f"PYTHONPATH=tests python -m support.simulation --seed {seed} --scenario {scenario} --trace"


def simulate(scenario: str, seed: int, *, checked: bool = False) -> Run:
    """Run one seed of a scenario. With ``checked`` the cores' own invariants are checked after every event."""
    simulation = _Simulation(SCENARIOS[scenario], Random(f"{scenario}:{seed}"), checked=checked)
    violations: list[str] = []
    try:
        simulation.run()
    except AssertionError as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        violations.append(f"assertion in {where.name}: {error}")
    history = simulation.history
    if not violations:
        violations = [f"{name}: {each}" for name, check in CHECKERS.items() for each in check(history)]
    return Run(scenario, seed, history, violations, simulation.clock.steps)


class _Simulation:
    def __init__(self, scenario: Scenario, random: Random, *, checked: bool) -> None:
        self.scenario, self.random, self.checked = scenario, random, checked
        self.clock, self.history = Clock(), History()
        self.network = Network(self.clock, Random(random.random()), scenario.rates)
        self.journal = Journal()
        self.payloads: dict[bytes, bytes] = {}
        crashed: dict[str, None] = {}
        self.machines = [
            Machine(
                f"n{number}",
                dict(_CAPACITIES[number % len(_CAPACITIES)]),
                self.clock,
                self.history,
                Random(random.random()),
                scenario.trouble,
                self.payloads,
                crashed,
            )
            for number in range(scenario.agents)
        ]
        for machine in self.machines:
            self.history.add(0, "node", machine.node, *sorted(machine.capacity.items()))
        self.scheduler = self._new_scheduler()
        self.agents = [self._new_agent(machine) for machine in self.machines]
        self.clients = [self._new_client(f"c{number}") for number in range(scenario.clients)]
        self.has_healed = False
        if scenario.rates != CALM:
            self.history.add(0, "noise")

    # ------------------------------------------------------------ processes

    def _new_scheduler(self) -> SchedulerHost:
        random = Random(self.random.random())
        return SchedulerHost(
            self.clock, self.network, self.journal, self.payloads, self.history, random, CONFIG, checked=self.checked
        )

    def _new_agent(self, machine: Machine) -> AgentHost:
        random = Random(self.random.random())
        return AgentHost(machine, self.clock, self.network, self.history, random, checked=self.checked)

    def _new_client(self, name: str) -> ClientHost:
        random = Random(self.random.random())
        declared = functions(random, random.randint(1, 4))
        planned = planned_calls(random, name, self.scenario.calls, len(declared), self.scenario.duration_ns)
        return ClientHost(name, self.clock, self.network, self.history, random, declared, planned)

    # ------------------------------------------------------------ a run

    def run(self) -> None:
        """Work and faults, healing, quiet."""
        clock, history = self.clock, self.history
        for fault in plan(self.scenario, self.random):
            clock.at(fault.at_ns, lambda fault=fault: self._strike(fault))  # type: ignore[misc]
        clock.run(self.scenario.duration_ns)
        self._heal()
        clock.run(clock.now_ns + ANSWERED_WITHIN_NS, self._is_answered)
        history.add(clock.now_ns, "waited")
        clock.run(clock.now_ns + QUIET_NS)
        note_leftovers(self.history, clock.now_ns, self.scheduler, self.agents, self.clients)

    def _is_answered(self) -> bool:
        return not any(client.unfinished for client in self.clients)

    def _heal(self) -> None:
        self.has_healed = True
        self.network.rates = CALM
        for link in list(self.network.links.values()):
            self.network.block(link, up=False, down=False)
        for machine in self.machines:
            machine.trouble = machine.trouble.__class__()
        for number in range(len(self.agents)):
            self._revive_agent(number)
        self._revive_scheduler()
        self.history.add(self.clock.now_ns, "healed")
        self.clock.after(SECOND, self._watch)

    def _watch(self) -> None:
        """A supervisor starts agents again that have left."""
        for number in range(len(self.agents)):
            self._revive_agent(number)
        self.clock.after(SECOND, self._watch)

    def _revive_agent(self, number: int) -> None:
        if not self.agents[number].is_alive:
            self.agents[number] = self._new_agent(self.machines[number])

    def _revive_scheduler(self) -> None:
        if not self.scheduler.is_alive:
            self.scheduler = self._new_scheduler()

    # ------------------------------------------------------------ faults

    def _strike(self, fault: Fault) -> None:
        self.history.add(self.clock.now_ns, "fault", fault.kind, fault.subject, fault.duration_ns)
        verb, _, whom = fault.kind.partition(" ")
        if whom == "scheduler":
            if self.scheduler.is_alive:
                self.scheduler.crash()
            self.clock.after(fault.duration_ns, self._revive_scheduler)
        elif verb == "client":
            self.clients[fault.subject % len(self.clients)].die(with_goodbye=whom == "leaves")
        elif verb in _CUTS:
            hosts = self.agents if whom == "agent" else self.clients
            self._cut(hosts[fault.subject % len(hosts)].link, *_CUTS[verb], fault.duration_ns)
        elif verb == "break":
            hosts = self.agents if whom == "agent" else self.clients
            self.network.break_connection(hosts[fault.subject % len(hosts)].link)
        else:
            self._strike_agent(fault.subject % len(self.agents), verb, fault.duration_ns)

    def _strike_agent(self, number: int, verb: str, duration_ns: int) -> None:
        if verb == "kill":
            self.machines[number].kill_idle_process()
            return
        if verb == "crash":
            self.agents[number].crash()
        else:
            self.agents[number].leave()
        self.clock.after(max(duration_ns, 2 * SECOND), lambda: self._revive_agent(number))

    def _cut(self, link: Link, up: bool, down: bool, duration_ns: int) -> None:
        network = self.network
        network.block(link, up=up, down=down)
        if self.random.random() < 0.5:
            self.clock.after(self.random.randrange(MILLISECOND, 3 * SECOND), lambda: self._cut_off(link))
        self.clock.after(duration_ns, lambda: None if self.has_healed else network.block(link, up=False, down=False))

    def _cut_off(self, link: Link) -> None:
        """The operating system gives a partitioned connection up."""
        if link.blocked_up or link.blocked_down:
            self.network.break_connection(link)


_CUTS = {"partition": (True, True), "mute": (True, False), "deafen": (False, True)}
"""Which directions are cut: up (to the scheduler), down."""
