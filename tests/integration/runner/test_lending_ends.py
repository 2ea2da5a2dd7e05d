"""How a loan ends for the process that is lent, whoever ends it; and what is left then."""

import itertools
import mmap
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keepwarm_worker.processes import ExitReason
from keepwarm_worker.runner import frames, lending
from keepwarm_worker.runner_files import install_runner
from support.instances import (
    NO_ARGUMENTS,
    Pickles,
    Start,
    interpreter,
    start_instance,
)
from support.lending_runner import NO_VERSION, SLACK_S, Lender, patient_runner, succeeded


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patient_runner(tmp_path_factory.mktemp("patient-runner"))


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("name", ["chatter", "at_exit"])
def test_a_call_that_has_printed_is_the_loans_last(start: Start, lender: Lender, name: str) -> None:
    """Its outcome says so; what is behind it has not begun. One that only might print later is none."""
    instance = start()
    borrower = lender.lend(instance, name)
    number = borrower.call()
    borrower.call()
    answer = borrower.answer(number)
    assert answer.result.printed is (name == "chatter")
    if name == "chatter":
        borrower.closed()
        assert borrower.board.read()[0] == number
        assert borrower.outcome().status == frames.STATUS_OK
        assert "to stdout" in instance.stdout
        assert instance.stderr == "to stderr\nchild error\n"
        instance.still_works()


def test_a_loan_ends_by_itself_when_no_call_comes(
    no_process_left: None, tmp_path: Path, lender: Lender, pickles_of: Callable[[Path], Pickles]
) -> None:
    python = interpreter("own")
    assert python is not None
    instance = start_instance(python, install_runner(tmp_path / "runner"), tmp_path, pickles_of(python))
    try:
        instance.hello()
        borrower = lender.lend(instance, "add")
        began_s = time.monotonic()
        borrower.closed()
        assert time.monotonic() - began_s < lending.IDLE_S + SLACK_S
        succeeded(borrower)
    finally:
        instance.close()


def test_a_client_that_shuts_its_half_gets_the_answers_that_are_due(start_own: Start, lender: Lender) -> None:
    borrower = lender.lend(start_own(), "nap")
    numbers = [borrower.call(seconds) for seconds in (0.05, 0.0)]
    borrower.connection.shutdown(socket.SHUT_WR)
    assert [borrower.answer(number).value() for number in numbers] == ["rested"] * 2
    borrower.closed()
    succeeded(borrower)


def no_address(lender: Lender) -> bytes:
    return bytes(lending.KEY_BYTES) + b"\0keepwarm-nobody-is-here"


def no_key(lender: Lender) -> bytes:
    return b"short"


def no_path(lender: Lender) -> bytes:
    return bytes(lending.KEY_BYTES) + b"/" + b"x" * 300


@pytest.mark.parametrize("of", [no_address, no_key, no_path])
def test_a_client_that_is_not_there_is_a_loan_that_failed(
    start: Start, lender: Lender, of: Callable[[Lender], bytes]
) -> None:
    instance = start()
    attempt, _ = lender.request(instance, instance.load("add"), of(lender))
    result = instance.answer(attempt).result
    assert (result.status, result.kind) == (frames.STATUS_FAILED, "not_lent")
    instance.still_works()


def test_a_client_that_does_not_answer_is_given_up_soon(start_own: Start, lender: Lender) -> None:
    """One whose queue of connections is full, and one that takes the key and says nothing."""
    instance = start_own()
    attempt, _ = lender.request(instance, instance.load("add"))
    began_s = time.monotonic()
    assert instance.answer(attempt).result.status == frames.STATUS_OK
    instance.still_works()
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(lender.address + b"-full")
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(lender.address + b"-full")
            arguments = bytes(lending.KEY_BYTES) + lender.address + b"-full"
            attempt, _ = lender.request(instance, instance.load("add"), arguments)
            assert instance.answer(attempt).result.status == frames.STATUS_OK
    assert time.monotonic() - began_s < 4 * 0.25 + 2 * SLACK_S
    instance.still_works()


