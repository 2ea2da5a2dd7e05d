"""The timing wheel, case by case. The second half is one test for each way other timing wheels have gone wrong."""

import ast
import doctest
import inspect

import pytest

from keepwarm_scheduler.core import wheel as wheel_module
from keepwarm_scheduler.core.wheel import LEVEL_COUNT, MAX_DEADLINE_NS, SLOTS_PER_LEVEL, TimingWheel

MS = 1_000_000
TICK = 100 * MS
SECOND = 1_000 * MS
YEAR = 365 * 24 * 3600 * SECOND


def new_wheel(start_ns: int = 0, tick_ns: int = TICK) -> TimingWheel[str]:
    return TimingWheel[str](tick_ns=tick_ns, start_ns=start_ns)


def keys_of(expired: list[tuple[str, int]]) -> list[str]:
    return [key for key, _deadline_ns in expired]


def test_a_new_wheel_is_empty() -> None:
    wheel = new_wheel()
    assert len(wheel) == 0
    assert "a" not in wheel
    assert wheel.deadline_ns("a") is None
    assert wheel.next_deadline() is None
    assert wheel.advance(YEAR) == []


def test_the_worked_example_of_the_module_holds() -> None:
    wheel = new_wheel()
    wheel.schedule("a", 250 * MS)
    wheel.schedule("b", 7050 * MS)
    assert wheel.advance(299 * MS) == []
    assert wheel.advance(300 * MS) == [("a", 250 * MS)]
    wheel.schedule("b", 12 * SECOND)
    assert wheel.next_deadline() == 7100 * MS
    assert wheel.advance(7100 * MS) == []
    assert wheel.next_deadline() == 12 * SECOND
    assert wheel.advance(12 * SECOND) == [("b", 12 * SECOND)]


def test_the_public_examples_hold() -> None:
    assert doctest.testmod(wheel_module).failed == 0


@pytest.mark.parametrize("deadline_ns", [1, TICK - 1, TICK, TICK + 1, 63 * TICK, 64 * TICK, 64 * TICK + 1, 4096 * TICK])
def test_a_key_is_due_at_the_end_of_its_tick_and_not_a_nanosecond_before(deadline_ns: int) -> None:
    wheel = new_wheel()
    wheel.schedule("a", deadline_ns)
    due_ns = wheel.next_deadline()
    assert due_ns is not None
    assert deadline_ns <= due_ns < deadline_ns + TICK
    assert wheel.advance(due_ns - 1) == []
    assert wheel.advance(due_ns) == [("a", deadline_ns)]


def test_a_deadline_already_past_is_due_at_the_next_advance_even_at_the_same_instant() -> None:
    wheel = new_wheel(start_ns=5 * SECOND)
    wheel.advance(6 * SECOND)
    for key, deadline_ns in {"now": 6 * SECOND, "past": SECOND, "before zero": -SECOND}.items():
        wheel.schedule(key, deadline_ns)
    assert keys_of(wheel.advance(6 * SECOND)) == ["before zero", "past", "now"]


def test_expiries_come_by_tick_and_within_a_tick_by_insertion() -> None:
    wheel = new_wheel()
    for key, deadline_ns in {"c": 950, "z": 1050, "b": 910, "a": 990, "y": 1010}.items():
        wheel.schedule(key, deadline_ns * MS)
    assert keys_of(wheel.advance(SECOND)) == ["c", "b", "a"]
    assert keys_of(wheel.advance(2 * SECOND)) == ["z", "y"]


def test_a_renewal_keeps_the_place_among_equal_ticks() -> None:
    wheel = new_wheel()
    for key in "abcd":
        wheel.schedule(key, 10 * SECOND)
    wheel.schedule("a", 5 * SECOND)  # earlier, later and unchanged: none of them moves a key behind the others
    wheel.schedule("a", 10 * SECOND)
    wheel.schedule("b", 9 * SECOND)
    wheel.schedule("b", 10 * SECOND)
    wheel.schedule("c", 10 * SECOND)
    assert wheel.advance(9 * SECOND) == []
    assert keys_of(wheel.advance(10 * SECOND)) == ["a", "b", "c", "d"]


def test_a_cancelled_key_that_comes_back_goes_to_the_end() -> None:
    wheel = new_wheel()
    wheel.schedule("a", SECOND)
    wheel.schedule("b", SECOND)
    assert wheel.cancel("a")
    wheel.schedule("a", SECOND)
    assert keys_of(wheel.advance(SECOND)) == ["b", "a"]


