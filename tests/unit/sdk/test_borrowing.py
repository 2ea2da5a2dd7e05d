"""Which calls go to lent processes, and when one is asked for."""

from collections import Counter

import pytest

from keepwarm.borrowing import (
    BURST,
    LENT_MAX_NS,
    LOANS_MAX,
    PROBE_NS,
    STREAK_NS,
    is_lendable,
)
from keepwarm.session import SECOND_NS
from keepwarm_wire.fields import INLINE_BYTES_MAX
from keepwarm_wire.messages import (
    Borrow,
    Cancel,
    DeclareFunction,
    FunctionOptions,
    PayloadOffer,
    PayloadStored,
    RetryLimits,
    Status,
    Submit,
)
from support.driven_session import LENDABLE, Driven, DrivenLoans, kinds, ran, welcome

LOOK_S = 0.01


# ---------------------------------------------------------------- which functions


@pytest.mark.parametrize(
    ("options", "is_so"),
    [
        (LENDABLE, True),
        (LENDABLE._replace(startup_timeout_us=1), True),
        (LENDABLE._replace(cpu=4000, memory_bytes=1 << 30, gpu=1000), True),
        (LENDABLE._replace(retries=RetryLimits(lost_node=0)), True),
        (LENDABLE._replace(queue_timeout_us=1), False),
        (LENDABLE._replace(run_timeout_us=1), False),
        (LENDABLE._replace(overall_timeout_us=1), False),
        (LENDABLE._replace(retries=RetryLimits(exceptions=1)), False),
        (LENDABLE._replace(retries=RetryLimits(crash=1)), False),
        (LENDABLE._replace(retries=RetryLimits(out_of_memory=1)), False),
        (LENDABLE._replace(at_most_once=True), False),
        (LENDABLE._replace(keep_alive_us=0), False),
    ],
)
def test_only_functions_that_need_nobody_in_between_are_lendable(options: FunctionOptions, is_so: bool) -> None:
    assert is_lendable(options) == is_so
    driven = DrivenLoans(options).learned()
    driven.call()
    assert kinds(driven.out()) == [Borrow if is_so else Submit]


# ---------------------------------------------------------------- streaks


def test_after_a_streak_of_short_calls_the_next_one_waits_for_a_loan() -> None:
    driven = DrivenLoans().learned(times=2)
    driven.call()
    [submit] = driven.sent(Submit)
    assert isinstance(submit, Submit)
    driven.get(ran(submit.call_number, 20))
    driven.call()
    assert kinds(driven.out()) == [Borrow]
    assert kinds(driven.out()) == []


def test_calls_with_pauses_between_them_are_no_streak() -> None:
    driven = DrivenLoans()
    for _ in range(6):
        driven.learn()
        driven.now_ns += STREAK_NS
    driven.call()
    assert kinds(driven.out()) == [Submit]


def test_a_streak_that_does_not_go_on_is_over() -> None:
    driven = DrivenLoans().learned()
    driven.out(after_s=STREAK_NS / SECOND_NS)
    driven.call()
    assert kinds(driven.out()) == [Submit]


def test_a_turn_between_two_calls_ends_no_streak() -> None:
    driven = DrivenLoans().learned()
    driven.out()
    driven.out(after_s=0.001)
    driven.call()
    assert kinds(driven.out()) == [Borrow]


