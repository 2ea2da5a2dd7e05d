"""The agent hands out its GPUs at a start, and takes them back when the process has been reaped."""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from support.agent_core import CONFIG, Driver, welcomed

TWO = CONFIG._replace(gpus=("GPU-a", "GPU-b"))


def spawned(driver: Driver) -> tuple[str, ...] | None:
    (spawn,) = driver.done(effects.SpawnInstance)
    return spawn.devices


def start(driver: Driver, instance_id: int, **changes: object) -> None:
    driver.feed(events.EnvironmentsOnDisk((wire.EnvironmentState("e" * 64, 5),)))
    driver.start(instance_id, **changes)


def test_each_instance_sees_its_own_gpus_and_one_that_asked_for_none_sees_none() -> None:
    driver = welcomed(TWO)
    start(driver, 1, gpu=1000, gpus=1)
    assert spawned(driver) == ("GPU-a",)
    start(driver, 2, gpu=250)
    assert spawned(driver) == ("GPU-b",)
    start(driver, 3, gpu=750)
    assert spawned(driver) == ("GPU-b",)
    start(driver, 4)
    assert spawned(driver) == ()


def test_a_node_without_gpus_says_nothing_about_them() -> None:
    driver = welcomed()
    start(driver, 1)
    assert spawned(driver) is None


def test_an_older_scheduler_asks_for_whole_ones() -> None:
    driver = welcomed(TWO)
    start(driver, 1, gpus=2)
    assert spawned(driver) == ("GPU-a", "GPU-b")


def test_gpus_come_back_when_the_process_is_reaped_and_not_before() -> None:
    driver = welcomed(TWO)
    start(driver, 1, gpu=2000)
    driver.feed(events.RunnerHello(1, 1001))
    driver.stop(1)
    start(driver, 2, gpu=1000)
    assert not driver.done(effects.SpawnInstance)
    (ended,) = driver.said(wire.InstanceEnded)
    assert (ended.cause, ended.retryable) == ("start_failed", True)
    assert ended.failure is not None
    assert "1 GPUs" in ended.failure.message
    driver.exited(1)
    start(driver, 3, gpu=1000)
    assert spawned(driver) == ("GPU-a",)


def test_a_start_that_fails_gives_its_gpus_back() -> None:
    driver = welcomed(TWO)
    start(driver, 1, gpu=2000)
    driver.feed(events.SpawnProblem(1, wire.Failure("start_failed", "No."), True))
    start(driver, 2, gpu=2000)
    assert spawned(driver) == ("GPU-a", "GPU-b")


def test_a_beat_tells_what_each_instance_holds() -> None:
    driver = welcomed(TWO)
    start(driver, 1, gpu=1000)
    driver.wait(1)
    (beat,) = driver.said(wire.AgentBeat)
    assert [instance.gpu for instance in beat.instances] == [1000]
