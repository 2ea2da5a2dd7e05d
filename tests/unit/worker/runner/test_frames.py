"""Frames survive the journey however they are cut; other bytes give frames or one defined error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_worker.runner import frames

U8 = st.integers(0, 2**8 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
DIGEST = st.binary(min_size=32, max_size=32)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
PAYLOAD = st.one_of(st.binary(max_size=200), st.builds(frames.Stored, TEXT, U64, DIGEST))
FRAME: st.SearchStrategy[frames.Frame] = st.one_of(
    st.builds(frames.Load, DIGEST, TEXT, TEXT, PAYLOAD),
    st.builds(frames.Call, U64, DIGEST, U8, PAYLOAD),
    st.builds(frames.Drained),
    st.builds(frames.Exit),
    st.builds(frames.Cancel, U64),
    st.builds(frames.Timeout, U64),
    st.builds(frames.Recall, U64),
    st.builds(frames.Hello, U32, TEXT, TEXT, TEXT),
    st.builds(frames.Started, U64, st.booleans()),
    st.builds(frames.SetupDone, U64, U64),
    st.builds(frames.Done, U64, U64, st.booleans(), PAYLOAD),
    st.builds(frames.Result, U64, U8, TEXT, PAYLOAD, U64, U64, TEXT, TEXT, TEXT, TEXT, st.booleans()),
    st.builds(frames.Recalled, U64),
)


def fed(data: bytes, sizes: list[int]) -> list[frames.Frame]:
    """What a decoder makes of a stream that is cut into pieces of these sizes, the rest in one."""
    decoder = frames.FrameDecoder()
    received = []
    for size in sizes:
        received += decoder.feed(data[:size])
        data = data[size:]
    return received + decoder.feed(data)


@given(st.lists(FRAME, max_size=5), st.lists(st.integers(0, 60), max_size=20))
def test_frames_survive_the_journey(sent: list[frames.Frame], sizes: list[int]) -> None:
    """All of them, in order, with their types, however the stream is cut."""
    received = fed(b"".join(map(frames.encode, sent)), sizes)
    assert received == sent
    assert [type(frame) for frame in received] == [type(frame) for frame in sent]


@given(st.binary(max_size=200), st.lists(st.integers(0, 60), max_size=5))
def test_hostile_bytes_give_frames_or_one_error(data: bytes, sizes: list[int]) -> None:
    """Nothing else is ever raised."""
    try:
        received = fed(data, sizes)
    except frames.FrameError:
        return
    assert all(frames.encode(frame) for frame in received)


@given(FRAME, st.data())
def test_a_damaged_frame_is_an_error_or_another_frame(frame: frames.Frame, data: st.DataObject) -> None:
    """One byte changed anywhere: a strict decoder reads back exactly what it accepts."""
    encoded = bytearray(frames.encode(frame))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        received = fed(bytes(encoded), [])
    except frames.FrameError:
        return
    again = b"".join(map(frames.encode, received))
    assert bytes(encoded).startswith(again)


def test_an_oversized_frame_is_refused_by_its_header() -> None:
    """Before any of its body has come."""
    header = (frames.MAX_BODY_BYTES + 1).to_bytes(4, "big") + b"\x04"
    with pytest.raises(frames.FrameError, match="over the limit"):
        frames.FrameDecoder().feed(header)


def test_a_broken_stream_stays_broken() -> None:
    """A decoder that lost its place does not find a frame in what follows."""
    decoder = frames.FrameDecoder()
    with pytest.raises(frames.FrameError, match="unknown frame type"):
        decoder.feed(b"\x00\x00\x00\x00\xff")
    with pytest.raises(frames.FrameError, match="earlier"):
        decoder.feed(frames.encode(frames.Exit()))


@pytest.mark.parametrize(
    "frame",
    [
        frames.Cancel(2**64),
        frames.Cancel(-1),
        frames.Load(b"short", "pickle", "f", b""),
        frames.Load(bytes(32), "pickle", "\udc80", b""),
        frames.Call(1, bytes(32), 0, bytes(frames.INLINE_LIMIT_BYTES + 1)),
        frames.Load(bytes(32), "pickle", "n" * frames.MAX_BODY_BYTES, b""),
    ],
    ids=["above", "below", "digest", "surrogate", "inline", "body"],
)
def test_what_does_not_fit_is_refused_when_it_is_encoded(frame: frames.Frame) -> None:
    """The sender's fault is found at the sender."""
    with pytest.raises(frames.FrameError):
        frames.encode(frame)


def test_a_body_with_a_byte_too_many_or_too_few_is_refused() -> None:
    """Both ends are of one build: there is nothing to be lenient about."""
    body = frames.encode(frames.Cancel(7))[5:]
    for wrong in (body[:-1], body + b"\x00"):
        with pytest.raises(frames.FrameError):
            frames.FrameDecoder().feed(len(wrong).to_bytes(4, "big") + b"\x04" + wrong)


def test_an_inline_payload_over_the_limit_is_refused_when_it_is_decoded() -> None:
    """Also where the frame as a whole would fit."""
    size = frames.INLINE_LIMIT_BYTES + 1
    body = bytes(8 + 32 + 1) + b"\x00" + size.to_bytes(4, "big") + bytes(size)
    with pytest.raises(frames.FrameError, match="inline"):
        frames.FrameDecoder().feed(len(body).to_bytes(4, "big") + b"\x02" + body)


@pytest.mark.parametrize(
    ("implementation", "minor", "tag"),
    [
        ("cpython", 11, "cloudpickle:cp311"),
        ("pypy", 10, "cloudpickle:pp310"),
        ("graalpy", 11, "cloudpickle:graalpy311"),
    ],
)
def test_codec_tags(implementation: str, minor: int, tag: str) -> None:
    """One tag per implementation and minor version."""
    assert frames.codec_tag(implementation, 3, minor) == tag


@given(
    st.one_of(
        st.builds(frames.Call, U64, st.binary(min_size=32, max_size=32), U8, st.binary(max_size=100)),
        st.builds(frames.Done, U64, U64, st.booleans(), st.binary(max_size=100)),
    )
)
def test_common_frames_have_the_bytes_that_the_tables_say(frame: frames.Call | frames.Done) -> None:
    """The short way of making and reading them is only faster."""
    code, writers = frames._ENCODERS[type(frame)]
    body = b"".join(write(value) for write, value in zip(writers, frame, strict=True))
    encoded = frames.encode(frame)
    assert encoded == len(body).to_bytes(4, "big") + bytes([code]) + body
    assert fed(encoded, []) == [frame] == [frames._decode(code, body)]
    assert type(fed(encoded, [])[0]) is type(frame)
    if isinstance(frame, frames.Done):
        assert isinstance(frame.payload, bytes)
        assert frames.encode_inline_done(frame.attempt, frame.run_us, frame.printed, frame.payload) == encoded


def test_a_flag_of_a_common_frame_is_checked() -> None:
    """Whatever way it is read."""
    encoded = bytearray(frames.encode(frames.Done(1, 2, True, b"x")))
    encoded[encoded.index(b"\x01\x00\x00\x00\x00\x01x")] = 2
    with pytest.raises(frames.FrameError, match="a flag of value 2"):
        fed(bytes(encoded), [])
