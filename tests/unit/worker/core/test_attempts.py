"""The life of an attempt: what it waits for, what stops it, and its one outcome."""

import pytest

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from support.agent_core import BODY, VERSION, Driver, welcomed

BIG = wire.Reference(b"a" * 16, 1_000_000, b"d" * 32)
USER_ERROR = wire.Failure("user_exception", "boom", "Traceback")


def _ready() -> Driver:
    driver = welcomed()
    driver.ready()
    driver.receive(BODY)
    return driver


def test_a_call_is_loaded_run_and_settled() -> None:
    driver = _ready()
    driver.dispatch()
    assert driver.out == [
        effects.LoadFunction(1, VERSION, "module:function", "cloudpickle:cp311", False, b"body"),
        effects.StartCall(1, 10, "module:function", VERSION, b"arguments"),
    ]
    driver.feed(events.RunnerStarted(1, 10, True))
    assert driver.said(wire.AttemptStarted) == [wire.AttemptStarted(10)]
    driver.feed(events.RunnerSetupDone(1, 10))
    driver.result()
    assert driver.said(wire.AttemptDone) == [
        wire.AttemptDone(10, b"s" * 16, 10, 1, 1, wire.Status.SUCCEEDED, b"result", None, 1, 2, False)
    ]


def test_a_second_call_of_the_same_version_is_not_loaded_again() -> None:
    driver = _ready()
    driver.running()
    driver.result()
    driver.dispatch(11)
    assert [type(each) for each in driver.out] == [effects.StartCall]
    driver.feed(events.RunnerStarted(1, 11, False))
    driver.result(11)
    (done,) = driver.said(wire.AttemptDone)
    assert (done.was_ready, done.sequence) == (True, 2)


def test_started_is_said_only_when_the_runner_says_so_and_once() -> None:
    driver = _ready()
    driver.dispatch()
    assert not driver.said(wire.AttemptStarted)
    driver.feed(events.RunnerStarted(1, 10, False))
    driver.feed(events.RunnerStarted(1, 10, False))
    assert not driver.out


@pytest.mark.parametrize(("instance_id", "reason"), [(99, "gone"), (1, "busy"), (2, "starting")])
def test_a_dispatch_to_an_instance_that_is_not_idle_is_refused(instance_id: int, reason: str) -> None:
    driver = _ready()
    driver.start(2)
    driver.running()
    driver.dispatch(11, instance_id=instance_id)
    assert driver.said(wire.AttemptRefused) == [wire.AttemptRefused(11, instance_id, reason)]


def test_a_known_attempt_is_not_begun_twice() -> None:
    driver = _ready()
    driver.running()
    driver.dispatch()
    assert not driver.out
    driver.result()
    driver.dispatch()
    assert not driver.out


def test_another_pythons_function_never_reaches_the_runner() -> None:
    driver = welcomed()
    driver.ready()
    driver.receive(BODY._replace(codec="cloudpickle:cp313"))
    driver.dispatch()
    (done,) = driver.said(wire.AttemptDone)
    assert done.failure
    assert done.failure.kind == "python_mismatch"
    assert "Python 3.13" in done.failure.message
    assert "Python 3.11" in done.failure.message
    assert [type(each) for each in driver.out] == [effects.SendMessage]
    assert driver.core.state.instances[1].state == "idle"


def test_a_function_by_reference_suits_every_python() -> None:
    driver = welcomed()
    driver.ready(python="3.9")
    driver.receive(BODY._replace(codec="pickle"))
    driver.dispatch()
    assert driver.done(effects.StartCall)


def test_a_cancel_asks_first_and_a_call_that_obeys_keeps_its_instance() -> None:
    driver = _ready()
    driver.running()
    driver.receive(wire.CancelAttempt(driver.next_command(), 10, 2_000_000))
    assert driver.out == [effects.CancelCall(1, 10, False)]
    driver.result(failure=wire.Failure("cancelled", "CallCancelled", "Traceback"))
    (done,) = driver.said(wire.AttemptDone)
    assert done.status == wire.Status.CANCELLED
    assert done.failure == wire.Failure("cancelled", "The call was cancelled.", "Traceback")
    driver.wait(5)
    assert not driver.done(effects.Terminate)
    driver.welcome(known=True)
    driver.dispatch(11)
    assert driver.done(effects.StartCall)


def test_a_call_that_returns_in_spite_of_a_cancel_has_succeeded() -> None:
    driver = _ready()
    driver.running()
    driver.receive(wire.CancelAttempt(driver.next_command(), 10, 2_000_000))
    driver.result()
    assert driver.said(wire.AttemptDone)[0].status == wire.Status.SUCCEEDED


def test_a_call_that_will_not_stop_is_terminated_then_killed_with_its_instance() -> None:
    driver = _ready()
    driver.running()
    driver.receive(wire.CancelAttempt(driver.next_command(), 10, 1_000_000))
    driver.wait(1)
    assert driver.done(effects.Terminate)
    driver.wait(1.9)
    assert not driver.done(effects.KillTree)
    driver.wait(0.1)
    assert driver.done(effects.KillTree)
    driver.welcome(known=True)
    driver.exited(1, None, "SIGKILL")
    assert driver.said(wire.AttemptDone)[0].status == wire.Status.CANCELLED
    assert driver.said(wire.InstanceEnded) == [wire.InstanceEnded(1, "killed", None, False, 10)]


