"""Detached calls on a real scheduler: what it has accepted is there after kill -9, and is not run twice."""

import hashlib
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from keepwarm_wire import messages as wire
from keepwarm_wire.messages import Status
from support.raw_peers import LocalScheduler, RawPeer, RunningAgent, declaration, sockets
from support.waiting import until


@pytest.fixture
def context() -> Iterator["zmq.Context[Any]"]:
    with sockets() as context:
        yield context


@pytest.fixture
def scheduler(home: Path) -> Iterator[LocalScheduler]:
    scheduler = LocalScheduler(home)
    yield scheduler
    scheduler.stop()


def submit(number: int, **changes: Any) -> wire.SubmitDetached:
    return wire.SubmitDetached(b"%016d" % number, 1, 0, "", 0, b"arguments %d" % number)._replace(**changes)


def test_a_call_that_was_accepted_ends_although_its_scheduler_was_killed_at_once(
    scheduler: LocalScheduler, context: Any
) -> None:
    client = RawPeer(context, scheduler.address)
    client.hello()
    client.say(declaration(), submit(1))
    assert client.hear(wire.DetachedAccepted) == wire.DetachedAccepted(b"%016d" % 1, b"%016d" % 1, False)
    scheduler.kill()
    client.socket.close()
    scheduler.start()
    other = RawPeer(context, scheduler.address)
    other.hello(b"o" * 16)
    other.say(wire.AttachDetached((b"%016d" % 1,)))
    agent = RunningAgent(context, scheduler.address)
    outcome = other.hear(wire.DetachedOutcome, among=(agent,))
    assert outcome.status == Status.SUCCEEDED
    assert len(agent.model.executed) == 1


@pytest.mark.timeout(180)
def test_nothing_accepted_is_lost_nor_run_twice_however_often_the_scheduler_is_killed(
    scheduler: LocalScheduler, context: Any
) -> None:
    """Twenty kills at random instants while calls are submitted, run and end; the client repeats what is unanswered."""
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    agent = RunningAgent(context, scheduler.address, cpu=8_000)
    client = RawPeer(context, scheduler.address)
    accepted: dict[bytes, None] = {}
    outcomes: dict[bytes, wire.DetachedOutcome] = {}
    waiting: dict[bytes, wire.SubmitDetached] = {}
    number = 0

    def turn(*, is_repeating: bool) -> None:
        if is_repeating:
            client.say(wire.ClientHello(1, 1, "test", b"c" * 16, "test", 0), declaration(), *waiting.values())
            unended = [call_id for call_id in accepted if call_id not in outcomes]
            client.say(wire.AttachDetached(tuple(unended[:1000])))
        client.take(2)
        agent.work()
        while client.heard:
            message = client.heard.popleft()
            if type(message) is wire.DetachedAccepted:
                accepted[message.call_id] = None
                waiting.pop(message.call_id, None)
            elif type(message) is wire.DetachedOutcome:
                assert outcomes.setdefault(message.call_id, message) == message, f"two outcomes (seed {seed})"
            elif type(message) is wire.DetachedRefused:
                assert message.call_id not in accepted, f"{message} of an accepted call (seed {seed})"

    for _ in range(20):
        for step in range(chance.randrange(1, 60)):
            for _ in range(chance.randrange(4)):
                number += 1
                waiting[b"%016d" % number] = submit(number)
            turn(is_repeating=step % 5 == 0)
        agent.is_holding = chance.random() < 0.3
        scheduler.kill()
        scheduler.start()
    agent.is_holding = False

    def is_done() -> bool:
        turn(is_repeating=chance.random() < 0.05)
        return not waiting and len(outcomes) == number

    until(is_done, limit_s=60)
    assert set(accepted) == set(outcomes)
    executions = Counter(agent.model.executed.values())
    twice = {key: count for key, count in executions.items() if count > 1}
    assert not twice, f"{len(twice)} of {number} calls ran more than once (seed {seed})"
    assert {outcome.status for outcome in outcomes.values()} == {Status.SUCCEEDED}


