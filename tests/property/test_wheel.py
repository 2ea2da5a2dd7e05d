"""The timing wheel against a dict: every program of calls gives the same answers, for any clock, tick and pause."""

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from keepwarm_scheduler.core.wheel import MAX_DEADLINE_NS, SLOTS_PER_LEVEL, TimingWheel
from support.reference import NaiveTimers, ceil_tick

YEAR_NS = 365 * 24 * 3600 * 10**9
MAX_START_NS = 2**62

KEYS = st.integers(0, 11)
TICKS_NS = st.sampled_from([1, 3, 1_000, 1_000_000, 100_000_000, 3_600_000_000_000])


@st.composite
def near_turns(draw: st.DrawFn, limit_ticks: int = SLOTS_PER_LEVEL**10) -> int:
    """A number of ticks close to some turns of some level, where a wheel is most likely to go wrong."""
    turn: int = SLOTS_PER_LEVEL ** draw(st.integers(0, 10))
    return max(0, min(limit_ticks, turn * draw(st.integers(1, 65)) + draw(st.integers(-2, 2))))


def starts_ns(tick_ns: int) -> st.SearchStrategy[int]:
    """Clock readings up to 2**62 ns: anywhere, and just before the wheel's slots and levels turn over."""
    turning = near_turns(MAX_START_NS // tick_ns).map(lambda ticks: min(MAX_START_NS, ticks * tick_ns))
    return st.one_of(st.just(0), st.integers(0, MAX_START_NS), turning)


def spans_ns(tick_ns: int) -> st.SearchStrategy[int]:
    """Distances in time from none to ten years: within a tick, a few ticks, near turns, anywhere."""
    ten_years_in_ticks = 10 * YEAR_NS // tick_ns
    phase = st.sampled_from([-1, 0, 1])
    return st.one_of(
        st.integers(0, 2 * tick_ns),
        st.builds(lambda ticks, ns: max(0, ticks * tick_ns + ns), st.integers(0, 200), phase),
        st.builds(lambda ticks, ns: max(0, ticks * tick_ns + ns), near_turns(ten_years_in_ticks), phase),
        st.integers(0, 10 * YEAR_NS),
    )


class WheelMachine(RuleBasedStateMachine):
    """Calls the wheel and the naive timers in step and compares all that can be seen."""

    wheel_class: ClassVar[type[TimingWheel[int]]] = TimingWheel

    @initialize(tick_ns=TICKS_NS, data=st.data())
    def start(self, tick_ns: int, data: st.DataObject) -> None:
        self.tick_ns = tick_ns
        self.now_ns = data.draw(starts_ns(tick_ns), label="start_ns")
        self.wheel = self.wheel_class(tick_ns, self.now_ns)
        self.naive = NaiveTimers[int](tick_ns, self.now_ns)
        self.lazy: set[int] = set()  # keys renewed to a later deadline: only they may cause an early wake-up

    def schedule_both(self, key: int, deadline_ns: int) -> None:
        known_ns = self.naive.deadline_ns(key)
        if known_ns is not None and deadline_ns >= known_ns:
            self.lazy.add(key)
        else:
            self.lazy.discard(key)
        self.wheel.schedule(key, deadline_ns)
        self.naive.schedule(key, deadline_ns)

    def advance_both(self, now_ns: int, limit: int | None = None) -> list[int]:
        seen_ns = self.now_ns
        self.now_ns = max(self.now_ns, now_ns)
        expired = self.wheel.advance(now_ns, limit)
        assert all(deadline_ns <= self.now_ns for _key, deadline_ns in expired), "returned before its deadline"
        ticks = [ceil_tick(deadline_ns, self.tick_ns) for _key, deadline_ns in expired]
        assert ticks == sorted(ticks), "out of order"
        assert expired == self.naive.advance(now_ns, limit), f"advance from {seen_ns} to {now_ns}, limit {limit}"
        keys = [key for key, _deadline_ns in expired]
        self.lazy.difference_update(keys)
        return keys

    @rule(key=KEYS, data=st.data())
    def schedule_ahead(self, key: int, data: st.DataObject) -> None:
        self.schedule_both(key, self.now_ns + data.draw(spans_ns(self.tick_ns), label="span_ns"))

    @rule(key=KEYS, data=st.data())
    def schedule_in_the_past(self, key: int, data: st.DataObject) -> None:
        self.schedule_both(key, self.now_ns - data.draw(spans_ns(self.tick_ns), label="span_ns"))

    @rule(key=KEYS, data=st.data())
    def renew_later(self, key: int, data: st.DataObject) -> None:
        deadline_ns = self.naive.deadline_ns(key)
        if deadline_ns is not None:
            self.schedule_both(key, deadline_ns + data.draw(spans_ns(self.tick_ns), label="span_ns"))

    @rule(key=KEYS, data=st.data())
    def renew_earlier(self, key: int, data: st.DataObject) -> None:
        deadline_ns = self.naive.deadline_ns(key)
        if deadline_ns is not None:
            self.schedule_both(key, deadline_ns - data.draw(spans_ns(self.tick_ns), label="span_ns"))

    @rule(key=KEYS, beyond=st.integers(0, 2**64))
    def schedule_beyond_the_range(self, key: int, beyond: int) -> None:
        self.schedule_both(key, MAX_DEADLINE_NS + beyond)

    @rule(key=KEYS)
    def cancel(self, key: int) -> None:
        assert self.wheel.cancel(key) == self.naive.cancel(key)
        self.lazy.discard(key)

    @rule(data=st.data(), limit=st.one_of(st.none(), st.integers(0, 4)))
    def advance(self, data: st.DataObject, limit: int | None) -> None:
        self.advance_both(self.now_ns + data.draw(spans_ns(self.tick_ns), label="step_ns"), limit)

    @rule(back_ns=st.integers(0, YEAR_NS), limit=st.one_of(st.none(), st.integers(0, 4)))
    def clock_steps_back(self, back_ns: int, limit: int | None) -> None:
        self.advance_both(self.now_ns - back_ns, limit)

    @rule(data=st.data(), limit=st.one_of(st.none(), st.integers(1, 4)))
    def reenter_from_the_result(self, data: st.DataObject, limit: int | None) -> None:
        expired = self.advance_both(self.now_ns + data.draw(spans_ns(self.tick_ns), label="step_ns"), limit)
        for key in expired:
            assert not self.wheel.cancel(key)
            self.schedule_both(key, self.now_ns + data.draw(spans_ns(self.tick_ns), label="span_ns"))

    @rule()
    def sleep_until_something_is_due(self) -> None:
        """A driver that only ever sleeps until next_deadline() meets the next expiry on time."""
        due_ns = self.naive.next_deadline()
        if due_ns is None:
            return
        expired: list[int] = []
        for _wake_up in range(1 + len(self.lazy)):
            wake_ns = self.wheel.next_deadline()
            assert wake_ns is not None
            assert wake_ns <= due_ns, "overslept"
            expired = self.advance_both(wake_ns)
            if expired:
                break
        assert expired, "woken more often than keys were renewed"

    @invariant()
    def same_keys_and_deadlines(self) -> None:
        assert len(self.wheel) == len(self.naive)
        assert self.wheel.entry_count() == len(self.naive), "an entry was lost, or one was left behind"
        for key in range(12):
            assert (key in self.wheel) == (key in self.naive)
            assert self.wheel.deadline_ns(key) == self.naive.deadline_ns(key)

    @invariant()
    def wake_up_is_never_late_and_early_only_for_a_renewal(self) -> None:
        wake_ns, due_ns = self.wheel.next_deadline(), self.naive.next_deadline()
        if wake_ns is None or due_ns is None:
            assert wake_ns is due_ns
        else:
            assert wake_ns <= due_ns, "late"
            assert wake_ns == due_ns or self.lazy, "early without a renewal"
            assert due_ns > self.now_ns or wake_ns <= self.now_ns, "more is due, but not now"

    def teardown(self) -> None:
        """Once every deadline is over the wheel is empty."""
        if hasattr(self, "wheel"):
            self.advance_both(2 * MAX_DEADLINE_NS)
            assert len(self.wheel) == self.wheel.entry_count() == 0
            assert self.wheel.next_deadline() is None


TestWheelMachine = WheelMachine.TestCase
TestWheelMachine.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)


