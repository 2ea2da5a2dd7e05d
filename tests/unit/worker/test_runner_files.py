"""Installing the runner: complete, named by its content, repaired, and safe against racing agents."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keepwarm_worker import runner_files
from keepwarm_worker.runner_files import install_runner

SOURCE = Path(runner_files.__file__).parent / "runner"


def test_every_module_of_the_runner_is_installed(tmp_path: Path) -> None:
    """And cloudpickle, under its private name; no temporary directory stays."""
    main = install_runner(tmp_path)
    installed = {path.name for path in main.parent.glob("*.py")}
    assert installed == {path.name for path in SOURCE.glob("*.py")} - {"__init__.py"}
    assert (main.parent / "_keepwarm_cloudpickle" / "cloudpickle.py").exists()
    assert list(tmp_path.iterdir()) == [main.parent]
    assert main.parent.stat().st_mode & 0o777 == 0o755


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    """Also beside the caches that interpreters have written meanwhile."""
    main = install_runner(tmp_path)
    (main.parent / "__pycache__").mkdir()
    before = main.stat()
    assert install_runner(tmp_path) == main
    assert main.stat() == before


def test_other_content_has_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of two releases do not disturb each other."""
    first = install_runner(tmp_path)
    content = runner_files._content() | {"main.py": b"pass\n"}
    monkeypatch.setattr(runner_files, "_content", lambda: content)
    second = install_runner(tmp_path)
    assert second != first
    assert second.read_bytes() == b"pass\n"
    assert first.exists()


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_damaged_files_are_replaced(tmp_path: Path, damage: str) -> None:
    """User code may run as the user that owns them."""
    main = install_runner(tmp_path)
    victim = main.with_name("frames.py")
    if damage == "change":
        victim.write_text("import os; os.abort()")
    else:
        victim.unlink()
    assert install_runner(tmp_path) == main
    assert victim.read_bytes() == (SOURCE / "frames.py").read_bytes()
    assert list(tmp_path.iterdir()) == [main.parent]


def test_racing_agents_agree(tmp_path: Path) -> None:
    """Eight at once: one directory, nothing else."""
    with ThreadPoolExecutor(8) as pool:
        mains = set(pool.map(install_runner, [tmp_path / "runner"] * 8))
    (main,) = mains
    assert list((tmp_path / "runner").iterdir()) == [main.parent]
    assert runner_files._is_intact(main.parent, runner_files._content())


def test_a_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    """As the error of the system that it is."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        install_runner(tmp_path / "file")


def test_the_entry_compiles_and_needs_its_arguments(tmp_path: Path) -> None:
    """Started by hand it fails at once and says where."""
    ended = subprocess.run([sys.executable, "-I", install_runner(tmp_path)], capture_output=True, check=False)
    assert ended.returncode == 1
    assert b"IndexError" in ended.stderr
