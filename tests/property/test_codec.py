"""The codec under anything: every legal message comes back as it was, and no bytes raise but ``ProtocolError``."""

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example as with_example
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_wire.codec import FRAME_BYTES_SOFT, ProtocolError, decode_frame, encode_frame, encode_frames
from keepwarm_wire.messages import TAGS, PayloadChunk
from support.fuzz import BLOCK, batter
from support.mutations import CLAIMS
from support.strategies import frames, message_of, messages, msgpack_values
from support.wire_values import example, row_of

MEBIBYTE = 1024 * 1024

CLAIM_PEAK_MAX = 64 * MEBIBYTE
"""What a frame that merely claims to be large may cost while it is refused."""

MUTATION_SEED = 20_240_607
MUTATED_FRAMES = 400_000
MUTATED_FRAMES_LONG = 10_000_000

by_class = pytest.mark.parametrize("cls", TAGS.values(), ids=lambda cls: cls.__name__)


def verdict(frame: bytes) -> list[Any] | None:
    """Decode; None when the frame is refused in the one allowed way."""
    try:
        return decode_frame(frame)
    except ProtocolError:
        return None


def pack(*rows: Any) -> bytes:
    """A frame of these rows, whatever they are."""
    frame = msgpack.packb(list(rows))
    assert isinstance(frame, bytes)
    return frame


# ---------------------------------------------------------------- legal messages


@by_class
@given(data=st.data())
def test_every_message_comes_back_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    """Encoding and decoding gives an equal message of the same class, nested records included."""
    message = data.draw(message_of(cls))
    [decoded] = decode_frame(encode_frame([message]))
    assert type(decoded) is cls
    assert decoded == message
    assert repr(decoded) == repr(message), "a nested record came back as a plain tuple"


@given(frames())
def test_a_frame_keeps_the_order_of_its_messages(batch: list[Any]) -> None:
    """Many messages in one frame come back in the same order."""
    assert decode_frame(encode_frame(batch)) == batch


@given(message=messages(), extra=st.lists(msgpack_values(maps=False), min_size=1, max_size=4))
def test_unknown_trailing_fields_are_ignored(message: Any, extra: list[Any]) -> None:
    """What a newer peer appends to a message, of whatever type, changes nothing for us."""
    assert decode_frame(pack([*row_of(message), *extra])) == [message]


@given(messages())
def test_missing_fields_are_refused_or_filled(message: Any) -> None:
    """A row cut anywhere is refused while a field without a default is missing, else its defaults are filled in."""
    row = row_of(message)
    required = len(message._fields) - len(message._field_defaults)
    for kept in range(len(message)):
        frame = pack(row[: kept + 1])
        if kept < required:
            with pytest.raises(ProtocolError, match=type(message).__name__):
                decode_frame(frame)
        else:
            assert decode_frame(frame) == [type(message)(*message[:kept])]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12))
