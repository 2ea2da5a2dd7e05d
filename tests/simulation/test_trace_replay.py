"""Traces replayed on the real core agree with models so simple that they can be checked by eye.

One model keeps a function's one process until its term is over, in ticks of the wheel; the other is a cache of a few
processes that ends the one used longest ago. Neither shares a line with the core.
"""

import math
import sys
from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keepwarm_scheduler.simulate.cluster_model import ClusterSettings
from keepwarm_scheduler.simulate.engine import KeepAlive, replay
from keepwarm_scheduler.simulate.report import percentile, shares_of
from keepwarm_scheduler.simulate.traces import Trace, TraceFunction, trace_of
from keepwarm_scheduler.simulate.victims import GreedyDual, LeastRecentlyUsed, choosing

SECOND_NS = 1_000_000_000
MS_NS = 1_000_000
TICK_NS = 100 * MS_NS
GIB = 1 << 30
ENDLESS = ClusterSettings(nodes=2, cpu=1_000, memory_bytes=1 << 49, cold_ns=0, build_ns=0)

terms = st.one_of(st.just(0.0), st.just(math.inf), st.integers(1, 100).map(lambda tenths: tenths / 10))
gaps_ns = st.one_of(st.integers(0, 12_000), st.integers(0, 120).map(lambda tenths: tenths * 100)).map(MS_NS.__mul__)
lives = st.lists(st.tuples(gaps_ns, st.integers(0, 3_000)), min_size=1, max_size=8)


