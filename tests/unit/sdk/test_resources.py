"""Amounts and sizes: every number type, exact thousandths, and values that survive being asked for again."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.errors import OptionError
from keepwarm.resources import AMOUNT_MAX, Resources, checked_names, parse_size, real_number, thousandths, whole_number


class Eight:
    """An integer type of a library."""

    def __index__(self) -> int:
        return 8


@pytest.mark.parametrize(
    ("value", "number"), [(3, 3), (Eight(), 8), (True, None), (3.0, None), ("3", None), (None, None)]
)
def test_whole_numbers(value: Any, number: int | None) -> None:
    """Anything that is an index is one; True and text are not."""
    assert whole_number(value) == number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (0.5, 0.5),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (10**400, math.inf),
        (-(10**400), -math.inf),
        (True, None),
        ("3", None),
        (b"3", None),
        (None, None),
        (1j, None),
    ],
)
def test_real_numbers(value: Any, number: float | None) -> None:
    """All real types; too large becomes infinite; True and text are not numbers."""
    assert real_number(value) == number


@given(st.integers(0, AMOUNT_MAX // 1000))
def test_thousandths_of_whole_amounts_are_exact(amount: int) -> None:
    """No whole amount is off by the float it passes through."""
    assert thousandths("x", amount) == amount * 1000


@given(st.integers(0, 10**9))
def test_thousandths_written_as_decimals_are_exact(amount: int) -> None:
    """0.1 is a hundred thousandths, although no float is a tenth."""
    assert thousandths("x", amount / 1000) == amount


@pytest.mark.parametrize("value", [-0.001, math.inf, -math.inf, math.nan, "1", True, None, 1 << 51])
def test_no_amounts(value: Any) -> None:
    """Anything else is refused by name."""
    with pytest.raises(OptionError, match="gas="):
        thousandths("gas", value)


@given(st.integers(1, AMOUNT_MAX), st.sampled_from(["", "B", " b"]))
def test_sizes_in_bytes(size: int, unit: str) -> None:
    """A number of bytes is itself, however written."""
    assert parse_size("x", f"{size}{unit}") == parse_size("x", size) == size


def test_names_are_sorted_and_copied() -> None:
    """Two mappings with the same items look alike; the given one may change later."""
    given_names = {"b": 1, "a": 2}
    names = checked_names("x", given_names)
    given_names.clear()
    assert list(names.items()) == [("a", 2), ("b", 1)]


def test_resources_equal_by_value() -> None:
    """Equal amounts, equal objects and hashes; the given mappings do not matter."""
    one = Resources(cpu=2, custom={"a": 1, "b": 2})
    other = Resources(cpu=2.0, custom={"b": 2, "a": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert one != Resources(cpu=2)