@pytest.mark.parametrize("how", ["closes", "gives nothing", "gives no board", "talks nonsense", "sends no calls"])
def test_a_client_that_behaves_oddly_costs_nobody_the_process(start_own: Start, lender: Lender, how: str) -> None:
    instance = start_own()
    attempt, key = lender.request(instance, instance.load("add"))
    connection, _ = lender.listener.accept()
    with connection:
        assert connection.recv(100) == key
        if how == "gives nothing":
            connection.sendall(b"+")
        elif how == "gives no board":
            with Path(os.devnull).open() as file, socket.socket() as other:
                socket.send_fds(connection, [b"+"], [file.fileno(), other.fileno()])
        elif how != "closes":
            with client_parts(connection):
                connection.sendall(b"\xff" * 40 if how == "talks nonsense" else frames.encode(frames.Drained()))
                assert instance.answer(attempt).result.kind == "not_lent"
                instance.still_works()
            return
    result = instance.answer(attempt).result
    assert (result.status, result.kind) == (frames.STATUS_FAILED, "not_lent")
    instance.still_works()


@contextmanager
def client_parts(connection: socket.socket) -> Iterator[None]:
    """What a client answers with."""
    descriptor = os.memfd_create("board")
    os.ftruncate(descriptor, mmap.PAGESIZE)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(connection, [b"+"], [descriptor, theirs.fileno()])
        os.close(descriptor)
        yield


@pytest.mark.parametrize("name", ["nap", "spin_for"])
def test_a_client_that_dies_amid_a_call_lets_it_end_and_nothing_else_begin(
    start: Start, lender: Lender, name: str
) -> None:
    borrower = lender.lend(start(), name)
    numbers = [borrower.call(seconds) for seconds in (0.2, 60)]
    borrower.begun(numbers[0])
    borrower.leave()
    succeeded(borrower)
    assert borrower.board.read()[0] == numbers[0]


@pytest.mark.parametrize("size", [50_000, 500_000])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_client_that_stops_reading_is_left_with_what_it_has_not_read(
    start_own: Start, lender: Lender, size: int, is_cancelled: bool
) -> None:
    """The process has waited for it in the middle of an answer: all of that is the loan's own result."""
    instance = start_own()
    borrower = lender.lend(instance, "blob")
    for _ in range(40):
        borrower.call(size)
    instance.wait(lambda: borrower.board.read()[0] > 1 or size > 200_000)
    if is_cancelled:
        instance.control.queue(frames.Cancel(borrower.attempt))
    answer = instance.answer(borrower.attempt)
    begun = borrower.board.read()[0]
    assert begun < 40
    borrower.closed()
    if not is_cancelled:  # else it may have ended as that
        kept = frames.FrameDecoder().feed(answer.payload)
        *pieces, last = kept
        assert isinstance(last, frames.Done)
        assert last.attempt == begun
        said = b"".join(piece.data for piece in pieces if isinstance(piece, frames.Piece) and type(piece.data) is bytes)
        said = said or last.payload if isinstance(last.payload, bytes) else said
        assert len(pickle.loads(said)) == size
        assert begun - 1 == sum(isinstance(frame, frames.Done) for frame in borrower.frames)
    instance.still_works()


def test_a_slow_reader_gets_everything(start_own: Start, lender: Lender) -> None:
    """Answers that go out in parts, between waits."""
    instance = start_own()
    borrower = lender.lend(instance, "blob")
    sizes = [60_000, 3_000_000, 60_000, 1]
    numbers = [borrower.call(size) for size in sizes]
    decoder = frames.FrameDecoder()
    came: list[frames.Frame] = []
    borrower.connection.settimeout(30)
    while not (came and isinstance(came[-1], frames.Done) and came[-1].attempt == numbers[-1]):
        data = borrower.connection.recv(20_000)
        assert data, came
        came += decoder.feed(data)
    assert [frame.attempt for frame in came if isinstance(frame, frames.Done)] == numbers
    said = [frame.data for frame in came if isinstance(frame, frames.Piece)]
    assert sum(map(len, said)) >= 3_000_000


def test_a_hard_exit_and_a_crash_are_seen_on_the_board(start_own: Start, lender: Lender) -> None:
    for name, reason in (("exit_hard", ExitReason(7, None)), ("crash", ExitReason(None, signal.SIGSEGV))):
        instance = start_own()
        borrower = lender.lend(instance, name)
        number = borrower.call(*((7,) if name == "exit_hard" else ()))
        borrower.call()
        assert instance.ended() == reason
        borrower.closed()
        assert (borrower.board.read()[0], borrower.frames) == (number, [])


