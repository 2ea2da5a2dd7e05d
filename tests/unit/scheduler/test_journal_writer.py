"""The journal's thread, over a real journal whose commits are let through one by one."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepwarm_scheduler import journal_writer
from keepwarm_scheduler.core.effects import SaveLock, SaveNode, SaveOutcome, Send
from keepwarm_scheduler.journal import Journal, JournalError, JournalFullError
from keepwarm_scheduler.journal_writer import Batch, JournalWriter
from keepwarm_wire import messages as wire
from keepwarm_wire.messages import AgentBeatReply, Final, Goodbye, StopInstance
from support.gated_journal import LIMIT_S, GatedJournal

ORDERED = frozenset({StopInstance, AgentBeatReply})


class Loop:
    """What the scheduler's loop is to the thread: it is woken, settles, and notes what is released."""

    def __init__(self, journal: Journal) -> None:
        self.released: list[object] = []
        self.payloads: list[bytes] = []
        self.is_ending = False
        self._woken = threading.Semaphore(0)
        self.writer = JournalWriter(journal, 1, self._release, self._woken.release, lambda: self.is_ending)

    def _release(self, batch: Batch) -> None:
        self.released += [effect.message for effect in batch.held if isinstance(effect, Send)]
        self.payloads += batch.released

    def turn(self) -> None:
        """Wait until woken, then settle."""
        assert self._woken.acquire(timeout=LIMIT_S), "the loop was not woken"
        self.writer.settle()

    def hand_over(self, *names: str, held: tuple[Send, ...] = (), payloads: tuple[bytes, ...] = ()) -> None:
        """Save nodes, and hold some messages until they are on disk."""
        self.writer.hand_over([SaveNode(name) for name in names], (), held, payloads, ORDERED)