def test_a_limit_spreads_a_mass_expiry_and_says_that_more_is_due() -> None:
    wheel = new_wheel()
    keys = [f"k{number}" for number in range(10)]
    for key in keys:
        wheel.schedule(key, SECOND)
    now_ns = 3 * SECOND
    returned = []
    for left in (6, 2, 0):
        returned += keys_of(wheel.advance(now_ns, limit=4))
        assert len(wheel) == left
        next_ns = wheel.next_deadline()
        assert next_ns is None if left == 0 else next_ns is not None and next_ns <= now_ns
    assert returned == keys


def test_a_limit_counts_over_all_ticks_of_one_call() -> None:
    wheel = new_wheel()
    for number in range(1, 7):
        wheel.schedule(f"k{number}", number * SECOND)
    assert keys_of(wheel.advance(10 * SECOND, limit=4)) == ["k1", "k2", "k3", "k4"]
    assert keys_of(wheel.advance(10 * SECOND, limit=4)) == ["k5", "k6"]


def test_a_limit_of_nothing_returns_nothing_and_loses_nothing() -> None:
    wheel = new_wheel()
    wheel.schedule("a", SECOND)
    assert wheel.advance(SECOND, limit=0) == []
    assert wheel.next_deadline() == SECOND
    assert wheel.advance(SECOND, limit=1) == [("a", SECOND)]


def test_an_entry_scheduled_during_a_backlog_takes_its_place_by_tick() -> None:
    wheel = new_wheel()
    for key in ("b1", "b2", "b3"):
        wheel.schedule(key, 2 * SECOND)
    wheel.schedule("d", 4 * SECOND)
    assert keys_of(wheel.advance(5 * SECOND, limit=1)) == ["b1"]
    wheel.schedule("c", 3 * SECOND)
    wheel.schedule("a", SECOND)
    wheel.schedule("b4", 2 * SECOND)
    assert wheel.next_deadline() == SECOND
    assert keys_of(wheel.advance(5 * SECOND)) == ["a", "b2", "b3", "b4", "c", "d"]


def test_returned_keys_may_be_scheduled_and_cancelled_at_once() -> None:
    wheel = new_wheel()
    for key in "abc":
        wheel.schedule(key, SECOND)
    for key, deadline_ns in wheel.advance(SECOND):
        assert not wheel.cancel(key)
        wheel.schedule(key, deadline_ns + SECOND)
    assert wheel.cancel("b")
    assert wheel.advance(2 * SECOND) == [("a", 2 * SECOND), ("c", 2 * SECOND)]


def test_a_deadline_beyond_the_range_is_cut_to_it() -> None:
    wheel = new_wheel(start_ns=2**62, tick_ns=1)
    wheel.schedule("a", 2**80)
    assert wheel.deadline_ns("a") == MAX_DEADLINE_NS
    assert wheel.advance(MAX_DEADLINE_NS - 1) == []
    assert wheel.advance(MAX_DEADLINE_NS) == [("a", MAX_DEADLINE_NS)]


def test_the_levels_reach_over_the_whole_range_at_the_finest_tick() -> None:
    assert SLOTS_PER_LEVEL**LEVEL_COUNT > MAX_DEADLINE_NS


@pytest.mark.parametrize(("tick_ns", "start_ns"), [(0, 0), (-1, 0), (1, -1)])
def test_a_wheel_refuses_a_tick_or_a_start_that_cannot_be(tick_ns: int, start_ns: int) -> None:
    with pytest.raises(ValueError, match=r"_ns is -?\d"):
        new_wheel(start_ns=start_ns, tick_ns=tick_ns)


def test_a_negative_limit_is_refused_and_changes_nothing() -> None:
    wheel = new_wheel()
    wheel.schedule("a", SECOND)
    with pytest.raises(ValueError, match="limit is -1"):
        wheel.advance(YEAR, limit=-1)
    assert wheel.advance(SECOND - 1) == []


# How other timing wheels went wrong.


def test_wall_clock_read_inside_the_wheel() -> None:
    """A wheel that read the wall clock fired early or late when it jumped: ours can reach no clock at all."""
    tree = ast.parse(inspect.getsource(wheel_module))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(isinstance(node, ast.Import) for node in ast.walk(tree))
    assert imported == {"collections.abc", "typing"}


def test_clock_that_steps_back() -> None:
    """Time running backwards moved the hand back and misfiled timers: an older reading counts as the newest seen."""
    wheel = new_wheel()
    wheel.schedule("a", 10 * SECOND)
    assert wheel.advance(9 * SECOND) == []
    assert wheel.advance(SECOND) == []
    wheel.schedule("b", 8 * SECOND)
    assert wheel.advance(0) == [("b", 8 * SECOND)]
    assert wheel.advance(10 * SECOND) == [("a", 10 * SECOND)]


