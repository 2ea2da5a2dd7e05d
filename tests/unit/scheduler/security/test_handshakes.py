"""Connections that are let in and say nothing."""

from keepwarm_scheduler.security.handshakes import (
    FORGOTTEN_NS,
    PATIENCE_NS,
    PATIENCE_WITH_SUSPECTS_NS,
    SILENT_MAX,
    Handshakes,
)


def silent(count: int, *, at_ns: int = 0) -> Handshakes:
    handshakes = Handshakes()
    for _ in range(count):
        handshakes.begun("a", at_ns)
    return handshakes


def test_a_few_may_be_silent_and_many_for_a_moment() -> None:
    assert not silent(SILENT_MAX - 1).are_too_many("a", PATIENCE_NS, is_suspect=False)
    assert not silent(100).are_too_many("a", PATIENCE_NS - 1, is_suspect=False)
    assert silent(SILENT_MAX).are_too_many("a", PATIENCE_NS, is_suspect=False)
    assert not silent(SILENT_MAX).are_too_many("b", PATIENCE_NS, is_suspect=False)


def test_of_a_key_that_has_rested_one_is_too_many() -> None:
    assert not silent(10).are_too_many("a", PATIENCE_WITH_SUSPECTS_NS - 1, is_suspect=True)
    assert silent(1).are_too_many("a", PATIENCE_WITH_SUSPECTS_NS, is_suspect=True)
    assert not silent(0).are_too_many("a", PATIENCE_NS, is_suspect=True)


def test_who_has_said_something_counts_no_more() -> None:
    handshakes = silent(SILENT_MAX)
    handshakes.spoke("a")
    handshakes.spoke("b")
    assert not handshakes.are_too_many("a", PATIENCE_NS, is_suspect=False)
    for _ in range(SILENT_MAX):
        handshakes.spoke("a")
    assert not handshakes.are_too_many("a", PATIENCE_NS, is_suspect=True)


def test_what_was_long_ago_is_forgotten_and_what_has_been_paid_for() -> None:
    handshakes = silent(SILENT_MAX)
    assert not handshakes.are_too_many("a", FORGOTTEN_NS, is_suspect=False)
    handshakes = silent(SILENT_MAX)
    handshakes.forget("a")
    assert not handshakes.are_too_many("a", PATIENCE_NS, is_suspect=False)
