"""Directories that are out of the way at once and deleted later."""

import threading
from pathlib import Path

import pytest

from keepwarm_worker import trash
from keepwarm_worker.trash import Trash


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """What an instance has left behind."""
    directory = tmp_path / "instance-7"
    (directory / "work" / "deep").mkdir(parents=True)
    (directory / "work" / "deep" / "file").write_text("x")
    return directory


def test_what_is_discarded_is_deleted(tmp_path: Path, left: Path) -> None:
    """One by one, in a thread that ends with the trash; what is not there is nothing."""
    made = Trash(tmp_path / "trash")
    made.discard(left)
    made.discard(left)
    made.discard(tmp_path / "nothing")
    assert not left.exists()
    made.close()
    assert [path.name for path in tmp_path.iterdir()] == ["trash"]
    assert not list((tmp_path / "trash").iterdir())
    made.close()


def test_what_cannot_be_moved_is_deleted_where_it_is(
    tmp_path: Path, left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, _target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    made = Trash(tmp_path / "trash")
    monkeypatch.setattr(Path, "rename", refuse)
    made.discard(left)
    made.close()
    assert not left.exists()


def test_the_end_does_not_wait_for_what_takes_long(tmp_path: Path, left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next agent empties the spool."""
    go_on = threading.Event()
    monkeypatch.setattr(trash, "CLOSE_S", 0.01)
    monkeypatch.setattr("keepwarm_worker.environments.disk.delete_tree", lambda _path: go_on.wait(60))
    made = Trash(tmp_path / "trash")
    made.discard(left)
    made.close()
    assert len(list((tmp_path / "trash").iterdir())) == 1
    go_on.set()


def test_one_that_cannot_be_deleted_does_not_keep_the_others(
    tmp_path: Path, left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def fail(path: Path) -> None:
        seen.append(path.name.partition(".")[0])
        raise RuntimeError("no")

    monkeypatch.setattr("keepwarm_worker.environments.disk.delete_tree", fail)
    made = Trash(tmp_path / "trash")
    made.discard(left)
    (tmp_path / "instance-8").mkdir()
    made.discard(tmp_path / "instance-8")
    made.close()
    assert seen == ["instance-7", "instance-8"]
