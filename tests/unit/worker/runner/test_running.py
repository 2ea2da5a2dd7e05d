"""The board that says what runs: what is written is read, a torn one is looked at again, and then not believed."""

import os
from collections.abc import Iterator

import pytest

from keepwarm_worker.runner.running import _LAYOUT, BOARD_BYTES, RunningBoard


@pytest.fixture
def boards() -> Iterator[tuple[RunningBoard, RunningBoard]]:
    """The runner's and the agent's: one memory, mapped twice, its descriptor closed."""
    descriptor = os.memfd_create("board")
    os.ftruncate(descriptor, BOARD_BYTES)
    mine, theirs = RunningBoard(descriptor), RunningBoard(descriptor)
    os.close(descriptor)
    yield mine, theirs
    mine.close()
    theirs.close()


def test_an_empty_board_says_that_nothing_has_begun(boards: tuple[RunningBoard, RunningBoard]) -> None:
    assert boards[1].read() == (0, 0)


def test_what_begins_is_seen_with_its_time(boards: tuple[RunningBoard, RunningBoard]) -> None:
    writer, reader = boards
    writer.begin(1 << 60)
    first = reader.read()
    writer.begin((1 << 60) + 1)
    second = reader.read()
    assert (first[0], second[0]) == (1 << 60, (1 << 60) + 1)
    assert 0 < first[1] <= second[1]


def test_a_board_that_user_code_has_scribbled_on_says_nothing(boards: tuple[RunningBoard, RunningBoard]) -> None:
    writer, reader = boards
    writer.begin(7)
    _LAYOUT.pack_into(writer._memory, 0, 7, 1, 8)
    assert reader.read() == (0, 0)
