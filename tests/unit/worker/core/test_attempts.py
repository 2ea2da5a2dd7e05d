"""The life of an attempt: what it waits for, what stops it, and its one outcome."""

import pytest

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from support.agent_core import BODY, CONFIG, VERSION, Driver, welcomed

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


def test_a_final_for_a_running_attempt_forgets_nothing() -> None:
    driver = _ready()
    driver.running()
    driver.receive(wire.Final((10,)))
    driver.result()
    assert driver.said(wire.AttemptDone)


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


def test_arguments_by_reference_are_fetched_before_the_call_and_dropped_after() -> None:
    driver = _ready()
    driver.dispatch(arguments=BIG)
    assert driver.out == [effects.FetchPayload(BIG)]
    driver.feed(events.PayloadFetched(BIG.payload_id))
    assert driver.done(effects.StartCall)[0].arguments == BIG
    driver.feed(events.RunnerStarted(1, 10, False))
    driver.result()
    assert driver.done(effects.DropPayload) == [effects.DropPayload(BIG.payload_id)]


def test_arguments_that_cannot_be_had_fail_the_call() -> None:
    driver = _ready()
    driver.dispatch(arguments=BIG)
    driver.feed(events.PayloadMissing(BIG.payload_id, wire.Failure("payload_unknown", "gone")))
    (done,) = driver.said(wire.AttemptDone)
    assert done.failure == wire.Failure("payload_unknown", "gone")
    assert not driver.core.state.payloads


def test_a_large_body_is_fetched_once_and_kept() -> None:
    driver = welcomed()
    driver.ready()
    driver.dispatch()
    driver.receive(BODY._replace(body=BIG))
    assert driver.done(effects.FetchPayload)
    driver.feed(events.PayloadFetched(BIG.payload_id))
    assert driver.done(effects.LoadFunction)[0].body == BIG
    driver.feed(events.RunnerStarted(1, 10, True))
    driver.result()
    assert not driver.done(effects.DropPayload)


def test_the_longest_unused_function_is_forgotten_over_the_limit() -> None:
    driver = welcomed(CONFIG._replace(function_bytes_max=10))
    driver.ready()
    for letter in (b"a", b"b"):
        driver.receive(BODY._replace(version=letter * 32, body=b"12345"))
    driver.dispatch(version=b"a" * 32)
    driver.receive(BODY._replace(version=b"c" * 32, body=b"12345"))
    assert list(driver.core.state.functions) == [b"a" * 32, b"c" * 32]


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
    assert driver.said(wire.InstanceEnded)[0].cause == "killed"


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
    assert done.failure == wire.Failure("process_died", "The process was killed by SIGABRT.", "corrupted size")
    assert driver.said(wire.InstanceEnded)[0].cause == "died"


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
