"""Detached calls on a real disk: written as one, read back whole, with what is left of their times."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from keepwarm_scheduler.core.effects import (
    RECORDS,
    ForgetCall,
    ForgetDispatch,
    ForgetFunction,
    ForgetKey,
    ForgetTombstone,
    SaveAttempts,
    SaveCall,
    SaveCancel,
    SaveDispatch,
    SaveFunction,
    SaveKey,
    SaveOutcome,
)
from keepwarm_scheduler.core.events import NO_DETACHED, SavedDetached, SavedKey
from keepwarm_scheduler.journal import _OF_CALLS, _STATEMENTS, Journal, JournalError
from keepwarm_scheduler.journal_calls import KeptPayload
from keepwarm_wire import messages as wire
from keepwarm_wire.codec import encode_frame
from keepwarm_wire.fields import FOREVER_US
from support.raw_peers import declaration

NOW_US = 1_800_000_000_000_000
REFERENCE = wire.Reference(b"p" * 16, 1 << 20, b"s" * 32)
FUNCTION = SaveFunction(1, "default", declaration())
CALL = SaveCall(7, b"c" * 16, "default", 1, "m:f", -3, "k", "script", 60_000_000, 10_000_000, FOREVER_US, b"arguments")
OUTCOME = wire.DetachedOutcome(b"c" * 16, 0, b"result", None, None)
END = SaveOutcome(7, 60_000_000, 2, "", "node", 6, OUTCOME)


def reopened(directory: Path, *records: object, after_us: int = 0) -> tuple[SavedDetached, Journal]:
    """Write, close, and open again so much later."""
    journal = Journal(directory, lambda: NOW_US)
    journal.begin_epoch()
    journal.sync(list(records), 1)  # type: ignore[arg-type]
    journal.close()
    journal = Journal(directory, lambda: NOW_US + after_us)
    return journal.begin_epoch().restored.detached, journal


def test_every_record_of_the_core_can_be_written() -> None:
    assert set(_STATEMENTS) | set(_OF_CALLS) >= RECORDS


def test_a_new_journal_knows_of_no_calls(tmp_path: Path) -> None:
    saved, journal = reopened(tmp_path)
    journal.close()
    assert saved == NO_DETACHED


def test_an_unfinished_call_comes_back_without_its_arguments(tmp_path: Path) -> None:
    saved, journal = reopened(tmp_path, FUNCTION, CALL, SaveAttempts(7, 5, 1, 2, 3, 4), after_us=4_000_000)
    (call,) = saved.calls
    assert call[:9] == CALL[:9]
    assert (call.age_us, call.queue_left_us, call.overall_left_us) == (4_000_000, 6_000_000, FOREVER_US)
    assert (call.attempts, call.lost_nodes, call.exceptions, call.crashes, call.out_of_memory) == (5, 1, 2, 3, 4)
    assert (call.arguments, call.arguments_bytes, call.cancel_reason) == (b"", 9, "")
    assert journal.arguments(7) == b"arguments"
    assert saved.functions[0].declaration == FUNCTION.declaration
    journal.close()


def test_a_wish_to_cancel_comes_back(tmp_path: Path) -> None:
    saved, journal = reopened(tmp_path, FUNCTION, CALL, SaveCancel(7, "by its caller"))
    journal.close()
    assert saved.calls[0].cancel_reason == "by its caller"


def test_a_finished_call_comes_back_as_such_and_its_outcome_stays_on_disk(tmp_path: Path) -> None:
    saved, journal = reopened(tmp_path, FUNCTION, CALL, END, after_us=1_000_000)
    assert saved.calls == ()
    (end,) = saved.ends
    assert (end.call_id, end.key, end.status, end.node, end.attempts) == (b"c" * 16, "k", 0, "node", 2)
    assert (end.ended_us, end.left_us, end.result_bytes, end.result_id) == (1_000_000, 59_000_000, 6, b"")
    assert journal.outcome(7) == OUTCOME
    assert journal.arguments(7) is None
    journal.close()


def test_what_expired_leaves_a_tombstone_only(tmp_path: Path) -> None:
    saved, journal = reopened(tmp_path, CALL, END, ForgetCall(7, b"c" * 16, "default", 500), after_us=200)
    assert saved == SavedDetached(tombstones=((b"c" * 16, "default", 300),))
    assert journal.outcome(7) is None
    journal.sync([ForgetTombstone(b"c" * 16)], 1)
    assert journal.begin_epoch().restored.detached == NO_DETACHED
    journal.close()


def test_keys_dispatches_and_functions_come_and_go(tmp_path: Path) -> None:
    key, dispatch = SaveKey("default", "k", b"c" * 16, b"d" * 32, 100), SaveDispatch(b"s" * 16, 3, 100)
    saved, journal = reopened(tmp_path, FUNCTION, key, dispatch, after_us=40)
    assert saved.keys == (SavedKey("default", "k", b"c" * 16, b"d" * 32, 60),)
    assert saved.dispatched == ((b"s" * 16, 3, 60),)
    journal.sync([ForgetFunction(1), ForgetKey("default", "k"), ForgetDispatch(b"s" * 16, 3)], 1)
    assert journal.begin_epoch().restored.detached == NO_DETACHED
    journal.close()


@pytest.mark.parametrize(("jump_us", "left_us"), [(-(10**15), 10_000_000), (10**15, 0)])
def test_a_clock_that_jumps_gives_nothing_and_takes_no_more_than_all(
    tmp_path: Path, jump_us: int, left_us: int
) -> None:
    saved, journal = reopened(tmp_path, FUNCTION, CALL, after_us=jump_us)
    journal.close()
    assert saved.calls[0].queue_left_us == left_us
    assert saved.calls[0].age_us == max(0, jump_us)


def test_the_files_that_calls_refer_to_are_named(tmp_path: Path) -> None:
    body = declaration()._replace(body=REFERENCE._replace(payload_id=b"b" * 16))
    result = REFERENCE._replace(payload_id=b"r" * 16)
    end = END._replace(number=8, outcome=OUTCOME._replace(result=result), result_bytes=result.size)
    calls = (CALL._replace(arguments=REFERENCE), CALL._replace(number=8, call_id=b"e" * 16))
    saved, journal = reopened(tmp_path, FUNCTION._replace(declaration=body), *calls, end)
    assert saved.calls[0].arguments == REFERENCE
    assert saved.ends[0].result_id == b"r" * 16
    names = dict.fromkeys(journal.begin_epoch().payloads)
    journal.close()
    assert names == {KeptPayload(name * 16, 1 << 20, b"s" * 32): None for name in (b"p", b"b", b"r")}


def damage_function(database: sqlite3.Connection) -> None:
    database.execute("UPDATE functions SET declaration = x'00'")


@pytest.mark.parametrize("damage", [damage_function])
def test_what_cannot_be_read_is_said_to_be_damaged(
    tmp_path: Path, damage: Callable[[sqlite3.Connection], None]
) -> None:
    _, journal = reopened(tmp_path, FUNCTION)
    journal.close()
    database = sqlite3.connect(tmp_path / "state.sqlite3", isolation_level=None)
    damage(database)
    database.close()
    journal = Journal(tmp_path)
    with pytest.raises(JournalError, match="is damaged"):
        journal.begin_epoch()
    journal.close()


@pytest.mark.parametrize("damage", [b"", b"\xc1", encode_frame([wire.Goodbye("x")]), encode_frame([OUTCOME, OUTCOME])])
def test_an_outcome_that_is_something_else_is_not_readable(tmp_path: Path, damage: bytes) -> None:
    _, journal = reopened(tmp_path, FUNCTION, CALL, END)
    journal._database.execute("UPDATE outcomes SET outcome = ?", (damage,))
    with pytest.raises(sqlite3.DatabaseError, match="call 7"):
        journal.outcome(7)
    journal.close()
