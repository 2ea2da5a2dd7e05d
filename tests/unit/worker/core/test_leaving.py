"""How an agent leaves: what it ends, in which order, and its last word."""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.leaving import LEAVE_STEPS
from support.agent_core import BEAT_US, CONFIG, SECOND, Driver, welcomed

LOCAL = CONFIG._replace(alone_ns=30 * SECOND)


def test_leaving_asks_the_idle_terminates_the_busy_and_says_goodbye_last() -> None:
    driver = welcomed()
    driver.ready(1)
    driver.ready(2)
    driver.running(10, instance_id=2)
    driver.feed(events.StopRequested("SIGTERM"))
    assert driver.done(effects.AskToExit) == [effects.AskToExit(1)]
    assert driver.done(effects.Terminate) == [effects.Terminate(2)]
    driver.exited(1)
    assert not driver.done(effects.Exit)
    driver.exited(2, None, "SIGTERM")
    assert [type(each.message).__name__ for each in driver.done(effects.SendMessage)] == ["InstanceEnded", "Goodbye"]
    assert isinstance(driver.out[-1], effects.Exit)
    assert not driver.said(wire.AttemptDone)
    assert driver.core.next_deadline() is None


def test_a_call_that_ends_while_the_agent_leaves_is_reported() -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.feed(events.StopRequested("SIGTERM"))
    driver.result()
    assert driver.said(wire.AttemptDone)[0].status == wire.Status.SUCCEEDED


def leaving_with_a_large_result() -> Driver:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.result(result=events.SpooledResult(1_000_000))
    driver.feed(events.StopRequested("SIGTERM"))
    driver.exited()
    assert not driver.done(effects.Exit)
    return driver


def test_an_agent_leaves_when_its_large_results_are_handed_over() -> None:
    """The call has succeeded: whoever leaves before that is known has it run again, or lost."""
    driver = leaving_with_a_large_result()
    driver.feed(events.ResultStored(10, wire.Reference(b"r" * 16, 1_000_000, b"d" * 32)))
    assert [type(each.message).__name__ for each in driver.done(effects.SendMessage)] == ["AttemptDone", "Goodbye"]
    assert driver.done(effects.Exit)


def test_an_agent_does_not_wait_for_ever_for_its_results_to_be_taken() -> None:
    driver = leaving_with_a_large_result()
    driver.wait(LEAVE_STEPS * CONFIG.shutdown_step_ns / SECOND)
    assert driver.done(effects.Exit)


def test_nobody_takes_results_where_there_is_no_scheduler() -> None:
    driver = leaving_with_a_large_result()
    driver.receive(wire.Refused("hello_first", "who are you?"))
    assert driver.done(effects.Exit)


def test_leaving_takes_three_steps_at_most_whatever_hangs() -> None:
    driver = welcomed()
    driver.ready()
    driver.feed(events.StopRequested("SIGTERM"))
    driver.wait(3)
    kinds = [type(each) for each in driver.out if not isinstance(each, effects.SendMessage)]
    assert kinds[:2] == [effects.Terminate, effects.KillTree]
    assert kinds[-1] is effects.Exit


def test_a_call_that_is_dropped_is_told_of_until_the_goodbye() -> None:
    """Its scheduler took it for one that had never come, and ran again what must not run twice."""
    driver = welcomed()
    driver.ready(1)
    driver.ready(2)
    driver.running(10)
    driver.feed(events.StopRequested("SIGTERM"))
    driver.exited(1, None, "SIGTERM")
    assert not driver.said(wire.AttemptRefused)
    driver.wait(BEAT_US / 1_000_000)
    assert [each.attempt for beat in driver.said(wire.AgentBeat) for each in beat.held] == [10]
    driver.exited(2)
    assert driver.said(wire.Goodbye)


def test_an_agent_that_leaves_takes_nothing_on() -> None:
    driver = welcomed()
    driver.ready()
    driver.feed(events.StopRequested("SIGTERM"))
    driver.start(2)
    assert driver.said(wire.InstanceEnded)[0].retryable
    driver.dispatch(11, instance_id=1)
    assert driver.said(wire.AttemptRefused)[0].reason == "stopping"


def test_a_goodbye_of_the_scheduler_ends_the_agent() -> None:
    driver = welcomed()
    driver.receive(wire.Goodbye("stop"))
    assert driver.done(effects.Exit)


def test_a_local_agent_that_no_scheduler_welcomes_leaves() -> None:
    driver = Driver(LOCAL)
    driver.now_ns = 5_000 * SECOND  # the clock counts from the machine's start, not from ours
    driver.feed(events.Tick())
    driver.wait(29)
    assert not [effect for effect in driver.log if isinstance(effect, effects.Exit)]
    driver.wait(2)
    assert [effect.reason for effect in driver.log if isinstance(effect, effects.Exit)] == [
        "the scheduler is gone and nothing is left here"
    ]
