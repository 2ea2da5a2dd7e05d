"""What becomes of calls whose process or scheduler ended."""

import hashlib
from collections import Counter

import pytest

from keepwarm.loans import (
    GRACE_NS,
)
from keepwarm.session import SECOND_NS
from keepwarm.session_deliveries import Completion, LoanEnded, Returned
from keepwarm_wire.messages import (
    Borrow,
    ClientBeat,
    ClientBeatReply,
    ClientHello,
    Failure,
    FunctionOptions,
    Goodbye,
    PayloadChunk,
    PayloadCredit,
    Received,
    Reference,
    RetryLimits,
    Status,
    Submit,
)
from keepwarm_worker.runner import frames
from support.driven_session import LENDABLE, DrivenLoans, failed, ran, success, welcome

GRACE_S = GRACE_NS / SECOND_NS
DIED = Failure("process_died", "The process died.", "signal=SIGSEGV\n")
NO_RETRY = LENDABLE._replace(retries=RetryLimits(lost_node=0))


@pytest.fixture
def driven() -> DrivenLoans:
    return DrivenLoans().learned()


# ---------------------------------------------------------------- ends of processes


@pytest.mark.parametrize("is_told_first", [False, True])
@pytest.mark.parametrize("kind", ["process_died", "out_of_memory"])
def test_the_call_that_had_begun_ends_as_its_process_did(driven: DrivenLoans, kind: str, is_told_first: bool) -> None:
    process, calls = driven.given(4)
    process.answer()
    failure = Failure(kind, "So it was.")
    if is_told_first:
        process.end(Status.FAILED, failure)
        driven.out()
        assert process.is_hung_up
        process.close(begun=2)
    else:
        process.close(begun=2)
        assert Counter(map(id, driven.session.unanswered())) == Counter(map(id, calls[1:]))
        process.end(Status.FAILED, failure)
    assert driven.ends() == [(calls[0], b"\0"), (calls[1], failure)]
    driven.settle()
    assert [call for call, _ in driven.ends()] == calls[2:]
    driven.quiet()


# ---------------------------------------------------------------- outcomes that were not read in time


def kept(*said: frames.Frame) -> bytes:
    return b"".join(map(frames.encode, said))


@pytest.mark.parametrize("is_told_first", [False, True])
def test_what_was_not_read_in_time_is_the_loans_own_result(driven: DrivenLoans, is_told_first: bool) -> None:
    process, calls = driven.given(4)
    process.answer()
    process.say(kept(frames.Done(2, 20, False, b"two"))[:9])  # as far as it was taken
    result = kept(frames.Done(2, 20, False, b"two"))
    if is_told_first:
        process.end(result=result)
        process.close(begun=2)
    else:
        process.close(begun=2)
        process.end(result=result)
    assert driven.ends() == [(calls[0], b"\0"), (calls[1], b"two")]
    assert process.loan.ended is not None
    assert process.loan.ended.result == b"", "futures keep their loan, and it would keep that"
    driven.settle()
    assert [call for call, _ in driven.ends()] == calls[2:]
    driven.quiet()


def test_a_failure_and_a_result_in_pieces_may_be_kept_too(driven: DrivenLoans) -> None:
    stored = frames.Stored("n", 9, bytes(32))
    process, [call] = driven.given(1)
    process.close(begun=1)
    process.end(result=kept(frames.Piece(b"three"), frames.Piece(b"four"), frames.Done(1, 20, False, stored)))
    assert driven.ends() == [(call, b"threefour")]
    other, [call] = driven.given(1)
    other.close(begun=1)
    other.end(result=kept(failed(1, message="no")))
    assert driven.ends() == [(call, Failure("user_exception", "no"))]
    driven.quiet()


