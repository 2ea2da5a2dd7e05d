"""Where lent processes connect: who is let in, what comes and goes, and what an interrupted turn leaves behind."""

import mmap
import os
import pwd
import select
import signal
import socket as sockets
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import keepwarm.loan_sockets as module
from keepwarm.borrowing import Borrowing, Loan, Sent
from keepwarm.direct_transport import DirectTransport
from keepwarm.errors import OptionError
from keepwarm.loan_sockets import KEY_BYTES, Closed, LoanSockets, Opened, Received
from keepwarm.session_calls import Call, Function
from keepwarm.waking import Wakeup
from keepwarm_wire.messages import FunctionOptions, Outcome, RetryLimits, Status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is borrowed elsewhere")

KEYS = [bytes([number]) * KEY_BYTES for number in range(1, 9)]
ENDED = Outcome(1, Status.SUCCEEDED, b"", None, None)


@pytest.fixture(autouse=True)
def wants_loans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests' own environment says."""
    monkeypatch.setenv("KEEPWARM_LENDING", "1")


def made_loan(key: bytes) -> Loan:
    options = FunctionOptions(0, 0, 0, 0, 0, RetryLimits(), 0, 0, 0)
    borrowing = Borrowing(Function(1, "m:f", b"v" * 32, "cp311", b"{}", False, options, b"body"))
    return Loan(key, borrowing, Call(borrowing.function, key, None))


class Desk:
    """The client's end, with loans that have been asked for."""

    def __init__(self) -> None:
        self.requested = {key: made_loan(key) for key in KEYS}
        self.sockets = LoanSockets(lambda: self.requested)
        self.sockets.listen()

    def look(self, timeout_s: float = 0.0) -> None:
        """What the client's turn does: wait, and take in what has come."""
        poll = select.poll()
        self.sockets.register(poll)
        for descriptor, mask in poll.poll(timeout_s * 1000):
            self.sockets.ready(descriptor, mask)

    def taken(self) -> list[Opened | Received | Closed]:
        arrivals, self.sockets.arrivals = self.sockets.arrivals, []
        return arrivals

    def until(self, condition: Callable[[], object]) -> None:
        end_s = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end_s, self.sockets.arrivals
            self.look(0.01)

    def send(self, loan: Loan, data: bytes = b"", control: bytes = b"", *, closes: bool = False) -> None:
        self.sockets.take([Sent(loan, data, control, closes)])
        self.sockets.send()


class Process:
    """A lent process, as its client sees it."""

    def __init__(self, desk: Desk, key: bytes) -> None:
        self.desk = desk
        self.connection = sockets.socket(sockets.AF_UNIX)
        self.connection.connect(desk.sockets.address)
        self.connection.sendall(key)
        self.control: sockets.socket | None = None
        self.board: mmap.mmap | None = None

    def greet(self) -> "Process":
        self.desk.until(lambda: any(isinstance(arrival, Opened) for arrival in self.desk.sockets.arrivals))
        answer, descriptors, _, _ = sockets.recv_fds(self.connection, 1, 2)
        assert answer == b"+"
        board, control = descriptors
        assert os.fstat(board).st_size >= 24
        self.board = mmap.mmap(board, 24)
        os.close(board)
        self.control = sockets.socket(fileno=control)
        return self

    def begin(self, number: int) -> None:
        assert self.board is not None
        struct.pack_into("@QQQ", self.board, 0, number, time.monotonic_ns(), number)

    def close(self) -> None:
        for each in (self.connection, self.control, self.board):
            if each is not None:
                each.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.sockets.end()


@pytest.fixture
def process(desk: Desk) -> Iterator[Process]:
    """One that is lent under the first key."""
    made = Process(desk, KEYS[0]).greet()
    desk.taken()
    yield made
    made.close()


@pytest.fixture
def loan(desk: Desk) -> Loan:
    return desk.requested[KEYS[0]]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_gone(connection: sockets.socket) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


# ---------------------------------------------------------------- who is let in


def test_a_process_with_a_key_is_given_a_board_and_a_second_connection(desk: Desk) -> None:
    process = Process(desk, KEYS[2]).greet()
    assert desk.taken() == [Opened(desk.requested[KEYS[2]])]
    assert process.board is not None
    assert process.board[:] == bytes(24)
    process.close()
    desk.until(lambda: desk.sockets.arrivals)
    assert desk.taken() == [Closed(desk.requested[KEYS[2]], 0)]


