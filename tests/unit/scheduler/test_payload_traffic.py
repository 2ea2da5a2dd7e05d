"""Messages that refer to payloads, over a real store, core and journal: what is not here, and what is another."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keepwarm_scheduler.core import invariants
from keepwarm_scheduler.core.config import CoreConfig
from keepwarm_scheduler.core.events import LOCAL
from keepwarm_scheduler.core.machine import SchedulerCore
from keepwarm_scheduler.intake import Taken
from keepwarm_scheduler.journal import Journal
from keepwarm_scheduler.payload_store import PayloadStore
from keepwarm_scheduler.payload_traffic import PayloadTraffic
from keepwarm_scheduler.performing import Performer
from keepwarm_wire import messages as wire
from support.raw_peers import declaration
from support.scheduler_driver import START_NS

PEER = b"client"
DATA = b"large" * 20_000
BODY = wire.Reference(b"b" * 16, len(DATA), hashlib.sha256(DATA).digest())


class Scheduler:
    """All of a scheduler that payloads have to do with, in one process, and one client without keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kept = directory / "payloads-kept"
        self.start()

    def start(self) -> None:
        """As the daemon does, over what an earlier one has left."""
        self.journal = Journal(self.directory)
        opened = self.journal.begin_epoch()
        self.payloads = PayloadStore(self.directory / "payloads", 1 << 20, 1 << 20, opened.payloads)
        self.sent: list[wire.Message] = []
        self.performer = Performer(
            self.journal, opened.epoch, self.payloads, self.send, lambda: None, is_ending=lambda: False
        )
        self.core = SchedulerCore(CoreConfig(), opened.epoch, opened.cluster_id, START_NS)
        self.traffic = PayloadTraffic(
            self.payloads, self.core, self.send, lambda _peer, _weight: None, lambda _line: None
        )
        self.performer.perform(self.core.handle(START_NS, opened.restored))
        self.say(wire.ClientHello(1, 1, "test", b"s" * 16, "test", 0))

    def restart(self) -> None:
        """Killed, and started again."""
        self.close()
        self.start()

    def close(self) -> None:
        self.performer.flush()
        self.performer.close()

    def send(self, _peer: bytes, message: wire.Message) -> None:
        self.sent.append(message)

    def say(self, *messages: Any) -> list[wire.Message]:
        """One turn for each; what is answered once all is on disk."""
        self.sent.clear()
        for message in messages:
            taken = Taken(PEER, LOCAL, message)
            if not self.traffic.takes(taken):
                self.performer.perform(self.core.handle_messages(START_NS, [taken]))
                invariants.check(self.core.cluster)
        self.performer.flush()
        return list(self.sent)

    def upload(self, reference: wire.Reference = BODY) -> None:
        sent = self.say(wire.PayloadOffer(*reference[:3]), wire.PayloadChunk(reference.payload_id, 0, DATA))
        assert sent[-1] == wire.PayloadStored(reference.payload_id)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Scheduler]:
    scheduler = Scheduler(tmp_path)
    yield scheduler
    scheduler.close()


def submit(name: bytes, function: int = 1, arguments: wire.Payload = b"arguments") -> wire.SubmitDetached:
    return wire.SubmitDetached(name.ljust(16, b"."), function, 0, "", 0, arguments)


def accepted(name: bytes) -> wire.DetachedAccepted:
    call_id = name.ljust(16, b".")
    return wire.DetachedAccepted(call_id, call_id, False)


def asked(reference: wire.Reference = BODY) -> wire.PayloadCredit:
    return wire.PayloadCredit(reference.payload_id, 0, 0)


