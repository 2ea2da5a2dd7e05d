"""The journal on a real disk: what is synced is there after anything, and nobody else may write."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from keepwarm_scheduler.core.effects import ForgetCordon, ForgetNode, SaveCordon, SaveLock, SaveNode
from keepwarm_scheduler.core.events import SavedCordon, SavedLock
from keepwarm_scheduler.journal import Journal, JournalError
from keepwarm_scheduler.security.records import ForgetCredential, KeyRecord, TokenRecord

LOCK = SaveLock("default", b"k" * 32, "linux-x86_64-glibc", "3.11", b"requests==2.32 --hash=sha256:00\n")

KEY = KeyRecord(b"a" * 32, "client", "team-a", "alice", 11, 12, 13, b"b" * 32, b"c" * 32, "token for-alice")
TOKEN = TokenRecord(b"t" * 32, "client", "team-a", "for-alice", 3, 2, 21, 22, b"s" * 32, 23)

SYNC_THEN_WAIT = """
import sys
from pathlib import Path
from keepwarm_scheduler.core.effects import SaveLock, SaveNode
from keepwarm_scheduler.journal import Journal
journal = Journal(Path(sys.argv[1]))
opened = journal.begin_epoch()
journal.sync([SaveLock("default", b"k" * 32, "p", "3.11", b"lock"), SaveNode("a")], opened.epoch)
print("synced", flush=True)
sys.stdin.read()
"""

OPEN = """
import sys
from pathlib import Path
from keepwarm_scheduler.journal import Journal, JournalError
try:
    Journal(Path(sys.argv[1])).begin_epoch()
except JournalError as error:
    print(error)
    sys.exit(3)
"""


def python(program: str, directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_the_epoch_grows_and_the_cluster_stays_the_same(tmp_path: Path) -> None:
    opened = []
    for _ in range(3):
        journal = Journal(tmp_path)
        opened.append(journal.begin_epoch())
        journal.close()
    assert [each.epoch for each in opened] == [1, 2, 3]
    assert len({each.cluster_id for each in opened}) == 1
    assert len(opened[0].cluster_id) == 16


def test_two_clusters_have_two_ids(tmp_path: Path) -> None:
    ids = set()
    for name in ("one", "two"):
        journal = Journal(tmp_path / name)
        ids.add(journal.begin_epoch().cluster_id)
        journal.close()
    assert len(ids) == 2


def test_what_was_synced_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin_epoch()
    journal.sync([LOCK, SaveNode("b"), SaveNode("a")], 1)
    journal.sync([LOCK._replace(lock=b"newer"), ForgetNode("b"), SaveNode("a")], 1)
    journal.close()
    journal = Journal(tmp_path)
    restored = journal.begin_epoch().restored
    journal.close()
    assert restored.locks == (SavedLock("default", b"k" * 32, "linux-x86_64-glibc", "3.11", b"newer"),)
    assert restored.nodes == ("a",)


def test_nodes_are_remembered_over_a_start_that_ends_before_they_report(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin_epoch()
    journal.sync([SaveNode("a")], 1)
    journal.close()
    for _ in range(2):
        journal = Journal(tmp_path)
        assert journal.begin_epoch().restored.nodes == ("a",)
        journal.close()


def test_keys_and_tokens_are_read_back_as_they_were(tmp_path: Path) -> None:
    for _ in range(2):
        journal = Journal(tmp_path)
        opened = journal.begin_epoch()
        journal.sync([KEY._replace(revoked_s=0), TOKEN._replace(uses_left=3), KEY, TOKEN], opened.epoch)
        journal.close()
    journal = Journal(tmp_path)
    opened = journal.begin_epoch()
    assert (opened.keys, opened.tokens) == ((KEY,), (TOKEN,))
    journal.sync([ForgetCredential(TOKEN.public_key), ForgetCredential(KEY.public_key)], opened.epoch)
    journal.close()
    journal = Journal(tmp_path)
    opened = journal.begin_epoch()
    journal.close()
    assert (opened.keys, opened.tokens) == ((), ())


@pytest.mark.parametrize("bad", [KEY._replace(public_key=b"short"), TOKEN._replace(uses_left=-1)])
def test_a_use_of_a_token_is_burnt_with_its_key_or_not_at_all(tmp_path: Path, bad: KeyRecord | TokenRecord) -> None:
    journal = Journal(tmp_path)
    epoch = journal.begin_epoch().epoch
    journal.sync([TOKEN], epoch)
    good = TOKEN._replace(uses_left=1) if isinstance(bad, KeyRecord) else KEY
    with pytest.raises(sqlite3.IntegrityError):
        journal.sync([good, bad], epoch)
    journal.close()
    journal = Journal(tmp_path)
    opened = journal.begin_epoch()
    journal.close()
    assert (opened.keys, opened.tokens) == ((), (TOKEN,))


def test_a_record_that_was_synced_survives_kill_9(tmp_path: Path) -> None:
    with python(SYNC_THEN_WAIT, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "synced\n"
        process.send_signal(signal.SIGKILL)
    journal = Journal(tmp_path)
    opened = journal.begin_epoch()
    journal.close()
    assert opened.epoch == 2
    assert opened.restored.locks == (SavedLock("default", b"k" * 32, "p", "3.11", b"lock"),)
    assert opened.restored.nodes == ("a",)


def test_a_second_scheduler_on_the_same_state_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin_epoch()
    with python(OPEN, tmp_path) as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "Another scheduler is using the state" in output
    assert str(tmp_path) in output
    journal.close()
    with python(OPEN, tmp_path) as process:
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    path = tmp_path / "state.sqlite3"
    path.write_bytes(b"this is no database" * 1000)
    for rest in tmp_path.glob("state.sqlite3-*"):
        rest.unlink()
    with pytest.raises(JournalError, match=r"is damaged.*Move it away"):
        Journal(tmp_path)


def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    database = sqlite3.connect(tmp_path / "state.sqlite3", isolation_level=None)
    database.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (b"99",))
    database.close()
    with pytest.raises(JournalError, match="schema version 99"):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="schema version 99"):
        Journal(tmp_path)


def test_a_failed_sync_leaves_nothing_half_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin_epoch()
    bad = SaveLock("default", None, "p", "3.11", b"")  # type: ignore[arg-type]
    with pytest.raises(sqlite3.IntegrityError):
        journal.sync([SaveNode("a"), bad], 1)
    journal.close()
    journal = Journal(tmp_path)
    assert journal.begin_epoch().restored.nodes == ()
    journal.close()


def test_the_state_is_its_owners_alone(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "state"
    Journal(directory).close()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "state.sqlite3").stat().st_mode & 0o777 == 0o600


def test_orders_about_nodes_are_kept_and_undone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin_epoch()
    journal.sync([SaveCordon("a", True, 60_000_000, True), SaveCordon("b", False, 0, False)], 1)
    journal.sync([SaveCordon("a", True, 60_000_000, False), SaveCordon("c", False, 0, False), ForgetCordon("c")], 1)
    journal.close()
    journal = Journal(tmp_path)
    kept = journal.begin_epoch().restored.cordons
    assert kept == (SavedCordon("a", True, 60_000_000, False), SavedCordon("b", False, 0, False))
    journal.close()