@pytest.mark.parametrize("said", [b"?" * KEY_BYTES, KEYS[0] + b"more", b"\0" * 100_000])
def test_a_stranger_is_shown_out(desk: Desk, said: bytes) -> None:
    before = descriptors()
    stranger = sockets.socket(sockets.AF_UNIX)
    with stranger:
        stranger.connect(desk.sockets.address)
        stranger.setblocking(False)
        stranger.send(said)
        for _ in range(3):
            desk.look(0.05)
        assert is_gone(stranger)
        assert desk.taken() == []
    assert descriptors() == before


def test_a_key_may_come_in_parts_and_one_that_does_not_come_keeps_nobody(desk: Desk, process: Process) -> None:
    with sockets.socket(sockets.AF_UNIX) as silent:
        silent.connect(desk.sockets.address)
        slow = Process(desk, KEYS[1][:5])
        desk.look(0.05)
        process.connection.sendall(b"an outcome")
        desk.until(lambda: desk.sockets.arrivals)
        assert desk.taken() == [Received(desk.requested[KEYS[0]], b"an outcome", False)]
        slow.connection.sendall(KEYS[1][5:])
        slow.greet().close()


def test_a_key_is_good_for_as_long_as_its_loan_is_asked_for(desk: Desk) -> None:
    """A session takes it off its list when the process has come."""
    del desk.requested[KEYS[0]]
    late = Process(desk, KEYS[0])
    desk.look(0.05)
    desk.look(0.05)
    assert is_gone(late.connection)
    late.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else takes root")
def test_another_user_is_shown_out_with_the_right_key(desk: Desk) -> None:
    other = pwd.getpwnam("nobody")
    text = """
    import socket, sys
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(bytes.fromhex(sys.argv[1]))
    try:
        connection.sendall(bytes.fromhex(sys.argv[2]))
        print(connection.recv(10))
    except ConnectionError:
        print(b"")
    """
    child = subprocess.Popen(
        ["/usr/bin/python3", "-I", "-c", textwrap.dedent(text), desk.sockets.address.hex(), KEYS[0].hex()],
        stdout=subprocess.PIPE, user=other.pw_uid, group=other.pw_gid, cwd="/",
    )  # fmt: skip
    while child.poll() is None:
        desk.look(0.02)
    out, _ = child.communicate()
    assert out == b"b''\n"
    assert desk.taken() == []


# ---------------------------------------------------------------- both ways


def test_data_and_control_go_both_ways(desk: Desk, process: Process, loan: Loan) -> None:
    assert process.control is not None
    desk.send(loan, b"calls", b"recalls")
    assert (process.connection.recv(100), process.control.recv(100)) == (b"calls", b"recalls")
    process.connection.sendall(b"outcomes")
    process.control.sendall(b"recalled")
    desk.until(lambda: len(desk.sockets.arrivals) == 2)
    assert set(desk.taken()) == {Received(loan, b"outcomes", False), Received(loan, b"recalled", True)}


def test_what_a_process_does_not_read_waits_in_order(desk: Desk, process: Process, loan: Loan) -> None:
    pieces = [bytes([number]) * 50_000 for number in range(20)]
    for piece in pieces:
        desk.send(loan, piece)
    received = b""
    while len(received) < 1_000_000:
        received += process.connection.recv(30_000)
        desk.look()
    assert received == b"".join(pieces)
    poll = select.poll()
    desk.sockets.register(poll)
    assert poll.poll(0) == []  # nothing waits for room any more


def test_a_process_that_dies_with_calls_unread_is_heard_to_its_last_word(
    desk: Desk, process: Process, loan: Loan
) -> None:
    desk.send(loan, b"x" * 100_000)
    process.connection.sendall(b"y" * 100_000)
    process.begin(7)
    process.close()
    desk.until(lambda: any(isinstance(arrival, Closed) for arrival in desk.sockets.arrivals))
    *words, last = desk.taken()
    assert b"".join(word.data for word in words if isinstance(word, Received)) == b"y" * 100_000
    assert last == Closed(loan, 7)
    desk.send(loan, b"to nobody", b"to nobody")
    assert desk.taken() == []