def test_a_large_one_is_fetched_before_the_loan_is_over(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    process.close(begun=1)
    data = kept(*[frames.Piece(b"x" * 60_000)] * 2, frames.Done(1, 20, False, frames.Stored("n", 120_000, bytes(32))))
    reference = Reference(b"p" * 16, len(data), hashlib.sha256(data).digest())
    driven.get(success(process.loan.call.number, reference))
    assert [type(message) for message in driven.out()] == [PayloadCredit]
    assert driven.delivered() == []
    driven.get(PayloadChunk(reference.payload_id, 0, data))
    [ended, returned] = driven.delivered()
    assert isinstance(ended, LoanEnded)
    assert isinstance(returned, Returned)
    assert (returned.call, returned.result) == (call, b"x" * 120_000)
    assert process.loan.borrowing.is_barred, "others need not wait for an agent that reads it"
    driven.quiet()


@pytest.mark.parametrize(
    "result",
    [
        b"\xff" * 9,
        kept(frames.Done(2, 20, False, b"of another")),
        kept(frames.Done(1, 20, False, b"more")) + b"\0",
        kept(frames.Piece(b"only")),
        kept(frames.Done(1, 20, False, b"twice"), frames.Done(1, 20, False, b"twice")),
        kept(frames.Piece(b"size"), frames.Done(1, 20, False, frames.Stored("n", 9, bytes(32)))),
        kept(frames.Recalled(1)),
    ],
)
def test_a_loans_result_that_makes_no_sense_tells_nothing(driven: DrivenLoans, result: bytes) -> None:
    process, [call] = driven.given(1)
    process.close(begun=1)
    process.end(result=result)
    assert driven.ends() == []
    driven.settle()
    assert driven.ends() == [(call, b"r")]
    driven.quiet()


def test_the_failure_of_a_dead_process_says_where_that_was(driven: DrivenLoans) -> None:
    process, _ = driven.given(1)
    process.close(begun=1)
    process.end(Status.FAILED, DIED)
    [end] = driven.completions()
    assert end.outcome.report is not None
    assert end.outcome.report.node == "n"


def test_a_process_that_died_before_anything_began_loses_nothing(driven: DrivenLoans) -> None:
    process, calls = driven.given(3)
    process.close(begun=0)
    process.end(Status.FAILED, DIED)
    driven.settle()
    assert driven.ends() == [(call, b"r") for call in calls]
    driven.quiet()


def test_a_call_without_an_outcome_of_a_loan_that_ended_well_runs_again(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    process.close(begun=1)
    process.end()
    driven.settle()
    assert driven.ends() == [(call, b"r")]
    driven.quiet()


@pytest.mark.parametrize("retries", [0, 3])
def test_a_call_on_a_lost_node_runs_again_only_if_it_may(retries: int) -> None:
    driven = DrivenLoans(LENDABLE._replace(retries=RetryLimits(lost_node=retries))).learned()
    process, [call] = driven.given(1)
    process.end(Status.LOST, Failure("node_lost", "Gone."))
    process.close(begun=1)
    if retries:
        driven.settle()
        assert driven.ends() == [(call, b"r")]
        assert call.lost_nodes == 1
    else:
        assert driven.ends() == [(call, Failure("node_lost", "Gone, for the 1. time; retries allow 0."))]
    driven.quiet()


def test_the_scheduler_is_told_how_often_a_call_has_lost_its_node() -> None:
    driven = DrivenLoans(LENDABLE._replace(retries=RetryLimits(lost_node=2))).learned()
    process, _ = driven.given(1)
    process.end(Status.LOST, Failure("node_lost", "Gone."))
    process.close(begun=1)
    [submit] = driven.sent(Submit)
    assert isinstance(submit, Submit)
    assert submit.lost_nodes == 1


def test_what_a_call_has_lost_before_counts_when_it_is_lent_again() -> None:
    driven = DrivenLoans(LENDABLE._replace(retries=RetryLimits(lost_node=2))).learned()
    process, [call] = driven.given(1)
    call.lost_nodes = 2
    process.end(Status.LOST, Failure("node_lost", "Gone."))
    process.close(begun=1)
    assert driven.ends() == [(call, Failure("node_lost", "Gone, for the 3. time; retries allow 2."))]


def test_calls_that_were_asked_back_are_not_those_that_had_begun(driven: DrivenLoans) -> None:
    process, calls = driven.given(4)
    driven.session.cancel(driven.now_ns, calls[1])
    process.answer()
    process.close(begun=3)
    [end] = driven.completions()
    assert (end.call, end.outcome.status) == (calls[1], Status.CANCELLED)
    process.end(Status.FAILED, DIED)
    assert driven.ends() == [(calls[2], DIED)]
    driven.settle()
    assert [call for call, _ in driven.ends()] == calls[3:]
    driven.quiet()


def test_more_has_begun_than_there_are_calls_if_a_process_says_so(driven: DrivenLoans) -> None:
    process, calls = driven.given(2)
    process.close(begun=2**64 - 1)
    process.end(Status.FAILED, DIED)
    assert [call for call, _ in driven.ends()] == calls
    driven.quiet()


def test_what_was_not_run_goes_first_to_another_process(driven: DrivenLoans) -> None:
    process, _ = driven.given(3)
    other = driven.lend()
    process.answer()
    process.close(begun=1)
    driven.call(b"new")
    driven.out()
    assert list(other.given.values()) == [b"\1", b"\2", b"new"]
    process.end()
    other.answer(3)
    driven.quiet(other)


def test_a_process_that_comes_after_its_loan_has_ended_is_nobodys(driven: DrivenLoans) -> None:
    call = driven.call()
    process = driven.granted()
    process.end(Status.FAILED, DIED)
    process.open()
    driven.settle()
    process.close(begun=0)
    assert driven.ends() == [(call, b"r")]
    assert process.given == {}
    driven.quiet()


def test_a_connection_ends_only_once(driven: DrivenLoans) -> None:
    process, calls = driven.given(2)
    process.close(begun=0)
    process.close(begun=2)
    process.say(frames.Done(1, 20, False, b"late"))
    assert Counter(map(id, driven.session.unanswered())) == Counter(map(id, calls))


# ---------------------------------------------------------------- the scheduler


def test_an_outcome_of_a_loan_is_acknowledged_each_time_and_counts_once(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    process.answer()
    process.close(begun=1)
    process.end()
    process.end()
    told = [each for each in driven.delivered() if isinstance(each, Returned | Completion | LoanEnded)]
    assert [type(each) for each in told] == [Returned, LoanEnded]
    number = process.loan.call.number
    received = [
        number for each in driven.sent(Received, after_s=0.1) if isinstance(each, Received) for number in each[0]
    ]
    assert received.count(number) == 2
    assert call.number == 0


def test_a_request_that_was_lost_is_repeated(driven: DrivenLoans) -> None:
    driven.call()
    [borrow] = driven.sent(Borrow)
    assert isinstance(borrow, Borrow)
    [beat] = driven.sent(ClientBeat, after_s=1)
    assert isinstance(beat, ClientBeat)
    driven.get(ClientBeatReply(beat.beat_number, (borrow.call_number,)))
    assert driven.sent(Borrow) == [borrow]


def test_loans_outlive_a_connection_to_the_scheduler(driven: DrivenLoans) -> None:
    process, calls = driven.given(2)
    driven.session.connection_lost()
    process.answer()
    driven.session.connection_made(driven.now_ns)
    assert driven.sent(ClientHello)
    driven.get(welcome(known=True, lends=True))
    driven.out()
    process.answer()
    assert [call for call, _ in driven.ends()] == calls
    driven.quiet(process)


def test_after_a_restart_of_the_scheduler_what_has_begun_goes_on_there_and_nothing_else_begins(
    driven: DrivenLoans,
) -> None:
    process, calls = driven.given(3)
    driven.get(welcome(epoch=2, lends=True))
    sent = driven.out()
    assert not [message for message in sent if isinstance(message, Submit)]
    assert process.recalls == [2, 3]
    assert Counter(map(id, driven.session.unanswered())) == Counter(map(id, calls))
    process.give_back(2, 3)
    process.answer()
    driven.out()
    assert process.is_shut
    assert driven.ends() == [(calls[0], b"\0")]
    process.close(begun=1)
    driven.settle()
    assert [call for call, _ in driven.ends()] == calls[1:]
    driven.quiet()


@pytest.mark.parametrize("options", [LENDABLE, NO_RETRY])
def test_a_call_whose_process_ended_with_the_scheduler_runs_again(options: FunctionOptions) -> None:
    driven = DrivenLoans(options).learned()
    process, [call] = driven.given(1)
    process.close(begun=1)
    driven.get(welcome(epoch=2, lends=True))
    driven.settle()
    assert driven.ends() == [(call, b"r")]
    driven.quiet()


def test_a_request_is_not_repeated_to_another_scheduler(driven: DrivenLoans) -> None:
    call = driven.call()
    driven.granted()
    driven.get(welcome(epoch=2, lends=True))
    sent = driven.out()
    assert not [message for message in sent if isinstance(message, Borrow)]
    assert [message.arguments for message in sent if isinstance(message, Submit)] == [b"a"]
    driven.get(ran(call.number, 20))
    driven.quiet()


def test_what_printed_before_a_restart_ends_with_its_connection(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    process.answer(printed=True)
    driven.get(welcome(epoch=2, lends=True))
    assert driven.ends() == []
    process.close(begun=1)
    assert driven.ends() == [(call, b"\0")]
    driven.quiet()


def test_a_cancelled_call_that_nobody_can_end_any_more_ends_here(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    driven.get(welcome(epoch=2, lends=True))
    driven.session.cancel(driven.now_ns, call)
    driven.out(after_s=GRACE_S)
    assert process.is_hung_up
    process.close(begun=1)
    assert [(end.call, end.outcome.status) for end in driven.completions()] == [(call, Status.CANCELLED)]
    driven.quiet()


def test_a_farewell_of_the_scheduler_ends_no_loan(driven: DrivenLoans) -> None:
    process, [call] = driven.given(1)
    driven.get(Goodbye("stopping"))
    assert driven.session.unanswered() == [call]
    process.answer()
    assert driven.ends() == [(call, b"\0")]


def test_a_goodbye_is_said_with_a_loan_under_way(driven: DrivenLoans) -> None:
    driven.given(1)
    driven.session.say_goodbye("exit")
    assert driven.sent(Goodbye) == [Goodbye("exit")]
    assert driven.session.held_calls == 1
