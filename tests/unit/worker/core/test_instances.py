"""The life of an instance: builds, starts, stops, and its one end."""

import pytest

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from support.agent_core import ENVIRONMENT, Driver, welcomed

PROBLEM = wire.Failure("requirements_unsatisfiable", "no")


def test_an_environment_that_turns_out_to_be_missing_is_built() -> None:
    driver = welcomed()
    driver.feed(events.EnvironmentsOnDisk((wire.EnvironmentState(ENVIRONMENT, 5),)))
    driver.start()
    driver.feed(events.EnvironmentMissing(1))
    assert driver.done(effects.RunBuild)


def test_a_process_that_ends_before_its_hello_is_a_failed_start() -> None:
    driver = welcomed()
    driver.feed(events.EnvironmentsOnDisk((wire.EnvironmentState(ENVIRONMENT, 5),)))
    driver.start()
    driver.feed(events.RunnerOutput(1, 2, b"no such library"))
    driver.exited(1, 127)
    (end,) = driver.said(wire.InstanceEnded)
    assert (end.cause, end.failure and end.failure.kind) == ("start_failed", "start_failed")
    assert end.failure
    assert "exit code 127" in end.failure.message
    assert end.failure.detail == "no such library"


def test_a_process_that_cannot_be_started_is_a_failed_start() -> None:
    driver = welcomed()
    driver.feed(events.EnvironmentsOnDisk((wire.EnvironmentState(ENVIRONMENT, 5),)))
    driver.start()
    driver.feed(events.SpawnProblem(1, PROBLEM, True))
    assert driver.said(wire.InstanceEnded) == [wire.InstanceEnded(1, "start_failed", PROBLEM, True)]


def test_the_startup_timeout_covers_the_build() -> None:
    driver = welcomed()
    driver.start(startup_timeout_us=500_000)
    driver.wait(0.5)
    (end,) = driver.said(wire.InstanceEnded)
    assert (end.cause, end.failure and end.failure.kind) == ("build_failed", "startup_timeout")
    assert driver.done(effects.CancelBuild) == [effects.CancelBuild(ENVIRONMENT)]
    driver.feed(events.BuildProblem(ENVIRONMENT, PROBLEM, False))
    assert not driver.out


def test_the_startup_timeout_covers_the_start_and_ends_when_ready() -> None:
    driver = welcomed()
    driver.ready(1, startup_timeout_us=500_000)
    driver.start(2, startup_timeout_us=500_000)
    driver.wait(0.6)
    assert driver.done(effects.KillTree) == [effects.KillTree(2)]
    driver.exited(2, None, "SIGKILL")
    (end,) = driver.said(wire.InstanceEnded)
    assert (end.instance_id, end.cause, end.failure and end.failure.kind) == (2, "start_failed", "startup_timeout")


def test_an_idle_instance_is_asked_then_terminated_then_killed_and_ends_once() -> None:
    driver = welcomed()
    driver.ready()
    driver.stop(cause="evicted")
    assert driver.done(effects.AskToExit)
    driver.receive(wire.AgentBeatReply(1, 0))
    driver.wait(1.9)
    assert not driver.done(effects.Terminate)
    driver.wait(0.1)
    assert driver.done(effects.Terminate)
    driver.receive(wire.AgentBeatReply(1, 0))
    driver.wait(2)
    assert driver.done(effects.KillTree)
    driver.exited(1, None, "SIGKILL")
    assert driver.said(wire.InstanceEnded) == [wire.InstanceEnded(1, "evicted", None, False)]
    driver.exited(1, None, "SIGKILL")
    assert not driver.out


def test_a_beat_tells_for_which_term_an_instance_is_being_started() -> None:
    driver = welcomed()
    driver.start(keep_alive_us=7_000_000)
    driver.wait(3)
    (instance,) = driver.said(wire.AgentBeat)[-1].instances
    assert (instance.state, instance.leases) == ("building", (wire.FunctionLease("", 7_000_000, 0),))


@pytest.mark.parametrize("sequence", [0, 2])
def test_a_stop_that_was_decided_on_old_news_is_refused(sequence: int) -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.result()
    driver.stop(sequence=sequence)
    assert driver.said(wire.InstanceBusy) == [wire.InstanceBusy(1, 1)]
    driver.stop(sequence=1)
    assert driver.done(effects.AskToExit)


def test_a_busy_instance_is_not_stopped() -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.stop(sequence=0)
    assert driver.out == [effects.SendMessage(wire.InstanceBusy(1, 0))]


def test_stops_of_what_is_building_starting_stopping_or_unknown() -> None:
    driver = welcomed()
    driver.start(1)
    driver.stop(1, cause="released")
    assert driver.said(wire.InstanceEnded)[0].cause == "released"
    driver.feed(events.BuildFinished(ENVIRONMENT, 1, False))
    assert not driver.done(effects.SpawnInstance)
    driver.start(2)
    driver.stop(2, cause="released")
    assert driver.done(effects.KillTree)
    driver.stop(2)
    driver.stop(99)
    assert not driver.out
    driver.exited(2, None, "SIGKILL")
    assert driver.said(wire.InstanceEnded)[0].cause == "released"


def test_an_idle_process_that_dies_is_reported_with_its_last_words() -> None:
    driver = welcomed()
    driver.ready()
    driver.feed(events.RunnerOutput(1, 2, b"x" * 5000 + b"last words"))
    driver.exited(1, None, "SIGSEGV")
    (end,) = driver.said(wire.InstanceEnded)
    assert end.cause == "died"
    assert end.failure
    assert "SIGSEGV" in end.failure.message
    assert len(end.failure.detail) == 2048
    assert end.failure.detail.endswith("last words")


def test_a_runner_that_talks_nonsense_is_killed() -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.feed(events.RunnerLost(1, "user code wrote to the runner's socket."))
    assert driver.done(effects.KillTree)
    driver.exited(1, None, "SIGKILL")
    assert "socket" in str(driver.said(wire.AttemptDone)[0].failure)
    assert driver.said(wire.InstanceEnded)[0].cause == "died"


def test_leases_name_each_function_and_its_last_end() -> None:
    driver = welcomed()
    driver.ready(keep_alive_us=7_000_000)
    driver.now_ns += 1_000_000
    assert _leases(driver) == [("", 7_000_000, 1000)]
    driver.running(keep_alive_us=5_000_000)
    driver.now_ns += 1_000_000
    driver.result()
    driver.now_ns += 3_000_000
    assert _leases(driver) == [("module:function", 5_000_000, 3000)]


def _leases(driver: Driver) -> list[tuple[str, int, int]]:
    driver.welcome(known=True)
    return [tuple(lease) for lease in driver.said(wire.AgentBeat)[0].instances[0].leases]  # type: ignore[misc]


def test_a_duplicate_start_of_a_known_instance_starts_nothing() -> None:
    driver = welcomed()
    driver.ready()
    driver.start(1)
    assert not driver.out
