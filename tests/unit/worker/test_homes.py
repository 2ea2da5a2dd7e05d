"""Taking over a home: what an earlier agent left there, a disk without room, a directory that cannot be written."""

import errno
import os
import resource
import subprocess
from pathlib import Path

import pytest

from keepwarm_worker import homes
from keepwarm_worker.homes import HomeError, NodeHome
from support.shortage import limited

EARLIER = os.urandom(16)
OURS = os.urandom(16)


def test_a_home_is_private_and_notes_whose_it_is(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "node").open(OURS)
    assert (home.path / "incarnation").read_text() == OURS.hex() + "\n"
    assert (home.path / "agent.lock").read_text() == f"{os.getpid()}\n"
    assert sorted(path.name for path in home.path.iterdir()) == ["agent.lock", "incarnation", "runner", "spool"]
    for directory in (home.path, home.runner, home.spool):
        assert directory.stat().st_mode & 0o777 == 0o700
    home.close()


@pytest.mark.parametrize("marker", ["7", "build"])
def test_what_an_earlier_agent_has_running_is_ended(tmp_path: Path, marker: str) -> None:
    """Its instances, and its builds, which write to directories that are about to be deleted."""
    NodeHome(tmp_path).open(EARLIER).close()
    variables = {"KEEPWARM_INSTANCE": f"{EARLIER.hex()}:{marker}"}
    with subprocess.Popen(["sleep", "1000"], env=variables) as left:
        NodeHome(tmp_path).open(OURS).close()
        assert left.wait(20) == -9


def test_the_spool_is_empty_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be what has filled the disk. Not even closed directories stay."""
    home = NodeHome(tmp_path).open(EARLIER)
    home.close()
    (home.spool / "instance-7" / "work").mkdir(parents=True)
    (home.spool / "instance-7" / "work" / "file").write_text("x")
    (home.spool / "instance-7" / "work").chmod(0)
    whole, seen = Path.write_text, []

    def write(path: Path, text: str, encoding: str = "") -> int:
        seen.append((path.name, home.spool.exists()))
        return whole(path, text, encoding)

    monkeypatch.setattr(Path, "write_text", write)
    home.open(OURS).close()
    assert seen == [("incarnation.new", False)]
    assert not list(home.spool.iterdir())


def test_a_spool_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("x")
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "spool").symlink_to(tmp_path / "elsewhere")
    NodeHome(tmp_path / "node").open(OURS).close()
    assert (tmp_path / "node" / "spool").is_symlink()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_incarnation_that_cannot_be_written_is_one_sentence_and_the_earlier_one_stays(tmp_path: Path) -> None:
    """The next agent must know whose processes may still run."""
    NodeHome(tmp_path).open(EARLIER).close()
    with limited(resource.RLIMIT_FSIZE, 5), pytest.raises(HomeError, match=r"File too large\. Mend that"):
        NodeHome(tmp_path).open(OURS)
    assert (tmp_path / "incarnation").read_text() == EARLIER.hex() + "\n"
    NodeHome(tmp_path).open(OURS).close()


def test_a_disk_that_is_full_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path, _mode: int = 0, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(HomeError, match=r"cannot be an agent's home: No space left on device\."):
        NodeHome(tmp_path).open(OURS)


def test_a_home_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = NodeHome(tmp_path).open(EARLIER)
    (first.spool / "payload").write_text("x")
    monkeypatch.setattr(homes, "kill_marked", lambda prefix: pytest.fail(f"{prefix} is killed"))
    with pytest.raises(HomeError, match=f"process {os.getpid()}"):
        NodeHome(tmp_path).open(OURS)
    assert (first.spool / "payload").exists()
    first.close()
