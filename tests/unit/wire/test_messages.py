"""The table of messages: complete, unambiguous, and never at odds with what earlier releases have sent.

Adding a message or a field: append it in ``messages.py``, run this file, and append the line that the failing test
prints to ``golden/protocol-1.json`` (a comma after the line before). Lines are only ever appended: a line that is
edited or removed is a peer that will not be understood. A protocol number of its own gets a file of its own.
"""

from pathlib import Path
from typing import Any

import pytest

from keepwarm_wire import messages as wire_messages
from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.fields import Bounds
from keepwarm_wire.messages import TAGS, Status
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN
from support.golden import Golden, as_line, meaning_of, read_golden
from support.wire_values import example, records

GOLDEN_FOLDER = Path(__file__).parent / "golden"
GOLDEN = read_golden(GOLDEN_FOLDER / "protocol-1.json")

PARTS = {
    "CallReport",
    "DetachedEntry",
    "EnvironmentState",
    "Failure",
    "FunctionLease",
    "FunctionOptions",
    "InstanceState",
    "KeyEntry",
    "NodeLoad",
    "Pair",
    "Phase",
    "Quantity",
    "Reference",
    "RetryLimits",
    "RunningAttempt",
}
"""Records that messages are made of: they travel inside messages only and have no tag."""

each_golden = pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: f"{entry.tag}-{entry.name}")


def test_no_class_has_two_tags() -> None:
    """A message is sent under one tag."""
    assert len(set(TAGS.values())) == len(TAGS)


def test_tags_are_written_once_and_fit_one_byte() -> None:
    """A tag repeated in the table's source would silently replace the earlier one; small ones travel as one byte."""
    source = Path(wire_messages.__file__).read_text(encoding="utf-8")
    table = source[source.index("TAGS: dict") :]
    written = [line.split(":")[0].strip() for line in table.splitlines() if line.startswith("    ") and ":" in line]
    assert sorted(written, key=int) == [str(tag) for tag in sorted(TAGS)]
    assert all(0 < tag < 128 for tag in TAGS)


def test_every_record_is_a_message_or_a_known_part_of_one() -> None:
    """A NamedTuple that was written and not put into ``TAGS`` cannot be sent."""
    tagged = {cls.__name__ for cls in TAGS.values()}
    assert {cls.__name__ for cls in records()} == tagged | PARTS
    assert not tagged & PARTS


def test_every_record_says_what_it_is() -> None:
    """The messages module is the reference: each record has a docstring of its own, not NamedTuple's."""
    for cls in records():
        assert cls.__doc__, cls
        assert not cls.__doc__.startswith(f"{cls.__name__}("), f"{cls.__name__} has no docstring"


def test_fields_with_defaults_are_legal_when_filled_in() -> None:
    """A default must pass the codec itself: it is what a receiver fills in for an older sender."""
    for cls in TAGS.values():
        for name, value in cls._field_defaults.items():
            message = example(cls)._replace(**{name: value})
            assert decode_frame(encode_frame([message])) == [message]


def test_every_tag_has_a_golden_frame() -> None:
    """Each message has its example on record; the failure shows the lines to append."""
    recorded = {entry.tag for entry in GOLDEN}
    missing = [as_line(example(cls)) for tag, cls in TAGS.items() if tag not in recorded]
    assert not missing, "append to golden/protocol-1.json:\n" + ",\n".join(missing)


def test_every_width_of_a_message_has_a_golden_frame() -> None:
    """A message that has grown a field is recorded again, with the field; the failure shows the lines to append."""
    recorded = {entry.decoded for entry in GOLDEN if repr(meaning_of(entry)) == entry.decoded}
    current = {text.partition("(")[0] for text in recorded}
    missing = [as_line(example(cls)) for cls in TAGS.values() if cls.__name__ not in current]
    assert not missing, "append to golden/protocol-1.json:\n" + ",\n".join(missing)


@each_golden
def test_no_tag_is_ever_reused(entry: Golden) -> None:
    """A tag that has been used belongs to that message for ever, under that name."""
    assert entry.tag in TAGS, f"tag {entry.tag} was {entry.name}: older peers still send it"
    assert TAGS[entry.tag].__name__ == entry.name


@each_golden
def test_a_golden_frame_still_says_the_same(entry: Golden) -> None:
    """Bytes on record decode to the message on record, with defaults for what was appended since."""
    assert decode_frame(bytes.fromhex(entry.hex)) == [meaning_of(entry)]


@each_golden
def test_a_golden_message_still_has_the_same_bytes(entry: Golden) -> None:
    """An unchanged message is encoded byte for byte as it was, so that older peers go on reading us."""
    [message] = decode_frame(bytes.fromhex(entry.hex))
    frame = encode_frame([message])
    if repr(message) == entry.decoded:
        assert frame.hex() == entry.hex
    assert decode_frame(frame) == [message]


def test_there_is_a_golden_file_for_each_protocol() -> None:
    """The protocols that this release speaks, each with its own file."""
    names = {path.name for path in GOLDEN_FOLDER.glob("*.json")}
    assert names >= {f"protocol-{number}.json" for number in range(PROTOCOL_MIN, PROTOCOL_MAX + 1)}


def test_status_numbers_and_names_agree() -> None:
    """``Status.NAMES`` is indexed by the numbers that travel."""
    numbers = {name: value for name, value in vars(Status).items() if isinstance(value, int)}
    assert {name: Status.NAMES[value] for name, value in numbers.items()} == {
        name: name.lower().replace("_", " ") for name in numbers
    }
    assert sorted(numbers.values()) == list(range(len(Status.NAMES)))


def test_the_golden_test_notices_a_moved_field() -> None:
    """An entry whose field does not exist any more raises instead of passing."""
    with pytest.raises(TypeError):
        meaning_of(Golden(12, "Cancel", "", "Cancel(number=7)"))


def test_every_travelling_number_and_text_has_limits() -> None:
    """No field is a bare int, bytes or str: each is annotated with ``Bounds``."""
    bare = [
        f"{cls.__name__}.{name}"
        for cls in records()
        for name, hint in _hints(cls).items()
        if hint in (int, bytes, str) or (hasattr(hint, "__metadata__") and not isinstance(hint.__metadata__[0], Bounds))
    ]
    assert bare == []


def _hints(cls: type[Any]) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(cls, include_extras=True)
