"""Messages of an administrator about the scheduler's own state. The rules are those of ``messages``."""

from typing import NamedTuple

from keepwarm_wire.fields import Count, Duration, Name, Sentence

__all__ = ["BackUp", "BackUpDone", "BackUpRefused"]


class BackUp(NamedTuple):
    """Write a copy of the state into a new directory on the scheduler's machine. Repeated, it is refused."""

    request_number: Count
    directory: Name


class BackUpDone(NamedTuple):
    """The copy is whole and on disk: so many bytes, of which the scheduler did nothing else for so long."""

    request_number: Count
    size_bytes: Count
    duration_us: Duration


class BackUpRefused(NamedTuple):
    """There is no copy, and why."""

    request_number: Count
    reason: Sentence
