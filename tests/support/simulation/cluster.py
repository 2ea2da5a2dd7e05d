"""The whole cluster in virtual time: the real cores of scheduler, agents and clients over a network that misbehaves.

``simulate(scenario, seed)`` runs one schedule and returns its history and what the checkers hold against it. A run has
three parts: work and faults; healing, after which every call must be answered in bounded time; quiet, after which
nothing may be left over. All that is random comes from the seed; nothing depends on a clock, on the hash seed or on
the order of a set, so that a seed replays bit by bit.

What costs much and finds little is done in a part of the runs, which the seed alone decides: see ``ENCODED_EVERY`` and
``WATCHED_EVERY``.
"""

import traceback
from dataclasses import dataclass
from random import Random

from keepwarm_scheduler.config import CoreConfig
from support.simulation.agent_host import AgentHost
from support.simulation.bursts import burst_functions, planned_bursts
from support.simulation.checkers import leaks
from support.simulation.checkers.table import CHECKERS
from support.simulation.client_host import ClientHost
from support.simulation.clock import MILLISECOND, SECOND, Clock, HostClock
from support.simulation.detaching import DetachingClient, Noticeboard, planned_spawns
from support.simulation.disk import Disk
from support.simulation.faults import SCENARIOS, Fault, Scenario, plan
from support.simulation.history import History
from support.simulation.leftovers import note_leftovers
from support.simulation.lending import Doors
from support.simulation.machines import Machine
from support.simulation.network import CALM, Network
from support.simulation.scheduler_host import Journal, SchedulerHost
from support.simulation.shelf import Shelf
from support.simulation.striking import strike
from support.simulation.tally import Tally
from support.simulation.trouble import Trouble
from support.simulation.workload import KEEP_ALIVE_MAX_NS, functions, planned_calls

__all__ = ["ANSWERED_WITHIN_NS", "CONFIG", "Cluster", "Run", "replay_command", "simulate"]

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

INSPECTED_WITHIN_NS = 20 * SECOND
"""Whoever asks for calls that have ended, from a scheduler that has just started, is answered within this."""

QUIET_NS = KEEP_ALIVE_MAX_NS + 40 * SECOND
"""Then the finite leases are over, and what was kept for clients that are gone is given up."""

ENCODED_EVERY = 4
"""In every fourth run frames are encoded, decoded and checked as on a real network."""

WATCHED_EVERY = 10
"""In every tenth run the quiet lasts its full time, though nothing is left over: endless leases must outlast it."""

AHEAD_EVERY = 2
"""In every second run agents take calls for busy processes, and every function is known to be short."""
AHEAD_MAX = 6

AIM_MAX_NS = 20 * MILLISECOND
"""How long after a loan has begun a fault strikes that waits for one."""

_CAPACITIES = (
    {"cpu": 2000, "memory": 2048 << 20, "gpu": 1000},
    {"cpu": 1000, "memory": 1280 << 20, "gpu": 0},
    {"cpu": 4000, "memory": 3072 << 20, "gpu": 2000},
)
_OFFSET_MAX_NS = 1_000_000 * SECOND


@dataclass
class Run:
    """One schedule, run to its end."""

    scenario: str
    seed: int
    history: History
    violations: list[str]
    tally: Tally

    @property
    def digest(self) -> str:
        """What must be equal in every replay."""
        return self.history.digest()


def replay_command(scenario: str, seed: int) -> str:
    """What to type to see a run again."""
    return f"PYTHONPATH=tests python -m support.simulation --seed {seed} --scenario {scenario} --trace"


def simulate(scenario: str, seed: int, *, checked: bool = False, encoded: bool | None = None) -> Run:
    """Run one seed of a scenario. With ``checked`` the cores' own invariants are checked after every event.

    ``encoded`` says whether frames are bytes on the network; the seed decides that if nobody else does.
    """
    is_encoding = seed % ENCODED_EVERY == 0 if encoded is None else encoded
    cluster = Cluster(SCENARIOS[scenario], scenario, seed, checked=checked, is_encoding=is_encoding)
    violations: list[str] = []
    try:
        cluster.run()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        violations.append(f"{type(error).__name__} in {where.name}: {error}")
    finally:
        cluster.close()
    history = cluster.history
    if not violations:
        violations = [f"{name}: {each}" for name, check in CHECKERS.items() for each in check(history)]
    return Run(scenario, seed, history, violations, cluster.tally)


