"""Where lent processes connect to this program, and their connections.

Rules: only the thread that owns the client's turn calls anything here; nothing waits. A process must be of this user
and know the key of a loan that is asked for. A turn that was interrupted in the middle of reading or writing, by a
signal handler that raises something or makes calls itself, leaves connections in an unknown state: whoever finds them
so gives them up, which the session takes for the end of those loans. So whatever is done here may find, at its next
step, that its connection is over. Only on Linux: elsewhere nothing is borrowed.
"""

import mmap
import os
import secrets
import select
import socket as sockets
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from keepwarm.borrowing import Loan, Sent
from keepwarm.errors import OptionError

__all__ = ["LoanSockets", "Opened", "Received", "Closed"]

READ_BYTES = 256 * 1024
READS_MAX = 64
BACKLOG = 64
KEY_BYTES = 16
_BOARD = struct.Struct("@QQQ")
"""The number of the call that began last, when that was, and the number again: as a runner writes it."""
_OVER = struct.Struct("@Q")
"""Behind that, ours: no call is to begin any more. Whoever begins one looks at it before running it."""
_BOARD_BYTES = 64
_CREDENTIALS = struct.Struct("3i")
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Opened(NamedTuple):
    """A process has connected."""

    loan: Loan


class Received(NamedTuple):
    """Bytes have come, of calls or on the other connection."""

    loan: Loan
    data: bytes
    is_control: bool


class Closed(NamedTuple):
    """A connection is over. ``begun`` is the number of the last call that began."""

    loan: Loan
    begun: int


class _Guest:
    """A process that is connected; without a loan until it has said its key."""

    def __init__(self, connection: sockets.socket) -> None:
        self.connection = connection
        self.loan: Loan | None = None
        self.control: sockets.socket | None = None
        self.board: mmap.mmap | None = None
        self.said = b""
        self.unsent = b""
        self.is_over = False

    def begun(self) -> int:
        """The number of the last call that began; none begins from here on.

        What was written to a socket is read even after its end. So each side writes first and looks second, with a
        fence in between: a call that begins at this very moment is seen here, or is not run, or both.
        """
        if self.board is None or self.board.closed:
            return 0
        _OVER.pack_into(self.board, _BOARD.size, 1)
        fence = threading.Lock()
        for act in (fence.acquire, fence.release, fence.acquire):  # the last two are a fence for the processor
            act()
        return int(_BOARD.unpack_from(self.board, 0)[0])  # written before the call begins, and a torn one by the dead

    def close(self) -> None:
        """Also for a child that this program has forked, which has these too. May be said again."""
        self.is_over = True
        for connection in (self.connection, self.control):
            if connection is not None:
                _try(lambda each=connection: each.shutdown(sockets.SHUT_RDWR))  # type: ignore[misc]
                connection.close()
        if self.board is not None:
            self.board.close()