def test_frames_are_split_by_size_and_keep_their_order(pieces: list[tuple[int, int]]) -> None:
    """Frames stay within the soft limit unless a single message is larger; together they hold everything in order."""
    batch = [PayloadChunk(bytes(16), at, bytes([fill]) * (kib * 1024)) for at, (kib, fill) in enumerate(pieces)]
    encoded = encode_frames(batch)
    decoded = [decode_frame(frame) for frame in encoded]
    assert [message for part in decoded for message in part] == batch
    assert all(len(frame) <= FRAME_BYTES_SOFT or len(part) == 1 for frame, part in zip(encoded, decoded, strict=True))
    total = sum(map(len, encoded))
    assert total > FRAME_BYTES_SOFT or len(encoded) == 1, "small messages share one frame"
    assert len(encoded) <= 4 * (total // FRAME_BYTES_SOFT) + 1, "frames are not cut finer than halving makes them"


# ---------------------------------------------------------------- anything else


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_or_decoded(frame: bytes) -> None:
    """No bytes raise anything but ``ProtocolError``."""
    verdict(frame)


@given(msgpack_values())
def test_arbitrary_msgpack_is_refused_or_decoded(value: Any) -> None:
    """Nor does any well-formed MessagePack."""
    verdict(pack(value))
    frame = msgpack.packb(value)
    verdict(frame)


@given(tag=st.sampled_from(sorted(TAGS)), fields=st.lists(msgpack_values(), max_size=12))
@with_example(tag=11, fields=[float("nan")] * 5)
@with_example(tag=11, fields=[1 << 63, 1, 0, False, b""])
def test_any_fields_under_a_real_tag_are_refused_or_legal(tag: int, fields: list[Any]) -> None:
    """What is decoded from arbitrary fields is a message that would itself survive the journey."""
    decoded = verdict(pack([tag, *fields]))
    if decoded is not None:
        assert type(decoded[0]) is TAGS[tag]
        assert decode_frame(encode_frame(decoded)) == decoded


@given(message=messages(), data=st.data(), junk=msgpack_values())
def test_one_foreign_field_is_refused_or_legal(message: Any, data: st.DataObject, junk: Any) -> None:
    """The same, starting from a legal message with one field replaced."""
    row = row_of(message)
    row[data.draw(st.integers(0, len(row) - 1))] = junk
    decoded = verdict(pack(row))
    if decoded is not None:
        assert decode_frame(encode_frame(decoded)) == decoded


def batter_blocks(seed: int, count: int) -> int:
    """Decode ``count`` mutated frames; returns how many were refused. Fails naming seed, block, number and bytes."""
    return sum(batter(seed, number).refused for number in range(count // BLOCK))


def test_mutated_frames_raise_nothing_but_protocol_errors() -> None:
    """Four hundred thousand real frames with flipped bits, cuts, splices, other headers and foreign values."""
    refused = batter_blocks(MUTATION_SEED, MUTATED_FRAMES)
    assert MUTATED_FRAMES // 2 < refused < MUTATED_FRAMES, "the mutations must neither all miss nor all break"


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_mutated_frames_raise_nothing_but_protocol_errors() -> None:
    """The same for ten million frames, with another seed. ``python -m support.fuzz`` goes on from there."""
    batter_blocks(MUTATION_SEED + 1, MUTATED_FRAMES_LONG)


@given(message=messages(), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_gives_a_legal_frame_or_a_refusal(message: Any, at: int, bit: int) -> None:
    """Whatever one flipped bit turns a message into, what is decoded stays within every limit."""
    frame = bytearray(encode_frame([message]))
    frame[at % len(frame)] ^= 1 << bit
    decoded = verdict(bytes(frame))
    if decoded is not None:
        assert decode_frame(encode_frame(decoded)) == decoded


# ---------------------------------------------------------------- memory


def peak_of(frame: bytes) -> int:
    """The most memory that decoding this frame held at once beyond the frame itself; it must be refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode_frame(frame)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("frame", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_claim_costs_little_memory(frame: bytes) -> None:
    """Lengths and depths that are claimed and not sent are refused without being paid for."""
    assert peak_of(frame) < CLAIM_PEAK_MAX


def test_the_deepest_nest_of_claims_costs_bounded_memory() -> None:
    """Arrays nested to the parser's own limit, each claiming the frame's length: the cost does not grow with it.

    The parser prepares about 80 KB for each of at most 1024 open arrays: 79 MiB, for any frame from 64 KB up.
    """
    for size in (MEBIBYTE, 8 * MEBIBYTE):
        padding = b"\x92\xc6" + size.to_bytes(4, "big") + bytes(size)
        nest = (b"\xdd" + size.to_bytes(4, "big")) * 1000
        assert peak_of(padding + nest) - size < 96 * MEBIBYTE


@pytest.mark.parametrize(
    "filler", [b"\xc0", b"\x90", b"\x91\xc0", b"\xa0"], ids=["nil", "array", "array of nil", "text"]
)
def test_small_values_cost_memory_in_proportion(filler: bytes) -> None:
    """A megabyte of the smallest values, all really sent, costs at most 40 times itself."""
    count = MEBIBYTE // len(filler)
    frame = b"\x91\xdd" + count.to_bytes(4, "big") + filler * count
    assert peak_of(frame) < 40 * len(frame)


def test_maps_cost_memory_in_proportion() -> None:
    """No message holds a map, so a megabyte of empty maps should cost no more than other refused values."""
    frame = b"\x91\xdd" + MEBIBYTE.to_bytes(4, "big") + b"\x80" * MEBIBYTE
    assert peak_of(frame) < 40 * len(frame)


def test_example_of_the_largest_message_is_refused_only_by_size() -> None:
    """A chunk at its limit passes; one byte more is refused by name."""
    chunk = example(PayloadChunk)._replace(data=bytes(MEBIBYTE))
    assert decode_frame(encode_frame([chunk])) == [chunk]
    with pytest.raises(ProtocolError, match=r"PayloadChunk\.data"):
        decode_frame(encode_frame([chunk._replace(data=bytes(MEBIBYTE + 1))]))
