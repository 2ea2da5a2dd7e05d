"""Calls taken for a busy instance: given to its runner at once, given back when asked, and never one for another."""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from keepwarm_worker.core.attempts import AHEAD_MAX
from support.agent_core import BODY, VERSION, Driver, welcomed

REFERENCE = wire.Reference(b"a" * 16, 1_000_000, b"d" * 32)


def busy(waiting: int = 2) -> Driver:
    """Attempt 10 runs on instance 1; 11, 12, ... wait there."""
    driver = welcomed()
    driver.ready()
    driver.running()
    for attempt in range(11, 11 + waiting):
        driver.dispatch(attempt, is_ahead=True)
    return driver


def refused(driver: Driver) -> list[tuple[int, str]]:
    return [(each.attempt, each.reason) for each in driver.said(wire.AttemptRefused)]


def recall(driver: Driver, *attempts: int) -> list[effects.Effect]:
    return driver.receive(wire.RecallAttempts(driver.next_command(), attempts))


def cancel(driver: Driver, attempt: int, grace_us: int = 1_000_000) -> list[effects.Effect]:
    return driver.receive(wire.CancelAttempt(driver.next_command(), attempt, grace_us))


def state_of(driver: Driver) -> tuple[int, list[int], str]:
    instance = driver.core.state.instances[1]
    return instance.attempt, list(instance.ahead), instance.state.value


def test_a_call_ahead_goes_to_the_runner_at_once() -> None:
    driver = busy(0)
    driver.dispatch(11, is_ahead=True)
    assert driver.out == [effects.StartCall(1, 11, "module:function", VERSION, b"arguments")]
    assert state_of(driver) == (10, [11], "busy")


def test_a_call_ahead_that_meets_an_idle_instance_is_simply_run() -> None:
    driver = welcomed()
    driver.ready()
    driver.receive(BODY)
    driver.dispatch(11, is_ahead=True)
    assert driver.done(effects.StartCall)
    assert state_of(driver) == (11, [], "busy")


def test_a_call_that_is_not_sent_ahead_is_refused_by_a_busy_instance() -> None:
    driver = busy(1)
    driver.dispatch(20)
    assert refused(driver) == [(20, "busy")]


def test_they_end_in_order_and_each_begins_the_lease_anew() -> None:
    driver = busy()
    for number, attempt in enumerate((10, 11, 12), 1):
        driver.now_ns += 1_000_000
        driver.result(attempt)
        (done,) = driver.said(wire.AttemptDone)
        assert (done.attempt, done.sequence) == (attempt, number)
    assert state_of(driver) == (0, [], "idle")
    assert driver.core.state.instances[1].leases["module:function"].ended_ns == driver.now_ns


def test_an_outcome_out_of_turn_is_ignored() -> None:
    driver = busy()
    driver.result(12)
    assert not driver.out
    assert state_of(driver) == (10, [11, 12], "busy")


def test_what_is_not_here_in_full_is_given_back_at_once() -> None:
    driver = busy(0)
    driver.dispatch(11, is_ahead=True, arguments=REFERENCE)
    assert refused(driver) == [(11, wire.RECALLED)]
    driver.dispatch(12, is_ahead=True, version=b"w" * 32)
    assert refused(driver) == [(12, wire.RECALLED)]
    assert driver.said(wire.NeedFunction) == [wire.NeedFunction(b"w" * 32)]
    driver.receive(BODY._replace(version=b"x" * 32, codec="cloudpickle:cp313"))
    driver.dispatch(13, is_ahead=True, version=b"x" * 32)
    assert refused(driver) == [(13, wire.RECALLED)]
    assert state_of(driver) == (10, [], "busy")


def test_nothing_gets_past_a_call_that_waits_for_its_bytes() -> None:
    driver = welcomed()
    driver.ready()
    driver.receive(BODY)
    driver.dispatch(10, arguments=REFERENCE)
    driver.dispatch(11, is_ahead=True)
    assert refused(driver) == [(11, wire.RECALLED)]


def test_a_runner_is_given_no_more_than_it_takes() -> None:
    driver = busy(AHEAD_MAX)
    driver.dispatch(1000, is_ahead=True)
    assert refused(driver) == [(1000, wire.RECALLED)]


def test_a_beat_tells_of_all_of_them_in_the_order_in_which_they_run() -> None:
    driver = busy()
    driver.wait(1)
    (beat,) = driver.said(wire.AgentBeat)
    assert [running.attempt for running in beat.instances[0].attempts] == [10, 11, 12]


def test_only_the_runner_knows_what_can_be_given_back() -> None:
    driver = busy()
    recall(driver, 10, 11, 12, 99)
    assert driver.out == [effects.RecallCall(1, 11), effects.RecallCall(1, 12)]
    driver.feed(events.RunnerRecalled(1, 12))
    assert refused(driver) == [(12, wire.RECALLED)]
    driver.result(10)
    driver.feed(events.RunnerStarted(1, 11, True))
    driver.feed(events.RunnerRecalled(1, 11))
    assert not driver.out, "it has begun: that is no word of an honest runner"
    driver.result(11)
    assert driver.said(wire.AttemptDone)[0].attempt == 11