def test_a_control_connection_that_ends_first_ends_nothing(desk: Desk, process: Process, loan: Loan) -> None:
    assert process.control is not None
    process.control.close()
    desk.look(0.05)
    desk.send(loan, b"a call", b"a recall")
    assert process.connection.recv(100) == b"a call"
    process.connection.close()
    desk.until(lambda: desk.sockets.arrivals)
    assert desk.taken() == [Closed(loan, 0)]


def test_letting_go_shuts_our_half_and_hears_the_rest(desk: Desk, process: Process, loan: Loan) -> None:
    desk.send(loan, b"last", closes=True)
    assert process.connection.recv(100) == b"last"
    assert process.connection.recv(100) == b""
    process.connection.sendall(b"its outcome")
    desk.until(lambda: desk.sockets.arrivals)
    process.connection.close()
    desk.until(lambda: len(desk.sockets.arrivals) == 2)
    assert desk.taken() == [Received(loan, b"its outcome", False), Closed(loan, 0)]


def test_of_a_loan_that_has_ended_the_rest_is_read_before_it_is_closed(
    desk: Desk, process: Process, loan: Loan
) -> None:
    process.connection.sendall(b"its last outcome")
    loan.ended = ENDED
    desk.send(loan, closes=True)
    assert desk.taken() == [Received(loan, b"its last outcome", False), Closed(loan, 0)]
    assert is_gone(process.connection)


# ---------------------------------------------------------------- ends


def test_nothing_is_left_open(desk: Desk) -> None:
    before = descriptors()
    for _ in range(30):
        one, other = Process(desk, KEYS[0]).greet(), Process(desk, KEYS[1])
        desk.taken()
        other.greet()
        desk.taken()
        one.close()
        desk.until(lambda: desk.sockets.arrivals)
        desk.sockets.close()
        other.close()
    assert descriptors() == before
    assert desk.taken() == []


def test_closing_ends_it_for_a_forked_child_too(desk: Desk, process: Process) -> None:
    """The child has the same connections: without a word the process would wait for it."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        signal.pause()
        os._exit(0)
    try:
        desk.sockets.close()
        assert is_gone(process.connection)
        assert process.control is not None
        assert is_gone(process.control)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_after_the_end_nothing_is_watched_and_listening_begins_anew(desk: Desk) -> None:
    address = desk.sockets.address
    desk.sockets.end()
    poll = select.poll()
    desk.sockets.register(poll)
    assert poll.poll(0) == []
    desk.sockets.listen()
    assert desk.sockets.address != address
    Process(desk, KEYS[0]).greet().close()


# ---------------------------------------------------------------- interrupted turns


class InterruptionError(Exception):
    """What a program's signal handler raises."""


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], None]) -> None:
    """Have something happen where a function of the module is called, the first time."""
    original, is_first = getattr(module, name), [True]

    def replaced(*args: Any) -> Any:
        result = original(*args)
        if is_first:
            is_first.clear()
            action()
        return result

    monkeypatch.setattr(module, name, replaced)


def raise_interruption() -> None:
    raise InterruptionError


@pytest.mark.parametrize("finder", ["look", "send"])
def test_connections_that_were_left_in_the_middle_of_reading_are_given_up(
    desk: Desk, process: Process, loan: Loan, monkeypatch: pytest.MonkeyPatch, finder: str
) -> None:
    process.begin(3)
    process.connection.sendall(b"half of it is lost")
    interrupt(monkeypatch, "_received", raise_interruption)
    with pytest.raises(InterruptionError):
        desk.look(1)
    other = Process(desk, KEYS[1])
    if finder == "look":
        desk.look(1)
    else:
        desk.send(loan, b"more")
    assert desk.taken() == [Closed(loan, 3)]
    assert is_gone(process.connection)
    other.greet().close()


def test_connections_that_were_left_in_the_middle_of_writing_are_given_up(
    desk: Desk, process: Process, loan: Loan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoanSockets, "_write", lambda *_: raise_interruption())
    with pytest.raises(InterruptionError):
        desk.send(loan, b"a call")
    monkeypatch.undo()
    process.connection.sendall(b"something")
    desk.look(1)
    assert desk.taken() == [Closed(loan, 0)]
    desk.send(loan, b"another")
    assert is_gone(process.connection)