class Cluster:
    """All processes and machines of one run, what connects them, and what happens to them."""

    def __init__(self, scenario: Scenario, name: str, seed: int, *, checked: bool, is_encoding: bool) -> None:
        self.scenario, self.checked = scenario, checked
        self.random = Random(f"{name}:{seed}")
        self.is_watched = seed % WATCHED_EVERY == 0
        self.goes_ahead = seed % AHEAD_EVERY == 1
        self.doors = Doors(is_open=scenario.lent_every > 0 and seed % scenario.lent_every == scenario.lent_every - 1)
        self.clock, self.history, self.tally = Clock(), History(), Tally()
        self.network = Network(self.clock, Random(self.random.random()), self.tally, scenario.rates, is_encoding)
        self.journal: Journal | Disk = Disk(self.clock) if scenario.detached else Journal()
        self.shelf, self.board = Shelf(self.clock), Noticeboard()
        crashed: dict[str, None] = {}
        self.machines = [self._new_machine(number, crashed) for number in range(scenario.agents)]
        for machine in self.machines:
            self.history.add(0, "node", machine.node, *sorted(machine.capacity.items()))
        if scenario.rates != CALM:
            self.history.add(0, "noise")
        if scenario.drift_ppm:
            self.tally.strike("clock drifts")
            self.history.add(0, "drift", scenario.drift_ppm)
        self._clocks = [self._new_clock() for _ in self.machines]
        self._scheduler_clock = self._new_clock()
        self.scheduler = self._new_scheduler()
        self.agents = [self._new_agent(number) for number in range(len(self.machines))]
        self.clients: list[ClientHost] = []
        self._absent_clients = 0
        for _ in range(scenario.clients):
            self._add_client(scenario.calls, scenario.detached)
        self.has_healed = False

    # ------------------------------------------------------------ processes

    def _new_machine(self, number: int, crashed: dict[str, None]) -> Machine:
        capacity = dict(_CAPACITIES[number % len(_CAPACITIES)])
        random = Random(self.random.random())
        return Machine(
            f"n{number}", capacity, self.clock, self.history, self.tally, random, self.scenario.trouble, self.shelf,
            crashed, AHEAD_MAX if self.goes_ahead else 0, self.doors,
        )  # fmt: skip

    def _new_clock(self) -> HostClock:
        drift_ppm = self.scenario.drift_ppm
        return HostClock(
            self.clock,
            self.random.randrange(_OFFSET_MAX_NS),
            self.random.randint(-drift_ppm, drift_ppm) if drift_ppm else 0,
        )

    def _new_scheduler(self) -> SchedulerHost:
        return SchedulerHost(
            self._scheduler_clock, self.network, self.journal, self.shelf, self.history, self.tally,
            Random(self.random.random()), CONFIG, checked=self.checked, knows_run_times=self.goes_ahead,
        )  # fmt: skip

    def _new_agent(self, number: int) -> AgentHost:
        return AgentHost(
            self.machines[number], self._clocks[number], self.network, self.history, self.tally,
            Random(self.random.random()), checked=self.checked,
        )  # fmt: skip

    def _add_client(self, calls: int, detached: int) -> None:
        random, name, now_ns = Random(self.random.random()), f"c{len(self.clients)}", self.clock.now_ns
        declared = functions(random, random.randint(1, 4))
        until_ns = max(self.scenario.duration_ns, now_ns + SECOND)
        planned = planned_calls(random, name, calls, len(declared), now_ns, until_ns) if calls else []
        if self.doors.is_open:
            planned += planned_bursts(random, name, self.scenario.trains, len(declared), now_ns, until_ns)
            declared += burst_functions(random)
        common = (name, self._new_clock(), self.network, self.history, self.tally, random)
        if not self.scenario.detached:
            client = ClientHost(*common, declared, planned)
            self.clients.append(client)
            if self.doors.is_open:
                client.desk.open(self.doors)
            return
        spawns = planned_spawns(random, name, detached, now_ns, until_ns) if detached else []
        looks_ns = [random.randrange(now_ns, until_ns) for _ in range(detached // 2)]
        self.clients.append(
            DetachingClient(
                common, functions=declared, planned=planned, spawns=spawns, looks_ns=looks_ns, board=self.board
            )
        )

    def restart_client(self, delay_ns: int) -> None:
        """A program is started again after a delay, or when all heals: with a session and calls of its own."""
        self._absent_clients += 1
        self.clock.after(delay_ns, self._return_client)

    def _return_client(self) -> None:
        if self._absent_clients:
            self._absent_clients -= 1
            self._add_client(self.scenario.calls // 2, self.scenario.detached // 2)

    def revive_agents(self) -> None:
        """A supervisor starts agents again that are gone."""
        for number, agent in enumerate(self.agents):
            if not agent.is_alive:
                self.agents[number] = self._new_agent(number)

    def revive_scheduler(self) -> None:
        """The scheduler is started again, if it is gone."""
        if not self.scheduler.is_alive:
            self.scheduler = self._new_scheduler()

    def revive_all(self) -> None:
        """What is gone is started again."""
        self.revive_scheduler()
        self.revive_agents()

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
        if self.scenario.detached:
            self._inspect()
        quiet_until_ns = clock.now_ns + QUIET_NS
        while clock.now_ns < quiet_until_ns and (self.is_watched or self._is_something_left()):
            clock.run(min(clock.now_ns + SECOND, quiet_until_ns))
        self._note_leftovers(history)

    def _strike(self, fault: Fault) -> None:
        """Now; or, where there are loans, amid the next one."""
        if not self.doors.is_open or fault.subject & 1:
            strike(self, fault)
            return
        delay_ns = self.random.randrange(AIM_MAX_NS)
        self.doors.on_opened.append(
            lambda: self.clock.after(delay_ns, lambda: None if self.has_healed else strike(self, fault))
        )

    def close(self) -> None:
        """Remove what is on a real disk."""
        if isinstance(self.journal, Disk):
            self.journal.remove()

    def _is_answered(self) -> bool:
        return not any(client.unfinished for client in self.clients) and not self.scheduler.core.cluster.book.unfinished

    def _inspect(self) -> None:
        """One more start of the scheduler, then a program that asks for every call that was ever accepted."""
        self.scheduler.crash()
        self.revive_scheduler()
        self._add_client(0, 0)
        inspector = self.clients[-1]
        assert isinstance(inspector, DetachingClient)
        for call_id in dict.fromkeys(self.board.ids):
            inspector.follow(call_id)
        self.clock.run(self.clock.now_ns + INSPECTED_WITHIN_NS, self._is_answered)

    def _is_something_left(self) -> bool:
        scratch = History()
        self._note_leftovers(scratch)
        return next(iter(leaks.check(scratch)), None) is not None

    def _note_leftovers(self, history: History) -> None:
        note_leftovers(history, self.clock.now_ns, self.scheduler, self.agents, self.clients)

    def _heal(self) -> None:
        self.has_healed = True
        self.network.rates = CALM
        for link in list(self.network.links.values()):
            self.network.block(link, up=False, down=False)
        for machine in self.machines:
            machine.trouble = Trouble()
        for pauses in (each.pauses for hosts in (self.agents, self.clients, [self.scheduler]) for each in hosts):
            pauses.end()
        self.revive_all()
        while self._absent_clients:
            self._return_client()
        self.history.add(self.clock.now_ns, "healed")
        self.clock.after(SECOND, self._watch)

    def _watch(self) -> None:
        self.revive_all()
        self.clock.after(SECOND, self._watch)
