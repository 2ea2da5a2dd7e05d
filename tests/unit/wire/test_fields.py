"""The limits of fields: taken exactly at each limit, refused one step outside, refused in any other type."""

from typing import Any, get_args

import msgpack
import pytest

from keepwarm_wire import fields
from keepwarm_wire.codec import FRAME_BYTES_MAX, ProtocolError, decode_frame, encode_frame
from keepwarm_wire.messages import TAGS, AgentBeat, ClientBeatReply, StatusReply
from support.wire_values import BadValue, bad_values, edge_values, example, row_of

by_class = pytest.mark.parametrize("cls", TAGS.values(), ids=lambda cls: cls.__name__)


def refusal(cls: type[Any], index: int, value: Any, seed: int = 0) -> str:
    """What the codec says to a message with this field replaced on the wire; fails if it takes it."""
    row = row_of(example(cls, seed))
    row[index + 1] = value
    with pytest.raises(ProtocolError) as caught:
        decode_frame(msgpack.packb([row]))
    return str(caught.value)


@by_class
def test_values_at_the_limits_are_taken(cls: type[Any]) -> None:
    """Limits are inclusive at both ends."""
    for index, value in edge_values(cls):
        row = row_of(example(cls))
        row[index + 1] = value
        [message] = decode_frame(msgpack.packb([row]))
        assert message[index] == value


@by_class
def test_values_beyond_the_limits_and_of_other_types_are_refused(cls: type[Any]) -> None:
    """Every field of every message, also inside nested records, whichever member its unions hold."""
    cases = list(bad_values(cls))
    assert cases
    for case in cases:
        for seed in (0, 1):
            assert refusal(case.cls, case.field, case.value, seed)


def _named(case: BadValue, text: str) -> bool:
    return case.cls.__name__ in text


@by_class
def test_a_refusal_names_the_message(cls: type[Any]) -> None:
    """Whoever reads the log knows which message was wrong; elements of arrays may name their own record instead."""
    for case in bad_values(cls):
        if case.why != "element" and not isinstance(case.value, list | dict):
            # The types of all other fields are as usual (seed 0 has no optional field filled in).
            text = refusal(case.cls, case.field, case.value)
            assert _named(case, text), f"{case.label}: {text}"


@by_class
def test_a_refused_number_names_its_field(cls: type[Any]) -> None:
    """For a message of the usual types, a value outside the limits is reported with field and limits."""
    usual = [value for value in (example(cls, seed) for seed in (0, 1)) if _is_usual(value)]
    for message in usual[:1]:
        for case in bad_values(cls):
            if case.why == "bounds" and type(case.value) is type(message[case.field]):
                row = row_of(message)
                row[case.field + 1] = case.value
                with pytest.raises(
                    ProtocolError, match=rf"{cls.__name__}\.{cls._fields[case.field]} is outside -?\d+ to"
                ):
                    decode_frame(msgpack.packb([row]))


def _is_usual(message: Any) -> bool:
    """Whether no optional field is filled in and no payload is a reference: the codec's quick path."""
    return not any(
        (value is not None and name in ("failure", "report")) or (type(value).__name__ == "Reference")
        for name, value in zip(message._fields, message, strict=True)
    )


def test_documents_are_bounded() -> None:
    """The largest field, tried with itself plus one byte: refused by its limit, not by the frame's."""
    reply = StatusReply(1, bytes(fields.DOCUMENT_BYTES_MAX))
    assert decode_frame(encode_frame([reply])) == [reply]
    with pytest.raises(ProtocolError, match=r"StatusReply\.document is outside 0 to 16777216"):
        decode_frame(encode_frame([StatusReply(1, bytes(fields.DOCUMENT_BYTES_MAX + 1))]))


def test_collections_are_bounded() -> None:
    """A hundred thousand elements are taken, one more is not."""
    most = ClientBeatReply(1, tuple(range(fields.COLLECTION_MAX)), 0)
    assert decode_frame(encode_frame([most])) == [most]
    with pytest.raises(ProtocolError, match="array longer than 100000"):
        decode_frame(encode_frame([most._replace(missing=(*most.missing, 1))]))


def test_text_is_counted_in_characters_and_stays_below_the_frame() -> None:
    """Four-byte characters are allowed up to the same count."""
    message = example(TAGS[22])._replace(detail="\U0001f525" * 8192)
    assert decode_frame(encode_frame([message])) == [message]


def test_every_single_value_fits_a_frame() -> None:
    """No limit of one field is so wide that its message could never be read."""
    largest = max(
        bounds.high
        for name in ("Id", "Digest", "Name", "Sentence", "Long", "Inline", "Chunk", "Document")
        for bounds in get_args(getattr(fields, name))[1:]
    )
    assert largest == fields.DOCUMENT_BYTES_MAX < FRAME_BYTES_MAX


def test_forever_is_the_longest_duration() -> None:
    """*No end* is itself a legal duration, and the largest; a float holds it exactly."""
    assert get_args(fields.Duration)[1].high == fields.FOREVER_US
    assert int(float(fields.FOREVER_US)) == fields.FOREVER_US


def test_all_names_are_exported() -> None:
    """``__all__`` of the fields module names things that exist."""
    assert all(hasattr(fields, name) for name in fields.__all__)


def test_bad_values_reach_every_field() -> None:
    """The generator of bad values is itself complete: each field of a large message has at least one."""
    reached = {case.field for case in bad_values(AgentBeat)}
    assert reached == set(range(len(AgentBeat._fields)))
