"""What lent processes give back, because they are slow, others want them, or a call is cancelled."""

from collections import Counter

import pytest

from keepwarm.loan_timing import IDLE_IN_TURN_NS, IDLE_NS, LOOK_NS
from keepwarm.loans import (
    GRACE_NS,
    SLOW_NS,
)
from keepwarm.session import SECOND_NS
from keepwarm_wire.messages import (
    Borrow,
    Cancel,
    Failure,
    LoanWanted,
    Status,
    Submit,
)
from keepwarm_worker.runner import frames
from support.driven_session import LENDABLE, DrivenLoans, failed, ran

SLOW_S = SLOW_NS / SECOND_NS
GRACE_S = GRACE_NS / SECOND_NS
DIED = Failure("process_died", "The process died.", "signal=SIGSEGV\n")


@pytest.fixture
def driven() -> DrivenLoans:
    return DrivenLoans().learned()


# ---------------------------------------------------------------- calling back


def test_calls_behind_a_slow_one_are_called_back_and_go_elsewhere(driven: DrivenLoans) -> None:
    process, calls = driven.given(4)
    assert driven.session.next_deadline() is not None
    other = driven.granted(after_s=SLOW_S)
    assert process.recalls == [2, 3, 4]
    process.give_back(2, 3, 4)
    other.open()
    assert other.given == {1: b"\1", 2: b"\2", 3: b"\3"}
    other.answer(3)
    process.answer(1)
    assert driven.ends() == [(call, bytes([calls.index(call)])) for call in [*calls[1:], calls[0]]]
    driven.quiet(process, other)


def test_a_slow_process_is_given_nothing_more_until_it_is_not_slow_any_more(driven: DrivenLoans) -> None:
    process, _ = driven.given(3)
    driven.out(after_s=SLOW_S)
    process.give_back(2, 3)
    for _ in range(5):
        driven.call()
    driven.out()
    driven.out(after_s=SLOW_S)
    assert list(process.given) == [1]
    process.answer()
    driven.out()
    assert list(process.given)[:2] == [4, 5]


