"""The agent's link to the scheduler: hello, beats, silence, and what silence means for instances."""

from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_worker.core import effects, events
from support.agent_core import CONFIG, ENVIRONMENT, SECOND, Driver, welcomed

LOCAL = CONFIG._replace(alone_ns=30 * SECOND)


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


def test_copies_of_what_a_scheduler_said_before_are_not_obeyed_again() -> None:
    """Not even when a copy of its first welcome comes while the agent says hello anew."""
    driver = welcomed()
    driver.ready()
    driver.running()
    driver.result()
    driver.receive(wire.Final((10,)))
    driver.receive(wire.Refused("hello_first", ""))
    driver.welcome(epoch=1, known=False)
    assert driver.said(wire.AgentBeat)[-1].as_of == driver.command
    driver.command = 0
    driver.dispatch()
    assert not driver.core.state.attempts


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


def test_a_local_agent_stays_while_an_instance_has_its_term() -> None:
    driver = Driver(LOCAL)
    driver.feed(events.Tick())
    driver.welcome()
    driver.ready()
    driver.wait(60)  # silent: lost after three beats
    assert not [effect for effect in driver.log if isinstance(effect, effects.Exit)]
    driver.feed(events.ProcessExited(1, 0, "", ""))
    driver.wait(2)
    assert [effect for effect in driver.log if isinstance(effect, effects.Exit)]


def test_a_local_agent_whose_scheduler_comes_back_stays() -> None:
    driver = Driver(LOCAL)
    driver.feed(events.Tick())
    for _ in range(3):
        driver.wait(20)
        driver.welcome()
    assert not [effect for effect in driver.log if isinstance(effect, effects.Exit)]


def test_a_new_connection_is_spoken_on_at_once() -> None:
    """What was said before may be lost, and a scheduler that was restarted is found out without waiting for a beat."""
    driver = Driver()
    driver.feed(events.Tick())
    driver.said(wire.AgentHello)
    driver.feed(events.Connected())
    assert len(driver.said(wire.AgentHello)) == 1
    driver.welcome()
    driver.said(wire.AgentBeat)
    driver.feed(events.Connected())
    assert len(driver.said(wire.AgentBeat)) == 1
    driver.receive(wire.Refused("hello_first", ""))
    assert len(driver.said(wire.AgentHello)) == 1


def test_the_reply_to_a_beat_says_when_the_next_one_is_due() -> None:
    driver = welcomed()
    driver.receive(wire.AgentBeatReply(1, 0, 10_000_000))
    assert not [each for each in driver.wait(9.9) if isinstance(getattr(each, "message", None), wire.AgentBeat)]
    driver.wait(0.2)
    assert [beat.beat_number for beat in driver.said(wire.AgentBeat)] == [2]


def test_silence_is_borne_for_three_of_the_beats_that_were_asked_for() -> None:
    driver = welcomed()
    driver.receive(wire.AgentBeatReply(1, 0, 10_000_000))
    driver.wait(29.9)
    assert not driver.said(wire.AgentHello)
    driver.wait(0.2)
    assert driver.said(wire.AgentHello)


def test_an_old_reply_does_not_put_the_next_beat_off() -> None:
    driver = welcomed()
    driver.receive(wire.AgentBeatReply(1, 0, 1_000_000))
    driver.wait(1)
    driver.receive(wire.AgentBeatReply(1, 0, 60_000_000))
    driver.wait(1.1)
    assert [beat.beat_number for beat in driver.said(wire.AgentBeat)] == [3]
