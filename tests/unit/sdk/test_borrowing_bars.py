"""When no loan is asked for during a while, and what becomes of the calls then."""

from collections import Counter

import pytest

from keepwarm.borrowing import (
    BARRED_MAX_NS,
    BARRED_NS,
    BURST,
    PRINTS_NS,
    SHARED_BAR_MAX_NS,
    USEFUL_CALLS,
    Borrowing,
    report_of,
)
from keepwarm.loan_timing import IDLE_NS
from keepwarm.session import SECOND_NS
from keepwarm.session_deliveries import Returned
from keepwarm_wire.messages import (
    Borrow,
    Cancel,
    Failure,
    LoanWanted,
    Outcome,
    Output,
    Phase,
    Status,
    Submit,
)
from support.driven_session import LENDABLE, Driven, DrivenLoans, kinds, ran

REFUSED = Failure("not_lent", "Not lent.")


def refuse(driven: DrivenLoans) -> list[type]:
    """A loan is asked for and refused."""
    driven.call()
    driven.granted().end(Status.FAILED, REFUSED)
    return kinds(driven.out())


def test_calls_whose_loan_is_refused_are_submitted_in_order() -> None:
    driven = DrivenLoans().learned()
    calls = [driven.call(bytes([number])) for number in range(4)]
    driven.granted().end(Status.FAILED, REFUSED)
    assert [submit.arguments for submit in driven.out() if isinstance(submit, Submit)] == [
        bytes([number]) for number in range(4)
    ]
    assert [call.number for call in calls] == sorted(call.number for call in calls)


def test_after_a_refusal_none_is_asked_for_during_a_while_and_then_again() -> None:
    driven = DrivenLoans().learned()
    assert refuse(driven) == [Submit]
    calls = [driven.call() for _ in range(2 * BURST)]
    driven.answer_submitted()
    assert all(call.number for call in calls)
    driven.now_ns += BARRED_NS
    driven.learned()
    driven.call()
    assert kinds(driven.out()) == [Borrow]


def test_bars_double_up_to_a_limit_and_begin_anew_after_a_loan_of_use() -> None:
    driven = DrivenLoans().learned()
    borrowing = driven.function.borrowing
    assert borrowing is not None
    bars = []
    for _ in range(10):
        refuse(driven)
        bars.append(borrowing.barred_ns - driven.now_ns)
        driven.now_ns = borrowing.barred_ns
        driven.learned()
    assert bars[:3] == [BARRED_NS, 2 * BARRED_NS, 4 * BARRED_NS]
    assert max(bars) == bars[-1] == BARRED_MAX_NS
    driven.call()
    process = driven.lend()
    process.answer()
    process.close(begun=1)
    process.end()
    assert borrowing.bars_ns == BARRED_NS


@pytest.mark.parametrize("count", [USEFUL_CALLS - 1, USEFUL_CALLS])
@pytest.mark.parametrize("when_idle", [False, True])
def test_a_loan_that_others_ended_after_few_calls_was_of_no_use(count: int, when_idle: bool) -> None:
    driven = DrivenLoans().learned()
    process, _ = driven.given(1)
    for _ in range(count - 1):
        process.answer()
        driven.call()
        driven.out()
    process.answer()
    driven.get(LoanWanted(process.loan.call.number, when_idle))
    driven.out(after_s=IDLE_NS / SECOND_NS)
    assert process.is_shut
    process.close(begun=count)
    process.end()
    driven.call()
    assert kinds(driven.out()) == ([Borrow] if count == USEFUL_CALLS else [Submit])


def use_in_vain(driven: DrivenLoans) -> int:
    """The function has a loan, which others end after a call; for how long it has none then."""
    driven.learned()
    process, _ = driven.given(1)
    process.answer()
    driven.get(LoanWanted(process.loan.call.number))
    driven.out()
    process.close(begun=1)
    process.end()
    borrowing = driven.function.borrowing
    assert borrowing is not None
    return borrowing.barred_ns - driven.now_ns


def test_functions_of_a_program_learn_from_each_other_that_loans_are_of_no_use() -> None:
    """Where they are called in turn: else each would have to find that out for itself, again and again."""
    driven = DrivenLoans()
    bars = []
    for number in range(6):
        driven.function = driven.declare(b"%d" % number, f"m:f{number}", LENDABLE)
        bars.append(use_in_vain(driven))
    assert bars == [min(BARRED_NS << number, SHARED_BAR_MAX_NS) for number in range(6)]


