"""A process that is lent: it takes calls from a client directly, past the agent, which the tests play both of.

The runner of these tests waits longer for the next call than the real one, so that a test that is kept waiting itself
finds its loan still there; how long the real one waits is tested apart.
"""

import pickle
from pathlib import Path

import pytest

from keepwarm_worker.runner import frames
from support.instances import (
    OWN_FRAMES,
    Start,
    load_as_client,
)
from support.lending_runner import Lender, patient_runner, succeeded


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patient_runner(tmp_path_factory.mktemp("patient-runner"))


# ---------------------------------------------------------------- calls


def test_calls_are_answered_in_order_and_the_board_tells_which_began(start: Start, lender: Lender) -> None:
    """The agent hears of the loan's end only."""
    instance = start()
    borrower = lender.lend(instance, "add")
    numbers = [borrower.call(number, 1) for number in range(300)]
    assert [borrower.answer(number).value() for number in numbers] == list(range(1, 301))
    assert borrower.board.read()[0] == 300
    assert instance.process.board.read()[0] == borrower.attempt
    assert not any(isinstance(frame, frames.Done | frames.Result) for frame in instance.frames)
    borrower.leave()
    succeeded(borrower)


def test_a_failed_call_is_told_as_to_an_agent_and_the_loan_goes_on(start: Start, lender: Lender) -> None:
    borrower = lender.lend(start(), "fail")
    for text in ("told you", "again"):
        answer = borrower.answer(borrower.call(text))
        result = answer.result
        assert (result.status, result.kind, result.type_name) == (frames.STATUS_FAILED, "user_exception", "ValueError")
        assert result.message == text
        assert "raise ValueError(text)" in result.traceback
        assert not any(name in result.traceback for name in OWN_FRAMES), result.traceback
        assert not result.printed
        error = pickle.loads(answer.payload)
        assert (type(error), error.args) == (ValueError, (text,))
    borrower.leave()
    succeeded(borrower)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("leave", "user_exception"), ("return_lock", "result_unpicklable"), ("fail_unprintable", "user_exception")],
)
def test_awkward_ends_of_calls_are_theirs_only(start_own: Start, lender: Lender, name: str, kind: str) -> None:
    borrower = lender.lend(start_own(), name)
    arguments = (3,) if name == "leave" else ()
    for _ in range(2):
        result = borrower.answer(borrower.call(*arguments)).result
        assert (result.status, result.kind) == (frames.STATUS_FAILED, kind)
    result = borrower.answer(borrower.call(arguments=b"no pickle")).result
    assert (result.status, result.kind) == (frames.STATUS_FAILED, "arguments_unloadable")
    borrower.leave()
    succeeded(borrower)


def test_classes_of_the_script_travel_both_ways(start_own: Start, lender: Lender) -> None:
    instance = start_own()
    borrower = lender.lend(instance, "double_point")
    assert instance.pickles is not None
    answer = borrower.answer(borrower.call(arguments=instance.pickles.bodies["a point"]))
    point, was_one = load_as_client(answer.payload)
    assert (point.x, point.y, was_one) == (6, 8, True)


@pytest.mark.parametrize("size", [0, 65_000, 65_536, 70_000, 131_072, 5_000_000])
def test_results_of_every_size_arrive_whole_and_nothing_is_left_in_the_spool(
    start_own: Start, lender: Lender, size: int
) -> None:
    instance = start_own()
    borrower = lender.lend(instance, "blob")
    number, behind = borrower.call(size), borrower.call(1)
    received = borrower.answer(number).received
    pieces, last = received[:-1], received[-1]
    assert isinstance(last, frames.Done)
    data = b"".join(piece.data for piece in pieces if isinstance(piece, frames.Piece) and type(piece.data) is bytes)
    if isinstance(last.payload, frames.Stored):
        assert last.payload.size == len(data)
    else:
        data = last.payload
    assert len(pickle.loads(data)) == size
    assert len(borrower.answer(behind).value()) == 1
    assert not list(instance.spool.iterdir())


def test_a_result_that_finds_no_room_is_a_failure_of_its_own_kind(start_own: Start, lender: Lender) -> None:
    instance = start_own()
    borrower = lender.lend(instance, "blob")
    assert borrower.answer(borrower.call(1)).result.status == frames.STATUS_OK
    instance.spool.rmdir()
    result = borrower.answer(borrower.call(1 << 20)).result
    assert (result.status, result.kind) == (frames.STATUS_FAILED, "result_not_stored")
    assert borrower.answer(borrower.call(1)).result.status == frames.STATUS_OK


def test_a_setup_is_run_before_the_loan_begins_and_its_value_comes_first(start_own: Start, lender: Lender) -> None:
    instance = start_own()
    borrower = lender.lend(instance, "with_setup")
    assert [borrower.value(letter) for letter in "ab"] == [(1, "a"), (1, "b")]
    instance.wait(lambda: any(isinstance(frame, frames.SetupDone) for frame in instance.frames))
    borrower.leave()
    succeeded(borrower)