def test_the_body_of_a_function_outlives_a_call_with_the_same_bytes_as_arguments(scheduler: Scheduler) -> None:
    scheduler.upload()
    scheduler.say(declaration(1)._replace(body=BODY), declaration(2, "m:other"))
    scheduler.say(wire.Submit(1, 2, 0, False, BODY), wire.Cancel(1))
    assert scheduler.say(submit(b"one", 2, BODY)) == [accepted(b"one")]
    assert scheduler.say(wire.CancelDetached(b"one".ljust(16, b".")))
    assert scheduler.say(submit(b"two")) == [accepted(b"two")]
    assert (scheduler.kept / BODY.payload_id.hex()).read_bytes() == DATA


def test_a_body_that_is_not_here_any_more_is_asked_for_before_a_call_is_accepted(scheduler: Scheduler) -> None:
    """Whatever has dropped it: the scheduler goes on, and so does the call."""
    scheduler.upload()
    scheduler.say(declaration()._replace(body=BODY))
    scheduler.payloads.drop(BODY.payload_id)
    assert scheduler.say(submit(b"one")) == [asked()]
    assert not scheduler.core.cluster.book.records
    scheduler.upload()
    assert scheduler.say(submit(b"one")) == [accepted(b"one")]
    scheduler.payloads.drop(BODY.payload_id)
    assert scheduler.say(submit(b"two")) == [accepted(b"two")], "its function is kept by now"
    assert scheduler.say(submit(b"one")) == [accepted(b"one")._replace(is_known=True)]


def test_a_body_that_the_disk_has_lost_is_kept_anew_with_the_next_call(scheduler: Scheduler) -> None:
    """The function of a later program has a body of its own, under another id: that one is good."""
    scheduler.upload()
    scheduler.say(declaration()._replace(body=BODY), submit(b"one"))
    scheduler.close()
    (scheduler.kept / BODY.payload_id.hex()).unlink()
    scheduler.start()
    again = BODY._replace(payload_id=b"a" * 16)
    scheduler.upload(again)
    assert scheduler.say(declaration()._replace(body=again), submit(b"two")) == [accepted(b"two")]
    assert (scheduler.kept / again.payload_id.hex()).read_bytes() == DATA
    bodies = [kept.function.declaration.body for kept in scheduler.core.cluster.book.functions.values()]
    assert bodies == [BODY, again]
    scheduler.restart()
    assert scheduler.say(declaration()._replace(body=again), submit(b"three")) == [accepted(b"three")]
    assert len(scheduler.core.cluster.book.functions) == 2


def test_a_body_whose_detached_calls_are_over_is_still_there_for_its_session(scheduler: Scheduler) -> None:
    """After a restart what is kept is the only copy: the client was told that it need not hand it over."""
    scheduler.upload()
    scheduler.say(declaration()._replace(body=BODY), submit(b"one"))
    scheduler.restart()
    assert scheduler.say(wire.PayloadOffer(*BODY[:3])) == [wire.PayloadStored(BODY.payload_id)]
    scheduler.say(declaration()._replace(body=BODY), wire.CancelDetached(b"one".ljust(16, b".")))
    scheduler.payloads.release(BODY.payload_id)
    assert scheduler.say(wire.PayloadCredit(BODY.payload_id, 0, 1)) == []
    assert scheduler.payloads.is_sending


@pytest.mark.parametrize("lie", [{"size": 1}, {"size": 4 << 30}, {"sha256": b"0" * 32}])
def test_a_reference_of_another_size_or_digest_is_refused(scheduler: Scheduler, lie: dict[str, Any]) -> None:
    """The core would count what it says, and keep and hand on what cannot be right."""
    scheduler.upload()
    scheduler.say(declaration())
    said = BODY._replace(**lie)
    for message in (
        submit(b"one", arguments=said),
        wire.Submit(1, 1, 0, False, said),
        declaration(2, "m:other")._replace(body=said),
    ):
        (refused,) = scheduler.say(message)
        assert isinstance(refused, wire.Refused)
        assert refused.code == "protocol"
    (session,) = scheduler.core.cluster.sessions.values()
    assert (len(session.calls), list(session.functions)) == (0, [1])
    assert scheduler.say(submit(b"one", arguments=BODY)) == [accepted(b"one")]
