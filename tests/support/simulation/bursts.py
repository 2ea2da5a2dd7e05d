"""Calls as those make them who borrow processes: many short ones of one function, at once or in quick succession."""

import hashlib
from random import Random

from keepwarm.borrowing import is_lendable
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import FunctionOptions, RetryLimits
from support.simulation.clock import MILLISECOND, SECOND
from support.simulation.workload import SPECS, Declared, Planned, Work

__all__ = ["burst_functions", "planned_bursts"]

_BEHAVIOURS = {
    "ok": 900, "raise": 30, "large": 20, "hang": 8, "slow": 10, "flaky": 5, "crash": 4, "stubborn": 2,
}  # fmt: skip
"""What the calls of bursts do, by weight. *hang* and *stubborn* ones are always cancelled; *slow* ones hold up those
behind them."""

_KEEP_ALIVES_US = (300_000, 2_500_000, 5_000_000, 5_000_000)
_GAPS_NS = (0, 0, MILLISECOND // 5, 2 * MILLISECOND, 15 * MILLISECOND, 60 * MILLISECOND)
_RUNS_NS = (MILLISECOND // 20, MILLISECOND // 5, MILLISECOND, MILLISECOND, 4 * MILLISECOND, 30 * MILLISECOND)
_TRAIN = 3
"""So many bursts follow a few calls that have a process started, the later ones while there are processes."""

_WARM = 3
_COLD_NS, _PAUSE_NS = 4 * SECOND, SECOND
_CHAINED = 0.25
"""How often the calls of a burst are made one after another, each when the one before has ended."""

_PRINTS = 0.2
_SLOW_NS = (120 * MILLISECOND, 4 * SECOND)


def burst_functions(random: Random) -> list[Declared]:
    """Two that may be lent, and one for the same instances whose options forbid it."""
    memory_bytes = random.choice((256 << 20, 512 << 20))
    cpu, spec = random.choice((500, 1000)), random.choice(SPECS)
    declared = []
    for number in range(3):
        options = FunctionOptions(
            keep_alive_us=random.choice(_KEEP_ALIVES_US),
            queue_timeout_us=FOREVER_US,
            startup_timeout_us=30_000_000,
            run_timeout_us=FOREVER_US,
            overall_timeout_us=FOREVER_US,
            retries=RetryLimits(lost_node=10, exceptions=0, crash=0, out_of_memory=0),
            cpu=cpu,
            memory_bytes=memory_bytes,
            gpu=0,
        )
        if number == 2:
            options = random.choice(
                (
                    options._replace(run_timeout_us=20_000_000),
                    options._replace(retries=RetryLimits(lost_node=10, exceptions=0, crash=1, out_of_memory=1)),
                )
            )
        assert is_lendable(options) == (number < 2)
        name = f"app:burst {number} {options.keep_alive_us}"
        version = hashlib.sha256(name.encode()).digest()
        declared.append(Declared(name, version, spec, random.random() < 0.3, False, options))
    return declared


def planned_bursts(random: Random, client: str, count: int, first: int, from_ns: int, until_ns: int) -> list[Planned]:
    """The calls of a client's bursts; ``first`` is the number of the first of its functions for them."""
    planned: list[Planned] = []
    for train in range(count):
        function = first + random.choices((0, 1, 2), (5, 3, 1))[0]
        run_ns, prints = random.choice(_RUNS_NS), random.random() < _PRINTS
        at_ns = random.randrange(from_ns, until_ns)
        sizes = [_WARM, *(random.randint(20, 60) for _ in range(_TRAIN))]
        for burst, size in enumerate(sizes):
            gap_ns, is_chain = random.choice(_GAPS_NS), burst > 0 and random.random() < _CHAINED
            after = ""
            for _ in range(size):
                uid = f"{client}b{train}.{len(planned)}"
                planned.append(_planned(random, uid, at_ns, function, run_ns, after, prints=prints))
                after = uid if is_chain else ""
                at_ns += random.randrange(gap_ns) if gap_ns and not is_chain else 0
            at_ns += random.randrange(_PAUSE_NS if burst else _COLD_NS)
    return planned


def _planned(random: Random, uid: str, at_ns: int, function: int, run_ns: int, after: str, *, prints: bool) -> Planned:
    behaviour = random.choices(tuple(_BEHAVIOURS), tuple(_BEHAVIOURS.values()))[0]
    if prints and random.random() < _PRINTS:
        behaviour = "print"
    cancel_after_ns = random.randrange(1, 30 * MILLISECOND) if random.random() < 0.03 else 0
    if behaviour in ("hang", "stubborn"):
        cancel_after_ns = random.randrange(1, SECOND // 2)
    run_ns = random.choice(_SLOW_NS) if behaviour == "slow" else run_ns
    return Planned(at_ns, function, Work(uid, behaviour, run_ns), cancel_after_ns, after)