def test_a_turn_within_a_turn_ends_the_loans_and_the_outer_one_goes_on(
    desk: Desk, process: Process, loan: Loan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that makes a call itself, in the middle of a read."""
    process.begin(5)
    process.connection.sendall(b"half of it is lost")
    heard: list[Opened | Received | Closed] = []

    def nested() -> None:
        desk.sockets.ready(-1, select.POLLIN)  # anything that a poll ends for
        heard.extend(desk.taken())

    interrupt(monkeypatch, "_received", nested)
    desk.look(1)
    assert heard == [Closed(loan, 5)]
    assert desk.taken() == []
    desk.look()
    Process(desk, KEYS[1]).greet().close()


def test_a_turn_within_a_greeting_does_not_leave_half_a_guest(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    process = Process(desk, KEYS[0])
    interrupt(monkeypatch, "_equip", lambda: desk.sockets.ready(-1, select.POLLIN))
    for _ in range(3):
        desk.look(0.05)
    sockets.recv_fds(process.connection, 1, 0)  # the greeting was under way already
    assert is_gone(process.connection)
    process.close()
    assert not any(isinstance(arrival, Opened) for arrival in desk.taken())
    assert descriptors() == before


def test_what_one_turn_took_is_written_first_by_a_turn_within_it(desk: Desk, process: Process, loan: Loan) -> None:
    """In the order in which it was taken: the process runs calls as they come."""
    desk.sockets.take([Sent(loan, b"1", b"", False)])
    desk.send(loan, b"2")
    desk.sockets.send()
    assert process.connection.recv(100) == b"12"


def test_a_closed_desk_hears_nothing_of_old_loans(
    desk: Desk, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session that they belonged to is over."""
    process.connection.sendall(b"an outcome")
    interrupt(monkeypatch, "_received", desk.sockets.close)
    desk.look(1)
    assert desk.taken() == []


# ---------------------------------------------------------------- many descriptors


def test_a_program_with_a_thousand_open_files_pauses_all_the_same(tmp_path: Path) -> None:
    """``select`` takes no descriptor above 1023."""
    text = """
    import os, resource, time
    from keepwarm.direct_transport import DirectTransport
    from keepwarm.waking import Wakeup
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
    kept = [os.dup(0) for _ in range(1100)]
    wakeup = Wakeup()
    transport = DirectTransport("ipc:///nowhere", wakeup)
    began = time.monotonic()
    transport.pause(0.002)
    wakeup.wake()
    transport.pause(10)
    print(wakeup.fileno() > 1023, time.monotonic() - began < 5)
    """
    command = [sys.executable, "-c", textwrap.dedent(text)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.stdout == "True True\n", done.stderr


def test_a_pause_ends_for_a_wake_up_and_for_the_scheduler_but_for_no_lent_process(desk: Desk, process: Process) -> None:
    wakeup = Wakeup()
    transport = DirectTransport("ipc:///nowhere", wakeup, desk.sockets)
    process.connection.sendall(b"an outcome")
    began_s = time.monotonic()
    transport.pause(0.03)
    assert time.monotonic() - began_s > 0.025
    wakeup.wake()
    transport.pause(20)
    assert time.monotonic() - began_s < 10
    transport.receive(1)
    desk.until(lambda: desk.sockets.arrivals)
    transport.close(0)
    wakeup.close()


@pytest.mark.parametrize("text", ["yes", "2", "true"])
def test_a_wish_that_is_no_wish_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("KEEPWARM_LENDING", text)
    with pytest.raises(OptionError, match=f"KEEPWARM_LENDING='{text}'"):
        LoanSockets(dict)


@pytest.mark.parametrize(("text", "is_wanted"), [("0", False), ("1", True), ("", True)])
def test_who_wants_no_loans_is_reached_nowhere(monkeypatch: pytest.MonkeyPatch, text: str, is_wanted: bool) -> None:
    monkeypatch.setenv("KEEPWARM_LENDING", text)
    sockets = LoanSockets(dict)
    sockets.listen()
    assert bool(sockets.address) is is_wanted
    sockets.end()
