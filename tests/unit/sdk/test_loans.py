"""Loans, frame by frame: what lent processes are given, and what is made of what they say."""

from collections import Counter
from itertools import pairwise

import pytest

from keepwarm.borrowing import BURST, PRINTS_NS
from keepwarm.loan_ends import SENTENCE_MAX
from keepwarm.loan_timing import LOOK_NS, PAUSE_CALLS, PAUSE_MAX_NS
from keepwarm.loans import (
    CALL_MIN_NS,
    HORIZON_NS,
    WINDOW_BYTES,
    WINDOW_MAX,
)
from keepwarm.session import SECOND_NS
from keepwarm.session_calls import CallState
from keepwarm.session_deliveries import LoanEnded, Printed, Returned
from keepwarm_wire.fields import CHUNK_BYTES_MAX, TEXT_LONG_MAX
from keepwarm_wire.messages import (
    Failure,
    LoanWanted,
    Output,
    Status,
    Submit,
)
from keepwarm_worker.runner import frames
from support.driven_session import DrivenLoans, failed, welcome


@pytest.fixture
def driven() -> DrivenLoans:
    return DrivenLoans().learned()


# ---------------------------------------------------------------- what a process is given


def test_calls_are_given_in_order_and_their_results_delivered(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    assert process.given == {1: b"\0", 2: b"\1", 3: b"\2"}
    assert [call.state for call in calls] == [CallState.LENT] * 3
    process.answer(3, run_us=7)
    assert driven.delivered() == [Returned(call, bytes([place]), 7) for place, call in enumerate(calls)]
    assert [(call.state, call.arguments, call.lent_number) for call in calls] == [
        (CallState.DONE, b"", number) for number in (1, 2, 3)
    ]
    driven.quiet(process)


def test_what_comes_together_and_what_comes_in_parts_is_the_same(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    data = b"".join(frames.encode(frames.Done(number, 20, False, b"r")) for number in (1, 2, 3))
    for start in range(0, len(data), 7):
        process.say(data[start : start + 7])
    assert driven.ends() == [(call, b"r") for call in calls]


def test_a_process_is_given_no_more_than_it_runs_in_a_while() -> None:
    driven = DrivenLoans().learned(run_us=1000)
    process, _ = driven.given(30)
    assert len(process.given) == HORIZON_NS // 1_000_000
    process.answer(run_us=1000)
    driven.out()
    assert len(process.given) == HORIZON_NS // 1_000_000


def test_a_process_is_given_one_call_at_least_and_not_too_many() -> None:
    slow = DrivenLoans().learned(run_us=9_000)
    process, _ = slow.given(5)
    assert len(process.given) == 1
    fast = DrivenLoans().learned(run_us=0)
    process, _ = fast.given(250)
    for place in range(600):
        fast.call(bytes([place % 250]))
    fast.out()
    assert len(process.given) == WINDOW_MAX == min(HORIZON_NS // CALL_MIN_NS, WINDOW_MAX)


def test_a_process_is_given_only_so_many_bytes(driven: DrivenLoans) -> None:
    calls = [driven.call(b"x" * 60_000) for _ in range(12)]
    process = driven.lend()
    size = sum(map(len, process.given.values()))
    assert WINDOW_BYTES <= size < WINDOW_BYTES + 60_000
    process.answer(12)
    driven.out()
    process.answer(12)
    driven.out()
    process.answer(12)
    assert [call for call, _ in driven.ends()] == calls
    driven.quiet(process)


def test_calls_are_spread_evenly_over_the_processes(driven: DrivenLoans) -> None:
    driven.call()
    processes = [driven.lend()]
    for _ in range(2):
        driven.call()
        processes.append(driven.lend())
    for process in processes:
        process.answer(9)
    for _ in range(9):
        driven.call()
    driven.out()
    assert [len(process.given) for process in processes] == [3, 3, 3]


def test_a_call_of_a_large_result_comes_in_pieces(driven: DrivenLoans) -> None:
    process, calls = driven.given(2)
    data = bytes(range(256)) * 1024
    parts = [data[start : start + 65536] for start in range(0, len(data), 65536)]
    for part in parts:
        process.say(frames.Piece(part))
    assert driven.ends() == []
    process.say(frames.Done(1, 20, False, frames.Stored("name", len(data), bytes(32))))
    process.say(frames.Done(2, 20, False, b"small"))
    assert driven.ends() == [(calls[0], data), (calls[1], b"small")]
    assert driven.function.borrowing is not None
    assert driven.function.borrowing.is_barred
    driven.quiet(process)


def test_an_empty_large_result_and_one_that_could_not_be_sent(driven: DrivenLoans) -> None:
    process, calls = driven.given(2)
    process.say(frames.Done(1, 20, False, frames.Stored("name", 0, bytes(32))))
    process.say(frames.Piece(b"half"), failed(2, kind="result_not_stored", message="No room."))
    assert driven.ends() == [(calls[0], b""), (calls[1], Failure("result_not_stored", "No room."))]


def test_many_large_results_bar_once(driven: DrivenLoans) -> None:
    process, _ = driven.given(5)
    for number in range(1, 6):
        process.say(frames.Piece(b"x"), frames.Done(number, 20, False, frames.Stored("name", 1, bytes(32))))
    borrowing = driven.function.borrowing
    assert borrowing is not None
    assert borrowing.barred_ns - driven.now_ns <= SECOND_NS // 5


# ---------------------------------------------------------------- failures


def test_a_failure_has_the_words_that_an_agent_would_give_it(driven: DrivenLoans) -> None:
    process, calls = driven.given(5)
    process.say(
        failed(1, payload=b"pickled", type_name="ValueError", message="no", traceback="Traceback"),
        failed(2, kind="setup_failed", type_name="OSError", message="gone"),
        failed(3, kind="result_unpicklable", type_name="TypeError", message="A lock cannot travel."),
        failed(4, kind="", type_name="E", message="?"),
        failed(5, type_name="", message="only this", printed=False),
    )
    assert driven.ends() == list(
        zip(
            calls,
            [
                Failure("user_exception", "ValueError: no", "Traceback", b"pickled"),
                Failure("setup_failed", "OSError: gone"),
                Failure("result_unpicklable", "A lock cannot travel."),
                Failure("user_exception", "E: ?"),
                Failure("user_exception", "only this"),
            ],
            strict=True,
        )
    )
    driven.quiet(process)


def test_a_failure_says_where_the_call_ran(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    process.say(failed(1, run_us=33))
    [end] = driven.completions()
    assert end.outcome.report is not None
    assert (end.outcome.report.node, end.outcome.report.phases[0].duration_us) == ("n", 33)
    assert end.outcome.status == Status.FAILED


def test_what_a_failure_says_is_cut_as_by_an_agent(driven: DrivenLoans) -> None:
    process, _ = driven.given(2)
    process.say(failed(1, message="m" * 20_000, traceback="first" + "t" * TEXT_LONG_MAX, status=200))
    for _ in range(CHUNK_BYTES_MAX // 65536 + 1):
        process.say(frames.Piece(b"x" * 65536))
    process.say(failed(2, payload=frames.Stored("name", CHUNK_BYTES_MAX + 65536, bytes(32))))
    first, second = driven.completions()
    assert first.outcome.failure == Failure("user_exception", "m" * SENTENCE_MAX, "t" * TEXT_LONG_MAX)
    assert first.outcome.status == Status.FAILED
    assert second.outcome.failure == Failure("user_exception", "")


# ---------------------------------------------------------------- a process that makes no sense


def stored(number: int, size: int) -> frames.Done:
    return frames.Done(number, 20, False, frames.Stored("name", size, bytes(32)))


@pytest.mark.parametrize(
    "said",
    [
        [frames.Done(2, 20, False, b"r")],
        [frames.Done(9, 20, False, b"r")],
        [frames.Done(0, 20, False, b"r")],
        [frames.Piece(b"xx"), stored(1, 3)],
        [stored(1, 3)],
        [frames.Recalled(1)],
        [b"\xff" * 9],
        [frames.Exit()],
    ],
    ids=["order", "number", "zero", "size", "no pieces", "a recall", "no frame", "an agent's frame"],
)
def test_a_connection_that_makes_no_sense_is_given_up_and_nothing_is_lost(
    driven: DrivenLoans, said: list[frames.Frame | bytes]
) -> None:
    process, calls = driven.given(4)
    process.say(*said)
    driven.out()
    assert process.is_shut
    assert process.recalls == [2, 3, 4]
    assert sorted(map(id, driven.session.unanswered())) == sorted(map(id, calls))
    process.say(frames.Done(1, 20, False, b"forged"))
    process.give_back(2)
    assert driven.ends() == []
    process.close(begun=1)
    process.end()
    driven.settle()
    assert Counter(id(call) for call, _ in driven.ends()) == Counter(map(id, calls))
    driven.quiet()


def test_what_was_said_before_the_nonsense_counts(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    process.say(frames.Done(1, 20, False, b"r"), frames.Done(3, 20, False, b"r"))
    assert driven.ends() == [(calls[0], b"r")]
    assert len(driven.session.unanswered()) == 2


def test_a_result_without_a_call_is_nonsense(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    process.answer()
    process.say(frames.Piece(b"x" * 1000))
    driven.out()
    assert process.is_shut
    assert process.loan.pieces == []


def test_an_outcome_on_the_other_connection_is_nonsense(driven: DrivenLoans) -> None:
    process, calls = driven.given(2)
    data = frames.encode(frames.Done(1, 20, False, b"r"))
    driven.session.loans.received_control(driven.now_ns, process.loan, data)
    driven.out()
    assert process.is_shut
    assert driven.ends() == []
    assert driven.session.unanswered() == calls


def test_the_same_call_is_not_given_back_twice(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    process.give_back(3)
    said = frames.encode(frames.Recalled(3)) + frames.encode(frames.Recalled(99))
    driven.session.loans.received_control(driven.now_ns, process.loan, said)
    assert Counter(map(id, driven.session.unanswered())) == Counter(map(id, calls))


# ---------------------------------------------------------------- output


def test_a_call_that_printed_ends_with_its_loan_after_the_output(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    process.answer(printed=True)
    assert driven.delivered() == []
    process.close(begun=1)
    assert calls[0] in driven.session.unanswered()
    driven.get(Output(process.loan.call.number, "n", 1, b"hi\n", 0))
    process.end()
    told = driven.delivered()
    assert [type(each) for each in told] == [Printed, LoanEnded, Returned]
    assert told[-1] == Returned(calls[0], b"\0", 20)
    driven.settle()
    assert [call for call, _ in driven.ends()] == calls[1:]
    driven.quiet()


def test_a_call_that_printed_and_failed_ends_with_its_loan_too(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    process.say(failed(1, printed=True, message="no"))
    process.end()
    assert driven.ends() == []
    driven.out()
    assert process.is_hung_up
    process.close(begun=1)
    assert driven.ends() == [(call, Failure("user_exception", "no"))]
    driven.quiet()


def test_functions_that_print_are_lent_no_more_for_a_while(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    process.answer(printed=True)
    process.close(begun=1)
    process.end()
    driven.call()
    assert driven.sent(Submit)
    assert driven.function.borrowing is not None
    assert driven.function.borrowing.barred_ns == driven.now_ns + PRINTS_NS


def test_cancelling_a_call_that_has_printed_and_returned_changes_nothing(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    process.answer(printed=True)
    assert driven.session.cancel(driven.now_ns, call)
    process.close(begun=1)
    process.end()
    assert driven.ends() == [(call, b"\0")]


# ---------------------------------------------------------------- what is kept, and for how long


def test_every_unanswered_call_is_named_once(driven: DrivenLoans) -> None:
    process, calls = driven.given(6)
    other = driven.lend()
    calls += [driven.call() for _ in range(3)]

    def check() -> None:
        assert Counter(map(id, driven.session.unanswered())) == Counter(map(id, calls))

    check()
    driven.out()
    check()
    driven.session.cancel(driven.now_ns, calls[1])
    check()
    driven.get(LoanWanted(process.loan.call.number))
    process.give_back(5, 6)
    check()
    other.close(begun=1)
    check()
    driven.get(welcome(epoch=2, lends=True))
    check()
    driven.out()
    check()
    process.close(begun=1)
    calls.pop(1)  # it had not begun
    check()
    driven.out()
    check()


def test_a_loan_that_is_over_keeps_no_bytes(driven: DrivenLoans) -> None:
    process, _ = driven.given(2)
    process.say(frames.Piece(b"x" * 60_000), frames.encode(frames.Piece(b"y" * 60_000))[:1000])
    process.close(begun=1)
    assert (process.loan.pieces, process.loan.rest, process.loan.sent_bytes) == ([], b"", 0)


def test_there_is_a_deadline_as_long_as_something_is_to_be_seen(driven: DrivenLoans) -> None:
    loans = driven.session.loans
    driven.call()
    driven.out()
    assert loans.next_deadline() == driven.now_ns + LOOK_NS
    process = driven.lend()
    assert loans.next_deadline() == driven.now_ns + LOOK_NS
    process.answer()
    driven.quiet(process)
    assert loans.next_deadline() is None


def test_outcomes_are_left_to_gather_only_while_every_process_has_enough(driven: DrivenLoans) -> None:
    loans = driven.session.loans
    assert loans.pause_ns() == 0
    process, _ = driven.given(3 * PAUSE_CALLS)
    pauses = []
    while process.given:
        pauses.append(loans.pause_ns())
        process.answer()
    assert 0 < pauses[0] <= PAUSE_MAX_NS
    assert all(earlier >= later for earlier, later in pairwise(pauses))
    assert pauses[-1] == 0


def test_many_calls_end_with_nothing_left(driven: DrivenLoans) -> None:
    calls = [driven.call(bytes([place % 256])) for place in range(20 * BURST)]
    processes = [driven.lend(), driven.lend()]
    while driven.session.loans.inflight:
        for process in processes:
            process.answer(5)
        driven.out()
    assert Counter(id(call) for call, _ in driven.ends()) == Counter(map(id, calls))
    driven.quiet(*processes)
