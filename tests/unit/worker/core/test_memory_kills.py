"""A rise of the kernel's count explains one death, of the largest, and for a while."""

import doctest

import pytest

from keepwarm_wire import messages as wire
from keepwarm_worker.core import events, memory_kills
from keepwarm_worker.core.memory_kills import RISE_KEPT_NS, KillLedger
from support.agent_core import welcomed

KILLED = events.ProcessExited(1, None, "SIGKILL", "the count rose")


def _explains(ledger: KillLedger, count: int, memory_bytes: int = 5, *others: int, at_ns: int = 10) -> bool:
    return ledger.explains(at_ns, count, began_ns=1, memory_bytes=memory_bytes, others=others)


def test_the_examples_are_true() -> None:
    assert doctest.testmod(memory_kills).failed == 0


def test_a_death_without_a_rise_is_not_explained() -> None:
    """Kills from before the agent's start are nobody's."""
    assert not _explains(KillLedger(49), 49)


def test_a_rise_explains_as_many_deaths_as_it_counts() -> None:
    ledger = KillLedger(0)
    assert [_explains(ledger, 2) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("sizes", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_of_several_dead_the_largest_was_killed_whoever_is_asked_about_first(sizes: tuple[int, ...]) -> None:
    ledger = KillLedger(0)
    told = {size: _explains(ledger, 1, size, *sizes[index + 1 :]) for index, size in enumerate(sizes)}
    assert told == {1: False, 2: False, 3: True}


def test_of_equal_ones_as_many_were_killed_as_were_counted() -> None:
    ledger = KillLedger(0)
    assert [_explains(ledger, 2, 5, *([5] * left)) for left in (2, 1, 0)] == [True, True, False]


def test_a_rise_that_a_measurement_saw_still_explains_a_death() -> None:
    """The kernel counts first; the process is gone once its memory is given back."""
    ledger = KillLedger(0)
    ledger.saw(10, 1)
    ledger.saw(10 + RISE_KEPT_NS, 1)
    assert _explains(ledger, 1, at_ns=10 + RISE_KEPT_NS)


def test_an_old_rise_explains_nothing() -> None:
    """It was of somebody else's process, as a child that a call had started."""
    ledger = KillLedger(0)
    ledger.saw(10, 1)
    assert not _explains(ledger, 1, at_ns=11 + RISE_KEPT_NS)


def test_a_rise_explains_no_death_of_a_process_that_began_after_it() -> None:
    ledger = KillLedger(0)
    ledger.saw(10, 1)
    assert not ledger.explains(12, 1, began_ns=11, memory_bytes=5, others=[])
    assert ledger.explains(12, 1, began_ns=9, memory_bytes=5, others=[])


def test_others_are_not_looked_for_without_a_rise() -> None:
    """That asks the system about every process of the node."""
    others = iter([1])
    ledger = KillLedger(0)
    assert not ledger.explains(10, 0, began_ns=1, memory_bytes=5, others=others)
    assert list(others) == [1]


def test_the_caller_is_told_what_was_used_and_what_was_booked() -> None:
    driver = welcomed()
    driver.ready(1, memory_bytes=256 << 20)
    driver.feed(events.Measured(wire.NodeLoad(0, 0, 0), ((1, 900 << 20),)))
    driver.running()
    driver.feed(KILLED)
    failure = driver.said(wire.AttemptDone)[0].failure
    assert failure is not None
    assert failure.kind == "out_of_memory"
    for told in ("the count rose", "last seen using 900 MiB", "256 MiB were booked", "`memory=`"):
        assert told in failure.message


def test_a_process_that_we_killed_did_not_die_of_its_memory() -> None:
    """Its call had been asked to end, and did not."""
    driver = welcomed()
    driver.ready()
    driver.running(run_timeout_us=1_000_000)
    driver.wait(60)
    driver.feed(KILLED)
    assert "out_of_memory" not in str(driver.log)
