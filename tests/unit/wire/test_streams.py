"""Frames in a stream: whatever pieces it comes in, the frames are those that were written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_wire.codec import FRAME_BYTES_MAX, ProtocolError
from keepwarm_wire.streams import FrameSplitter, direct_path, framed


@given(st.lists(st.binary(max_size=40), max_size=12), st.data())
def test_frames_do_not_depend_on_how_the_stream_is_cut(frames: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(framed, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    splitter = FrameSplitter()
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if start < stop:
            found += splitter.feed(stream[start:stop])
    assert found == frames


def test_byte_by_byte() -> None:
    splitter = FrameSplitter()
    stream = framed(b"one") + framed(b"") + framed(b"three")
    assert [frame for byte in stream for frame in splitter.feed(bytes([byte]))] == [b"one", b"", b"three"]


def test_the_longest_frame_is_read_and_a_longer_one_is_refused_before_it_comes() -> None:
    assert FrameSplitter().feed((FRAME_BYTES_MAX).to_bytes(4)) == []
    with pytest.raises(ProtocolError, match="at most"):
        FrameSplitter().feed((FRAME_BYTES_MAX + 1).to_bytes(4))


def test_the_direct_socket_lies_beside_the_local_one() -> None:
    assert direct_path("ipc:///a/s.sock") == "/a/s.sock.direct"
    assert direct_path("tcp://head:7437") == ""