def final(number: int, peer: bytes = b"a") -> Send:
    return Send(peer, Final((number,)), after_sync=True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[GatedJournal]:
    made = GatedJournal(tmp_path)
    yield made
    made.close()


@pytest.fixture
def loop(journal: GatedJournal) -> Iterator[Loop]:
    made = Loop(journal)
    yield made
    journal.let_through(100)
    made.writer.close()


def nodes(directory: Path) -> tuple[str, ...]:
    """What a new start finds."""
    journal = Journal(directory)
    found = journal.begin_epoch().restored.nodes
    journal.close()
    return found


def test_what_is_held_leaves_once_the_disk_has_what_came_before(loop: Loop, journal: GatedJournal) -> None:
    """And the loop is woken for it."""
    loop.hand_over("n", held=(final(1), final(2)))
    loop.writer.settle()
    assert (loop.released, loop.writer.is_busy) == ([], True)
    journal.let_through()
    loop.turn()
    assert (loop.released, loop.writer.is_busy) == ([Final((1,)), Final((2,))], False)


def test_all_that_comes_during_a_sync_is_one_transaction(loop: Loop, journal: GatedJournal, tmp_path: Path) -> None:
    """Released in the order in which it was handed over."""
    for number in range(50):
        loop.hand_over(f"n{number:02}", held=(final(number),))
    journal.let_through(2)
    loop.turn()
    assert loop.released == [Final((0,))]
    loop.turn()
    assert loop.released == [Final((number,)) for number in range(50)]
    assert journal.commits == 2
    loop.writer.close()
    journal.close()
    assert nodes(tmp_path) == tuple(f"n{number:02}" for number in range(50))


def test_what_saves_nothing_waits_for_no_more_than_what_is_under_way(loop: Loop, journal: GatedJournal) -> None:
    """Unless something else waits for more already."""
    loop.hand_over("n", held=(final(1),))
    loop.hand_over(held=(final(2),))
    loop.hand_over("m", held=(final(3),))
    loop.hand_over(held=(final(4),))
    journal.let_through()
    loop.turn()
    assert loop.released == [Final((1,)), Final((2,))]
    journal.let_through()
    loop.turn()
    assert loop.released == [Final((number,)) for number in (1, 2, 3, 4)]


def test_a_later_command_does_not_overtake_one_that_is_held(loop: Loop, journal: GatedJournal) -> None:
    """To its own peer, that is; nor does it wait behind what needs no order."""
    first, later = StopInstance(1, 1, 1, ""), AgentBeatReply(1, 1, 1)
    loop.hand_over("n", held=(final(1, b"b"), Send(b"a", first, after_sync=True)))
    assert not loop.writer.follow(Send(b"b", later), ORDERED)
    assert loop.writer.follow(Send(b"a", later), ORDERED)
    loop.hand_over("m", held=(Send(b"a", StopInstance(2, 1, 1, ""), after_sync=True),))
    assert loop.writer.follow(Send(b"a", AgentBeatReply(2, 2, 2)), ORDERED)
    journal.let_through(2)
    loop.turn()
    loop.turn()
    assert loop.released == [Final((1,)), first, later, StopInstance(2, 1, 1, ""), AgentBeatReply(2, 2, 2)]
    assert not loop.writer.follow(Send(b"a", later), ORDERED)


def test_what_is_held_for_a_connection_that_is_gone_is_not_sent(loop: Loop, journal: GatedJournal) -> None:
    """Its id may be somebody else's."""
    stop = Send(b"a", StopInstance(1, 1, 1, ""), after_sync=True)
    loop.hand_over("n", held=(final(1), stop, final(2, b"b")))
    loop.hand_over("m", held=(final(3), final(4, b"b")))
    loop.writer.forget(b"a")
    assert not loop.writer.follow(stop, ORDERED)
    journal.let_through(2)
    loop.turn()
    loop.turn()
    assert loop.released == [Final((2,)), Final((4,))]


def test_a_payload_that_is_needed_again_is_not_released(loop: Loop, journal: GatedJournal) -> None:
    loop.hand_over("n", payloads=(b"p", b"q"))
    loop.hand_over("m", payloads=(b"r", b"s"))
    loop.writer.keep(b"q")
    loop.writer.keep(b"r")
    journal.let_through(2)
    loop.turn()
    loop.turn()
    assert loop.payloads == [b"p", b"s"]


@pytest.mark.parametrize("what", ["many", "large"])
def test_when_too_much_waits_the_loop_waits(
    what: str, journal: GatedJournal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And goes on with room for as much again; the lock is larger than a batch may be."""
    monkeypatch.setattr(journal_writer, "ENTRIES_MAX", 10)
    monkeypatch.setattr(journal_writer, "BYTES_MAX", 1000)
    waits = []

    class Waiting(Loop):
        def wait(self) -> None:
            waits.append(self.writer._next.entries)
            journal.let_through()
            JournalWriter._wait(self.writer)

    loop = Waiting(journal)
    monkeypatch.setattr(loop.writer, "_wait", loop.wait)
    loop.hand_over("first")
    if what == "large":
        for number in range(2):
            assert len(waits) == number
            loop.writer.hand_over([SaveLock("n", b"%032d" % number, "p", "3.11", bytes(1001))])
    else:
        for number in range(23):
            loop.hand_over(f"n{number:02}")
    assert waits == ([11, 11] if what == "many" else [1, 1])
    loop.writer.flush()
    loop.writer.close()
    journal.close()
    assert len(nodes(tmp_path)) == (24 if what == "many" else 1)


def test_what_is_told_of_a_failure_is_large_too() -> None:
    """What waits for the disk is counted, and that may be as large as a result."""
    failure = wire.Failure("user_exception", "boom", "d" * 60_000, b"e" * (1 << 20))
    size = 18 + 60_000 + (1 << 20)
    failed = wire.DetachedOutcome(b"c" * 16, 1, b"", failure, None)
    assert journal_writer._size_of(SaveOutcome(1, 1, 1, "user_exception", "n", size, failed)) == size
    elsewhere = failed._replace(status=0, failure=None, result=wire.Reference(b"p" * 16, 1 << 30, b"d" * 32))
    assert journal_writer._size_of(SaveOutcome(1, 1, 1, "", "n", 1 << 30, elsewhere)) == 0


def test_flushing_waits_for_all_and_releases_all(loop: Loop, journal: GatedJournal) -> None:
    loop.hand_over("n", held=(final(1),))
    loop.hand_over("m", held=(final(2),))
    journal.let_through(2)
    loop.writer.flush()
    assert loop.released == [Final((1,)), Final((2,))]
    assert (loop.writer.is_busy, journal.commits) == (False, 2)


def test_an_error_of_the_disk_is_the_loops_and_releases_nothing(loop: Loop, journal: GatedJournal) -> None:
    """It is woken to hear of it."""
    loop.hand_over("n", held=(final(1),))
    journal.fails_with = JournalError("the disk fails")
    journal.let_through()
    with pytest.raises(JournalError, match="the disk fails"):
        loop.turn()
    with pytest.raises(JournalError, match="the disk fails"):
        loop.writer.flush()
    assert loop.released == []


def test_a_file_that_cannot_be_synced_is_an_error_of_the_disk(
    loop: Loop, journal: GatedJournal, tmp_path: Path
) -> None:
    """Nothing that refers to it is written."""
    loop.writer.hand_over([SaveNode("n")], [tmp_path / "gone"], [final(1)])
    with pytest.raises(JournalError, match="gone cannot be written"):
        loop.turn()
    assert (loop.released, journal.commits) == ([], 0)


def test_on_a_full_disk_what_is_held_waits_for_room(
    loop: Loop, journal: GatedJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is to end does not wait."""
    monkeypatch.setattr(journal_writer, "_FULL_PAUSE_S", 0.001)
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    loop.writer.hand_over([SaveNode(f"node{number:05}" * 10) for number in range(500)], (), [final(1)])
    loop.is_ending = True
    journal.let_through(1)
    with pytest.raises(JournalFullError):
        loop.writer.flush()
    assert (loop.released, journal.is_low) == ([], True)
    journal.fails_with = JournalError("the test is over")


def test_once_there_is_room_on_a_full_disk_all_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole batch is written, though its transaction had been undone."""
    monkeypatch.setattr(journal_writer, "_FULL_PAUSE_S", 0.001)
    tries: list[int] = []

    class Filling(Journal):
        def commit(self, statements: list[tuple[str, tuple[object, ...]]]) -> None:
            if len(tries) == 3:
                self._database.execute("PRAGMA max_page_count = 100000")
            tries.append(len(statements))
            super().commit(statements)

    journal = Filling(tmp_path)
    journal.begin_epoch()
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    loop = Loop(journal)
    loop.writer.hand_over([SaveNode(f"node{number:05}" * 10) for number in range(500)], (), [final(1)])
    loop.writer.flush()
    assert (loop.released, tries) == ([Final((1,))], [500] * 4)
    loop.writer.close()
    journal.close()
    assert len(nodes(tmp_path)) == 500


def test_a_record_that_cannot_be_written_leaves_nothing_behind(loop: Loop, tmp_path: Path) -> None:
    """It is an error of the loop's own, at once."""
    bad = SaveLock("default", None, "p", "3.11", b"")  # type: ignore[arg-type]
    with pytest.raises(Exception, match="NOT NULL"):
        loop.writer.hand_over([SaveNode("n"), bad], (), [Send(b"a", Goodbye(""), after_sync=True)])
    assert (loop.released, loop.writer.is_busy) == ([], False)
