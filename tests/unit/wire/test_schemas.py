"""Schemas: the written-out decoder of each class refuses exactly what the rules, field by field, refuse."""

from typing import Annotated, Any, NamedTuple

import pytest

from keepwarm_wire.fields import Bounds, Count, Many, Name
from keepwarm_wire.messages import TAGS
from keepwarm_wire.schemas import Decoder, ProtocolError, schema_of
from support.wire_values import example, row_of

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0.5, float("nan"), "", "x", b"", b"x", (), ((),), (None,), (1,), ("x",), ("x", 1)),
    *(-1, 0, 1, -101, -100, 100, 101, (1 << 31) - 1, 1 << 31, 1 << 50, (1 << 50) + 1, 1 << 53, (1 << 53) + 1),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 1, (-1,), (1 << 63,), (True,), (1.0,), tuple(range(100))),
    *("y" * 512, "y" * 513, "y" * 8192, "y" * 8193, "y" * 65536, "y" * 65537),
    *(b"z" * size for size in (15, 16, 17, 31, 32, 33, 65536, 65537)),
)

ACCEPTED_AS_STRANGE = 1000
"""At least so many of the strange rows are legal, or the comparison would prove little."""


class Point(NamedTuple):
    """A record of this page."""

    x: Count
    name: Name = "here"


class Line(NamedTuple):
    """A message of this page."""

    points: Annotated[tuple[Point, ...], Bounds(1, 3)]
    numbers: Annotated[tuple[Count, ...], Many] = ()


def frozen(value: Any) -> Any:
    """Lists as the tuples that they are once unpacked."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def verdict(decode: Decoder, row: Any) -> str:
    """What becomes of a row: as text, so that NaN and the classes of nested records are compared as well."""
    try:
        return repr(decode(row))
    except ProtocolError:
        return "refused"


@pytest.mark.parametrize("tag", TAGS, ids=lambda tag: TAGS[tag].__name__)
@pytest.mark.parametrize("variant", [0, 1])
def test_the_common_rows_of_every_message_are_taken_as_the_rules_say(tag: int, variant: int) -> None:
    """A row as it is comes back equal; with a field more it is the same, for the slow way gives the same result."""
    message = example(TAGS[tag], variant)
    row = frozen(row_of(message))
    decode = schema_of(TAGS[tag], tagged=True)
    assert repr(decode(row)) == repr(decode((*row, "from a newer peer"))) == repr(message)


def test_a_strange_field_is_taken_or_refused_alike_on_both_ways() -> None:
    """Every field of every message replaced by every strange value: an added field sends the row the slow way."""
    accepted = 0
    for cls in TAGS.values():
        decode = schema_of(cls, tagged=True)
        for variant in (0, 1):
            row = frozen(row_of(example(cls, variant)))
            for index in range(1, len(row)):
                for strange in STRANGE:
                    changed = (*row[:index], strange, *row[index + 1 :])
                    quick, slow = verdict(decode, changed), verdict(decode, (*changed, "more"))
                    assert quick == slow, (cls, index, strange)
                    accepted += quick != "refused"
    assert accepted > ACCEPTED_AS_STRANGE


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("abc", "Line: unexpected str"),
        ((9,), "Line: 0 fields, needs 1"),
        ((9, 7), "Line.points is no array but int"),
        ((9, ()), "Line.points is an array shorter than 1"),
        ((9, ((1,),) * 4), "Line.points is an array longer than 3"),
        ((9, ((1,), ())), "Line: Point: 0 fields, needs 1"),
        ((9, ((1,), ()), ()), "Point: 0 fields, needs 1"),
        ((9, ((1, "x"), (-1, "x")), ()), "Point.x is outside 0 to 9223372036854775807"),
        ((9, ((1, 2),), ()), "Point.name is no str but int"),
        ((9, ((1,),), (1, 2.0)), "is no int but float"),
        ((9, ((1,),), (1, -2), 3), "Line.numbers is outside 0 to 9223372036854775807"),
    ],
)
def test_a_refusal_names_class_field_and_rule(row: Any, text: str) -> None:
    """Whichever way it was found."""
    decode = schema_of(Line, tagged=True)
    with pytest.raises(ProtocolError) as caught:
        decode(row)
    assert str(caught.value) == text


def test_defaults_complete_shorter_rows_at_every_depth() -> None:
    """As an older peer sends them."""
    assert schema_of(Line, tagged=True)((9, ((1,), (2, "there")))) == Line((Point(1), Point(2, "there")))


def test_an_array_without_bounds_cannot_be_declared() -> None:
    """A message whose size nothing limits is a mistake of ours, found when it is first used."""

    class Endless(NamedTuple):
        numbers: tuple[Count, ...]

    with pytest.raises(TypeError, match="needs bounds"):
        schema_of(Endless, tagged=True)