# Broken wheels: the machine above must find each of them out, or it proves nothing.


class FiresOneTickEarly(TimingWheel[int]):
    def advance(self, now_ns: int, limit: int | None = None) -> list[tuple[int, int]]:
        return super().advance(now_ns + self._tick_ns, limit)


class FiresOneTickLate(TimingWheel[int]):
    def advance(self, now_ns: int, limit: int | None = None) -> list[tuple[int, int]]:
        return super().advance(max(0, now_ns - self._tick_ns), limit)


class ForgetsRenewedEntries(TimingWheel[int]):
    """Drops a renewed entry when its old bucket comes up, instead of filing it anew."""

    def _open(self, tick: int) -> None:
        renewed = [key for key in self._buckets[tick] if self._deadlines[key] > tick * self._tick_ns]
        super()._open(tick)
        for key in renewed:
            self.cancel(key)


class IgnoresEarlierDeadlines(TimingWheel[int]):
    """Takes every renewal for a later one and leaves the entry in its bucket."""

    def schedule(self, key: int, deadline_ns: int) -> None:
        if key in self and self._filed[key] > self._cursor:
            self._deadlines[key] = min(deadline_ns, MAX_DEADLINE_NS)
        else:
            super().schedule(key, deadline_ns)


class LeavesTombstones(TimingWheel[int]):
    """Leaves a dead entry in the place of a cancelled one."""

    def cancel(self, key: int) -> bool:
        deadline_ns = self.deadline_ns(key)
        if deadline_ns is not None:
            self.schedule(-1 - key, deadline_ns)
        return super().cancel(key)


