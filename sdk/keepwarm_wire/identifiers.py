"""Identifiers that fence: attempt and instance tokens.

A token is one 63-bit integer, ``epoch << 40 | number``. The epoch counts the scheduler's starts and is on disk
before it is used, so a token is never given twice, whatever crashes; a message that carries an old token is
recognised as stale by comparison alone. Session ids and incarnations are 16 random bytes made by their owner.
"""

__all__ = ["EPOCH_MAX", "NUMBER_MAX", "epoch_of", "number_of", "token", "token_text"]

_NUMBER_BITS = 40
NUMBER_MAX = (1 << _NUMBER_BITS) - 1
EPOCH_MAX = (1 << 23) - 1


def token(epoch: int, number: int) -> int:
    """Pack a scheduler epoch (1 to ``EPOCH_MAX``) and a number (0 to ``NUMBER_MAX``) into one integer."""
    if not (0 < epoch <= EPOCH_MAX and 0 <= number <= NUMBER_MAX):
        raise ValueError(f"epoch {epoch} or number {number} is out of range")
    return epoch << _NUMBER_BITS | number


def epoch_of(value: int) -> int:
    """The scheduler epoch in which a token was given."""
    return value >> _NUMBER_BITS


def number_of(value: int) -> int:
    """The number of a token within its epoch."""
    return value & NUMBER_MAX


def token_text(value: int) -> str:
    """How people see a token: ``3.17`` is number 17 of the scheduler's third start.

    >>> token_text(token(3, 17))
    '3.17'
    """
    return f"{epoch_of(value)}.{number_of(value)}"