def test_a_process_with_one_slow_call_is_given_no_other(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    driven.out(after_s=SLOW_S)
    driven.call(b"next")
    other = driven.lend()
    assert list(process.given) == [1]
    assert other.given == {1: b"next"}
    process.answer()
    driven.call()
    driven.call()
    driven.out()
    assert 2 in process.given


def test_calls_that_had_begun_before_they_were_called_back_run_there(driven: DrivenLoans) -> None:
    process, calls = driven.given(4)
    driven.out(after_s=SLOW_S)
    process.answer(2)
    process.give_back(3, 4)
    assert [call for call, _ in driven.ends()] == calls[:2]
    driven.out()
    assert list(process.given) == [5, 6]
    process.answer(2)
    assert [call for call, _ in driven.ends()] == calls[2:]
    driven.quiet(process)


def test_a_later_outcome_may_overtake_what_was_given_back(driven: DrivenLoans) -> None:
    process, calls = driven.given(4)
    driven.out(after_s=SLOW_S)
    process.given.pop(2)
    process.say(frames.Done(1, 20, False, b"r"), frames.Done(3, 20, False, b"r"))
    assert [call for call, _ in driven.ends()] == [calls[0], calls[2]]
    late = b"".join(frames.encode(frames.Recalled(number)) for number in (2, 4))
    driven.session.loans.received_control(driven.now_ns, process.loan, late)
    assert Counter(map(id, driven.session.unanswered())) == Counter([id(calls[1]), id(calls[3])])
    driven.out()
    process.given.pop(1, None)
    process.answer(9)
    assert {id(call) for call, _ in driven.ends()} <= {id(calls[1]), id(calls[3])}


def test_a_loan_that_others_want_is_called_back_and_let_go(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    driven.get(LoanWanted(process.loan.call.number))
    driven.out()
    assert process.recalls == [2, 3]
    driven.get(LoanWanted(process.loan.call.number))
    driven.out()
    assert process.recalls == [2, 3]
    process.give_back(2, 3)
    driven.call()
    driven.out()
    assert list(process.given) == [1]
    process.answer()
    driven.out()
    assert process.is_shut
    assert [call for call, _ in driven.ends()] == calls[:1]
    driven.quiet(process)


def test_an_idle_loan_that_others_want_is_let_go_at_once(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    process.answer()
    driven.get(LoanWanted(process.loan.call.number))
    driven.out()
    assert process.is_shut
    driven.quiet(process)


def test_a_loan_that_others_want_before_it_is_open_is_let_go_as_it_opens(driven: DrivenLoans) -> None:
    driven.call()
    process = driven.granted()
    driven.get(LoanWanted(process.loan.call.number))
    process.open()
    assert process.is_shut
    assert process.given == {}
    driven.quiet(process)


@pytest.mark.parametrize("when", ["idle", "busy", "not open"])
def test_a_loan_that_others_would_like_is_let_go_once_it_is_idle_for_a_moment(driven: DrivenLoans, when: str) -> None:
    driven.call()
    process = driven.granted() if when == "not open" else driven.lend()
    if when == "idle":
        process.answer()
    driven.get(LoanWanted(process.loan.call.number, when_idle=True))
    if when == "not open":
        process.open()
    if when != "idle":
        driven.out(after_s=0.003)
        process.answer()
    driven.out()
    was_shut = process.is_shut
    assert driven.session.next_deadline() == driven.now_ns + IDLE_NS
    driven.out(after_s=IDLE_NS / SECOND_NS)
    assert (was_shut, process.is_shut) == (False, True)
    driven.quiet(process)


def test_where_another_function_of_the_program_waits_it_is_let_go_sooner(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    process.answer()
    driven.get(LoanWanted(process.loan.call.number, when_idle=True))
    driven.function = driven.declare(name="m:other", options=LENDABLE)
    driven.learned()
    driven.call()
    driven.out()
    process.loan.head_ns = driven.now_ns
    assert driven.session.next_deadline() == driven.now_ns + IDLE_IN_TURN_NS
    driven.out(after_s=IDLE_IN_TURN_NS / SECOND_NS)
    assert process.is_shut


def test_a_loan_that_others_would_like_has_its_calls_as_long_as_they_come(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    driven.get(LoanWanted(process.loan.call.number, when_idle=True))
    for _ in range(20):
        process.answer()
        driven.out(after_s=0.9 * IDLE_NS / SECOND_NS)
        driven.call()
        driven.out()
        assert len(process.given) == 1
    assert not process.recalls


def test_a_loan_that_nobody_would_like_may_be_idle(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    process.answer()
    driven.out(after_s=IDLE_NS / SECOND_NS)
    assert not process.is_shut
    assert driven.session.next_deadline() == driven.now_ns + LOOK_NS


def test_a_loan_that_others_would_like_is_no_reason_to_look_more_often_while_it_has_calls(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    driven.get(LoanWanted(process.loan.call.number, when_idle=True))
    driven.out(after_s=1)
    assert driven.session.next_deadline() == driven.now_ns + LOOK_NS


def test_what_waits_does_not_wait_for_a_loan_that_is_let_go(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    process.answer()
    driven.get(LoanWanted(process.loan.call.number))
    driven.out()
    driven.call()
    assert driven.sent(Borrow)


# ---------------------------------------------------------------- cancelling


def test_a_call_that_waits_for_a_loan_is_cancelled_here(driven: DrivenLoans) -> None:
    call = driven.call()
    assert driven.session.cancel(driven.now_ns, call)
    [end] = driven.completions()
    assert (end.call, end.outcome.status) == (call, Status.CANCELLED)
    assert not driven.session.cancel(driven.now_ns, call)
    driven.quiet()


def test_a_call_that_has_not_begun_is_given_back_and_ends(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    assert driven.session.cancel(driven.now_ns, calls[1])
    assert driven.session.cancel(driven.now_ns, calls[1])
    driven.out()
    assert (process.recalls, process.cancels) == ([2], [2])
    assert driven.completions() == []
    process.give_back(2)
    assert [(end.call, end.outcome.status) for end in driven.completions()] == [(calls[1], Status.CANCELLED)]
    process.answer(3)
    assert [call for call, _ in driven.ends()] == [calls[0], calls[2]]
    driven.quiet(process)


def test_the_first_call_may_be_given_back(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    driven.session.cancel(driven.now_ns, call)
    process.give_back(1)
    driven.call(b"next")
    driven.out()
    assert process.given == {2: b"next"}
    process.answer()
    driven.quiet(process)


def test_a_call_that_has_begun_is_interrupted(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    driven.session.cancel(driven.now_ns, call)
    driven.out()
    process.say(failed(1, frames.STATUS_CANCELLED, kind="cancelled", message="The call was cancelled."))
    [end] = driven.completions()
    assert (end.call, end.outcome.status) == (call, Status.CANCELLED)
    driven.out(after_s=GRACE_S)
    assert driven.sent(Cancel) == []
    driven.quiet(process)


def test_a_call_that_returns_before_it_is_interrupted_has_returned(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    driven.session.cancel(driven.now_ns, call)
    process.answer()
    assert driven.ends() == [(call, b"\0")]
    assert not driven.session.cancel(driven.now_ns, call)
    driven.quiet(process)


def test_a_call_that_goes_on_in_spite_of_it_has_its_loan_cancelled(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    driven.session.cancel(driven.now_ns, call)
    assert driven.sent(Cancel, after_s=GRACE_S - 0.1) == []
    assert driven.sent(Cancel, after_s=0.2) == [Cancel(process.loan.call.number)]
    process.close(begun=1)
    process.end(Status.CANCELLED)
    [end] = driven.completions()
    assert (end.call, end.outcome.status) == (call, Status.CANCELLED)
    driven.quiet()


def test_more_cancelling_puts_nothing_off(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    for call in calls:
        driven.session.cancel(driven.now_ns, call)
        assert driven.sent(Cancel) == []
        driven.now_ns += GRACE_NS // 3 + 1
    assert driven.sent(Cancel) == [Cancel(process.loan.call.number)]


def test_the_next_cancelled_call_has_as_much_time(driven: DrivenLoans) -> None:
    process, calls = driven.given(2)
    driven.session.cancel(driven.now_ns, calls[0])
    driven.session.cancel(driven.now_ns, calls[1])
    driven.out(after_s=GRACE_S - 0.1)
    process.answer(1)
    assert Cancel(process.loan.call.number) not in driven.out(after_s=GRACE_S - 0.1)
    assert Cancel(process.loan.call.number) in driven.out(after_s=0.2)


def test_the_calls_of_a_loan_that_is_cancelled_go_elsewhere(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    driven.session.cancel(driven.now_ns, calls[0])
    driven.out(after_s=GRACE_S)
    process.close(begun=1)
    process.end(Status.CANCELLED)
    driven.lend().answer(2)
    ends = [call for call, _ in driven.ends()]
    assert ends == calls


def test_a_call_that_was_interrupted_with_its_loan_is_submitted(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    process.say(failed(1, frames.STATUS_CANCELLED, kind="cancelled"))
    [submit] = driven.sent(Submit)
    assert isinstance(submit, Submit)
    assert submit.arguments == b"\0"
    driven.get(ran(submit.call_number, 20))
    assert driven.ends() == [(call, b"r")]
    driven.quiet(process)


def test_a_cancelled_call_whose_process_died_was_cancelled(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    driven.session.cancel(driven.now_ns, call)
    process.close(begun=1)
    process.end(Status.FAILED, DIED)
    assert [end.outcome.status for end in driven.completions()] == [Status.CANCELLED]
