"""What the clauses of the lease contract demand of a history, each a function from history to objections.

Entries are those of ``support.leases.node`` and ``support.leases.world``. A clause objects in words that name the
instance and the instant; an empty list is consent.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from support.leases.node import NEVER, ORPHAN_GRACE_NS
from support.leases.world import TICK_NS, World
from support.reference import ceil_tick
from support.simulation.history import History

__all__ = [
    "answered_once",
    "busy_left_alone",
    "consent",
    "current_attempt_counts",
    "ends_once",
    "evictions_are_pressed",
    "never_back",
    "never_early",
    "nothing_after_its_end",
    "on_time",
    "orders_only_when_reported",
    "private_once",
]

CAUSES = frozenset(
    {"expired", "evicted", "released", "killed", "died", "orphan", "stopped", "build_failed", "start_failed"}
)
"""Every cause that an end may have. *evicted* may name its own cause after a colon."""
BY_LEASE = frozenset({"expired", "evicted", "released", "orphan"})


def _cause(cause: str) -> str:
    return cause.partition(":")[0]


def never_early(history: History) -> Iterator[str]:
    """1, 4, 9, 14: no process is told to go before the last promise made to it is over, nor one without end."""
    for at_ns, _, _, instance, cause, _, end_ns, _ in history.of("stop"):
        grace_ns = {"expired": 0, "orphan": ORPHAN_GRACE_NS}.get(cause)
        if grace_ns is None or (cause == "orphan" and end_ns == NEVER):
            continue
        if end_ns == NEVER:
            yield f"{instance:#x} expired at {at_ns}, its lease has no end"
        elif at_ns < end_ns + grace_ns:
            yield f"{instance:#x} was {cause} at {at_ns}, {end_ns + grace_ns - at_ns} ns early"


def on_time(history: History, offset_ns: int, resumes_ns: int = 0) -> Iterator[str]:
    """2: told at the first tick of the scheduler's clock that is not before its end, or when a pause is over."""
    for at_ns, _, _, instance, cause, _, end_ns, _ in history.of("stop"):
        if cause == "expired":
            due_ns = max(ceil_tick(end_ns + offset_ns, TICK_NS) * TICK_NS - offset_ns, resumes_ns)
            if at_ns != due_ns:
                yield f"{instance:#x} expired at {at_ns}, due at {due_ns}, its lease ended at {end_ns}"


def ends_once(history: History, *, is_over: bool = True) -> Iterator[str]:
    """3: one end per process, for one cause of those that exist; of all of them, once everything is over."""
    ends = Counter(entry[3] for entry in history.of("ended"))
    for instance, count in ends.items():
        if count > 1:
            yield f"{instance:#x} ended {count} times"
    for entry in history.of("ended"):
        if _cause(entry[4]) not in CAUSES:
            yield f"{entry[3]:#x} ended for no known cause: {entry[4]}"
    # What an agent could not say yet is lost if it crashes: its node's end then says it all.
    crashed = {entry[2]: entry[0] for entry in history.of("node crashed")}
    for at_ns, _, node, instance, _ in history.of("gone"):
        if is_over and instance not in ends and at_ns > crashed.get(node, -1):
            yield f"{instance:#x} is gone and nobody was told"
    counts = Counter(entry[3] for entry in history.of("gone"))
    yield from (f"{instance:#x} went {count} times" for instance, count in counts.items() if count > 1)


def busy_left_alone(history: History) -> Iterator[str]:
    """5: nothing that a lease or pressure does meets a process with a call."""
    for at_ns, _, _, instance, cause, attempt, _, _ in history.of("stop"):
        if attempt and _cause(cause) in BY_LEASE:
            yield f"{instance:#x} was {cause} at {at_ns} while it ran {attempt:#x}"


