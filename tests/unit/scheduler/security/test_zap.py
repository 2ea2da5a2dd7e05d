"""What ZeroMQ is answered: only a well-formed question about a key that is let in gets a yes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.security.records import KeyRecord
from keepwarm_scheduler.security.registry import Registry
from keepwarm_scheduler.security.zap import LogBudget, decide
from keepwarm_wire.credentials import fingerprint, to_z85

NOW_S = 1_700_000_000
ALICE = b"a" * 32
REGISTRY = Registry(b"S" * 32, [KeyRecord(ALICE, "client", "team-a", "alice", NOW_S)])
GOOD = [b"", b"1.0", b"7", b"keepwarm", b"10.0.0.1", b"", b"CURVE", ALICE]
SECOND_NS = 1_000_000_000


def changed(index: int, frame: bytes) -> list[bytes]:
    return [*GOOD[:index], frame, *GOOD[index + 1 :]]


def test_a_key_that_is_known_is_let_in_under_its_own_name() -> None:
    decision = decide(GOOD, REGISTRY, NOW_S)
    assert decision.frames == (b"", b"1.0", b"7", b"200", b"", to_z85(ALICE).encode(), b"")
    assert decision.accepted == Principal(to_z85(ALICE), "client", "team-a")


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (changed(3, b"other"), "another domain"),
        (changed(3, b""), "another domain"),
        (changed(6, b"NULL"), "without a key"),
        (changed(6, b"PLAIN"), "without a key"),
        (changed(7, ALICE[:-1]), "without a key"),
        ([*GOOD, b"more"], "without a key"),
        (GOOD[:-1], "without a key"),
        (changed(7, b"b" * 32), f"unknown key {fingerprint(b'b' * 32)}"),
    ],
)
def test_everything_else_is_turned_away_without_a_word(question: list[bytes], reason: str) -> None:
    decision = decide(question, REGISTRY, NOW_S)
    assert decision.accepted is None
    assert decision.frames == (b"", b"1.0", b"7", b"400", b"", b"", b"")
    assert reason in decision.reason
    assert "10.0.0.1" in decision.reason


@pytest.mark.parametrize("question", [[], [b""], GOOD[:6], changed(1, b"2.0"), changed(0, b"x")])
def test_what_is_no_question_is_not_answered(question: list[bytes]) -> None:
    assert decide(question, REGISTRY, NOW_S).frames == ()


@given(st.lists(st.binary(max_size=40) | st.sampled_from(GOOD), max_size=10))
def test_nothing_but_the_good_question_is_a_yes(question: list[bytes]) -> None:
    decision = decide(question, REGISTRY, NOW_S)
    is_good = [question[index : index + 1] for index in (0, 1, 3, 6, 7)] == [
        [GOOD[index]] for index in (0, 1, 3, 6, 7)
    ] and len(question) == len(GOOD)
    assert (decision.accepted is not None) == is_good
    assert (b"200" in decision.frames[3:4]) == is_good
    assert decision.reason.isprintable()


def test_an_address_cannot_write_into_the_log() -> None:
    decision = decide([*changed(4, b"\x1b[2J\nadmin let in\xff")[:7], b"b" * 32], REGISTRY, NOW_S)
    assert decision.reason.isprintable()


def test_a_flood_fills_no_log_and_is_counted() -> None:
    budget = LogBudget()
    taken = [budget.take(number) for number in range(1_000)]
    assert taken == [0] * 20 + [None] * 980
    assert budget.take(59 * SECOND_NS) is None
    assert budget.take(61 * SECOND_NS) == 981
    assert budget.take(61 * SECOND_NS) == 0
