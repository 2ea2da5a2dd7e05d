"""Agent and client of a lent process, played by a test."""

import contextlib
import itertools
import os
import pickle
import secrets
import selectors
import socket
from collections.abc import Callable
from pathlib import Path

from keepwarm_worker.processes import FrameReader, FrameWriter
from keepwarm_worker.runner import frames, lending, running, unread
from keepwarm_worker.runner_files import install_runner
from support.instances import (
    Answer,
    Instance,
)

__all__ = [
    "Borrower",
    "FIRST_ATTEMPT",
    "LONG_IDLE_S",
    "Lender",
    "NO_VERSION",
    "SLACK_S",
    "read_as_an_agent_does",
    "succeeded",
]

FIRST_ATTEMPT = 1 << 40
"""As a scheduler's are: no number that a client gives its calls is among them."""

LONG_IDLE_S = 2.0
SLACK_S = 2.0
"""How much later than it should something may happen on a busy machine."""

NO_VERSION = bytes(32)


def read_as_an_agent_does(instance: Instance) -> None:
    """It tells the runner before it reads what was printed."""
    read = instance._read_output

    def read_output() -> None:
        if any(unread.unread_bytes(descriptor) for descriptor in instance.output):
            instance.process.board.output_comes()
            read()

    instance._read_output = read_output  # type: ignore[method-assign]


class Borrower:
    """The client's end of one loan."""

    def __init__(self, instance: Instance, connection: socket.socket, attempt: int) -> None:
        self.instance, self.connection, self.attempt = instance, connection, attempt
        descriptor = os.memfd_create("board")
        os.ftruncate(descriptor, running.BOARD_BYTES)
        self.board = running.RunningBoard(descriptor)
        self.control, theirs = socket.socketpair()
        socket.send_fds(connection, [b"+"], [descriptor, theirs.fileno()])
        os.close(descriptor)
        theirs.close()
        connection.setblocking(False)
        self.control.setblocking(False)
        self.reader, self.writer = FrameReader(connection), FrameWriter(connection)
        self.told, self.asker = FrameReader(self.control), FrameWriter(self.control)
        self.frames: list[frames.Frame] = []
        self.recalled: list[int] = []
        self._numbers = itertools.count(1)
        for each in (connection, self.control):
            instance._selector.register(each, selectors.EVENT_READ)

    def call(self, *args: object, arguments: bytes | None = None) -> int:
        """Send a call; its number."""
        number = next(self._numbers)
        self.writer.queue(frames.Call(number, NO_VERSION, frames.QUIET, arguments or pickle.dumps((args, {}))))
        self.writer.flush()
        return number

    def ask(self, frame: frames.Frame) -> None:
        self.asker.queue(frame)
        self.asker.flush()

    def pump(self) -> None:
        self.writer.flush()
        self.asker.flush()
        self.frames += self.reader.receive()
        for frame in self.told.receive():
            assert isinstance(frame, frames.Recalled)
            self.recalled.append(frame.attempt)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Move bytes of both peers until it holds."""

        def looked() -> bool:
            self.pump()
            return condition()

        self.instance.wait(looked)

    def answer(self, number: int) -> Answer:
        """The outcome of a call. What came before it is taken too: large payloads come in pieces."""
        mine: list[frames.Frame] = []

        def came() -> bool:
            while self.frames:
                mine.append(self.frames.pop(0))
                if isinstance(mine[-1], frames.Done | frames.Result):
                    return True
            return False

        self.wait(came)
        last = mine[-1]
        assert isinstance(last, frames.Done | frames.Result)
        assert last.attempt == number, mine
        return Answer(mine, self.instance.spool)

    def value(self, *args: object) -> object:
        return self.answer(self.call(*args)).value()

    def begun(self, number: int) -> None:
        """Wait until a call has begun."""
        self.wait(lambda: self.board.read()[0] >= number)

    def closed(self) -> None:
        """Wait until the process has ended the connection."""
        self.wait(lambda: self.reader.closed)
        self.instance._selector.unregister(self.connection)

    def leave(self) -> None:
        """As when the program ends."""
        for each in (self.connection, self.control):
            if each.fileno() >= 0:
                with contextlib.suppress(KeyError):
                    self.instance._selector.unregister(each)
                each.close()

    def outcome(self) -> frames.Result:
        """How the agent learns that the loan ended."""
        return self.instance.answer(self.attempt).result

    def close(self) -> None:
        self.leave()
        self.board.close()


class Lender:
    """Where a test's client is reached, and what it is asked for."""

    def __init__(self) -> None:
        self.address = b"\0keepwarm-test-" + secrets.token_hex(8).encode()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen(4)
        self.listener.settimeout(30)
        self.open: list[Borrower] = []

    def request(self, instance: Instance, version: bytes, arguments: bytes | None = None) -> tuple[int, bytes]:
        """Have the agent send the loan; its attempt and its key."""
        if not hasattr(instance, "lends"):
            instance.lends = True  # type: ignore[attr-defined]
            instance._attempts = itertools.count(FIRST_ATTEMPT)
            read_as_an_agent_does(instance)
        key = secrets.token_bytes(lending.KEY_BYTES)
        sent = key + self.address if arguments is None else arguments
        return instance.start(version, sent, frames.QUIET | frames.LOAN), key

    def lend(self, instance: Instance, name: str) -> Borrower:
        """A loan of this function that is open."""
        attempt, key = self.request(instance, instance.load(name))
        connection, _ = self.listener.accept()
        assert connection.recv(100) == key
        borrower = Borrower(instance, connection, attempt)
        self.open.append(borrower)
        return borrower

    def close(self) -> None:
        for borrower in self.open:
            borrower.close()
        self.listener.close()


def succeeded(borrower: Borrower) -> None:
    """The loan has ended as it should, and the process serves its agent."""
    assert borrower.outcome().status == frames.STATUS_OK
    borrower.instance.still_works()


def patient_runner(directory: Path) -> Path:
    """The installed runner, but for how long it waits."""
    main = install_runner(directory)
    file = main.parent / "lending.py"
    text = file.read_text()
    line = f"IDLE_S = {lending.IDLE_S}\n"
    assert line in text
    file.write_text(text.replace(line, f"IDLE_S = {LONG_IDLE_S}\n"))
    return main
