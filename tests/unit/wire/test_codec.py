"""The codec's particular cases: frames, tags, splitting, its own error texts, and what it costs."""

import sys
import time
from typing import Any

import msgpack
import pytest

from keepwarm_wire.codec import (
    FRAME_BYTES_MAX,
    FRAME_BYTES_SOFT,
    MESSAGES_PER_FRAME_MAX,
    ProtocolError,
    decode_frame,
    encode_frame,
    encode_frames,
)
from keepwarm_wire.messages import (
    TAGS,
    Cancel,
    Failure,
    InstanceEnded,
    Outcome,
    Phase,
    Reference,
    StatusReply,
    Submit,
)
from support.wire_values import example

SUBMIT_DECODE_US_MAX = 2.0
"""What decoding one ``Submit`` may cost, in microseconds of processor time."""


def pack(*rows: Any) -> bytes:
    """A frame of these rows, whatever they are."""
    frame = msgpack.packb(list(rows))
    assert isinstance(frame, bytes)
    return frame


# ---------------------------------------------------------------- frames


def test_a_frame_is_an_array_of_rows() -> None:
    """The bytes are exactly what the protocol page says."""
    assert encode_frame([Cancel(7)]) == b"\x91\x92\x0c\x07"
    assert decode_frame(b"\x91\x92\x0c\x07") == [Cancel(7)]


def test_an_empty_frame_holds_no_messages() -> None:
    """Nothing said is legal."""
    assert decode_frame(encode_frame([])) == []
    assert encode_frames([]) == [encode_frame([])]


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x91", b"\x92\x92\x0c\x07", b"\x91\x92\x0c\x07\x00", b"\xc0", b"\x80", b"\x0c", b"\xa1x", b"\xc4\x01x"],
    ids=["empty", "cut", "a message short", "a byte long", "nil", "map", "integer", "text", "bytes"],
)
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    """Cut, overlong, or another type altogether."""
    with pytest.raises(ProtocolError):
        decode_frame(frame)


@pytest.mark.parametrize(
    "row",
    [None, 12, "", "Cancel", b"", b"\x0c", {}, {0: 12}, {"0": 12}, [], [[]], [[12], 7], [{}, 7], [None, 7], ["12", 7]],
    ids=repr,
)
def test_what_is_no_row_is_refused(row: Any) -> None:
    """A row is an array that begins with a known tag."""
    with pytest.raises(ProtocolError):
        decode_frame(pack(row))


@pytest.mark.parametrize(
    "tag", [0, -1, 7, 127, 1 << 40, (1 << 64) - 1, False, 0.5, float("nan"), "x", b"x", [12], None]
)
def test_an_unknown_tag_is_refused(tag: Any) -> None:
    """By a short text, whatever the tag is."""
    with pytest.raises(ProtocolError) as caught:
        decode_frame(pack([tag, 7]))
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("extension", [b"\xd4\x01\x00", b"\xd6\xff\x00\x00\x00\x00"], ids=["extension", "timestamp"])
def test_extension_types_are_refused_everywhere(extension: bytes) -> None:
    """Timestamps among them: as a message, a tag, a field, and as a trailing field that would else be ignored."""
    for frame in (b"\x91", b"\x91\x92", b"\x91\x92\x0c", b"\x91\x93\x0c\x07"):
        with pytest.raises(ProtocolError, match="not MessagePack"):
            decode_frame(frame + extension + b"\x07" * (frame == b"\x91\x92"))


def test_one_bad_message_refuses_the_whole_frame() -> None:
    """A frame is taken whole or not at all."""
    with pytest.raises(ProtocolError, match="Cancel"):
        decode_frame(pack([12, 7], [12, -1]))


def test_a_frame_over_the_limit_is_not_parsed() -> None:
    """The size is looked at first, and both sizes are in the text."""
    with pytest.raises(ProtocolError, match=f"{FRAME_BYTES_MAX + 1} bytes, at most {FRAME_BYTES_MAX}"):
        decode_frame(bytes(FRAME_BYTES_MAX + 1))


def test_more_messages_than_a_frame_may_hold_are_refused() -> None:
    """The number of messages is bounded too."""
    assert len(decode_frame(b"\xdd" + MESSAGES_PER_FRAME_MAX.to_bytes(4, "big") + b"\x92\x0c\x07" * 100_000)) == 100_000
    with pytest.raises(ProtocolError):
        decode_frame(b"\xdd" + (MESSAGES_PER_FRAME_MAX + 1).to_bytes(4, "big") + b"\x92\x0c\x07" * 100_001)


def test_a_tag_is_an_integer_also_when_its_schema_is_compiled() -> None:
    """What was decoded before makes no difference to what is refused."""
    decode_frame(pack([12, 7], [1, 1, 1, "", bytes(16), "", 0]))
    for row in ([12.0, 7], [True, 1, 1, "", bytes(16), "", 0]):
        with pytest.raises(ProtocolError):
            decode_frame(pack(row))


def test_a_deeply_nested_tag_is_refused() -> None:
    """The deepest array that the parser takes, in the place of a tag."""
    nested = b"\x91" * 1010 + b"\xc0"
    with pytest.raises(ProtocolError):
        decode_frame(b"\x91\x91" + nested)