def test_long_calls_are_submitted() -> None:
    driven = DrivenLoans().learned(run_us=LENT_MAX_NS // 1000 + 1)
    for _ in range(3 * BURST):
        driven.call()
    assert set(kinds(driven.out())) == {Submit}


def test_calls_that_become_long_are_submitted_and_the_loan_is_over() -> None:
    driven = DrivenLoans().learned()
    first = [driven.call() for _ in range(4)]
    process = driven.lend()
    process.answer(run_us=1_000_000)
    driven.out()
    assert process.recalls == [3, 4]
    process.give_back(3, 4)
    assert kinds(driven.out()) == [Submit, Submit]
    process.answer(run_us=1_000_000)
    driven.out()
    assert process.is_shut
    assert [call for call, _ in driven.ends()] == first[:2]


# ---------------------------------------------------------------- bursts and probing


def test_of_many_calls_of_unknown_length_only_the_first_are_submitted_at_once() -> None:
    driven = DrivenLoans()
    for _ in range(BURST + 5):
        driven.call()
    assert kinds(driven.out()) == [Submit] * BURST
    assert kinds(driven.out(after_s=PROBE_NS / SECOND_NS / 2)) == []


def test_the_others_wait_for_a_loan_once_the_first_was_short() -> None:
    driven = DrivenLoans()
    for _ in range(BURST + 5):
        driven.call()
    driven.out()
    driven.get(ran(1, 20))
    assert kinds(driven.out()) == [Borrow]


def test_the_others_are_submitted_once_the_first_was_long() -> None:
    driven = DrivenLoans()
    for _ in range(BURST + 5):
        driven.call()
    driven.out()
    driven.get(ran(1, 1_000_000))
    assert kinds(driven.out()) == [Submit] * 5


def test_the_first_is_waited_for_only_so_long_and_only_once() -> None:
    driven = DrivenLoans()
    for _ in range(BURST + 5):
        driven.call()
    driven.out()
    since_ns = driven.now_ns
    found: list[type] = []
    while not found:
        deadline_ns = driven.session.next_deadline()
        assert deadline_ns is not None
        found = kinds(driven.out(after_s=max(0, deadline_ns - driven.now_ns) / SECOND_NS))
    assert found == [Submit] * 5
    assert driven.now_ns - since_ns <= PROBE_NS + LOOK_S * SECOND_NS
    driven.call()
    assert kinds(driven.out()) == [Submit]


def test_calls_held_until_the_scheduler_was_there_go_to_a_loan_but_for_the_first() -> None:
    driven = Driven()
    driven.session.loans.borrower.address = b"\0address"
    function = driven.declare(name="m:lent", options=LENDABLE)
    other = driven.declare(name="m:other", options=LENDABLE._replace(at_most_once=True))
    calls = [driven.call(function=function) for _ in range(BURST + 3)]
    driven.call(function=other)
    gone = driven.call(function=function)
    assert driven.session.cancel(driven.now_ns, gone)
    driven.open(welcome(lends=True))
    assert kinds(driven.out()) == [Submit] * (BURST + 1)
    assert [call.number for call in calls[BURST:]] == [0, 0, 0]
    assert driven.session.unanswered().count(calls[-1]) == 1


def test_calls_that_an_earlier_scheduler_was_sent_go_to_no_loan() -> None:
    driven = DrivenLoans()
    other = driven.declare(name="m:other", options=LENDABLE)
    calls = [driven.call(function=other) for _ in range(BURST + 4)]
    driven.out()
    driven.out(after_s=PROBE_NS / SECOND_NS)
    assert all(call.number for call in calls)
    driven.get(welcome(epoch=2, lends=True))
    sent = [message for message in driven.out() if isinstance(message, Submit)]
    assert [(submit.call_number, submit.resent) for submit in sent] == [(call.number, True) for call in calls]
    assert Counter(map(id, driven.session.unanswered())) == Counter(map(id, calls))


# ---------------------------------------------------------------- when nothing is borrowed


def test_nothing_is_borrowed_of_a_scheduler_that_does_not_lend() -> None:
    driven = DrivenLoans()
    driven.get(welcome(known=True))
    driven.learned()
    for _ in range(3 * BURST):
        driven.call()
    assert set(kinds(driven.out())) == {Submit}


def test_nothing_is_borrowed_where_processes_cannot_reach_the_program() -> None:
    driven = DrivenLoans()
    driven.session.loans.borrower.address = b""
    driven.learned()
    for _ in range(3 * BURST):
        driven.call()
    assert set(kinds(driven.out())) == {Submit}


def test_calls_that_waited_are_submitted_to_a_scheduler_that_lends_no_more() -> None:
    driven = DrivenLoans().learned()
    driven.call()
    driven.get(welcome(known=True))
    assert kinds(driven.out()) == [Submit]


def test_calls_with_large_arguments_are_submitted() -> None:
    driven = DrivenLoans().learned()
    driven.call(b"x" * (INLINE_BYTES_MAX + 1))
    driven.call(b"x" * INLINE_BYTES_MAX)
    sent = driven.out()
    assert kinds(sent) == [Borrow]
    assert [message.size for message in sent if isinstance(message, PayloadOffer)] == [INLINE_BYTES_MAX + 1]


def test_a_function_whose_body_is_not_there_is_not_borrowed() -> None:
    driven = DrivenLoans()
    function = driven.declare(b"b" * (INLINE_BYTES_MAX + 1), "m:large", LENDABLE)
    for _ in range(BURST + 5):
        driven.call(function=function)
    [offer] = driven.sent(PayloadOffer)
    assert isinstance(offer, PayloadOffer)
    driven.get(PayloadStored(offer.payload_id))
    assert kinds(driven.out()) == [Submit] * BURST
    driven.get(ran(1, 20))
    assert kinds(driven.out()) == [Borrow]
    driven.get(welcome(epoch=2, lends=True))
    sent = driven.out()
    assert not [message for message in sent if isinstance(message, Borrow | DeclareFunction)]


# ---------------------------------------------------------------- one after another


def test_one_loan_at_a_time_is_asked_for_as_long_as_there_are_more_calls_than_processes() -> None:
    driven = DrivenLoans().learned()
    for _ in range(3):
        driven.call()
    assert len([driven.lend() for _ in range(3)]) == 3
    assert kinds(driven.out(after_s=LOOK_S)) == []


def test_no_more_than_so_many_are_borrowed() -> None:
    driven = DrivenLoans().learned()
    for _ in range(4 * LOANS_MAX):
        driven.call()
    for _ in range(LOANS_MAX):
        driven.lend()
    assert kinds(driven.out(after_s=LOOK_S)) == []


def test_a_request_is_taken_back_when_there_is_nothing_to_do() -> None:
    driven = DrivenLoans().learned()
    driven.call()
    process = driven.lend()
    driven.call()
    [borrow] = driven.sent(Borrow)
    process.answer(2)
    assert driven.sent(Cancel) == [Cancel(borrow.call_number)]
    assert driven.sent(Cancel, after_s=LOOK_S) == []


def test_a_process_that_comes_for_a_request_taken_back_is_let_go() -> None:
    driven = DrivenLoans().learned()
    driven.call()
    process = driven.lend()
    driven.call()
    late = driven.granted()
    process.answer(2)
    assert kinds(driven.out()) == [Cancel]
    driven.call()
    late.open()
    assert late.is_shut
    assert not late.given


def test_calls_that_were_cancelled_are_not_asked_for() -> None:
    driven = DrivenLoans().learned()
    assert driven.session.cancel(driven.now_ns, driven.call())
    assert kinds(driven.out()) == []


def test_keys_are_of_a_secret_and_never_the_same() -> None:
    driven = DrivenLoans().learned()
    for _ in range(3):
        driven.call()
    keys = {driven.lend().loan.key for _ in range(3)}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {16}


def test_a_loan_is_asked_for_with_the_priority_of_its_calls_and_others_are_submitted() -> None:
    driven = DrivenLoans()
    for _ in range(3):
        driven.call(priority=5)
        [submit] = driven.sent(Submit)
        driven.get(ran(submit.call_number, 20))
    driven.call(priority=5)
    driven.call(priority=6)
    sent = [message for message in driven.out() if isinstance(message, Borrow | Submit)]
    assert [(type(message), message.priority) for message in sent] == [(Borrow, 5), (Submit, 6)]


def test_a_function_with_a_loan_under_way_is_not_forgotten() -> None:
    driven = DrivenLoans().learned()
    call = driven.call()
    process = driven.granted()
    assert driven.session.cancel(driven.now_ns, call)
    assert driven.function not in driven.session.functions.forget(9)
    process.end(Status.CANCELLED)
    other = driven.declare(name="m:other")
    assert {other, driven.function} <= set(driven.session.functions.forget(9))
