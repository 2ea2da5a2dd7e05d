"""Deadlines by name."""

from keepwarm_worker.core.timers import Timers


def test_deadlines_come_up_in_order_and_once() -> None:
    timers = Timers()
    timers.set(("b", 1), 20)
    timers.set(("a", 1), 10)
    timers.set(("c", 1), 10)
    assert timers.next() == 10
    assert [timers.pop_due(20) for _ in range(4)] == [("a", 1), ("c", 1), ("b", 1), None]
    assert timers.next() is None


def test_nothing_comes_up_early() -> None:
    timers = Timers()
    timers.set(("a", 1), 10)
    assert timers.pop_due(9) is None
    assert timers.pop_due(10) == ("a", 1)


def test_a_deadline_that_was_moved_or_cancelled_does_not_come_up() -> None:
    timers = Timers()
    timers.set(("a", 1), 10)
    timers.set(("a", 1), 30)
    timers.set(("b", 1), 20)
    timers.cancel(("b", 1))
    timers.cancel(("never set", 1))
    assert timers.next() == 30
    assert timers.pop_due(29) is None
    assert timers.pop_due(30) == ("a", 1)


def test_a_deadline_moved_forever_keeps_the_heap_small() -> None:
    timers = Timers()
    for deadline in range(10_000):
        timers.set(("a", 1), deadline)
    assert len(timers._heap) < 100
    assert timers.pop_due(9_999) == ("a", 1)
