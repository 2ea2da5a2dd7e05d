"""Tokens: one integer per (epoch, number), ordered by epoch, never ambiguous."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_wire.codec import decode_frame, encode_frame
from keepwarm_wire.identifiers import EPOCH_MAX, NUMBER_MAX, epoch_of, number_of, token, token_text
from keepwarm_wire.messages import AttemptStarted

EPOCHS = st.integers(1, EPOCH_MAX)
NUMBERS = st.integers(0, NUMBER_MAX)


@given(EPOCHS, NUMBERS)
def test_a_token_gives_back_its_epoch_and_number(epoch: int, number: int) -> None:
    """Packing loses nothing."""
    value = token(epoch, number)
    assert (epoch_of(value), number_of(value)) == (epoch, number)


@given(st.tuples(EPOCHS, NUMBERS), st.tuples(EPOCHS, NUMBERS))
def test_tokens_are_ordered_as_they_are_given(first: tuple[int, int], second: tuple[int, int]) -> None:
    """A later epoch, or a later number within one, is a larger token: stale ones show by comparison."""
    assert (token(*first) < token(*second)) == (first < second)


def test_the_largest_token_travels() -> None:
    """Every token fits the 63 bits of a ``Count``."""
    largest = token(EPOCH_MAX, NUMBER_MAX)
    assert largest == (1 << 63) - 1
    assert decode_frame(encode_frame([AttemptStarted(largest)])) == [AttemptStarted(largest)]


@pytest.mark.parametrize(
    ("epoch", "number"), [(0, 0), (-1, 0), (EPOCH_MAX + 1, 0), (1, -1), (1, NUMBER_MAX + 1), (0, NUMBER_MAX)]
)
def test_what_does_not_fit_is_refused(epoch: int, number: int) -> None:
    """No epoch 0 (no scheduler has started), nothing that would run into the other part."""
    with pytest.raises(ValueError, match="out of range"):
        token(epoch, number)


def test_a_token_is_shown_as_start_and_number() -> None:
    """People see which start of the scheduler, and which number within it."""
    assert token_text(token(3, 17)) == "3.17"
    assert token_text(token(EPOCH_MAX, 0)) == f"{EPOCH_MAX}.0"