@pytest.mark.parametrize("level", range(1, LEVEL_COUNT))
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_deadline_longer_than_a_turn_fires_early(level: int, offset: int) -> None:
    """A timer longer than one turn fired a turn early: try a tick around one whole turn of every level."""
    tick = min(SLOTS_PER_LEVEL**level, MAX_DEADLINE_NS - 1) + offset
    wheel = new_wheel(tick_ns=1)
    wheel.schedule("a", tick)
    for turn in range(level):
        assert wheel.advance(min(SLOTS_PER_LEVEL**turn, tick - 1)) == []
    assert wheel.advance(tick - 1) == []
    assert wheel.advance(tick) == [("a", tick)]


def test_entry_due_exactly_where_the_wheel_stands() -> None:
    """Removing an entry whose tick equals the wheel's own position panicked: cancel and renew it right there."""
    tick_number = 7_481_664
    wheel = new_wheel(start_ns=tick_number, tick_ns=1)
    wheel.schedule("here", tick_number)
    assert wheel.cancel("here")
    wheel.schedule("here", tick_number)
    wheel.schedule("here", tick_number + 1)
    assert wheel.advance(tick_number) == []
    wheel.schedule("here", tick_number)
    assert wheel.advance(tick_number) == [("here", tick_number)]


@pytest.mark.parametrize("level", range(1, LEVEL_COUNT))
@pytest.mark.parametrize("before", [1, 2, 63, 64])
def test_long_uptime_misfiles_short_timers(level: int, before: int) -> None:
    """After days of uptime the top level wrapped and short timers were filed a turn away: start next to each wrap."""
    start = min(SLOTS_PER_LEVEL**level, 2**62) - before
    wheel = new_wheel(start_ns=start, tick_ns=1)
    deadlines = [start + after for after in (1, 2, 3, 63, 64, 65, 4095, 4096, 4097)]
    for deadline_ns in reversed(deadlines):
        wheel.schedule(str(deadline_ns), deadline_ns)
    for deadline_ns in deadlines:
        assert wheel.next_deadline() == deadline_ns
        assert wheel.advance(deadline_ns - 1) == []
        assert wheel.advance(deadline_ns) == [(str(deadline_ns), deadline_ns)]


def test_reset_to_an_earlier_deadline_does_not_wake_the_driver() -> None:
    """A timer reset to an earlier deadline still fired at the old one: the wake-up and the expiry both move."""
    wheel = new_wheel()
    wheel.schedule("a", 3600 * SECOND)
    assert wheel.next_deadline() == 3600 * SECOND
    wheel.schedule("a", SECOND)
    assert wheel.next_deadline() == SECOND
    assert wheel.advance(SECOND) == [("a", SECOND)]
    assert wheel.advance(3600 * SECOND) == []


def test_earlier_deadline_after_a_lazy_renewal() -> None:
    """Earlier than the deadline but later than the bucket: the entry moves too, and fires once."""
    wheel = new_wheel()
    wheel.schedule("a", SECOND)
    wheel.schedule("a", 60 * SECOND)
    wheel.schedule("a", 2 * SECOND)
    assert wheel.next_deadline() == 2 * SECOND
    assert wheel.advance(60 * SECOND) == [("a", 2 * SECOND)]


@pytest.mark.parametrize("change", ["cancel", "later", "later but past", "earlier", "same"])
def test_change_of_an_entry_that_is_due_but_not_yet_returned(change: str) -> None:
    """Resetting or removing an expired but unread timer corrupted the queue: a limit leaves such entries behind."""
    wheel = new_wheel()
    for key in "abcd":
        wheel.schedule(key, SECOND)
    assert keys_of(wheel.advance(5 * SECOND, limit=1)) == ["a"]
    if change == "cancel":
        assert wheel.cancel("c")
    else:
        wheel.schedule("c", {"later": 9, "later but past": 2, "earlier": 0, "same": 1}[change] * SECOND)
    expected = {"cancel": "bd", "later": "bd", "later but past": "bdc", "earlier": "cbd", "same": "bcd"}[change]
    assert keys_of(wheel.advance(5 * SECOND)) == list(expected)
    assert keys_of(wheel.advance(9 * SECOND)) == (["c"] if change == "later" else [])
    assert len(wheel) == wheel.entry_count() == 0


def test_wake_up_computed_before_an_earlier_timer_came() -> None:
    """A remembered wake-up outlived the arrival of an earlier timer, and the driver overslept: it is never stale."""
    wheel = new_wheel()
    wheel.schedule("far", 1000 * SECOND)
    assert wheel.next_deadline() == 1000 * SECOND
    wheel.schedule("near", 10 * SECOND)
    assert wheel.next_deadline() == 10 * SECOND
    wheel.cancel("near")
    assert wheel.next_deadline() == 1000 * SECOND
    wheel.advance(999 * SECOND)
    wheel.schedule("nearer", 999 * SECOND + 1)
    assert wheel.next_deadline() == 999 * SECOND + TICK


