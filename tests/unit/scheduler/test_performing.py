"""Effects performed over a real journal, whose commits are let through one by one, and real payload files."""

import errno
import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keepwarm_scheduler import journal_writer
from keepwarm_scheduler.core.effects import (
    ClaimPayload,
    DropPayload,
    Effect,
    ForgetCall,
    KeepPayload,
    ReleasePayload,
    SaveCall,
    SaveFunction,
    SaveNode,
    SaveOutcome,
    Send,
    SendOutcome,
    SendStored,
    StopProcess,
)
from keepwarm_scheduler.journal import JournalError
from keepwarm_scheduler.payload_store import EVERYBODY, UNCLAIMED_NS, PayloadStore
from keepwarm_scheduler.performing import Performer
from keepwarm_wire import messages as wire
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import Status
from support.gated_journal import LIMIT_S, GatedJournal
from support.raw_peers import declaration

AGENT, OTHER, CLIENT = b"agent", b"other", b"client"
FUNCTION = SaveFunction(1, "default", declaration())
DATA = b"large" * 100
PAYLOAD = KeepPayload(b"p" * 16, len(DATA), hashlib.sha256(DATA).digest())
WELCOME = Send(AGENT, wire.Welcome(1, b"c" * 16, 1, False, 0, 0, 1), after_sync=True)


def call(number: int, arguments: wire.Payload = b"arguments") -> SaveCall:
    return SaveCall(
        *(number, b"%016d" % number, "default", 1, "m:f", 0, "", "", 1_000_000), FOREVER_US, FOREVER_US, arguments
    )


def outcome(number: int) -> SaveOutcome:
    ended = wire.DetachedOutcome(b"%016d" % number, Status.SUCCEEDED, b"result", None, None)
    return SaveOutcome(number, 1_000_000, 1, "", "n", 6, ended)


def dispatch(command: int, number: int = 1, arguments: wire.Payload = b"") -> wire.Dispatch:
    return wire.Dispatch(command, 1, command, b"s" * 16, number, b"v" * 32, 1, 1, 1, arguments)


def accepted(number: int) -> Send:
    call_id = b"%016d" % number
    return Send(CLIENT, wire.DetachedAccepted(call_id, call_id, False), after_sync=True)


class Turns:
    """Performs effects and notes what is sent."""

    def __init__(self, directory: Path) -> None:
        self.journal = GatedJournal(directory)
        self.payloads = PayloadStore(directory / "payloads", 1 << 20, 1 << 20, self.journal.opened.payloads)
        self.kept = directory / "payloads-kept"
        self.sent: list[tuple[bytes, wire.Message]] = []
        self._woken = threading.Semaphore(0)
        self.performer = Performer(
            self.journal,
            1,
            self.payloads,
            self._note,
            self._woken.release,
            is_ending=lambda: False,
            call_id_of={1: b"%016d" % 1}.get,
        )

    def _note(self, peer: bytes, message: wire.Message) -> None:
        self.sent.append((peer, message))

    def perform(self, *effects: Effect) -> list[wire.Message]:
        """What is sent at once."""
        self.sent.clear()
        self.performer.perform(list(effects))
        return [message for _, message in self.sent]

    def sync(self, count: int = 1) -> list[wire.Message]:
        """What is sent once so many transactions more are on disk."""
        self.sent.clear()
        for _ in range(count):
            self.journal.let_through()
            assert self._woken.acquire(timeout=LIMIT_S), "the loop was not woken"
            assert self.performer.is_due
            self.performer.settle()
        return [message for _, message in self.sent]

    def upload(self) -> None:
        """A session's payload is here."""
        assert type(self.payloads.offered(wire.PayloadOffer(*PAYLOAD), EVERYBODY)) is wire.PayloadCredit
        stored = self.payloads.arrived(wire.PayloadChunk(PAYLOAD.payload_id, 0, DATA), EVERYBODY)
        assert type(stored) is wire.PayloadStored


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    made = Turns(tmp_path)
    yield made
    made.journal.let_through(100)
    made.performer.close()


