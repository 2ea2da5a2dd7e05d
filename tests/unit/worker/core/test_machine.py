"""The agent as one machine: which commands count, and what another scheduler finds."""

from keepwarm_wire import messages as wire
from keepwarm_worker.core import effects, events
from support.agent_core import ENVIRONMENT, welcomed


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