def nothing_after_its_end(history: History) -> Iterator[str]:
    """7: once told to go, a process is given no call."""
    over: dict[int, int] = {}
    for at_ns, kind, _, instance, *_rest in history.of("stop", "gone", "begin"):
        if kind == "begin" and instance in over:
            yield f"{instance:#x} began a call at {at_ns}, it had ended at {over[instance]}"
        elif kind != "begin":
            over.setdefault(instance, at_ns)


def answered_once(history: History, *, runs_max: int | None = 1) -> Iterator[str]:
    """7: every call that was made is answered, once, and ran at most so often."""
    answers = Counter(entry[2] for entry in history.of("answered"))
    runs = Counter(entry[5] for entry in history.of("begin"))
    for _, _, call, _, _ in history.of("submit"):
        if answers[call] != 1:
            yield f"call {call} was answered {answers[call]} times"
        if runs_max is not None and runs[call] > runs_max:
            yield f"call {call} ran {runs[call]} times"


def current_attempt_counts(history: History) -> Iterator[str]:
    """13: what a caller is told is the outcome of the attempt that was made last."""
    last: dict[str, int] = {}
    for _, kind, *fields in history.of("dispatch", "answered"):
        if kind == "dispatch":
            last[fields[2]] = fields[1]
        elif fields[3] and fields[3] != last[fields[0]]:
            yield f"call {fields[0]} was told the outcome of {fields[3]:#x}, its attempt was {last[fields[0]]:#x}"


def private_once(history: History) -> Iterator[str]:
    """8: a process for keep_alive=0 serves one call, no other function's, and then is released."""
    private = {entry[3]: 0 for entry in history.of("ready") if entry[4] == 0}
    for _, _, _, instance, _, call, _, keep_alive_us in history.of("begin"):
        if (instance in private) != (keep_alive_us == 0):
            yield f"{instance:#x}: call {call} with keep_alive {keep_alive_us} us on a process of the other kind"
        if instance in private:
            private[instance] += 1
            if private[instance] > 1:
                yield f"{instance:#x} served {private[instance]} calls with keep_alive 0"
    is_known = len(history.of("scheduler started")) == 1
    for _, _, _, instance, cause in history.of("ended"):
        # A scheduler that was restarted does not know whom an idle process was for until somebody declares it.
        if is_known and instance in private and cause == "expired":
            yield f"{instance:#x} was for one call and expired"
        if instance not in private and cause == "released":
            yield f"{instance:#x} had a lease and was released"


def evictions_are_pressed(history: History) -> Iterator[str]:
    """11: an early end is decided only while a call has waited long and fits nowhere, and only of an idle process.

    An order that was lost is repeated; what was decided then is not decided again.
    """
    decided: dict[int, None] = {}
    for at_ns, _, instance, cause, attempt, pressed, _ in history.of("order"):
        if _cause(cause) == "evicted" and instance not in decided:
            decided[instance] = None
            if not pressed:
                yield f"{instance:#x} was evicted at {at_ns} and nobody needed its place"
            if attempt:
                yield f"{instance:#x} was evicted at {at_ns} with {attempt:#x} under way"


def orders_only_when_reported(history: History) -> Iterator[str]:
    """14: after a restart nothing is ended on a node before its first report."""
    for at_ns, _, instance, cause, _, _, reported in history.of("order"):
        if not reported:
            yield f"{instance:#x} was told {cause} at {at_ns}, before the first report of its node"


def consent(*objections: Iterable[str]) -> None:
    """No clause objects."""
    found = [each for clause in objections for each in clause]
    assert not found, "\n".join(found[:10])


def never_back() -> Callable[[World], None]:
    """After every turn: what has ended for a scheduler never is an instance of that scheduler again."""
    known: dict[tuple[int, int], bool] = {}

    def watch(world: World) -> None:
        assert world.core is not None
        listed = world.core.cluster.instances
        for instance in listed:
            assert known.setdefault((world.epoch, instance), True), f"{instance:#x} has ended and is back"
        for key in known:
            if key[0] == world.epoch and key[1] not in listed:
                known[key] = False

    return watch
