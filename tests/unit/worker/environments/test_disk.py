"""Deleting what user code has left, and saying whose fault an error of the operating system is."""

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keepwarm_worker.environments import disk, errors
from keepwarm_worker.environments.errors import EnvironmentFailure

NOBODY = 65534
LEVELS = 3000
"""More than the stack of Python, the length of a path and the descriptors of most processes."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may get to. What is left there, pytest could not delete."""
    made = Path(tempfile.mkdtemp(prefix="kw-", dir="/tmp"))
    yield made
    subprocess.run(["rm", "-rf", made], check=True)


@contextmanager
def ordinary_user(folder: Path) -> Iterator[None]:
    """This process is not root meanwhile, and owns what is in the folder: permissions stop it."""
    if os.geteuid() != 0:
        yield
        return
    for parent, folders, files in os.walk(folder):
        for path in (parent, *(f"{parent}/{name}" for name in (*folders, *files))):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def dig(directory: Path) -> None:
    """Make a tree of so many levels, with a file and a closed directory at the bottom."""
    before = os.getcwd()  # noqa: PTH109
    try:
        directory.mkdir()
        os.chdir(directory)
        for _ in range(LEVELS):
            os.mkdir("level")  # noqa: PTH102
            os.chdir("level")
        Path("file").write_text("x")
        Path("closed").mkdir(mode=0)
    finally:
        os.chdir(before)


def test_a_tree_of_any_depth_is_deleted(folder: Path) -> None:
    dig(folder / "deep")
    disk.delete_tree(folder / "deep")
    assert not list(folder.iterdir())


def test_what_was_made_read_only_is_deleted_and_links_are_not_followed(folder: Path) -> None:
    """Its owner may always change that."""
    outside, tree = folder / "outside", folder / "tree"
    outside.mkdir()
    (outside / "precious").write_text("x")
    for name in ("a/b/c", "a/d"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").write_text("x")
        (tree / name / "link").symlink_to(outside)
    for name, mode in (("a/b/c", 0), ("a/b", 0o500), ("a/d", 0o300), ("a", 0o400), (".", 0o500)):
        (tree / name).chmod(mode)
    with ordinary_user(folder):
        disk.delete_tree(tree)
        assert not tree.exists()
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_a_link_and_a_file_are_deleted_as_such(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "file").write_text("x")
    for name in ("link", "file", "nothing"):
        disk.delete_tree(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, errors.DISK_FULL, "disk space"),
        (errno.EDQUOT, errors.DISK_FULL, "disk space"),
        (errno.EMFILE, errors.INTERNAL, "short of something that build needs: Too many open files"),
        (errno.ENOMEM, errors.INTERNAL, "short of something that build needs: Cannot allocate memory"),
        (errno.EAGAIN, errors.INTERNAL, "short of something that build needs"),
        (errno.EROFS, errors.INTERNAL, "disk failed during build: Read-only file system"),
        (errno.EIO, errors.INTERNAL, "disk failed during build"),
    ],
)
def test_a_fault_of_the_node_may_be_tried_again_and_is_named(code: int, kind: str, words: str) -> None:
    with pytest.raises(EnvironmentFailure) as caught, disk.failures_named("build"):
        raise OSError(code, os.strerror(code))
    assert (caught.value.kind, caught.value.retryable) == (kind, True)
    assert words in caught.value.message