def test_large_arguments_and_results_survive_kill_9(scheduler: LocalScheduler, context: Any) -> None:
    client = RawPeer(context, scheduler.address)
    client.hello()
    data = bytes(range(256)) * 2048
    reference = upload(client, data)
    client.say(declaration(), submit(1, arguments=reference))
    client.hear(wire.DetachedAccepted)
    scheduler.kill()
    scheduler.start()
    client.socket.close()
    agent = RunningAgent(context, scheduler.address)
    agent.is_holding = True
    until(lambda: worked(agent) and bool(agent.model.attempts), limit_s=10)
    (dispatch,) = agent.model.attempts.values()
    assert dispatch.arguments == reference
    assert fetch(agent, reference) == data
    result = upload(agent, data[::-1], b"r" * 16)
    agent.model.finish(dispatch.attempt, result=result)
    until(lambda: worked(agent) and not agent.model.held, limit_s=10)
    scheduler.kill()
    scheduler.start()
    other = RawPeer(context, scheduler.address)
    other.hello(b"o" * 16)
    other.say(wire.AttachDetached((b"%016d" % 1,)))
    outcome = other.hear(wire.DetachedOutcome)
    assert outcome.result == result
    assert fetch(other, result) == data[::-1]
    kept = scheduler.state / "payloads-kept"
    assert [path.name for path in kept.iterdir()] == [result.payload_id.hex()]
    other.say(wire.ForgetDetached((b"%016d" % 1,)))
    other.hear(wire.DetachedForgotten)
    assert not list(kept.iterdir())


def test_what_the_disk_has_lost_is_refused_and_everything_else_goes_on(scheduler: LocalScheduler, context: Any) -> None:
    """An outcome that is damaged and a file that is gone: neither ends the scheduler, now or at its next start."""
    client, agent = RawPeer(context, scheduler.address), RunningAgent(context, scheduler.address)
    client.hello()
    client.say(declaration(), submit(1), wire.AttachDetached((b"%016d" % 1,)))
    client.hear(wire.DetachedOutcome, among=(agent,))
    agent.is_holding = True
    reference = upload(client, bytes(range(256)) * 2048)
    client.say(submit(2, arguments=reference))
    client.hear(wire.DetachedAccepted)
    scheduler.kill()
    with sqlite3.connect(scheduler.state / "state.sqlite3") as journal:
        journal.execute("UPDATE outcomes SET outcome = x'c1'")
    journal.close()
    scheduler.start()
    other = RawPeer(context, scheduler.address)
    other.hello(b"o" * 16)
    (scheduler.state / "payloads-kept" / reference.payload_id.hex()).unlink()
    other.say(wire.AttachDetached((b"%016d" % 1,)))
    refused = other.hear(wire.DetachedRefused)
    assert (refused.call_id, refused.code) == (b"%016d" % 1, "unknown")
    assert "lost" in refused.reason

    def is_refused() -> bool:
        other.say(wire.PayloadCredit(reference.payload_id, 0, 1))
        other.take(100)
        return wire.PayloadRefused in [type(message) for message in other.heard]

    until(is_refused, limit_s=10)
    agent.is_holding = False
    other.say(declaration(), submit(3), wire.AttachDetached((b"%016d" % 3,)))
    assert other.hear(wire.DetachedOutcome, among=(agent,)).status == Status.SUCCEEDED
    assert scheduler.process.poll() is None


def worked(agent: RunningAgent) -> bool:
    agent.work()
    return True


def upload(peer: RawPeer, data: bytes, payload_id: bytes = b"p" * 16) -> wire.Reference:
    """Hand over a payload of less than a window."""
    reference = wire.Reference(payload_id, len(data), hashlib.sha256(data).digest())
    peer.say(wire.PayloadOffer(*reference[:3]))
    peer.hear(wire.PayloadCredit)
    peer.say(wire.PayloadChunk(payload_id, 0, data))
    peer.hear(wire.PayloadStored)
    return reference


def fetch(peer: RawPeer, reference: wire.Reference) -> bytes:
    """Fetch a payload of less than a chunk."""
    peer.say(wire.PayloadCredit(reference.payload_id, 0, reference.size))
    data = peer.hear(wire.PayloadChunk).data
    assert isinstance(data, bytes)
    return data


def test_a_local_cluster_stays_for_unfinished_calls_and_leaves_its_results(home: Path, context: Any) -> None:
    """It does not stop while a call is unfinished; when it has stopped, the next one has the results."""
    scheduler = LocalScheduler(home, "--local")
    client = RawPeer(context, scheduler.address)
    client.hello()
    client.say(declaration(keep_alive_us=0), submit(1))
    client.hear(wire.DetachedAccepted)
    client.say(wire.Goodbye("done"))
    with pytest.raises(AssertionError):
        until(lambda: scheduler.process.poll() is not None, limit_s=3)
    agent = RunningAgent(context, scheduler.address)

    def has_stopped() -> bool:
        if not agent.model.said_goodbye:
            agent.work()
        return scheduler.process.poll() is not None

    until(has_stopped, limit_s=15)
    assert scheduler.process.wait() == 0
    scheduler.start()
    other = RawPeer(context, scheduler.address)
    other.hello(b"o" * 16)
    other.say(wire.AttachDetached((b"%016d" % 1,)))
    assert other.hear(wire.DetachedOutcome).status == Status.SUCCEEDED
    other.say(wire.Goodbye("done"))
    scheduler.stop()