@pytest.mark.parametrize("name", ["spin", "stubborn"])
def test_losing_the_agent_kills_a_lent_process(start: Start, lender: Lender, name: str) -> None:
    instance = start()
    borrower = lender.lend(instance, name)
    borrower.begun(borrower.call())
    instance.process.control.close()
    assert instance.ended() == ExitReason(None, signal.SIGKILL)


def test_losing_the_agent_kills_a_lent_process_that_waits_for_calls(start_own: Start, lender: Lender) -> None:
    instance = start_own()
    borrower = lender.lend(instance, "add")
    ended = threading.Event()

    def keep_busy() -> None:
        connection = borrower.connection
        connection.setblocking(True)
        try:
            for number in itertools.count(1):
                call = frames.Call(number, NO_VERSION, frames.QUIET, pickle.dumps(((1,), {})))
                connection.sendall(frames.encode(call))
                if not connection.recv(1000):
                    break
        except OSError:
            pass
        ended.set()

    thread = threading.Thread(target=keep_busy)
    thread.start()
    instance.wait(lambda: borrower.board.read()[0] > 100)
    instance.process.control.close()
    assert instance.ended() == ExitReason(None, signal.SIGKILL)
    assert ended.wait(20)
    thread.join()


# ---------------------------------------------------------------- forks and descriptors


@pytest.mark.parametrize("name", ["fork_and_return", "fork_and_raise"])
def test_a_child_that_a_call_forks_says_nothing_to_the_client(start: Start, lender: Lender, name: str) -> None:
    """It ends when it runs out of the user's function. One that has raised has printed its traceback."""
    instance = start()
    borrower = lender.lend(instance, name)
    answer = borrower.answer(borrower.call())
    assert answer.value() == (0 if name == "fork_and_return" else 1)
    assert answer.result.printed or name == "fork_and_return"  # of which newer Pythons print a warning
    if not answer.result.printed:
        assert borrower.value() == 0
        borrower.leave()
    assert borrower.outcome().status == frames.STATUS_OK
    instance.still_works()


def test_a_pool_of_forked_processes_works_in_a_lent_process(start_own: Start, lender: Lender) -> None:
    borrower = lender.lend(start_own(), "in_a_pool")
    assert [borrower.value() for _ in range(2)] == [[0, 1, 4, 9, 16]] * 2
    borrower.leave()
    succeeded(borrower)


def test_loans_leave_no_descriptors_behind(start: Start, lender: Lender) -> None:
    instance = start()
    counts = []

    def descriptors() -> int:
        return len(list(Path(f"/proc/{instance.process.pid}/fd").iterdir()))

    for turn in range(12):
        borrower = lender.lend(instance, "add")
        assert borrower.value(1, 2) == 3
        if turn % 2:
            borrower.leave()
        else:
            borrower.connection.shutdown(socket.SHUT_WR)
            borrower.closed()
        assert borrower.outcome().status == frames.STATUS_OK
        instance.still_works()
        counts.append(descriptors())
    instance.wait(lambda: descriptors() <= counts[0])


def test_the_programs_that_a_call_starts_are_given_none_of_the_loans_descriptors(
    start_own: Start, lender: Lender
) -> None:
    instance = start_own()
    surroundings = instance.run("surroundings").value()
    borrower = lender.lend(instance, "surroundings")
    found = borrower.answer(borrower.call()).value()
    assert found["child_descriptors"] == surroundings["child_descriptors"]
    assert found["main"] == surroundings["main"]


def test_calls_that_come_in_small_parts_are_put_together(start_own: Start, lender: Lender) -> None:
    borrower = lender.lend(start_own(), "add")
    data = b"".join(
        frames.encode(frames.Call(number, NO_VERSION, frames.QUIET, pickle.dumps(((number, 1), {}))))
        for number in range(1, 9)
    )
    for at in range(0, len(data), 7):
        borrower.connection.send(data[at : at + 7])
        borrower.pump()
    assert [borrower.answer(number).value() for number in range(1, 9)] == list(range(2, 10))


def test_a_call_without_arguments_is_run_with_none(start_own: Start, lender: Lender) -> None:
    borrower = lender.lend(start_own(), "gather")
    assert borrower.answer(borrower.call(arguments=NO_ARGUMENTS)).value() == ["a", "b"]