def test_a_cancel_of_what_has_not_reached_the_runner_is_instant() -> None:
    driver = welcomed()
    driver.ready()
    driver.dispatch()
    driver.receive(wire.CancelAttempt(driver.next_command(), 10, 2_000_000))
    assert [type(each) for each in driver.out] == [effects.SendMessage]
    assert driver.said(wire.AttemptDone)[0].status == wire.Status.CANCELLED
    driver.receive(BODY)
    assert not driver.done(effects.StartCall)


def test_the_run_timeout_counts_from_the_runs_begin() -> None:
    driver = _ready()
    driver.dispatch(run_timeout_us=1_000_000, startup_timeout_us=9_000_000)
    driver.feed(events.RunnerStarted(1, 10, True))
    driver.wait(2)
    assert not driver.done(effects.CancelCall)
    driver.receive(wire.AgentBeatReply(1, 0))
    driver.feed(events.RunnerSetupDone(1, 10))
    driver.wait(0.9)
    assert not driver.done(effects.CancelCall)
    driver.wait(0.1)
    assert driver.done(effects.CancelCall) == [effects.CancelCall(1, 10, True)]
    driver.result(failure=USER_ERROR)
    (done,) = driver.said(wire.AttemptDone)
    assert (done.status, done.failure and done.failure.kind) == (wire.Status.TIMED_OUT, "run_timeout")


def test_a_setup_over_the_startup_timeout_is_stopped() -> None:
    driver = _ready()
    driver.dispatch(startup_timeout_us=1_000_000)
    driver.feed(events.RunnerStarted(1, 10, True))
    driver.wait(1)
    driver.result(failure=USER_ERROR)
    (done,) = driver.said(wire.AttemptDone)
    assert (done.status, done.failure and done.failure.kind) == (wire.Status.TIMED_OUT, "startup_timeout")


def test_a_death_in_a_call_is_that_calls() -> None:
    driver = _ready()
    driver.running()
    driver.feed(events.RunnerOutput(1, 2, b"corrupted size"))
    driver.exited(1, None, "SIGABRT")
    (done,) = driver.said(wire.AttemptDone)
    assert done.failure == wire.Failure(
        "process_died", "The process was killed by SIGABRT.", "signal=SIGABRT\ncorrupted size"
    )
    (ended,) = driver.said(wire.InstanceEnded)
    assert (ended.cause, ended.attempt) == ("died", 10)


def test_a_death_before_the_runner_took_the_call_refuses_it() -> None:
    driver = _ready()
    driver.dispatch()
    driver.exited(1, None, "SIGKILL")
    assert driver.said(wire.AttemptRefused) == [wire.AttemptRefused(10, 1, "ended")]
    assert not driver.said(wire.AttemptDone)


def test_out_of_memory_is_said_only_with_evidence() -> None:
    driver = _ready()
    driver.running()
    driver.feed(events.ProcessExited(1, None, "SIGKILL", "the control group counted 1 kill"))
    failure = driver.said(wire.AttemptDone)[0].failure
    assert failure
    assert failure.kind == "out_of_memory"


def test_output_goes_out_in_pieces_before_the_outcome_and_is_bounded() -> None:
    driver = _ready()
    driver.running()
    driver.feed(events.RunnerOutput(1, 1, b"o" * 40_000))
    assert [len(piece.data) for piece in driver.said(wire.AttemptOutput)] == [16384, 16384, 7232]
    driver.feed(events.RunnerOutput(1, 2, b"e" * 1024 * 1024))
    assert sum(len(piece.data) for piece in driver.said(wire.AttemptOutput)) == 1024 * 1024 - 40_000
    driver.result()
    assert [type(each.message).__name__ for each in driver.done(effects.SendMessage)] == [
        "AttemptOutput",
        "AttemptDone",
    ]
    assert driver.said(wire.AttemptOutput)[0].dropped_bytes == 40_000


def test_output_outside_of_a_call_belongs_to_nobody() -> None:
    driver = _ready()
    driver.feed(events.RunnerOutput(1, 1, b"import noise"))
    assert not driver.out
    driver.running()
    driver.result()
    driver.feed(events.RunnerOutput(1, 1, b"a thread left behind"))
    assert not driver.out


def test_a_runner_cannot_speak_for_another_instances_attempt() -> None:
    driver = _ready()
    driver.ready(2)
    driver.running(10, instance_id=1)
    driver.result(10, instance_id=2)
    driver.feed(events.RunnerStarted(2, 10, False))
    assert not driver.out
    driver.result(10, instance_id=1)
    assert driver.said(wire.AttemptDone)[0].instance_id == 1


def test_a_forged_word_of_the_runner_out_of_turn_is_ignored() -> None:
    """User code shares the runner's socket: whatever comes in whatever order must not confuse the agent."""
    driver = _ready()
    driver.dispatch()
    driver.feed(events.RunnerSetupDone(1, 10))
    assert not driver.out
    driver.exited(1, None, "SIGKILL")
    assert driver.said(wire.AttemptRefused)
