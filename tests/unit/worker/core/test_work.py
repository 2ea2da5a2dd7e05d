"""Builds and locks: once each, a few at a time."""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from support.agent_core import ENVIRONMENT, welcomed

PROBLEM = wire.Failure("requirements_unsatisfiable", "no")


def test_an_environment_is_built_once_for_all_that_wait_for_it() -> None:
    driver = welcomed()
    driver.start(1)
    assert driver.done(effects.RunBuild) == [effects.RunBuild(ENVIRONMENT, b"lock", "3.11")]
    driver.start(2)
    assert not driver.done(effects.RunBuild)
    driver.feed(events.BuildPhase(ENVIRONMENT, "install", "3 packages"))
    assert [progress.instance_id for progress in driver.said(wire.InstanceProgress)] == [1, 2]
    driver.feed(events.BuildFinished(ENVIRONMENT, 77, False))
    assert [spawn.instance_id for spawn in driver.done(effects.SpawnInstance)] == [1, 2]
    driver.now_ns += 5_000_000
    driver.feed(events.RunnerHello(1, 1234))
    assert driver.said(wire.InstanceReady) == [wire.InstanceReady(1, 1234, False, 0, 5000)]
    driver.start(3)
    assert driver.done(effects.SpawnInstance)


def test_at_most_two_builds_and_locks_run_at_once() -> None:
    driver = welcomed()
    driver.start(1, environment_id="a")
    driver.receive(wire.MakeLock(driver.next_command(), b"k" * 32, b"spec"))
    driver.start(2, environment_id="b")
    assert not driver.done(effects.RunBuild)
    driver.feed(events.LockFinished(b"k" * 32, "linux", b"lock"))
    assert driver.done(effects.RunBuild) == [effects.RunBuild("b", b"lock", "3.11")]
    assert driver.said(wire.LockMade)[0].lock == b"lock"


def test_a_lock_under_way_is_not_made_twice() -> None:
    driver = welcomed()
    for _ in range(2):
        driver.receive(wire.MakeLock(driver.next_command(), b"k" * 32, b"spec"))
    assert len([each for each in driver.log if isinstance(each, effects.RunLock)]) == 1
    driver.feed(events.LockProblem(b"k" * 32, PROBLEM, False))
    assert driver.said(wire.LockFailed) == [wire.LockFailed(b"k" * 32, PROBLEM, False)]
    driver.feed(events.LockProblem(b"k" * 32, PROBLEM, False))
    assert not driver.out


def test_a_failed_build_ends_all_that_wait_for_it() -> None:
    driver = welcomed()
    driver.start(1)
    driver.start(2)
    driver.feed(events.BuildProblem(ENVIRONMENT, PROBLEM, True))
    assert driver.said(wire.InstanceEnded) == [
        wire.InstanceEnded(1, "build_failed", PROBLEM, True),
        wire.InstanceEnded(2, "build_failed", PROBLEM, True),
    ]


def test_whoever_joins_a_cancelled_build_gets_a_new_one() -> None:
    driver = welcomed()
    driver.start(1, startup_timeout_us=500_000)
    driver.wait(0.5)
    driver.start(2)
    driver.feed(events.BuildProblem(ENVIRONMENT, PROBLEM, False))
    assert driver.done(effects.RunBuild)
    driver.feed(events.BuildFinished(ENVIRONMENT, 1, False))
    assert driver.done(effects.SpawnInstance)
