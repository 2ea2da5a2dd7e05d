"""The state file over releases: real files of earlier ones are taken over whole, or left exactly as they were."""

import gzip
import sqlite3
from pathlib import Path

import pytest

from keepwarm_scheduler.core.events import SavedKey, SavedLock
from keepwarm_scheduler.journal import Journal, JournalError
from keepwarm_scheduler.migrations import MIGRATIONS, NewerSchemaError, copy_of, migrate
from keepwarm_scheduler.security.records import KeyRecord

GOLDEN = Path(__file__).parent / "golden"
"""Files as some release has left them, closed cleanly after its third start. Append only."""

OF_VERSION = {version: GOLDEN / f"journal-{version}.sqlite3.gz" for version in (1, 2, 3)}

KEY = KeyRecord(b"k" * 32, "client", "default", "alice", 1_700_000_000)
NO_IDENTITY: dict[str, bytes] = {}


def put_old_file(directory: Path, version: int) -> Path:
    path = directory / "state.sqlite3"
    path.write_bytes(gzip.decompress(OF_VERSION[version].read_bytes()))
    return path


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def schema_of(path: Path) -> list[tuple[str, str]]:
    """Every table with its columns as SQLite understands them, so that layout does not matter."""
    database = connect(path)
    names = [str(row[0]) for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
    found = [(name, str(database.execute(f"PRAGMA table_info({name})").fetchall())) for name in names]
    database.close()
    return found


def content_of(path: Path) -> str:
    database = connect(path)
    found = "\n".join(database.iterdump())
    database.close()
    return found


def test_there_is_a_real_file_of_every_version_before_this_one() -> None:
    assert sorted(OF_VERSION) == list(range(1, len(MIGRATIONS)))


@pytest.mark.parametrize("version", OF_VERSION)
def test_a_real_file_of_an_earlier_release_keeps_what_it_held(tmp_path: Path, version: int) -> None:
    path = put_old_file(tmp_path, version)
    before = content_of(path)
    journal = Journal(tmp_path)
    opened = journal.begin_epoch()
    assert opened.epoch == 4
    assert opened.cluster_id.hex() == "c4a2c9428d7062a96b66e749a90f085e"
    assert opened.restored.nodes == ("a", "b")
    assert opened.restored.locks == (
        SavedLock("default", b"k" * 32, "linux-x86_64-glibc", "3.11", b"requests==2.32 --hash=sha256:00\n"),
        SavedLock("team-a", b"l" * 32, "linux-x86_64-glibc", "3.12", b""),
    )
    journal.sync([KEY], opened.epoch)
    journal.close()
    copy = copy_of(path, version)
    assert content_of(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.glob("state*")) == [path.name, copy.name]


def test_detached_calls_of_an_earlier_release_go_on(tmp_path: Path) -> None:
    """Of four calls one waits, one waits with large arguments, one has ended, and one has expired."""
    put_old_file(tmp_path, 3)
    journal = Journal(tmp_path, lambda: 1_800_000_060_000_000)
    opened = journal.begin_epoch()
    saved = opened.restored.detached
    assert [(call.call_id, call.age_us) for call in saved.calls] == [(b"%016d" % n, 60_000_000) for n in range(2)]
    assert journal.arguments(saved.calls[0].number) == b"arguments"
    assert [payload.payload_id for payload in opened.payloads] == [b"p" * 16]
    (end,) = saved.ends
    outcome = journal.outcome(end.number)
    assert outcome is not None
    assert outcome.result == b"result"
    assert [function.declaration.name for function in saved.functions] == ["m:f"]
    assert saved.keys == (SavedKey("default", "k", b"%016d" % 0, b"d" * 32, 86_340_000_000),)
    assert saved.tombstones == ((b"%016d" % 3, "default", 604_740_000_000),)
    assert saved.dispatched == ((b"s" * 16, 7, 86_340_000_000),)
    journal.close()


@pytest.mark.parametrize("version", OF_VERSION)
def test_an_old_file_ends_with_the_layout_of_a_new_one(tmp_path: Path, version: int) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    path = put_old_file(old, version)
    for directory in (old, new):
        Journal(directory).close()
    assert schema_of(path) == schema_of(new / "state.sqlite3")


def test_the_release_before_can_go_on_with_the_copy(tmp_path: Path) -> None:
    """The copy is a file of that version in itself: it can be migrated again."""
    path = put_old_file(tmp_path, 1)
    Journal(tmp_path).close()
    copy_of(path, 1).replace(path)
    journal = Journal(tmp_path)
    assert journal.begin_epoch().epoch == 4
    journal.close()


def test_a_file_of_this_release_is_not_copied(tmp_path: Path) -> None:
    for _ in range(2):
        Journal(tmp_path).close()
    assert [each.name for each in tmp_path.iterdir()] == ["state.sqlite3"]


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = put_old_file(tmp_path, 1)
    before = content_of(path)
    database = connect(path)
    bad = ("CREATE TABLE more (a TEXT) STRICT", "INSERT INTO more VALUES (NULL)", "INSERT INTO absent VALUES (1)")
    with pytest.raises(sqlite3.OperationalError, match="absent"):
        migrate(database, path, NO_IDENTITY, (*MIGRATIONS, bad))
    assert not database.in_transaction
    database.close()
    assert content_of(path) == before
    journal = Journal(tmp_path)
    assert journal.begin_epoch().epoch == 4
    journal.close()


def test_all_steps_that_are_missing_are_one_transaction(tmp_path: Path) -> None:
    path = put_old_file(tmp_path, 1)
    database = connect(path)
    seen: list[str] = []
    database.set_trace_callback(seen.append)
    migrate(database, path, NO_IDENTITY, (*MIGRATIONS, ("CREATE TABLE more (a TEXT) STRICT",)))
    database.close()
    assert [statement for statement in seen if statement in ("BEGIN IMMEDIATE", "COMMIT")] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]


