"""The journal on a full disk: first the room kept for that is used; without any, the same may be tried again."""

from pathlib import Path

import pytest

from keepwarm_scheduler.core.effects import SaveNode
from keepwarm_scheduler.journal import Journal, JournalError, JournalFullError


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """One that may not grow: as on a full disk, whether or not there is ballast to give up."""
    made = Journal(tmp_path)
    made.begin_epoch()
    pages = made._database.execute("PRAGMA page_count").fetchone()[0]
    made._database.execute(f"PRAGMA max_page_count = {pages}")
    return made


MANY = [SaveNode(f"node{number:05}" * 10) for number in range(500)]


def test_on_a_full_disk_the_reserve_goes_first_and_nothing_is_half_written(journal: Journal, tmp_path: Path) -> None:
    """Here it does not help; the error says that it may be tried again."""
    low_before = journal.is_low
    with pytest.raises(JournalFullError, match="Make room there"):
        journal.sync(MANY, 1)
    assert (low_before, journal.is_low) == (False, True)
    assert not (tmp_path / "ballast").exists()
    journal.close()
    reopened = Journal(tmp_path)
    assert reopened.begin_epoch().restored.nodes == ()
    reopened.close()


def test_once_there_is_room_the_same_is_written(journal: Journal, tmp_path: Path) -> None:
    """And found again."""
    with pytest.raises(JournalFullError):
        journal.sync(MANY, 1)
    journal._database.execute("PRAGMA max_page_count = 100000")
    journal.sync(MANY, 1)
    journal.close()
    reopened = Journal(tmp_path)
    assert len(reopened.begin_epoch().restored.nodes) == len(MANY)
    reopened.close()


def test_any_other_error_of_the_disk_is_not_tried_again(journal: Journal) -> None:
    """A journal that can only be read stands for a disk that fails."""
    journal._database.execute("PRAGMA query_only = 1")
    with pytest.raises(JournalError, match="Look after the disk") as caught:
        journal.sync([SaveNode("a")], 1)
    assert not isinstance(caught.value, JournalFullError)
    journal.close()
