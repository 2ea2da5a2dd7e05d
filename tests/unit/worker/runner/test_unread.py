"""Whether something printed is still in its pipe, asked of descriptors that user code does not know."""

import os

from keepwarm_worker.runner.unread import Outputs, unread_bytes


def test_what_is_in_a_pipe_is_counted_at_either_end() -> None:
    read_fd, write_fd = os.pipe()
    assert unread_bytes(read_fd) == 0
    os.write(write_fd, b"x" * 300)
    assert unread_bytes(read_fd) == unread_bytes(write_fd) == 300
    os.close(read_fd)
    os.close(write_fd)


def test_what_is_no_pipe_holds_nothing() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    assert unread_bytes(descriptor) == 0
    os.close(descriptor)
    assert unread_bytes(descriptor) == 0


def test_outputs_are_looked_at_even_after_they_were_closed_by_others() -> None:
    first, second = os.pipe(), os.pipe()
    outputs = Outputs((first[1], second[1], 9_999))
    os.write(second[1], b"\n" * 256)
    os.close(first[1])
    os.close(second[1])
    assert outputs.are_unread()
    os.read(second[0], 1_000)
    assert not outputs.are_unread()
    for descriptor in (first[0], second[0], *outputs._own):
        os.close(descriptor)