def test_a_setup_that_fails_ends_the_loan_before_it_begins(start_own: Start, lender: Lender) -> None:
    instance = start_own()
    attempt, _ = lender.request(instance, instance.load("with_failing_setup"))
    result = instance.answer(attempt).result
    assert (result.status, result.kind, result.type_name) == (frames.STATUS_FAILED, "setup_failed", "OSError")
    instance.still_works()


# ---------------------------------------------------------------- asking back and interrupting


def test_a_call_that_has_not_begun_is_given_back_and_one_that_has_is_not(start: Start, lender: Lender) -> None:
    borrower = lender.lend(start(), "nap")
    numbers = [borrower.call(seconds) for seconds in (0.3, 0.0, 0.0, 0.0)]
    borrower.begun(numbers[0])
    for number in (numbers[0], numbers[1], numbers[3], numbers[1]):
        borrower.ask(frames.Recall(number))
    borrower.wait(lambda: len(borrower.recalled) == 2)
    assert borrower.recalled == [numbers[1], numbers[3]]
    assert [borrower.answer(number).value() for number in (numbers[0], numbers[2])] == ["rested"] * 2
    borrower.leave()
    succeeded(borrower)


@pytest.mark.parametrize(("name", "arguments"), [("spin", ()), ("nap", (60,)), ("stubborn", ())])
def test_a_running_call_is_interrupted_and_the_loan_goes_on(
    start: Start, lender: Lender, name: str, arguments: tuple[object, ...]
) -> None:
    borrower = lender.lend(start(), name)
    for _ in range(2):
        number = borrower.call(*arguments)
        borrower.begun(number)
        borrower.ask(frames.Cancel(number))
        result = borrower.answer(number).result
        assert (result.status, result.kind, result.payload) == (frames.STATUS_CANCELLED, "cancelled", b"")
        assert not any(hidden in result.traceback for hidden in OWN_FRAMES), result.traceback
    borrower.leave()
    succeeded(borrower)


def test_an_interruption_never_hits_another_call(start: Start, lender: Lender) -> None:
    """Cancels that race with the ends of their calls: the call behind each is always done."""
    borrower = lender.lend(start(), "spin_for")
    statuses = []
    for turn in range(150):
        number, behind = borrower.call(0.0004), borrower.call(0.0)
        if turn % 3:
            borrower.begun(number)
        for _ in range(turn % 7):
            borrower.pump()
        borrower.ask(frames.Cancel(number))
        statuses.append(borrower.answer(number).result.status)
        assert borrower.answer(behind).value() == "done"
    assert set(statuses) <= {frames.STATUS_OK, frames.STATUS_CANCELLED}
    borrower.leave()
    succeeded(borrower)


def test_what_one_loan_was_asked_for_is_nothing_to_the_next(start: Start, lender: Lender) -> None:
    """Cancels and recalls of numbers that it never came to; the next loan's calls have the same numbers."""
    instance = start()
    borrower = lender.lend(instance, "add")
    assert borrower.value(1, 2) == 3
    for number in range(2, 60):
        borrower.ask(frames.Cancel(number))
        borrower.ask(frames.Recall(number))
    borrower.wait(lambda: len(borrower.recalled) == 58)
    borrower.leave()
    assert borrower.outcome().status == frames.STATUS_OK
    following = lender.lend(instance, "add")
    assert [following.value(number, 1) for number in range(60)] == list(range(1, 61))
    following.leave()
    succeeded(following)


def test_the_agent_ends_a_loan_that_waits(start: Start, lender: Lender) -> None:
    instance = start()
    borrower = lender.lend(instance, "add")
    assert borrower.value(1, 2) == 3
    instance.control.queue(frames.Cancel(borrower.attempt))
    borrower.closed()
    assert borrower.outcome().status in (frames.STATUS_OK, frames.STATUS_CANCELLED)  # it was about to end by itself
    instance.still_works()


def test_the_agent_ends_a_loan_and_with_it_the_call_that_runs(start: Start, lender: Lender) -> None:
    """Those behind that one have not returned anything either."""
    instance = start()
    borrower = lender.lend(instance, "nap")
    number, behind = borrower.call(60), borrower.call(0)
    borrower.begun(number)
    instance.control.queue(frames.Cancel(borrower.attempt))
    assert borrower.answer(number).result.status == frames.STATUS_CANCELLED
    borrower.closed()
    assert borrower.outcome().status == frames.STATUS_CANCELLED
    assert not [frame for frame in borrower.frames if isinstance(frame, frames.Done) and frame.attempt == behind]
    instance.still_works()