def test_a_copy_that_was_left_half_made_is_made_again(tmp_path: Path) -> None:
    path = put_old_file(tmp_path, 1)
    before = content_of(path)
    copy = copy_of(path, 1)
    copy.with_name(f"{copy.name}.draft").write_bytes(b"half of it")
    Journal(tmp_path).close()
    assert content_of(copy) == before
    assert not copy.with_name(f"{copy.name}.draft").exists()


def test_nothing_is_changed_when_no_copy_can_be_made(tmp_path: Path) -> None:
    path = put_old_file(tmp_path, 1)
    before = content_of(path)
    (copy_of(path, 1)).mkdir()
    with pytest.raises(JournalError, match="Cannot open"):
        Journal(tmp_path)
    assert content_of(path) == before


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    path = tmp_path / "state.sqlite3"
    database = connect(path)
    database.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(len(MIGRATIONS) + 1).encode(),))
    with pytest.raises(NewerSchemaError, match=f"schema version {len(MIGRATIONS) + 1}, this release reads up to"):
        migrate(database, path, NO_IDENTITY)
    database.close()
    before = content_of(path)
    with pytest.raises(JournalError, match=r"newer release.*Upgrade keepwarm"):
        Journal(tmp_path)
    assert content_of(path) == before


def test_a_file_whose_version_is_missing_is_damaged(tmp_path: Path) -> None:
    path = put_old_file(tmp_path, 1)
    database = connect(path)
    database.execute("DELETE FROM meta WHERE name = 'schema'")
    database.close()
    with pytest.raises(JournalError, match="is damaged: its schema version is missing"):
        Journal(tmp_path)


def test_a_new_file_has_its_identity_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite3"
    database = connect(path)
    with pytest.raises(sqlite3.IntegrityError):
        migrate(database, path, {"cluster_id": None})  # type: ignore[dict-item]
    assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    migrate(database, path, {"cluster_id": b"c" * 16})
    assert dict(database.execute("SELECT name, value FROM meta"))["cluster_id"] == b"c" * 16
    database.close()
