"""Frames in a stream: whatever pieces it comes in, the frames are those that were written."""

from hypothesis import given
from hypothesis import strategies as st

from keepwarm_wire.codec import FRAME_BYTES_MAX
from keepwarm_wire.streams import FrameSplitter, UnsentFrames, direct_path, framed


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
    splitter = FrameSplitter()
    assert splitter.feed((FRAME_BYTES_MAX).to_bytes(4)) == []
    assert not splitter.is_broken
    splitter = FrameSplitter()
    assert splitter.feed(framed(b"before") + (FRAME_BYTES_MAX + 1).to_bytes(4)) == [b"before"]
    assert splitter.is_broken


def test_after_a_failure_nothing_is_left_to_be_written() -> None:
    """Half a frame has been: whatever came after it would be taken for its other half."""
    unsent = UnsentFrames()
    for frame in (b"one", b"two"):
        unsent.add(frame)
    taken: list[int] = []

    def send(_: memoryview) -> int:
        if taken:
            raise ConnectionResetError
        taken.append(3)
        return 3

    assert not unsent.write(send)
    assert len(unsent) == 0


def test_the_direct_socket_lies_beside_the_local_one() -> None:
    assert direct_path("ipc:///a/s.sock") == "/a/s.sock.direct"
    assert direct_path("tcp://head:7437") == ""
    assert direct_path("ipc:///" + "x" * 99) == "/" + "x" * 99 + ".direct"
    assert direct_path("ipc:///" + "x" * 100) == ""
