"""A session that borrows, against processes and a scheduler that do everything they may, and some that they may not.

Every call ends once, with its own result or for a reason that there was; nothing is run again whose run had an outcome,
or whose process is known to have died; and once all is well nothing is left anywhere.
"""

import random
from collections import Counter
from collections.abc import Iterable
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm import borrowing, loans
from support.lending_world import MILLISECOND_NS, World

ACTIONS = (
    "call", "call", "burst", "cancel", "cancel", "grant", "refuse", "connect", "lend", "lend", "lend", "lend",
    "take in", "take in", "take in", "take in all", "take in all", "answer all", "answer all", "answer one", "want",
    "lose node", "to scheduler", "to client", "to both", "to both", "to both", "lose notice", "begin", "begin",
    "begin", "begin", "begin", "answer", "answer", "answer", "answer", "answer", "print", "fail", "large", "obey",
    "obey", "interrupt", "unread", "die", "leave", "lie", "reconnect", "restart", "moment", "moment", "while",
    "long while",
)  # fmt: skip
BEGINNING = [
    ("moment", 0), ("to both", 0), *(("call", 0), ("call", 1), ("to both", 0), ("answer all", 0), ("to both", 0)) * 2
]  # fmt: skip
"""It becomes known that the functions' calls are short."""

STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1 << 16)), max_size=120)


def check(steps: Iterable[tuple[str, int]]) -> World:
    with (
        patch.object(borrowing, "BARRED_NS", 2 * MILLISECOND_NS),
        patch.object(borrowing, "BARRED_MAX_NS", 20 * MILLISECOND_NS),
        patch.object(borrowing, "PRINTS_NS", 20 * MILLISECOND_NS),
        patch.object(loans, "PRINTS_NS", 20 * MILLISECOND_NS),
    ):
        world = World()
        for action, choice in BEGINNING:
            world.step(action, choice)
        for action, choice in steps:
            world.step(action, choice)
        world.settle()
    assert world.ledger.ends == Counter(range(len(world.ledger.calls)))
    assert world.is_quiet
    session = world.session
    assert session.unanswered() == []
    assert (session.held_calls, session.held_bytes, session.loans.inflight) == (0, 0, 0)
    assert [function.unanswered for function in world.functions] == [0, 0]
    assert session._sending.numbered == {}
    assert (session.loans._open, session.loans._ending, session.loans.borrower.requested) == ({}, {}, {})
    return world


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_every_call_ends_once_whatever_lent_processes_do(steps: list[tuple[str, int]]) -> None:
    """Short runs, which shrink well."""
    check(steps)


@pytest.mark.parametrize("seed", range(60))
def test_every_call_ends_once_in_long_runs(seed: int) -> None:
    """The same in longer runs, which reach deeper."""
    chance = random.Random(seed)
    check((chance.choice(ACTIONS), chance.randrange(1 << 16)) for _ in range(400))


def test_the_runs_reach_what_they_are_for() -> None:
    """Calls run on lent processes and elsewhere, and every kind of end is met."""
    met: Counter[str] = Counter()
    for seed in range(30):
        chance = random.Random(seed)
        world = check((chance.choice(ACTIONS), chance.randrange(1 << 16)) for _ in range(400))
        met.update(run.end if run.process else "submitted" for runs in world.ledger.runs for run in runs)
        met["again"] += sum(len(runs) > 1 for runs in world.ledger.runs)
    missing = {"returned", "kept", "failed", "interrupted", "died", "lost", "unheard", "submitted", "again"} - set(met)
    assert not missing, met