def test_a_loan_of_use_says_that_those_of_other_functions_may_be_too() -> None:
    driven = DrivenLoans()
    use_in_vain(driven)
    driven.function = driven.declare(b"2", "m:other", LENDABLE)
    driven.learned()
    process, _ = driven.given(1)
    process.answer()
    process.close(begun=1)
    process.end()
    driven.function = driven.declare(b"3", "m:third", LENDABLE)
    assert use_in_vain(driven) == BARRED_NS


def test_a_bar_is_over_for_many_calls_at_once_too() -> None:
    """Nothing has ended since that would have told so."""
    driven = DrivenLoans().learned()
    refuse(driven)
    driven.answer_submitted()
    driven.now_ns += BARRED_NS
    for _ in range(4 * BURST):
        driven.call()
    sent = kinds(driven.out())
    assert sent.count(Borrow) == 1
    assert sent.count(Submit) == BURST


def test_a_loan_that_others_ended_while_many_calls_waited_for_it_would_have_been_of_use() -> None:
    """They have taken turns, and the next is ours."""
    driven = DrivenLoans().learned(run_us=5000)
    for _ in range(USEFUL_CALLS):
        driven.call()
    process = driven.lend()
    driven.granted().end(Status.CANCELLED)
    process.answer(run_us=5000)
    driven.call()
    driven.get(LoanWanted(process.loan.call.number))
    driven.out()
    process.give_back(*list(process.given)[1:])
    process.answer(run_us=5000)
    process.close(begun=2)
    process.end()
    borrowing = driven.function.borrowing
    assert borrowing is not None
    assert (process.loan.answered, borrowing.loans, borrowing.is_barred) == (2, [], False)


def test_a_function_that_has_another_loan_is_not_barred_for_one_of_no_use() -> None:
    driven = DrivenLoans().learned(run_us=5000)
    for _ in range(20):
        driven.call()
    first, second = driven.lend(), driven.lend()
    driven.get(LoanWanted(second.loan.call.number))
    driven.out()
    second.give_back(*list(second.given)[1:])
    second.answer(run_us=5000)
    driven.out()
    assert second.is_shut
    second.close(begun=1)
    second.end()
    borrowing = driven.function.borrowing
    assert borrowing is not None
    assert (borrowing.loans, borrowing.is_barred) == ([first.loan], False)


def test_a_loan_that_its_program_wants_no_more_says_nothing_of_its_use() -> None:
    driven = DrivenLoans().learned()
    process, _ = driven.given(2)
    late = driven.granted()
    process.answer(2)
    assert kinds(driven.out()) == [Cancel]
    late.open()
    assert late.is_shut
    late.close()
    late.end()
    process.close(begun=2)
    process.end()
    driven.call()
    assert kinds(driven.out()) == [Borrow]


def test_calls_that_were_given_back_are_not_among_those_that_a_loan_has_answered() -> None:
    driven = DrivenLoans().learned()
    process, _ = driven.given(2 * USEFUL_CALLS)
    process.answer(USEFUL_CALLS - 2)
    driven.get(LoanWanted(process.loan.call.number))
    driven.out()
    passed, *rest = list(process.given)[1:]
    process.answer()
    process.given.pop(passed)
    process.answer()
    process.give_back(*rest[1:])
    assert process.loan.answered == USEFUL_CALLS
    assert process.loan.passed == USEFUL_CALLS


def test_a_loan_that_ends_by_itself_was_of_use_after_few_calls() -> None:
    driven = DrivenLoans().learned()
    process, _ = driven.given(1)
    process.answer()
    process.close(begun=1)
    process.end()
    driven.call()
    assert kinds(driven.out()) == [Borrow]


def test_a_process_that_did_not_come_is_no_loan_of_use() -> None:
    driven = DrivenLoans().learned()
    driven.call()
    driven.granted().end()
    assert kinds(driven.out()) == [Submit]


