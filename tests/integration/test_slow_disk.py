"""A real scheduler on a disk whose every sync takes long: only who has to waits, and nothing is said too early."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keepwarm_wire import messages as wire
from keepwarm_wire.messages import Status
from support.hosts.faults.disks import FsyncShim
from support.raw_peers import LocalScheduler, RawPeer, RunningAgent, declaration, sockets

SLOW_S = 0.5
IDLE_MS = 1_500


@pytest.fixture
def context() -> Iterator[Any]:
    with sockets() as context:
        yield context


@pytest.fixture
def shim(tmp_path: Path) -> FsyncShim:
    return FsyncShim(tmp_path)


@pytest.fixture
def scheduler(home: Path, shim: FsyncShim, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalScheduler]:
    for name, value in shim.variables.items():
        monkeypatch.setenv(name, value)
    scheduler = LocalScheduler(home)
    yield scheduler
    scheduler.stop()


def cpu_s(process_id: int) -> float:
    """What a process has used of the processors."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def submit(number: int) -> wire.SubmitDetached:
    return wire.SubmitDetached(b"%016d" % number, 1, 0, "", 0, b"arguments")


def test_others_are_answered_while_the_disk_is_busy(scheduler: LocalScheduler, shim: FsyncShim, context: Any) -> None:
    """An attached call runs, from the submit to the outcome, while a detached one waits to be on disk."""
    agent, client, spawner = (make(context, scheduler.address) for make in (RunningAgent, RawPeer, RawPeer))
    assert isinstance(agent, RunningAgent)
    client.hello(b"a" * 16)
    client.say(declaration(name="m:attached"), wire.Submit(1, 1, 0, False, b""))
    assert client.hear(wire.Outcome, among=(agent,)).status == Status.SUCCEEDED
    spawner.hello(b"d" * 16)
    spawner.say(declaration())
    with shim.slow(SLOW_S):
        spawner.say(submit(1))
        spawner.say(wire.ExplainRequest(1, "1"))
        spawner.hear(wire.ExplainReply)
        assert not spawner.heard, "accepted before the disk had it"
        for number in range(2, 5):
            # Nothing of the detached call has come to the node: there is no order to keep.
            client.say(wire.Submit(number, 2, 0, False, b""))
            client.say(wire.ExplainRequest(number, str(number)))
            client.hear(wire.ExplainReply)
        assert not spawner.take(0), "the disk was faster than that"
        spawner.hear(wire.DetachedAccepted)


def test_a_scheduler_that_is_told_to_end_has_all_on_disk(
    scheduler: LocalScheduler, shim: FsyncShim, context: Any
) -> None:
    """And says so before it is gone."""
    client = RawPeer(context, scheduler.address)
    client.hello()
    client.say(declaration())
    with shim.slow(SLOW_S):
        client.say(*map(submit, range(1, 50)))
        client.say(wire.ExplainRequest(1, "1"))
        client.hear(wire.ExplainReply)
        client.say(*map(submit, range(50, 100)))
        client.say(wire.ExplainRequest(1, "1"))
        client.hear(wire.ExplainReply)
        assert scheduler.stop() == 0
    client.take()
    assert len([each for each in client.heard if type(each) is wire.DetachedAccepted]) == 99
    scheduler.start()
    client.hello(b"o" * 16)
    client.say(wire.ListDetached(1, b"", "", "", 1_000))
    assert len(client.hear(wire.DetachedListed).entries) == 99


def test_killed_during_a_sync_it_has_promised_nothing_and_may_be_told_again(
    scheduler: LocalScheduler, shim: FsyncShim, context: Any
) -> None:
    """The call runs once."""
    client = RawPeer(context, scheduler.address)
    client.hello()
    client.say(declaration())
    with shim.slow(20.0):
        client.say(submit(1))
        client.say(wire.ExplainRequest(1, "1"))
        client.hear(wire.ExplainReply)
        assert not client.heard
        scheduler.kill()
    scheduler.start()
    agent = RunningAgent(context, scheduler.address)
    client.hello()
    client.say(declaration(), submit(1))
    client.hear(wire.DetachedAccepted, among=(agent,))
    client.say(wire.AttachDetached((b"%016d" % 1,)))
    assert client.hear(wire.DetachedOutcome, among=(agent,)).status == Status.SUCCEEDED
    assert len(agent.model.executed) == 1


def test_a_scheduler_that_has_written_is_idle_again(scheduler: LocalScheduler, context: Any) -> None:
    """Nothing wakes it but the end of the commit."""
    client = RawPeer(context, scheduler.address)
    client.hello()
    client.say(declaration(), submit(1))
    client.hear(wire.DetachedAccepted)
    before_s = cpu_s(scheduler.process.pid)
    client.take(IDLE_MS)
    assert cpu_s(scheduler.process.pid) - before_s < IDLE_MS / 1000 / 5


def test_a_failed_sync_ends_the_scheduler_at_once_and_nothing_is_accepted(
    scheduler: LocalScheduler, shim: FsyncShim, context: Any
) -> None:
    """Whoever waits for the disk hears nothing. What was not promised may be there nevertheless, and is one call."""
    client = RawPeer(context, scheduler.address)
    client.hello()
    client.say(declaration())
    with shim.fail():
        client.say(submit(1))
        assert scheduler.process.wait(20) == 5
        client.take(200)
        # A scheduler that starts slowly is said hello to more than once, and welcomes each time.
        assert {type(message) for message in client.heard} <= {wire.Welcome}
    scheduler.start()
    client.hello()
    client.say(declaration(), submit(1))
    assert client.hear(wire.DetachedAccepted).accepted_id == b"%016d" % 1
    client.say(wire.ListDetached(1, b"", "", "", 10))
    assert [entry.call_id for entry in client.hear(wire.DetachedListed).entries] == [b"%016d" % 1]