class OneProcess:
    """A function that is never called while it runs: its process lives until its term is over."""

    def __init__(self, term_s: float, cold_ns: int, build_ns: int) -> None:
        self.term_s, self.cold_ns, self.build_ns = term_s, cold_ns, build_ns
        self.starts = self.idle_ns = self.ended_ns = 0
        self.waits_ns: list[int] = []

    def expiry_ns(self) -> float:
        if math.isinf(self.term_s):
            return math.inf
        return -(-(self.ended_ns + round(self.term_s * SECOND_NS)) // TICK_NS) * TICK_NS

    def call(self, now_ns: int, run_ns: int) -> int:
        """When it is over."""
        wait_ns = 0
        if not self.starts or now_ns > self.expiry_ns() or not self.term_s:
            self.close(now_ns)
            wait_ns = self.cold_ns + (0 if self.starts else self.build_ns)
            self.starts += 1
        else:
            self.idle_ns += now_ns - self.ended_ns
        self.waits_ns.append(wait_ns)
        self.ended_ns = now_ns + wait_ns + run_ns
        return self.ended_ns

    def close(self, now_ns: int) -> None:
        """Count the idle time that no call ended."""
        if self.starts and self.term_s:
            self.idle_ns += int(min(now_ns, self.expiry_ns())) - self.ended_ns


@example(term_s=1.0, lives=[[(0, 0), (1000 * MS_NS, 0), (1001 * MS_NS, 0)]], cold_ms=0, build_ms=0)
@given(
    term_s=terms,
    lives=st.lists(lives, min_size=1, max_size=4),
    cold_ms=st.sampled_from([0, 250]),
    build_ms=st.sampled_from([0, 1_300]),
)
def test_cold_starts_waits_and_idle_memory_are_those_of_the_naive_model(
    term_s: float, lives: list[list[tuple[int, int]]], cold_ms: int, build_ms: int
) -> None:
    """For any term, with room for all: exactly, to the instant."""
    models, rows, waits = [], [], {}
    for index, life in enumerate(lives):
        model, now_ns = OneProcess(term_s, cold_ms * MS_NS, build_ms * MS_NS), 0
        for gap_ns, run_ms in life:
            now_ns += gap_ns
            rows.append((now_ns, index, run_ms * 1_000))
            now_ns = model.call(now_ns, run_ms * MS_NS)
        models.append(model)
        waits[index] = model.waits_ns
    end_ns = max(model.ended_ns for model in models) + 20 * SECOND_NS
    for model in models:
        model.close(end_ns)
    functions = tuple(TraceFunction(f"f{index}", GIB) for index in range(len(lives)))
    trace = trace_of(functions, rows, end_ns)
    settings = ClusterSettings(2, 1_000, 1 << 49, cold_ms * MS_NS, build_ms * MS_NS)
    ledger = replay(trace, settings, KeepAlive(term_s))
    assert list(ledger.starts_of) == [model.starts for model in models]
    assert waits_by_function(trace, ledger.waits_ns) == waits
    assert ledger.idle_gib_s == pytest.approx(sum(model.idle_ns for model in models) / SECOND_NS)
    assert (ledger.failed, ledger.evictions) == (0, 0)


def waits_by_function(trace: Trace, waits_ns: "array[int]") -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, wait_ns in zip(trace.functions_of, waits_ns, strict=True):
        found.setdefault(index, []).append(wait_ns)
    return found


def minute_trace(functions: int = 40, minutes: int = 300, memory_bytes: int = GIB) -> Trace:
    """Made up, without chance: function f is called every f-th minute or so, twice at once."""
    rows = []
    for index in range(functions):
        for minute in range(index % 7, minutes, 1 + index + index * index % 5):
            rows += [(minute * 60 * SECOND_NS, index, 0)] * 2
    names = tuple(TraceFunction(f"f{index}", memory_bytes) for index in range(functions))
    return trace_of(names, rows, minutes * 60 * SECOND_NS)


@pytest.mark.parametrize("minutes", [1, 5, 20, math.inf])
def test_terms_of_whole_minutes_on_counts_by_minute(minutes: float) -> None:
    """A call at exactly the end of the term is warm: so many gaps are longer than the term."""
    trace = minute_trace()
    cold, last = 0, dict[int, int]()
    for time_ns, index in zip(trace.times_ns, trace.functions_of, strict=True):
        cold += index not in last or time_ns - last[index] > minutes * 60 * SECOND_NS
        last[index] = time_ns
    assert replay(trace, ENDLESS, KeepAlive(minutes * 60)).starts == cold


def test_a_functions_own_term_is_its_own() -> None:
    """And nobody else's."""
    trace = minute_trace()
    all_short = replay(trace, ENDLESS, KeepAlive(60)).starts_of
    one_long = replay(trace, ENDLESS, KeepAlive(60, {"f7": math.inf})).starts_of
    assert one_long[7] == 1 < all_short[7]
    assert [*one_long[:7], *one_long[8:]] == [*all_short[:7], *all_short[8:]]


def jittered(trace: Trace) -> Trace:
    """The same calls, those of a function in a minute together, no two functions within a second of one another."""
    rows = [
        (time_ns + index * SECOND_NS, index, 0)
        for time_ns, index in zip(trace.times_ns, trace.functions_of, strict=True)
    ]
    return trace_of(trace.functions, rows, trace.end_ns)


def cache_misses(trace: Trace, room: int, *, is_greedy_dual: bool) -> tuple[int, int]:
    """Starts and evictions of a cache of ``room`` processes of 1 GiB, by the textbook."""
    starts = evictions = 0
    clock, order, score, uses = 0.0, dict[int, None](), dict[int, float](), dict[int, int]()
    for index in trace.functions_of:
        if index not in order:
            if len(order) == room:
                victim = min(order, key=lambda each: score[each]) if is_greedy_dual else next(iter(order))
                clock = score.pop(victim)
                uses.pop(victim)
                del order[victim]
                evictions += 1
            starts += 1
        order.pop(index, None)
        order[index] = None
        uses[index] = uses.get(index, 0) + 1
        score[index] = clock + uses[index]
    return starts, evictions


@pytest.mark.parametrize("room", [3, 8, 20])
@pytest.mark.parametrize("is_greedy_dual", [False, True])
def test_victims_are_those_that_the_policy_names(room: int, is_greedy_dual: bool) -> None:
    """Starts and evictions as in a textbook's cache, on a node with room for so many processes."""
    trace = jittered(minute_trace())
    settings = ClusterSettings(nodes=1, cpu=1, memory_bytes=room * GIB, cold_ns=0, build_ns=0)
    policy = GreedyDual() if is_greedy_dual else LeastRecentlyUsed()
    ledger = replay(trace, settings, KeepAlive(math.inf), patience_ns=0, victims=policy)
    found = (ledger.starts, ledger.evictions)
    if is_greedy_dual:
        # Scores may be equal, and which of equals goes is nobody's promise.
        assert found == pytest.approx(cache_misses(trace, room, is_greedy_dual=True), rel=0.05)
    else:
        assert found == cache_misses(trace, room, is_greedy_dual=False)


def test_a_policy_is_gone_when_its_replay_is_over() -> None:
    """The core chooses by itself again, also after an error."""

    def fail() -> None:
        with choosing(LeastRecentlyUsed()):
            assert [where for where in choosers() if where.endswith("victims")]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert set(choosers()) == {"keepwarm_scheduler.core.placement"}


def choosers() -> list[str]:
    """Where the functions come from by which the core's modules choose."""
    modules = [module for name, module in sys.modules.items() if name.startswith("keepwarm_scheduler.core.")]
    return [module.choose_victims.__module__ for module in modules if hasattr(module, "choose_victims")]


def test_the_cores_victims_cost_less_than_the_oldest_and_harm_the_rare_less_than_greedy_ones() -> None:
    """On a node for half of the functions: all cold starts, and those of the function in the middle."""
    trace = jittered(minute_trace())
    settings = ClusterSettings(nodes=1, cpu=1, memory_bytes=12 * GIB, cold_ns=100_000_000, build_ns=0)
    oldest, greedy, fair = (
        replay(trace, settings, KeepAlive(math.inf), patience_ns=0, victims=policy)
        for policy in (LeastRecentlyUsed(), GreedyDual(), None)
    )
    assert fair.starts < oldest.starts
    assert percentile(shares_of(trace, fair), 0.5) <= percentile(shares_of(trace, greedy), 0.5)


def test_the_cores_own_victims_keep_the_promises_that_it_can() -> None:
    """With room for all nothing is evicted, with less room something is, and every call is answered."""
    trace = jittered(minute_trace())
    for room, is_tight in ((8, True), (40, False)):
        settings = ClusterSettings(nodes=1, cpu=1, memory_bytes=room * GIB, cold_ns=0, build_ns=0)
        ledger = replay(trace, settings, KeepAlive(math.inf))
        assert (ledger.evictions > 0) is is_tight
        assert (ledger.failed, min(ledger.waits_ns) >= 0) == (0, True)


def test_what_no_node_could_run_fails_and_the_rest_does_not() -> None:
    """A function that wants more memory than a node has."""
    functions = (TraceFunction("small", GIB), TraceFunction("large", 3 * GIB))
    trace = trace_of(functions, [(0, 0, 0), (0, 1, 0), (SECOND_NS, 0, 0)], 60 * SECOND_NS)
    ledger = replay(trace, ClusterSettings(1, 4, 2 * GIB, 0, 0), KeepAlive(10))
    assert (ledger.failed, list(ledger.starts_of)) == (1, [1, 0])
    assert list(ledger.waits_ns) == [0, -1, 0]


def test_messages_take_time_each_way() -> None:
    """Call, order, ready, dispatch: four of them before a cold call's first instruction, two before a warm one's."""
    trace = trace_of((TraceFunction("f", GIB),), [(0, 0, 0), (SECOND_NS, 0, 0)], 2 * SECOND_NS)
    warm_lock = 2  # and two more to have the environment resolved, once
    settings = ClusterSettings(1, 4, 2 * GIB, 500 * MS_NS, 0, delay_ns=10 * MS_NS)
    ledger = replay(trace, settings, KeepAlive(10))
    assert list(ledger.waits_ns) == [(500 + 10 * (4 + warm_lock)) * MS_NS, 20 * MS_NS]


def test_a_replay_repeats_bit_by_bit() -> None:
    """The same trace on the same cluster."""
    trace = jittered(minute_trace())
    settings = ClusterSettings(3, 2, 4 * GIB, 300 * MS_NS, SECOND_NS, MS_NS)
    once, twice = (replay(trace, settings, KeepAlive(300)) for _ in range(2))
    assert once.waits_ns == twice.waits_ns
    assert (once.starts, once.idle_gib_s) == (twice.starts, twice.idle_gib_s)


def test_progress_is_told_and_ends_with_all() -> None:
    """For the bar on a terminal."""
    told: list[int] = []
    trace = minute_trace()
    replay(trace, ENDLESS, KeepAlive(60), progress=told.append)
    assert told[0] == 0
    assert told == sorted(told)
    assert told[-1] == len(trace)