class LoanSockets:
    """The connections of one client's loans. ``requested`` returns those of its session that are not open, by key.

    Raises ``OptionError`` for a ``KEEPWARM_LENDING`` that is neither 0 nor 1.
    """

    def __init__(self, requested: Callable[[], dict[bytes, Loan]]) -> None:
        self._requested = requested
        self.arrivals: list[Opened | Received | Closed] = []
        """What has come, for the session; whoever takes it clears it."""
        self._listener: sockets.socket | None = None
        self._guests: dict[int, _Guest] = {}
        """By descriptor, once by that of each of its connections."""
        self._unsent: deque[Sent] = deque()
        self._is_amid = False
        self._is_wanted = sys.platform == "linux" and _is_wanted()
        self.address = b""

    def listen(self) -> None:
        """Be there for processes, where that is possible and wanted."""
        if self._listener is not None or not self._is_wanted:
            return
        address = b"\0keepwarm-" + secrets.token_hex(16).encode()
        listener = sockets.socket(sockets.AF_UNIX)
        try:
            listener.setblocking(False)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            return
        self._listener, self.address = listener, address

    def register(self, poll: select.poll) -> None:
        """Have everything watched that something may come from."""
        listener = self._listener
        if listener is None:
            return
        poll.register(listener, select.POLLIN)
        for descriptor, guest in list(self._guests.items()):
            if guest.is_over:
                self._guests.pop(descriptor, None)
                continue
            is_behind = guest.unsent and guest.connection.fileno() == descriptor
            poll.register(descriptor, select.POLLIN | select.POLLOUT if is_behind else select.POLLIN)

    def ready(self, descriptor: int, mask: int) -> None:
        """Something has come on a descriptor that ``register`` named; others are ignored."""
        if self._give_up_amid():
            return
        self._is_amid = True
        if self._listener is not None and descriptor == self._listener.fileno():
            self._accept()
        else:
            guest = self._guests.get(descriptor)
            if guest is not None and mask & select.POLLOUT:
                self._write(guest)
            if guest is not None and mask & _READABLE:
                self._read(guest, descriptor)
        self._is_amid = False

    def take(self, outgoing: list[Sent]) -> None:
        """What the session wants written, in this order whoever is the one to ``send`` it."""
        self._unsent.extend(outgoing)

    def send(self) -> None:
        """Write what was taken; what a socket does not take now follows when it does."""
        if not self._unsent or self._give_up_amid():
            return
        self._is_amid = True
        guests = {guest.loan: guest for guest in list(self._guests.values())}
        while self._unsent:
            sent = self._unsent.popleft()
            guest = guests.get(sent.loan)
            if guest is not None:
                self._send(guest, sent)
        self._is_amid = False

    def close(self) -> None:
        """Close every connection: the processes are nobody's now. Where they connect stays."""
        for guest in list(self._guests.values()):
            guest.close()
        self._guests.clear()
        self._unsent.clear()
        self.arrivals = []
        self._is_amid = False

    def end(self) -> None:
        """Close for good."""
        self.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # ------------------------------------------------------------ inside

    def _give_up_amid(self) -> bool:
        if not self._is_amid:
            return False
        for guest in list(self._guests.values()):
            self._end(guest)
        self._unsent.clear()
        self._is_amid = False
        return True

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            peer = connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _CREDENTIALS.size)
            _, user, _ = _CREDENTIALS.unpack(peer)
            if user not in (os.geteuid(), 0):
                connection.close()
                continue
            connection.setblocking(False)
            self._guests[connection.fileno()] = _Guest(connection)

    def _read(self, guest: _Guest, descriptor: int) -> None:
        is_control = guest.connection.fileno() != descriptor
        arrivals = self.arrivals  # those that are taken meanwhile are of a turn that gives this connection up
        for _ in range(READS_MAX):
            data = _received(guest.control if is_control and guest.control is not None else guest.connection)
            if data is None or guest.is_over:
                return
            if not data and is_control:
                self._guests.pop(descriptor, None)  # the other connection tells the end
                return
            if not data:
                self._end(guest)
                return
            if guest.loan is not None:
                arrivals.append(Received(guest.loan, data, is_control))
            elif not self._greet(guest, data):
                self._end(guest)
                return
            if len(data) < READ_BYTES:
                return

    def _greet(self, guest: _Guest, data: bytes) -> bool:
        """A process says its key. False if it has no business here."""
        guest.said += data
        if len(guest.said) < KEY_BYTES:
            return True
        loan = self._requested().get(guest.said)
        if loan is None:
            return False
        try:
            _equip(guest)
        except OSError:
            return False
        if guest.control is None or guest.is_over:
            return False
        guest.loan = loan
        self._guests[guest.control.fileno()] = guest
        self.arrivals.append(Opened(loan))
        return True

    def _send(self, guest: _Guest, sent: Sent) -> None:
        if sent.control and guest.control is not None:
            _try(lambda: guest.control.send(sent.control))  # type: ignore[union-attr]  # a few bytes, which always fit
        if sent.data:
            guest.unsent += sent.data
            self._write(guest)
        if not sent.closes:
            return
        if sent.loan.ended is None:
            _try(lambda: guest.connection.shutdown(sockets.SHUT_WR))
            return
        while data := _received(guest.connection):
            self.arrivals.append(Received(sent.loan, data, is_control=False))
        self._end(guest)

    @staticmethod
    def _write(guest: _Guest) -> None:
        try:
            while guest.unsent:
                taken = guest.connection.send(guest.unsent, sockets.MSG_NOSIGNAL)
                guest.unsent = guest.unsent[taken:]
        except BlockingIOError:
            return
        except OSError:
            guest.unsent = b""  # it is ending: what it has said is still to be read

    def _end(self, guest: _Guest) -> None:
        """Told first and done then: who is interrupted in between has it told again, which changes nothing."""
        if not guest.is_over and guest.loan is not None:
            self.arrivals.append(Closed(guest.loan, guest.begun()))
        for descriptor in [number for number, each in list(self._guests.items()) if each is guest]:
            self._guests.pop(descriptor, None)
        guest.close()


def _is_wanted() -> bool:
    text = os.environ.get("KEEPWARM_LENDING", "").strip()
    if text not in ("", "0", "1"):
        raise OptionError(f"KEEPWARM_LENDING={text!r}: 0 has no processes lent to this program, 1 has, the default")
    return text != "0"


def _equip(guest: _Guest) -> None:
    """Give a process the board that it is to write on, and the other connection. Raises ``OSError``."""
    ours, theirs = sockets.socketpair()
    guest.control = ours
    with theirs:
        ours.setblocking(False)
        board = os.memfd_create("keepwarm-loan")
        try:
            os.ftruncate(board, _BOARD_BYTES)
            guest.board = mmap.mmap(board, _BOARD_BYTES)
            sockets.send_fds(guest.connection, [b"+"], [board, theirs.fileno()])
        finally:
            os.close(board)


def _received(connection: sockets.socket) -> bytes | None:
    """What has come; nothing at the end, None if there is nothing yet."""
    try:
        return connection.recv(READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _try(action: Callable[[], object]) -> None:
    try:
        action()
    except OSError:
        return
