"""The frames of a loan as the client has them: the same bytes as the runner's, and safe to read whatever they are."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm import loan_frames
from keepwarm.loan_frames import FrameError, Outcome, Piece, Recalled, call_frame, cancel_frame, read, recall_frame
from keepwarm_worker.runner import frames

NUMBERS = st.integers(0, 2**64 - 1)
DIGESTS = st.binary(min_size=32, max_size=32)
TEXTS = st.text(max_size=40)
INLINE = st.binary(max_size=200) | st.sampled_from([b"", b"x" * frames.INLINE_LIMIT_BYTES])
STORED = st.builds(frames.Stored, TEXTS, NUMBERS, DIGESTS)
PAYLOADS = INLINE | STORED
DONE = st.builds(frames.Done, NUMBERS, NUMBERS, st.booleans(), PAYLOADS)
RESULT = st.builds(
    frames.Result,
    NUMBERS,
    st.integers(0, 255),
    TEXTS,
    PAYLOADS,
    NUMBERS,
    NUMBERS,
    TEXTS,
    TEXTS,
    TEXTS,
    TEXTS,
    st.booleans(),
)
PIECE = st.builds(frames.Piece, INLINE)
RECALLED = st.builds(frames.Recalled, NUMBERS)
SAID = st.lists(DONE | RESULT | PIECE | RECALLED, max_size=6)

Said = frames.Done | frames.Result | frames.Piece | frames.Recalled
Frames = list[Outcome | Piece | Recalled]


def read_all(data: bytes) -> Frames:
    found: Frames = []
    assert read(data, found) == b""
    return found


def as_ours(said: Said) -> Outcome | Piece | Recalled:
    """What the client is to make of a frame of the runner's."""
    if isinstance(said, frames.Recalled):
        return Recalled(said.attempt)
    if isinstance(said, frames.Piece):
        assert isinstance(said.data, bytes)
        return Piece(said.data)
    is_stored = isinstance(said.payload, frames.Stored)
    payload = None if isinstance(said.payload, frames.Stored) else said.payload
    size = said.payload.size if isinstance(said.payload, frames.Stored) else len(said.payload)
    assert is_stored == (payload is None)
    if isinstance(said, frames.Done):
        return Outcome(said.attempt, said.run_us, said.printed, payload, size)
    texts = (said.kind, said.type_name, said.message, said.traceback)
    return Outcome(said.attempt, said.run_us, said.printed, payload, size, said.status, *texts)


@given(NUMBERS, DIGESTS, INLINE)
def test_a_call_has_the_runners_bytes(number: int, version: bytes, arguments: bytes) -> None:
    assert call_frame(number, version, arguments) == frames.encode(
        frames.Call(number, version, frames.QUIET, arguments)
    )


@given(NUMBERS)
def test_what_is_asked_on_the_other_connection_has_the_runners_bytes(number: int) -> None:
    assert cancel_frame(number) == frames.encode(frames.Cancel(number))
    assert recall_frame(number) == frames.encode(frames.Recall(number))


@given(SAID)
def test_everything_that_a_runner_says_is_read(said: list[Said]) -> None:
    assert read_all(b"".join(map(frames.encode, said))) == list(map(as_ours, said))


@given(SAID, st.lists(st.integers(0, 1000), max_size=8))
def test_where_the_bytes_are_cut_makes_no_difference(said: list[Said], cuts: list[int]) -> None:
    data = b"".join(map(frames.encode, said))
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found: Frames = []
    rest = b""
    for start, end in pairwise(places):
        rest = read(rest + data[start:end], found)
    assert (rest, found) == (b"", list(map(as_ours, said)))


def test_the_limits_are_the_runners() -> None:
    assert loan_frames.BODY_BYTES_MAX == frames.MAX_BODY_BYTES
    assert loan_frames.INLINE_BYTES_MAX == frames.INLINE_LIMIT_BYTES
    assert loan_frames.QUIET == frames.QUIET


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_any_bytes_give_frames_or_an_error(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    found: Frames = []
    rest = b""
    try:
        for start, end in pairwise(places):
            rest = read(rest + data[start:end], found)
            assert len(rest) < loan_frames.BODY_BYTES_MAX + 5
    except FrameError:
        return
    assert sum(len(each.data) for each in found if isinstance(each, Piece)) <= len(data)


@given(
    DONE | RESULT | PIECE | RECALLED,
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_frame_gives_frames_or_an_error(said: Said, damage: list[tuple[int, int]]) -> None:
    data = bytearray(frames.encode(said))
    for place, value in damage:
        data[place % min(len(data), 200)] = value
    found: Frames = []
    try:
        rest = read(bytes(data), found)
    except FrameError:
        return
    assert len(rest) <= len(data)


@given(st.integers(0, 255), st.binary(max_size=120))
def test_a_whole_frame_is_never_waited_for(code: int, body: bytes) -> None:
    found: Frames = []
    try:
        rest = read(len(body).to_bytes(4, "big") + bytes([code]) + body, found)
    except FrameError:
        return
    assert rest == b""
    assert len(found) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\x15",
        (frames.MAX_BODY_BYTES + 1).to_bytes(4, "big") + b"\x15",
        frames.encode(frames.Cancel(1)),
        frames.encode(frames.Started(1, setup=False)),
        frames.encode(frames.Call(1, bytes(32), 0, b"")),
        frames.encode(frames.Piece(frames.Stored("name", 1, bytes(32)))),
        b"\x00\x00\x00\x09\x14" + bytes(9),
        b"\x00\x00\x00\x07\x14" + bytes(7),
    ],
    ids=["huge", "too large", "ours", "an agent's", "a call", "a piece in a file", "left over", "too short"],
)
def test_what_a_lent_process_cannot_say_is_an_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        read(data, [])


def test_a_size_over_the_limit_is_refused_before_its_bytes_are_waited_for() -> None:
    assert read(frames.MAX_BODY_BYTES.to_bytes(4, "big") + b"\x15", []) != b""
    with pytest.raises(FrameError):
        read((frames.MAX_BODY_BYTES + 1).to_bytes(4, "big") + b"\x15", [])


def test_frames_before_the_damage_are_there() -> None:
    found: Frames = []
    with pytest.raises(FrameError):
        read(frames.encode(frames.Recalled(3)) + frames.encode(frames.Exit()), found)
    assert found == [Recalled(3)]