@pytest.mark.parametrize("depth", range(0, 1024, 93))
def test_nesting_in_the_place_of_a_field_is_refused(depth: int) -> None:
    """However deep."""
    with pytest.raises(ProtocolError):
        decode_frame(b"\x91\x92\x0c" + b"\x91" * depth + b"\x90")


def test_decoding_works_near_the_end_of_the_stack() -> None:
    """Called with little stack left, the codec may give up; but then in the one way it is allowed to."""

    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
        else:
            decode_frame(b"\x91" * 300 + b"\xc0")

    with pytest.raises(ProtocolError):
        descend(sys.getrecursionlimit() // 2)


# ---------------------------------------------------------------- encoding


@pytest.mark.parametrize("thing", [(12, 7), [12, 7], "Cancel", None, Phase("run", 1), Failure("x", "y")])
def test_only_messages_are_encoded(thing: Any) -> None:
    """Anything else, records without a tag included, is the caller's mistake."""
    with pytest.raises(KeyError):
        encode_frame([thing])


def test_small_messages_share_a_frame() -> None:
    """A turn of the loop makes one frame per peer."""
    batch = [Cancel(number) for number in range(1000)]
    assert encode_frames(batch) == [encode_frame(batch)]


def test_large_messages_are_spread_over_frames() -> None:
    """Forty inline payloads of 64 KiB do not fit one frame of a mebibyte."""
    batch = [Submit(number, 1, 0, False, bytes(65536)) for number in range(40)]
    frames = encode_frames(batch)
    assert all(len(frame) <= FRAME_BYTES_SOFT for frame in frames)
    assert [message for frame in frames for message in decode_frame(frame)] == batch


def test_one_message_over_the_soft_limit_travels_alone() -> None:
    """A document of 16 MiB is legal and is a frame by itself, with its neighbours before and after."""
    batch = [Cancel(1), StatusReply(1, bytes(16 * 1024 * 1024)), Cancel(2)]
    frames = encode_frames(batch)
    assert [decode_frame(frame) for frame in frames] == [[batch[0]], [batch[1]], [batch[2]]]


def test_frames_hold_no_more_messages_than_are_read() -> None:
    """What ``encode_frames`` makes, ``decode_frame`` reads."""
    batch = [Cancel(number) for number in range(MESSAGES_PER_FRAME_MAX + 1)]
    assert [message for frame in encode_frames(batch) for message in decode_frame(frame)] == batch


# ---------------------------------------------------------------- optional and union fields


@pytest.mark.parametrize("result", [b"", b"x" * 65536, Reference(bytes(16), 1 << 40, bytes(32), ("node-1",))])
@pytest.mark.parametrize("failure", [None, Failure("crash", "signal 9")])
def test_optional_and_union_fields_take_each_of_their_types(result: Any, failure: Any) -> None:
    """In every combination: the quick path is for the first type only."""
    for report in (None, example(Outcome, 0).report, example(Outcome, 1).report):
        outcome = Outcome(1, 1, result, failure, report)
        assert decode_frame(encode_frame([outcome])) == [outcome]


def test_defaults_are_filled_in_nested_records() -> None:
    """An older sender's shorter record inside a message is completed like a message."""
    assert decode_frame(pack([67, 1, "died", ["crash", "signal 9"], False])) == [
        InstanceEnded(1, "died", Failure("crash", "signal 9", "", b""), False)
    ]


def test_unknown_fields_in_nested_records_are_ignored() -> None:
    """As in messages."""
    assert decode_frame(pack([67, 1, "died", ["crash", "m", "d", b"e", 1, [2]], False])) == [
        InstanceEnded(1, "died", Failure("crash", "m", "d", b"e"), False)
    ]


def test_a_bad_field_of_a_nested_record_is_named() -> None:
    """The refusal names the outer message and the inner record's field."""
    with pytest.raises(ProtocolError, match=r"InstanceEnded: Failure\.kind is outside 0 to 512"):
        decode_frame(pack([67, 1, "died", ["k" * 513, "m", "", b""], False]))


@pytest.mark.parametrize("cls", TAGS.values(), ids=lambda cls: cls.__name__)
def test_a_bare_tag_is_refused_by_name(cls: type[Any]) -> None:
    """Every message has at least one required field, and its absence names the message."""
    tag = next(tag for tag, known in TAGS.items() if known is cls)
    with pytest.raises(ProtocolError, match=f"{cls.__name__}: 0 fields, needs "):
        decode_frame(pack([tag]))


# ---------------------------------------------------------------- cost


def test_decoding_submits_is_quick() -> None:
    """A hundred ``Submit`` in one frame: at most two microseconds of processor time each, at the best of twenty."""
    frame = encode_frame([Submit(number, 1, 0, False, bytes(200)) for number in range(100)])
    rounds = 20
    best_s = float("inf")
    for _ in range(20):
        started_s = time.process_time()
        for _ in range(rounds):
            decode_frame(frame)
        best_s = min(best_s, time.process_time() - started_s)
    each_us = best_s / rounds / 100 * 1e6
    assert each_us <= SUBMIT_DECODE_US_MAX, f"{each_us:.2f} us per Submit"
