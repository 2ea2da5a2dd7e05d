"""Copies of the state: whole or not there, put back only where nobody works, and never with an epoch used before."""

import sqlite3
from pathlib import Path

import pytest

from keepwarm_scheduler.backups import EPOCH_LEAP, KEPT_PAYLOADS, STATE_FILE, BackupError, main, restore
from keepwarm_scheduler.core.effects import SaveLock
from keepwarm_scheduler.journal import Journal

LOCK = SaveLock("team", b"k" * 32, "linux", "3.11", b"lock")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def backup(state: Path, tmp_path: Path) -> Path:
    """A backup of a state with a lock and a payload, taken while it was open."""
    journal = Journal(state)
    journal.begin_epoch()
    journal.sync([LOCK], 1)
    (state / KEPT_PAYLOADS).mkdir(mode=0o700)
    (state / KEPT_PAYLOADS / "aa").write_bytes(b"payload")
    summary = journal.back_up(tmp_path / "backup")
    assert summary.size_bytes > len(b"payload")
    journal.close()
    return tmp_path / "backup"


def test_what_is_put_back_is_what_was_there(backup: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "new" / "state"
    assert restore(backup, elsewhere) is None
    journal = Journal(elsewhere)
    opened = journal.begin_epoch()
    assert [(lock.namespace, lock.lock) for lock in opened.restored.locks] == [("team", b"lock")]
    assert (elsewhere / KEPT_PAYLOADS / "aa").read_bytes() == b"payload"
    journal.close()


def test_no_epoch_is_used_twice(backup: Path, state: Path) -> None:
    """The old state has been started more often than the copy knows."""
    for _ in range(5):
        journal = Journal(state)
        used = journal.begin_epoch().epoch
        journal.close()
    restore(backup, state, replace=True)
    journal = Journal(state)
    assert journal.begin_epoch().epoch == used + EPOCH_LEAP + 1
    journal.close()


def test_nobody_else_may_read_a_backup(backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o700
    assert (backup / STATE_FILE).stat().st_mode & 0o777 == 0o600


def test_a_backup_is_never_written_over_something(backup: Path, state: Path) -> None:
    journal = Journal(state)
    with pytest.raises(BackupError, match="exists already"):
        journal.back_up(backup)
    with pytest.raises(BackupError, match="cannot be written"):
        journal.back_up(backup / "no" / "parent")
    with pytest.raises(BackupError, match="no absolute path"):
        journal.back_up(Path("here"))
    journal.close()


def test_a_state_in_use_is_left_alone(backup: Path, state: Path) -> None:
    journal = Journal(state)
    with pytest.raises(BackupError, match="A scheduler is using the state"):
        restore(backup, state, replace=True)
    journal.close()


def test_a_state_that_is_there_is_moved_aside_only_when_that_was_said(
    backup: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(backup), "--state", str(state)]) == 1
    assert "--replace" in capsys.readouterr().err
    assert main([str(backup), "--state", str(state), "--replace"]) == 0
    assert "is now" in capsys.readouterr().out
    assert any(path.name.startswith("state.before-") for path in state.parent.iterdir())


def test_a_damaged_state_is_replaced(backup: Path, state: Path) -> None:
    (state / STATE_FILE).write_bytes(b"\xff" * 5000)
    restore(backup, state, replace=True)
    Journal(state).close()


def test_a_damaged_backup_is_refused(backup: Path, tmp_path: Path) -> None:
    file = backup / STATE_FILE
    data = bytearray(file.read_bytes())
    data[4096:12_288] = b"\xff" * 8192
    file.write_bytes(data)
    with pytest.raises(BackupError, match=r"is damaged.*another backup"):
        restore(backup, tmp_path / "elsewhere")
    with pytest.raises(BackupError, match="is no backup"):
        restore(tmp_path, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_copy_is_of_one_moment_and_can_be_opened_by_itself(backup: Path) -> None:
    assert not list(backup.glob("*-wal"))
    database = sqlite3.connect(backup / STATE_FILE)
    assert database.execute("SELECT count(*) FROM locks").fetchone() == (1,)
    database.close()
