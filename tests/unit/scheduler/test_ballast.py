"""The ballast takes up room while there is some, gives it up when asked, and takes it again later."""

from pathlib import Path

import pytest

from keepwarm_scheduler.ballast import Ballast

SIZE_BYTES = 64 * 1024


class Clock:
    """A clock that stands still until it is moved."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def is_held(ballast: Ballast) -> bool:
    """Asked anew each time."""
    return ballast.is_held


def allocated_bytes(folder: Path) -> int:
    """The room that the ballast takes up."""
    file = folder / "ballast"
    return file.stat().st_blocks * 512 if file.exists() else 0


def test_it_takes_up_its_room_and_gives_it_up_once(tmp_path: Path, clock: Clock) -> None:
    """Blocks of the disk, not only a size."""
    ballast = Ballast(tmp_path, SIZE_BYTES, clock)
    assert not is_held(ballast)
    ballast.hold()
    assert is_held(ballast)
    assert allocated_bytes(tmp_path) >= SIZE_BYTES
    assert ballast.give_up()
    assert not ballast.give_up()
    assert not is_held(ballast)
    assert allocated_bytes(tmp_path) == 0


def test_it_is_found_again_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    """Also when there is no room at that moment."""
    Ballast(tmp_path, SIZE_BYTES, clock).hold()
    assert Ballast(tmp_path, SIZE_BYTES, clock).give_up()


def test_a_ballast_of_another_size_is_replaced(tmp_path: Path, clock: Clock) -> None:
    """It does not count as held until it has its size."""
    Ballast(tmp_path, SIZE_BYTES // 2, clock).hold()
    ballast = Ballast(tmp_path, SIZE_BYTES, clock)
    assert not is_held(ballast)
    ballast.hold()
    assert allocated_bytes(tmp_path) >= SIZE_BYTES


def test_what_was_given_up_is_not_taken_again_at_once(tmp_path: Path, clock: Clock) -> None:
    """It was needed: others come first for a while."""
    ballast = Ballast(tmp_path, SIZE_BYTES, clock)
    ballast.hold()
    ballast.give_up()
    ballast.hold()
    assert not is_held(ballast)
    clock.now_s += 60
    ballast.hold()
    assert is_held(ballast)


def test_where_there_is_no_room_nothing_is_left_in_the_way(tmp_path: Path, clock: Clock) -> None:
    """A directory that is gone stands for a full disk here; the tests on several hosts fill a real one."""
    ballast = Ballast(tmp_path / "gone", SIZE_BYTES, clock)
    ballast.hold()
    assert not is_held(ballast)
    assert not ballast.give_up()
