"""What the clients of a run ask for: functions with different leases and needs, calls that behave in every way.

The arguments of a call say what it will do; its result says which attempt made it, so that a checker can tell where an
outcome came from.
"""

import hashlib
from random import Random
from typing import NamedTuple

from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import FunctionOptions, Pair, RetryLimits
from keepwarm_wire.spec import canonical_spec
from support.simulation.clock import MILLISECOND, SECOND

__all__ = [
    "BEHAVIOURS",
    "ENDLESS",
    "KEEP_ALIVE_MAX_NS",
    "SPECS",
    "UNMOVED",
    "Work",
    "Declared",
    "Planned",
    "functions",
    "is_under_loan",
    "loan_of",
    "number_under",
    "planned_calls",
    "result_of",
    "result_origin",
    "run_under",
]

KEEP_ALIVE_MAX_NS = 5 * SECOND
_OVERALL_SHORT_US = 6_000_000
_KEEP_ALIVES_US = (0, 300_000, 1_000_000, 2_500_000, 5_000_000, FOREVER_US)
_MEMORY = (256 << 20, 512 << 20, 1024 << 20)
SPECS = (
    canonical_spec((), "3.11"),
    canonical_spec(("requests",), "3.11"),
    canonical_spec(("numpy", "requests"), "3.11"),
)

BEHAVIOURS = {
    "ok": 62, "raise": 6, "crash": 5, "flaky": 5, "hang": 4, "stubborn": 2, "large": 4, "print": 4, "long": 3,
    "bad setup": 3, "slow setup": 2, "bulky": 3, "defiant": 2,
}  # fmt: skip
"""What calls do, by weight. *flaky* kills its process the first time; *hang* ends only when asked to, *stubborn* not
even then; *large* returns more than a message may hold, *bulky* is given more; *long* runs longer than a silent client
is waited for; *bad setup* and *slow setup* do that where their function is not set up yet; *defiant* is not interrupted
and returns something large a little after the shorter of the run timeouts."""

ENDLESS = ("hang", "stubborn")
UNMOVED = ("stubborn", "defiant")
_DEFIANT_NS = 3_200 * MILLISECOND
_PADDING = b"." * 100_000


class Work(NamedTuple):
    """One call's arguments."""

    uid: str
    behaviour: str
    run_ns: int

    def encode(self) -> bytes:
        """As bytes that travel."""
        return f"{self.uid}|{self.behaviour}|{self.run_ns}|".encode() + (_PADDING if self.behaviour == "bulky" else b"")

    @classmethod
    def decode(cls, arguments: bytes) -> "Work":
        """From bytes that travelled."""
        uid, behaviour, run_ns, _ = arguments[:200].decode().split("|")
        return cls(uid, behaviour, int(run_ns))


class Declared(NamedTuple):
    """A function as its client declares it."""

    name: str
    version: bytes
    spec: bytes
    has_setup: bool
    is_large: bool
    options: FunctionOptions


class Planned(NamedTuple):
    """A call that a client will make, and maybe cancel."""

    at_ns: int
    function: int
    work: Work
    cancel_after_ns: int
    after: str = ""
    """The call whose end it follows, if not at an instant of its own."""


def result_of(work: Work, attempt: int) -> bytes:
    """What a call returns."""
    text = f"{work.uid}|{attempt}|"
    return text.encode() + (_PADDING if work.behaviour in ("large", "defiant") else b"")


def result_origin(result: bytes) -> tuple[str, int]:
    """The call and the attempt that made a result."""
    uid, attempt, _ = result[:200].split(b"|", 2)
    return uid.decode(), int(attempt)


_TOKEN_BITS = 63


def run_under(loan: int, number: int) -> int:
    """What the history calls the run of a lent call: the loan's attempt and the call's number under it."""
    return number << _TOKEN_BITS | loan


def loan_of(attempt: int) -> int:
    """The loan's attempt that a run was under; of any other run its own."""
    return attempt & ((1 << _TOKEN_BITS) - 1)


def number_under(attempt: int) -> int:
    """The number of a lent call under its loan; of any other run 0."""
    return attempt >> _TOKEN_BITS


def is_under_loan(attempt: int) -> bool:
    """Whether a run was a lent call's."""
    return attempt >> _TOKEN_BITS != 0


class _Needs(NamedTuple):
    """What of a function decides, with its spec, who shares instances with it."""

    spec: int
    cpu: int
    memory_bytes: int
    gpu: int
    env_vars: tuple[Pair, ...]


def functions(random: Random, count: int) -> list[Declared]:
    """A client's functions. Most have the same needs and differ in their keep_alive: they share instances."""
    common = _needs(random)
    return [_function(random, common if random.random() < 0.7 else _needs(random)) for _ in range(count)]


def _needs(random: Random) -> _Needs:
    return _Needs(
        random.randrange(len(SPECS)),
        random.choice((500, 1000, 1000)),
        random.choice(_MEMORY),
        random.choice((0, 0, 0, 1000)),
        random.choice(((), (Pair("MODE", "x"),))),
    )


def _function(random: Random, needs: _Needs) -> Declared:
    keep_alive_us = random.choice(_KEEP_ALIVES_US)
    name = f"app:{'abc'[needs.spec]}{keep_alive_us}"
    options = FunctionOptions(
        keep_alive_us=keep_alive_us,
        queue_timeout_us=random.choice((FOREVER_US, FOREVER_US, 20_000_000)),
        startup_timeout_us=random.choice((30_000_000, 30_000_000, 6_000_000)),
        run_timeout_us=random.choice((3_000_000, 20_000_000)),
        overall_timeout_us=random.choice((FOREVER_US, FOREVER_US, _OVERALL_SHORT_US, 25_000_000)),
        retries=RetryLimits(
            lost_node=random.choice((3, 10)), exceptions=random.choice((0, 1)), crash=2, out_of_memory=1
        ),
        cpu=needs.cpu,
        memory_bytes=needs.memory_bytes,
        gpu=needs.gpu,
        env_vars=needs.env_vars,
    )
    if options.overall_timeout_us == _OVERALL_SHORT_US:
        options = options._replace(run_timeout_us=FOREVER_US)  # something ends its calls, and nobody has to time them
    version = hashlib.sha256(name.encode()).digest()
    return Declared(name, version, SPECS[needs.spec], random.random() < 0.3, random.random() < 0.15, options)


def planned_calls(
    random: Random, client: str, count: int, functions_count: int, from_ns: int, until_ns: int
) -> list[Planned]:
    """A client's calls, in the order in which it makes them: some together, some cancelled."""
    planned, at_ns = [], from_ns + random.randrange(SECOND)
    step_ns = max(1, 2 * (until_ns - from_ns) // count)
    for number in range(count):
        behaviour = random.choices(tuple(BEHAVIOURS), tuple(BEHAVIOURS.values()))[0]
        run_ns = random.choice((MILLISECOND, 20 * MILLISECOND, 200 * MILLISECOND, 1_500 * MILLISECOND))
        run_ns = {"long": 12 * SECOND, "defiant": _DEFIANT_NS}.get(behaviour, run_ns)
        cancelled = random.random() < 0.08
        planned.append(
            Planned(
                min(at_ns, until_ns),
                random.randrange(functions_count),
                Work(f"{client}.{number}", behaviour, run_ns),
                random.randrange(3 * SECOND) if cancelled else 0,
            )
        )
        if random.random() < 0.6:
            at_ns += random.randrange(step_ns)
    return planned