def test_a_call_given_back_leaves_no_trace_on_lease_or_sequence() -> None:
    driver = busy(1)
    driver.now_ns += 1_000_000
    driver.result(10)
    instance = driver.core.state.instances[1]
    before = (instance.sequence, dict(instance.leases))
    driver.now_ns += 1_000_000
    recall(driver, 11)
    driver.feed(events.RunnerRecalled(1, 11))
    assert refused(driver) == [(11, wire.RECALLED)]
    assert state_of(driver) == (0, [], "idle")
    assert (instance.sequence, dict(instance.leases)) == before


def test_a_call_cancelled_while_it_waits_is_asked_back_and_ends_so() -> None:
    driver = busy(1)
    cancel(driver, 11)
    assert driver.out == [effects.RecallCall(1, 11), effects.CancelCall(1, 11, False)]
    driver.feed(events.RunnerRecalled(1, 11))
    (done,) = driver.said(wire.AttemptDone)
    assert (done.attempt, done.status, done.sequence) == (11, wire.Status.CANCELLED, 0)
    assert state_of(driver) == (10, [], "busy")
    assert not driver.core.state.instances[1].leases.get("module:function")


def test_a_call_cancelled_while_it_waits_never_ends_the_process_of_the_one_that_runs() -> None:
    driver = busy(1)
    cancel(driver, 11, 100_000)
    for _ in range(8):
        driver.receive(wire.AgentBeatReply(driver.core.state.link.beat_number, 0))
        driver.wait(1)
        assert not driver.done(effects.Terminate)
    driver.result(10)
    driver.feed(events.RunnerStarted(1, 11, False))
    driver.wait(2)
    assert driver.done(effects.Terminate), "now it is its own process that it holds up"


def test_a_death_is_told_of_the_call_that_ran_and_refuses_those_behind_it() -> None:
    driver = busy(3)
    cancel(driver, 12)
    driver.exited(1, None, "SIGSEGV")
    outcomes = {done.attempt: done.failure and done.failure.kind for done in driver.said(wire.AttemptDone)}
    assert outcomes == {10: "process_died", 12: "cancelled"}
    assert refused(driver) == [(11, "ended"), (13, "ended")]
    assert driver.said(wire.InstanceEnded)[0].attempt == 10


def test_a_death_between_two_calls_is_nobodys() -> None:
    driver = busy(1)
    driver.result(10)
    driver.exited(1, None, "SIGSEGV")
    assert refused(driver) == [(11, "ended")]
    assert driver.said(wire.InstanceEnded)[0].attempt == 0


def test_the_startup_timeout_of_a_call_that_waits_begins_with_its_turn() -> None:
    driver = busy(0)
    driver.dispatch(11, is_ahead=True, startup_timeout_us=3_000_000)
    for _ in range(4):
        driver.receive(wire.AgentBeatReply(driver.core.state.link.beat_number, 0))
        driver.wait(1)
        assert not driver.done(effects.CancelCall)
    driver.result(10)
    for _ in range(3):
        driver.receive(wire.AgentBeatReply(driver.core.state.link.beat_number, 0))
        out = driver.wait(1)
    assert effects.CancelCall(1, 11, True) in out


def test_a_call_whose_start_was_not_told_was_ready_if_nothing_was_set_up_for_it() -> None:
    driver = busy(1)
    driver.result(10)
    driver.feed(events.RunnerResult(1, 11, b"result", None, 0, 2))
    (done,) = driver.said(wire.AttemptDone)
    assert done.was_ready
    assert not driver.said(wire.AttemptStarted)


def test_output_goes_to_the_call_that_the_host_names_and_else_to_the_one_that_runs() -> None:
    driver = busy(1)
    driver.feed(events.RunnerOutput(1, 1, b"mine", 11))
    driver.feed(events.RunnerOutput(1, 1, b"served"))
    told = [each.message for each in driver.log if isinstance(each, effects.SendMessage)]
    output = [(each.attempt, each.data) for each in told if isinstance(each, wire.AttemptOutput)]
    assert output == [(11, b"mine"), (10, b"served")]


def test_an_agent_that_leaves_takes_nothing_ahead_and_refuses_what_waits() -> None:
    driver = busy(1)
    driver.feed(events.StopRequested("asked to"))
    driver.dispatch(20, is_ahead=True)
    assert refused(driver) == [(20, "stopping")]
    driver.exited(1, None, "SIGTERM")
    assert (11, "ended") in refused(driver)


def test_a_process_that_is_ended_for_one_call_keeps_those_behind_it_until_it_is_gone() -> None:
    """Its call returns after all: the others are told of, and refused once the process is dead, whatever it says."""
    driver = busy(2)
    cancel(driver, 10, 100_000)
    driver.wait(0.1)
    assert driver.done(effects.Terminate)
    driver.result(10)
    driver.wait(1)
    (beat,) = driver.said(wire.AgentBeat)
    assert [running.attempt for running in beat.instances[0].attempts] == [11, 12]
    driver.feed(events.RunnerStarted(1, 11, False))
    driver.result(11)
    assert not driver.said(wire.AttemptDone)
    driver.exited(1, None, "SIGKILL")
    assert refused(driver) == [(11, "ended"), (12, "ended")]
