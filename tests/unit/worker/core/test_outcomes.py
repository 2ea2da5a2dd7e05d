"""Outcomes: handed over, repeated, held until final."""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from support.agent_core import BODY, Driver, welcomed

BIG = wire.Reference(b"a" * 16, 1_000_000, b"d" * 32)
USER_ERROR = wire.Failure("user_exception", "boom", "Traceback")


def _ready() -> Driver:
    driver = welcomed()
    driver.ready()
    driver.receive(BODY)
    return driver


def test_an_outcome_is_repeated_with_every_beat_until_final() -> None:
    driver = _ready()
    driver.running()
    driver.result()
    driver.wait(2)
    assert len(driver.said(wire.AttemptDone)) == 2
    assert [held.attempt for held in driver.said(wire.AgentBeat)[0].held] == [10]
    driver.receive(wire.Final((10, 99)))
    driver.wait(0.9)
    assert not driver.said(wire.AttemptDone)


def test_an_outcome_that_was_only_just_said_is_not_repeated_by_a_beat() -> None:
    """Thousands of calls may be in flight: all their outcomes with every beat would be more than the calls are."""
    driver = _ready()
    driver.running()
    driver.wait(0.5)
    driver.result()
    assert len(driver.said(wire.AttemptDone)) == 1
    driver.wait(0.6)
    assert driver.said(wire.AgentBeat)
    assert not driver.said(wire.AttemptDone)
    driver.wait(1)
    assert len(driver.said(wire.AttemptDone)) == 1


def test_every_outcome_is_repeated_over_a_new_connection() -> None:
    driver = _ready()
    driver.running()
    driver.result()
    driver.said(wire.AttemptDone)
    driver.feed(events.Connected())
    assert len(driver.said(wire.AttemptDone)) == 1


def test_a_final_for_a_running_attempt_forgets_nothing() -> None:
    driver = _ready()
    driver.running()
    driver.receive(wire.Final((10,)))
    driver.result()
    assert driver.said(wire.AttemptDone)


def test_a_large_result_is_handed_over_before_its_outcome() -> None:
    driver = _ready()
    driver.running()
    driver.result(result=events.SpooledResult(1_000_000))
    assert driver.out == [effects.UploadResult(10)]
    assert driver.core.state.instances[1].state == "idle"
    driver.wait(1)
    assert not driver.said(wire.AttemptDone)
    assert [held.attempt for held in driver.said(wire.AgentBeat)[0].held] == [10]
    driver.feed(events.ResultStored(10, BIG))
    assert driver.said(wire.AttemptDone)[0].result == BIG
    driver.receive(wire.Final((10,)))
    assert driver.done(effects.DropResult) == [effects.DropResult(10)]


def test_a_new_scheduler_gets_large_results_again_before_their_outcomes() -> None:
    driver = _ready()
    driver.running()
    driver.result(result=events.SpooledResult(1_000_000))
    driver.feed(events.ResultStored(10, BIG))
    driver.welcome(epoch=2)
    assert driver.done(effects.UploadResult)
    assert not driver.said(wire.AttemptDone)
    driver.feed(events.ResultStored(10, BIG))
    assert driver.said(wire.AttemptDone)[0].result == BIG


def test_a_result_that_the_scheduler_will_not_take_fails_the_call() -> None:
    driver = _ready()
    driver.running()
    driver.result(result=events.SpooledResult(1_000_000))
    driver.feed(events.ResultRefused(10, wire.Failure("payload_too_large", "no")))
    (done,) = driver.said(wire.AttemptDone)
    assert (done.status, done.failure) == (wire.Status.FAILED, wire.Failure("payload_too_large", "no"))