def test_bucket_that_refiles_into_itself_never_ends() -> None:
    """Filing into the bucket being read looped for ever: renewals to the same bucket, and a return to it, both end."""
    wheel = new_wheel()
    for number in range(200):
        wheel.schedule(f"k{number}", SECOND)
        wheel.schedule(f"k{number}", SECOND + number)  # up to 199 ns on: the next tick at most
    first = wheel.advance(SECOND)
    assert keys_of(first) == ["k0"]
    for key, _deadline_ns in first:
        wheel.schedule(key, SECOND)
    assert wheel.advance(SECOND) == [("k0", SECOND)]
    assert len(wheel.advance(SECOND + TICK)) == 199


def test_search_for_the_next_slot_skips_one() -> None:
    """A cleverer walk over the slots skipped some and had to be withdrawn: fill every slot of three levels."""
    wheel = new_wheel(tick_ns=1)
    ticks = [slot * SLOTS_PER_LEVEL**level for level in range(3) for slot in range(1, SLOTS_PER_LEVEL)]
    for tick in ticks:
        wheel.schedule(str(tick), tick)
    assert wheel.advance(ticks[-1]) == [(str(tick), tick) for tick in sorted(ticks)]


@pytest.mark.parametrize("renewed", [False, True])
def test_cancelled_timers_stay_until_their_slot_comes_round(renewed: bool) -> None:
    """Cancelled timers were kept until the hand came by, and filled the memory: a cancelled key is gone at once."""
    wheel = new_wheel()
    for number in range(1000):
        wheel.schedule(f"k{number}", (1 + number) * SECOND)
        if renewed:
            wheel.schedule(f"k{number}", 2 * YEAR)
    for number in range(1000):
        assert wheel.cancel(f"k{number}")
        assert len(wheel) == wheel.entry_count() == 999 - number
    assert wheel.next_deadline() is None


def test_rearming_leaves_the_old_timer_behind() -> None:
    """Arming again without taking out the old timer piled up millions of orphans: one key is one entry, always."""
    wheel = new_wheel()
    for number in range(10_000):
        wheel.schedule("a", (number * 7919 % 10_000) * SECOND)
        assert len(wheel) == wheel.entry_count() == 1
    assert len(wheel.advance(YEAR)) == 1


def test_cancel_after_the_expiry_counts_twice() -> None:
    """Cancelling a timer that had just fired took the count down twice: the second end is refused, the count holds."""
    wheel = new_wheel()
    wheel.schedule("a", SECOND)
    wheel.schedule("b", 2 * SECOND)
    assert keys_of(wheel.advance(SECOND)) == ["a"]
    assert not wheel.cancel("a")
    assert not wheel.cancel("a")
    assert len(wheel) == wheel.entry_count() == 1


@pytest.mark.parametrize("step", [2, 63, 64, 65, 1000, 4097])
def test_driver_slower_than_the_tick_skips_buckets(step: int) -> None:
    """A driver that came less often than the tick passed over buckets: every one between two calls is emptied."""
    wheel = new_wheel(tick_ns=1)
    for tick in range(1, 10_000):
        wheel.schedule(str(tick), tick)
    returned = []
    for now_ns in range(step, 10_000 + step, step):
        returned += [deadline_ns for _key, deadline_ns in wheel.advance(now_ns)]
        assert len(returned) == min(now_ns, 9_999)
    assert returned == list(range(1, 10_000))


def test_driver_that_is_behind_sleeps_for_a_negative_time() -> None:
    """A driver that was behind computed a negative sleep: once caught up, the next instant is after now."""
    wheel = new_wheel()
    for number in range(50):
        wheel.schedule(f"k{number}", number * SECOND)
    for now_ns in (SECOND, 20 * SECOND + 1, 20 * SECOND + 2, 48 * SECOND):
        wheel.advance(now_ns)
        next_ns = wheel.next_deadline()
        assert next_ns is not None
        assert next_ns > now_ns


def test_pause_of_years_costs_what_was_due_and_not_the_empty_ticks() -> None:
    """Ten years at ticks of 1 ns are 3e17 empty ticks: a wheel that walks them never comes back."""
    wheel = new_wheel(tick_ns=1)
    wheel.schedule("a", SECOND)
    wheel.schedule("b", 9 * YEAR)
    wheel.schedule("c", 11 * YEAR)
    assert keys_of(wheel.advance(10 * YEAR)) == ["a", "b"]
    assert wheel.next_deadline() == 11 * YEAR