def test_without_records_nothing_goes_through_the_thread(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what is marked to be sent after the sync: there is none."""

    def forbidden(*_: object) -> None:
        raise AssertionError("the thread was bothered")

    for name in ("hand_over", "follow", "settle", "flush", "keep"):
        monkeypatch.setattr(journal_writer.JournalWriter, name, forbidden)
    final = wire.Final((1,))
    sent = turns.perform(Send(AGENT, dispatch(1)), Send(AGENT, final, after_sync=True), SendOutcome(CLIENT, 7))
    assert sent == [dispatch(1), final]
    assert not turns.performer.is_due


def test_only_what_is_marked_waits_for_the_disk(turns: Turns) -> None:
    attached = wire.Outcome(1, Status.SUCCEEDED, b"", None, None)
    assert turns.perform(FUNCTION, call(1), accepted(1), Send(CLIENT, attached)) == [attached]
    assert turns.perform(Send(CLIENT, attached)) == [attached]
    assert turns.sync() == [accepted(1).message]


def test_the_answer_about_a_call_that_is_on_its_way_to_the_disk_waits_too(turns: Turns) -> None:
    """A repeated submit is not answered before the first one could be."""
    again = accepted(1)._replace(message=wire.DetachedAccepted(b"%016d" % 1, b"%016d" % 1, True))
    assert turns.perform(FUNCTION, call(1), accepted(1)) == []
    assert turns.perform(again) == []
    assert turns.sync() == [accepted(1).message, again.message]


def test_what_is_read_from_the_disk_is_read_once_it_is_there(turns: Turns) -> None:
    """Arguments and outcomes alike; of a call that has ended meanwhile there are none."""
    assert turns.perform(FUNCTION, call(1), call(2), SendStored(AGENT, dispatch(1))) == []
    assert turns.perform(outcome(1), SendOutcome(CLIENT, 1), SendStored(AGENT, dispatch(2))) == []
    assert turns.perform(outcome(2), ForgetCall(2, b"%016d" % 2, "default", 1), SendOutcome(CLIENT, 2)) == []
    assert turns.sync() == [dispatch(1, arguments=b"arguments")]
    assert turns.sync() == [outcome(1).outcome]
    assert turns.perform(SendOutcome(CLIENT, 1), SendOutcome(CLIENT, 2)) == [outcome(1).outcome]


ORDERED: dict[str, Any] = {
    "an attached dispatch": dispatch(9),
    "a start": wire.StartInstance(9, 1, b"p" * 32, "e", "3.11", b"", (), 0, 0, 0, 0, 0),
    "a stop": wire.StopInstance(9, 1, 1, ""),
    "a lock": wire.MakeLock(9, b"k" * 32, b""),
    "a cancel": wire.CancelAttempt(9, 1, 1),
    "the answer to a beat": wire.AgentBeatReply(1, 9, 1),
    "a goodbye": wire.Goodbye("leave"),
}


@pytest.mark.parametrize("message", ORDERED.values(), ids=ORDERED)
@pytest.mark.parametrize("leader", [WELCOME, Send(AGENT, dispatch(8), after_sync=True), SendStored(AGENT, dispatch(8))])
@pytest.mark.parametrize("when", ["same turn", "later", "during the next sync"])
def test_no_command_overtakes_one_that_is_held(turns: Turns, leader: Any, message: wire.Message, when: str) -> None:
    """To the same node; others have theirs at once. An agent obeys no command that is overtaken."""
    mine, others = Send(AGENT, message), Send(OTHER, message)
    if when == "same turn":
        assert turns.perform(FUNCTION, call(1), leader, mine, others) == [message]
    elif when == "later":
        assert turns.perform(FUNCTION, call(1), leader) == []
        assert turns.perform(mine, others) == [message]
    else:
        turns.perform(SaveNode("n"))
        assert turns.perform(FUNCTION, call(1), leader) == []
        assert turns.perform(mine, others) == [message]
        assert turns.sync() == []
    sent = turns.sync()
    assert [type(each) for each in sent] == [type(leader.message), type(message)]
    assert sent[-1] is message
    assert turns.perform(mine) == [message]


def test_the_end_of_an_attempt_delays_no_command(turns: Turns) -> None:
    final = Send(AGENT, wire.Final((1,)), after_sync=True)
    assert turns.perform(SaveNode("n"), final, Send(AGENT, dispatch(1))) == [dispatch(1)]
    assert turns.sync() == [final.message]


def test_all_is_on_disk_before_the_last_goodbye(turns: Turns) -> None:
    """And what was promised is said before it."""
    goodbye = wire.Goodbye("the end")
    turns.perform(FUNCTION, call(1), accepted(1))
    turns.journal.let_through(2)
    sent = turns.perform(SaveNode("n"), Send(CLIENT, goodbye), StopProcess("the end"))
    assert sent == [accepted(1).message, goodbye]
    assert turns.performer.is_stopped
    assert turns.journal.commits == 2


def test_what_is_saved_in_words_is_on_disk_when_that_returns(turns: Turns) -> None:
    """With all that came before it, which is released."""
    turns.perform(FUNCTION, call(1), accepted(1))
    turns.journal.let_through(2)
    turns.sent.clear()
    turns.performer.save([SaveNode("n")])
    assert turns.journal.commits == 2
    assert [message for _, message in turns.sent] == [accepted(1).message]


@pytest.mark.parametrize("is_claimed", [True, False])
def test_what_is_claimed_does_not_expire(turns: Turns, is_claimed: bool) -> None:
    turns.upload()
    if is_claimed:
        turns.perform(ClaimPayload(PAYLOAD.payload_id))
    turns.payloads.expire(time.monotonic_ns() + UNCLAIMED_NS)
    assert (PAYLOAD.payload_id in turns.payloads) is is_claimed


def test_what_one_turn_drops_and_claims_stays(turns: Turns) -> None:
    """It was here when the messages of the turn came in, in whatever order they speak of it."""
    turns.upload()
    turns.perform(ClaimPayload(PAYLOAD.payload_id))
    turns.perform(DropPayload(PAYLOAD.payload_id), ClaimPayload(PAYLOAD.payload_id))
    assert PAYLOAD.payload_id in turns.payloads


def test_an_outcome_that_cannot_be_read_is_lost_and_nothing_else_is(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks is told so, in a code that every client takes for the end of its wait."""
    turns.perform(FUNCTION, call(1), call(2), outcome(1), outcome(2))
    turns.sync()
    read = turns.journal.outcome

    def damaged(number: int) -> wire.DetachedOutcome | None:
        if number != 2:
            raise sqlite3.DatabaseError("database disk image is malformed")
        return read(number)

    monkeypatch.setattr(turns.journal, "outcome", damaged)
    lost, forgotten, good = (SendOutcome(CLIENT, number) for number in (1, 9, 2))
    refused, told = turns.perform(lost, forgotten, good)
    assert isinstance(refused, wire.DetachedRefused)
    assert refused[:2] == (b"%016d" % 1, "unknown")
    assert "lost" in refused.reason
    assert told == outcome(2).outcome


def test_arguments_that_cannot_be_read_are_a_payload_that_nobody_has(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node asks for them, is refused, and the call ends; without a dispatch it would be sent again and again."""

    def damaged(_: int) -> bytes | None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(turns.journal, "arguments", damaged)
    (sent,) = turns.perform(SendStored(AGENT, dispatch(1)))
    assert isinstance(sent, wire.Dispatch)
    assert isinstance(sent.arguments, wire.Reference)
    refused = turns.payloads.wanted(AGENT, wire.PayloadCredit(sent.arguments.payload_id, 0, 1))
    assert isinstance(refused, wire.PayloadRefused)


def test_what_is_noted_is_written_and_nobody_waits_for_it(turns: Turns) -> None:
    turns.performer.note([SaveNode("n")])
    assert turns.journal.commits == 0
    turns.sync()
    assert turns.journal.commits == 1


def test_an_answer_waits_for_its_records_and_for_what_is_on_its_way(turns: Turns) -> None:
    """Repeated, it has nothing to write, and speaks of what is not on disk."""
    answer = wire.KeyRotated(1, b"k" * 32)
    turns.performer.answer([], CLIENT, answer)
    assert turns.sent == [(CLIENT, answer)]
    turns.sent.clear()
    turns.performer.answer([SaveNode("n")], CLIENT, answer)
    turns.performer.answer([], CLIENT, answer)
    assert turns.sent == []
    assert turns.sync() == [answer, answer]


def test_a_payload_goes_once_nothing_on_disk_refers_to_it(turns: Turns) -> None:
    turns.upload()
    turns.perform(FUNCTION, PAYLOAD, call(1, wire.Reference(*PAYLOAD)))
    turns.sync()
    turns.payloads.drop(PAYLOAD.payload_id)
    turns.perform(outcome(1), ReleasePayload(PAYLOAD.payload_id))
    assert PAYLOAD.payload_id in turns.payloads
    turns.sync()
    assert PAYLOAD.payload_id not in turns.payloads
    assert not list(turns.kept.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_is_to_be_kept_waits_for_room_and_ends_the_process_otherwise(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As the journal does: nothing that refers to it may be written without it."""
    monkeypatch.setattr(journal_writer, "_FULL_PAUSE_S", 0.0)
    turns.upload()
    keep, left = turns.payloads.keep, 3

    def fail(*about: Any) -> tuple[Path, ...]:
        nonlocal left
        left -= 1
        if left:
            raise OSError(number, "the disk")
        return keep(*about)

    monkeypatch.setattr(turns.payloads, "keep", fail)
    if number == errno.EIO:
        with pytest.raises(JournalError, match="cannot be written"):
            turns.perform(FUNCTION, PAYLOAD, call(1, wire.Reference(*PAYLOAD)))
        return
    turns.perform(FUNCTION, PAYLOAD, call(1, wire.Reference(*PAYLOAD)), accepted(1))
    assert turns.sync() == [accepted(1).message]
    assert [file.read_bytes() for file in turns.kept.iterdir()] == [DATA]


@pytest.mark.parametrize("when", ["same turn", "during the sync", "before it"])
def test_a_payload_that_another_call_needs_by_then_stays(turns: Turns, when: str) -> None:
    """Whichever transaction is on disk by now."""
    turns.upload()
    turns.perform(FUNCTION, PAYLOAD, call(1, wire.Reference(*PAYLOAD)))
    turns.sync()
    release: list[Effect] = [outcome(1), ReleasePayload(PAYLOAD.payload_id)]
    again: list[Effect] = [PAYLOAD, call(2, wire.Reference(*PAYLOAD))]
    if when == "same turn":
        turns.perform(*release, *again)
        turns.sync()
    else:
        if when == "before it":
            turns.perform(SaveNode("n"))
        turns.perform(*release)
        turns.perform(*again)
        turns.sync(2)
    turns.payloads.drop(PAYLOAD.payload_id)
    assert [file.read_bytes() for file in turns.kept.iterdir()] == [DATA]