class ForgetsInsertionOrder(TimingWheel[int]):
    def _open(self, tick: int) -> None:
        super()._open(tick)
        self._due = dict(reversed(self._due.items()))


class RemembersAStaleWakeUp(TimingWheel[int]):
    def _hang(self, tick: int) -> None:
        earliest = self._earliest
        super()._hang(tick)
        self._earliest = earliest


BROKEN_WHEELS: list[type[TimingWheel[int]]] = [
    FiresOneTickEarly,
    FiresOneTickLate,
    ForgetsRenewedEntries,
    IgnoresEarlierDeadlines,
    LeavesTombstones,
    ForgetsInsertionOrder,
    RemembersAStaleWakeUp,
]


@pytest.mark.parametrize("broken", BROKEN_WHEELS)
def test_the_machine_finds_a_broken_wheel(broken: type[TimingWheel[int]]) -> None:
    """A canary: were the machine blind to one of these faults, its passing would mean nothing."""

    class BrokenMachine(WheelMachine):
        wheel_class = broken

    quick = settings(
        max_examples=200,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(BrokenMachine, settings=quick)


# Straight-line properties over several turns.


@given(tick_ns=TICKS_NS, data=st.data())
def test_one_key_is_never_early_and_less_than_a_tick_late(tick_ns: int, data: st.DataObject) -> None:
    """Looked at 1 ns before its tick a key is there; at its tick it comes; whatever pauses lie between."""
    start_ns = data.draw(starts_ns(tick_ns), label="start_ns")
    deadline_ns = start_ns + 1 + data.draw(spans_ns(tick_ns), label="span_ns")
    wheel = TimingWheel[str](tick_ns, start_ns)
    wheel.schedule("a", deadline_ns)
    due_ns = ceil_tick(deadline_ns, tick_ns) * tick_ns
    assert 0 <= due_ns - deadline_ns < tick_ns
    assert wheel.next_deadline() == due_ns
    for now_ns in sorted(data.draw(st.lists(st.integers(start_ns, due_ns - 1), max_size=4), label="pauses")):
        assert wheel.advance(now_ns) == []
    assert wheel.advance(due_ns - 1) == []
    assert wheel.advance(due_ns) == [("a", deadline_ns)]


@given(turns=st.lists(near_turns(SLOTS_PER_LEVEL**4), min_size=1, max_size=60), start=near_turns(2**62))
def test_one_advance_over_several_turns_equals_many_small_ones(turns: list[int], start: int) -> None:
    """How often the driver comes changes no order and no expiry, only when it hears of it."""
    seldom, often = TimingWheel[int](1, start), TimingWheel[int](1, start)
    for key, turn in enumerate(turns):
        seldom.schedule(key, start + turn)
        often.schedule(key, start + turn)
    step_by_step: list[tuple[int, int]] = []
    for turn in sorted(turns):
        step_by_step += often.advance(start + turn // 2)
        step_by_step += often.advance(start + turn)
    assert seldom.advance(start + max(turns)) == step_by_step
    assert [deadline_ns - start for _key, deadline_ns in step_by_step] == sorted(turns)


@given(spans=st.lists(near_turns(SLOTS_PER_LEVEL**4), min_size=1, max_size=60), limit=st.integers(1, 7))
def test_a_limit_changes_the_pace_and_nothing_else(spans: list[int], limit: int) -> None:
    """The slices of a limited driver, joined, are what one unlimited advance returns."""
    whole, sliced = TimingWheel[int](1, 0), TimingWheel[int](1, 0)
    for key, span in enumerate(spans):
        whole.schedule(key, span)
        sliced.schedule(key, span)
    end_ns = max(spans)
    joined: list[tuple[int, int]] = []
    while sliced:
        slice_ = sliced.advance(end_ns, limit)
        assert len(slice_) == min(limit, len(spans) - len(joined))
        joined += slice_
    assert joined == whole.advance(end_ns)


@given(renewals=st.lists(st.integers(1, SLOTS_PER_LEVEL**3), min_size=1, max_size=40))
def test_a_key_renewed_again_and_again_fires_once_at_the_last_deadline(renewals: list[int]) -> None:
    """Each renewal comes before the deadline it replaces, and the driver wakes as it is told to."""
    wheel = TimingWheel[str](1, 0)
    deadline_ns = now_ns = 0
    for span in renewals:
        now_ns += (deadline_ns - now_ns) // 2
        assert wheel.advance(now_ns) == []
        deadline_ns = max(now_ns + span, deadline_ns + 1)
        wheel.schedule("a", deadline_ns)
        assert wheel.entry_count() == 1
    wake_ups: list[int] = []
    expired: list[tuple[str, int]] = []
    while wheel:
        wake_ns = wheel.next_deadline()
        assert wake_ns is not None
        wake_ups.append(wake_ns)
        expired += wheel.advance(wake_ns)
    assert expired == [("a", deadline_ns)]
    assert len(wake_ups) <= 2, "one early wake-up for all renewals together, then the expiry"
