"""The agent's link to the scheduler: hello, beats, command numbers, silence, leaving."""

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_worker.core import effects, events
from support.agent_core import BODY, ENVIRONMENT, VERSION, Driver, welcomed


def test_hello_is_repeated_every_second_until_answered() -> None:
    driver = Driver()
    driver.feed(events.Tick())
    assert len(driver.said(wire.AgentHello)) == 1
    driver.wait(2.5)
    assert len(driver.said(wire.AgentHello)) == 2
    driver.welcome()
    driver.wait(0.9)
    assert not driver.said(wire.AgentHello)


def test_a_beat_follows_each_welcome_at_once_and_then_every_interval() -> None:
    driver = Driver()
    driver.feed(events.Tick())
    driver.welcome()
    assert [beat.beat_number for beat in driver.said(wire.AgentBeat)] == [1]
    driver.receive(wire.AgentBeatReply(1, 0))
    driver.wait(2)
    assert [beat.beat_number for beat in driver.said(wire.AgentBeat)] == [2, 3]


def test_a_beat_carries_the_full_state() -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.receive(wire.MakeLock(driver.next_command(), b"k" * 32, b"spec"))
    driver.feed(events.Measured(wire.NodeLoad(1, 2, 3), ((1, 4096), (99, 1))))
    driver.wait(1)
    (beat,) = driver.said(wire.AgentBeat)
    (instance,) = beat.instances
    assert (instance.instance_id, instance.state, instance.process_id, instance.memory_bytes) == (1, "busy", 1001, 4096)
    assert [running.attempt for running in instance.attempts] == [10]
    assert beat.as_of == driver.command
    assert beat.locks_under_way == (b"k" * 32,)
    assert beat.environments == (wire.EnvironmentState(ENVIRONMENT, 5),)
    assert beat.load == wire.NodeLoad(1, 2, 3)


def test_a_command_counts_once_and_an_older_one_never() -> None:
    driver = welcomed()
    driver.feed(events.EnvironmentsOnDisk((wire.EnvironmentState(ENVIRONMENT, 5),)))
    driver.command = 4
    driver.start(1)
    assert driver.done(effects.SpawnInstance)
    driver.command = 3
    driver.start(2)
    driver.start(3)
    assert list(driver.core.state.instances) == [1]


def test_a_beat_reply_counts_as_having_seen_its_commands() -> None:
    driver = welcomed()
    driver.receive(wire.AgentBeatReply(1, 7))
    driver.start(1)
    assert not driver.core.state.instances
    driver.wait(1)
    assert driver.said(wire.AgentBeat)[0].as_of == 7


def test_another_epoch_restarts_the_numbering_and_keeps_everything() -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.result()
    driver.welcome(epoch=2)
    (beat,) = driver.said(wire.AgentBeat)
    assert beat.as_of == 0
    assert [instance.instance_id for instance in beat.instances] == [1]
    assert [held.attempt for held in beat.held] == [10]
    assert [done.attempt for done in driver.said(wire.AttemptDone)] == [10]
    driver.running(attempt=11)
    assert driver.said(wire.AttemptStarted)


def test_the_hello_names_the_last_epoch() -> None:
    driver = welcomed()
    driver.welcome(epoch=5)
    driver.receive(wire.Refused("hello_first", ""))
    assert driver.said(wire.AgentHello)[0].last_epoch == 5


def test_three_silent_beats_mean_that_the_scheduler_is_out_of_reach() -> None:
    driver = welcomed()
    driver.wait(2.9)
    assert not driver.said(wire.AgentHello)
    driver.wait(0.2)
    assert len(driver.said(wire.AgentHello)) == 1
    driver.welcome(known=True)
    assert driver.said(wire.AgentBeat)


def test_an_instance_in_its_lease_is_not_ended_while_the_scheduler_is_away() -> None:
    driver = welcomed()
    driver.ready(keep_alive_us=100_000_000)
    driver.wait(159.9)
    assert not driver.done(effects.AskToExit)
    driver.wait(0.1)
    assert driver.done(effects.AskToExit) == [effects.AskToExit(1)]


def test_an_orphans_end_is_reported_when_the_scheduler_is_back() -> None:
    driver = welcomed()
    driver.ready()
    driver.wait(71)
    driver.exited()
    assert not driver.said(wire.InstanceEnded)
    driver.welcome(epoch=2)
    assert [(end.instance_id, end.cause) for end in driver.said(wire.InstanceEnded)] == [(1, "orphan")]
    assert driver.said(wire.AgentBeat)[0].instances == ()
    driver.welcome(epoch=3)
    assert not driver.said(wire.InstanceEnded)


def test_an_endless_lease_ends_at_orphan_ttl() -> None:
    driver = welcomed()
    driver.ready(keep_alive_us=FOREVER_US)
    driver.wait(599)
    assert not driver.done(effects.AskToExit)
    driver.wait(1.1)
    assert driver.done(effects.AskToExit)


def test_a_scheduler_that_comes_back_in_time_saves_an_orphan() -> None:
    driver = welcomed()
    driver.ready()
    driver.wait(69)
    driver.welcome(epoch=2)
    for beat in range(5):
        driver.wait(1)
        assert not driver.done(effects.AskToExit)
        driver.receive(wire.AgentBeatReply(beat, 0))


def test_a_call_that_ends_while_the_scheduler_is_away_starts_the_lease_anew() -> None:
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.wait(200)
    assert not driver.done(effects.AskToExit)
    driver.result()
    driver.wait(69.9)
    assert not driver.done(effects.AskToExit)
    driver.wait(0.2)
    assert driver.done(effects.AskToExit)


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


def test_leaving_takes_three_steps_at_most_whatever_hangs() -> None:
    driver = welcomed()
    driver.ready()
    driver.feed(events.StopRequested("SIGTERM"))
    driver.wait(3)
    kinds = [type(each) for each in driver.out if not isinstance(each, effects.SendMessage)]
    assert kinds[:2] == [effects.Terminate, effects.KillTree]
    assert kinds[-1] is effects.Exit


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


def test_a_function_that_is_still_missing_is_asked_for_with_every_beat() -> None:
    driver = welcomed()
    driver.ready()
    driver.dispatch()
    assert driver.said(wire.NeedFunction) == [wire.NeedFunction(VERSION)]
    driver.wait(1)
    assert driver.said(wire.NeedFunction) == [wire.NeedFunction(VERSION)]
    driver.receive(BODY)
    assert driver.done(effects.StartCall)
    driver.wait(1)
    assert not driver.said(wire.NeedFunction)
