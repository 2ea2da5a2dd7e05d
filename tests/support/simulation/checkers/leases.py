"""The lease contract, as the nodes see it: never early, at most a tick and the repair of a message late, never busy.

L is when the runner ended a call (or said hello), K the keep_alive of that call's function; what a shared instance may
expect is the longest of all its functions. A call that ends before its runner has it counts as a call, and when that
was only its agent knows: nothing is promised then by the term that the instance was started for. Where clocks drift,
each machine measures K by itself: what they differ by is excused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from keepwarm_wire.fields import FOREVER_US
from support.simulation.clock import MILLISECOND, SECOND
from support.simulation.history import Entry, History
from support.simulation.workload import KEEP_ALIVE_MAX_NS

__all__ = ["check"]

LATE_MAX_NS = 100 * MILLISECOND + 50 * MILLISECOND
"""One tick, and the delivery of the outcome and of the order in a calm network."""

REPAIR_NS = 14 * SECOND
"""After the last fault: silence is noticed, hellos are answered, beats repair."""

UNRUN_NS = 10 * SECOND
"""What is waited for on behalf of a call that never reaches its runner, and the longest term after that."""

_BY_LEASE = ("expired", "evicted")
_ORPHAN_GRACE_NS = 8 * SECOND


@dataclass
class _Life:
    """What a node owes to one instance."""

    leases_ns: dict[str, int] = field(default_factory=dict)
    functions: dict[int, tuple[str, int]] = field(default_factory=dict)
    is_stopping: bool = False
    unrun_ns: int = 0
    """When it was last given a call that never reached its runner."""
    handed_over_ns: int = 0
    """When the node had handed over its last large result: the scheduler learns of the call's end no sooner."""

    @property
    def end_ns(self) -> int | None:
        """When the last lease is over; None for never."""
        ends = self.leases_ns.values()
        return None if any(end < 0 for end in ends) else max(ends, default=0)


def _lease_end_ns(at_ns: int, keep_alive_us: int) -> int:
    return -1 if keep_alive_us >= FOREVER_US else at_ns + keep_alive_us * 1000


def check(history: History) -> Iterator[str]:
    """Follow every instance from its hello to its stop."""
    healed_ns = next((entry[0] for entry in history.of("healed")), 0)
    has_faults = any(entry[1] == "fault" for entry in history.entries)
    calm_ns = healed_ns if has_faults or _is_noisy(history) else 0
    drift_ppm = next((entry[2] for entry in history.of("drift")), 0)
    lives: dict[int, _Life] = {}
    hosts: dict[int, _Life] = {}
    began = {entry[4] for entry in history.of("run", "lend")}
    for entry in history.of("ready", "dispatch", "run", "ran", "lend", "lend over", "stored", "stop"):
        kind, instance = entry[1], entry[3]
        if kind == "stored":
            hosts[entry[4]].handed_over_ns = entry[0]
            continue
        life = lives.setdefault(instance, _Life())
        if kind == "ready":
            life.leases_ns[""] = _lease_end_ns(entry[0], entry[4])
        elif kind == "dispatch":
            if entry[4] not in began:
                life.leases_ns.pop("", None)
                life.unrun_ns = entry[0]
        elif kind in ("run", "lend"):
            life.leases_ns.pop("", None)
            life.functions[entry[4]] = (entry[6], entry[7])
            hosts[entry[4]] = life
        elif kind in ("ran", "lend over"):
            name, keep_alive_us = life.functions[entry[4]]
            life.leases_ns[name] = _lease_end_ns(entry[0], keep_alive_us)
        elif kind == "stop" and not life.is_stopping:
            life.is_stopping = True
            yield from _check_stop(entry, life, calm_ns, 2 * drift_ppm)


def _is_noisy(history: History) -> bool:
    return bool(history.of("noise"))


def _check_stop(stop: Entry, life: _Life, calm_ns: int, drift_ppm: int) -> Iterator[str]:
    at_ns, _, node, instance, cause, attempt = stop
    end_ns = life.end_ns
    name = f"instance {instance:#x} on {node}"
    if attempt and cause in (*_BY_LEASE, "released", "orphan"):
        yield f"{name} was stopped as {cause} while it ran {attempt:#x}"
    if cause == "expired":
        drift_ns = KEEP_ALIVE_MAX_NS * drift_ppm // 1_000_000
        if end_ns is None or at_ns < end_ns - drift_ns:
            early = "its lease has no end" if end_ns is None else f"{(end_ns - at_ns) / SECOND:g} s early"
            yield f"{name} was stopped as expired at {at_ns / SECOND:g} s: {early}"
            return
        excuse_ns = calm_ns + REPAIR_NS + KEEP_ALIVE_MAX_NS if calm_ns else 0
        excuse_ns = max(excuse_ns, life.unrun_ns + UNRUN_NS if life.unrun_ns else 0)
        excuse_ns = max(excuse_ns, life.handed_over_ns + KEEP_ALIVE_MAX_NS if life.handed_over_ns else 0)
        late_ns = at_ns - max(end_ns, excuse_ns)
        if late_ns > LATE_MAX_NS + drift_ns:
            yield f"{name} was stopped as expired {late_ns / SECOND:g} s late"
    elif cause == "orphan" and end_ns is not None and at_ns < end_ns + _ORPHAN_GRACE_NS - _orphan_drift_ns(drift_ppm):
        yield f"{name} was stopped as an orphan {(end_ns + _ORPHAN_GRACE_NS - at_ns) / SECOND:g} s early"


def _orphan_drift_ns(drift_ppm: int) -> int:
    return (KEEP_ALIVE_MAX_NS + _ORPHAN_GRACE_NS) * drift_ppm // 1_000_000