def test_while_none_is_asked_for_what_the_processes_cannot_take_soon_is_submitted() -> None:
    driven = DrivenLoans().learned(run_us=9000)
    driven.call()
    process = driven.lend()
    for _ in range(5):
        driven.call()
    driven.granted().end(Status.FAILED, REFUSED)
    assert kinds(driven.out()) == [Submit] * 5
    process.answer()
    driven.call()
    driven.out()
    assert list(process.given) == [2]


def test_calls_that_wait_to_be_sent_go_to_loans_once_these_are_of_use_again() -> None:
    """All but those that the scheduler has, and some that it is to have; those that were cancelled are gone."""
    driven = DrivenLoans().learned()
    calls = [driven.call() for _ in range(300)]
    driven.granted().end()
    sent = driven.sent(Submit)
    assert len(sent) == 100
    assert driven.session.cancel(driven.now_ns, calls[-1])
    driven.session.deliveries.clear()
    driven.now_ns += 2 * BARRED_NS
    for submit in sent[:3]:
        assert isinstance(submit, Submit)
        driven.get(ran(submit.call_number, 20))
    process = driven.lend()
    while process.given:
        process.answer(len(process.given))
        driven.out()
    lent = [end.call for end in driven.session.deliveries if isinstance(end, Returned)]
    assert lent == calls[100 + BURST : -1]
    driven.settle()
    ends = [call for call, _ in driven.ends()]
    assert Counter(map(id, ends)) == Counter(map(id, calls[:-1]))
    driven.quiet(process)


def test_what_a_submitted_call_prints_bars_its_function() -> None:
    driven = DrivenLoans()
    driven.call()
    [submit] = driven.sent(Submit)
    assert isinstance(submit, Submit)
    driven.get(Output(submit.call_number, "n", 1, b"hi\n", 0), ran(submit.call_number, 20))
    driven.learned()
    calls = [driven.call() for _ in range(2 * BURST)]
    driven.answer_submitted()
    assert all(call.number for call in calls)
    driven.now_ns += PRINTS_NS
    driven.learned()
    driven.call()
    assert kinds(driven.out()) == [Borrow]


def test_what_is_printed_while_a_loan_is_waited_for_takes_the_request_back() -> None:
    driven = DrivenLoans().learned()
    first = driven.call(function=driven.function, priority=1)
    driven.call()
    process = driven.granted()
    driven.get(Output(first.number, "n", 1, b"hi\n", 0))
    assert kinds(driven.out()) == [Cancel, Submit]
    process.end(Status.CANCELLED)
    assert kinds(driven.out()) == []


# ---------------------------------------------------------------- what is known


def test_how_long_calls_run_is_followed_slowly() -> None:
    borrowing = Borrowing(Driven().function)
    assert (borrowing.is_short, borrowing.is_long) == (False, False)
    borrowing.measure(100)
    assert borrowing.mean_ns == 100_000
    borrowing.measure(900)
    assert borrowing.mean_ns == 200_000
    borrowing.measure(0)
    assert borrowing.is_short
    for _ in range(20):
        borrowing.measure(20_000)
    assert borrowing.is_long


def test_a_call_of_no_time_is_known_to_be_short() -> None:
    borrowing = Borrowing(Driven().function)
    borrowing.measure(0)
    assert borrowing.is_short


def test_calls_that_never_ran_tell_nothing_of_their_length() -> None:
    driven = DrivenLoans()
    for _ in range(4):
        driven.call()
        [submit] = driven.sent(Submit)
        assert isinstance(submit, Submit)
        report = ran(1, 1).report
        assert report is not None
        driven.get(Outcome(submit.call_number, Status.FAILED, b"", REFUSED, report._replace(phases=())))
    assert driven.function.borrowing is not None
    assert driven.function.borrowing.mean_ns == 0
    driven.call()
    assert kinds(driven.out()) == [Submit]


def test_a_report_says_where_a_call_ran_if_that_was_told() -> None:
    driven = DrivenLoans().learned()
    driven.call()
    process = driven.lend()
    report = report_of(process.loan, 30)
    assert report is not None
    assert (report.node, report.environment_id, report.instance_id, report.process_id) == ("n", "e", 1, 1)
    assert report.phases == (Phase("run", 30),)
    empty = report_of(process.loan, 0)
    assert empty is not None
    assert empty.phases == ()
    process.loan.lent = None
    assert report_of(process.loan, 30) is None
