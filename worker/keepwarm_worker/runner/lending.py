"""A loan: for a while this process takes calls from a client of the same machine, past agent and scheduler.

The loan itself is a call like any other, which ends when the loan does. Its arguments are a key and an address.

Rules:
- We connect to the client and say the key. It answers with a board, on which it sees what had begun when we died, and
  with the socket on which it asks calls back or to be interrupted: the parts that an agent plays else.
- One call at a time, in the order of arrival. Each has its outcome before the next begins.
- What is printed goes to the agent, as ever. So a call that has printed is the loan's last: its client waits for the
  loan's own end, which the agent reports after the output.
- A call that has begun on the board after the client has given the loan up, which it says there, is not run.
- Nobody has to end a loan: it ends when no call has come for ``IDLE_S``, whatever the client does or does not.
"""

from __future__ import annotations

import _socket
import _thread
import os
from struct import Struct

from . import control, execution, failures, frames, running, serialization

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Callable, Iterator, List, Optional, Tuple

    from . import unread

__all__ = ["KEY_BYTES", "Loan"]

KEY_BYTES = 16
IDLE_S = 0.05
_ANSWER_S = 0.25
"""So long we wait for the client to take us in: one that does not has something else to do."""

_READ_BYTES = 128 * 1024
_TIME = Struct("@ll")
_NO_SIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)
_FDS = Struct("@ii")
"""The two descriptors that come with the client's answer: the board, and one end of the control socket."""


class _UnreachableError(Exception):
    """There is no such client on this machine, or it does not want us."""


class _UnreadError(Exception):
    """The client has not read anything for `IDLE_S`."""


class Loan:
    """One loan, from its call's arguments to its end. `keep` is given what is to be its result, piece by piece."""

    def __init__(
        self,
        frame: frames.Call,
        spool: str,
        interrupts: control.Interrupts,
        board: running.RunningBoard,
        outputs: unread.Outputs,
        keep: Callable[[bytes], object],
    ) -> None:
        self._frame = frame
        self._spool = spool
        self._interrupts = interrupts
        self._agents_board = board
        self._outputs = outputs
        self._keep = keep
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._control: Optional[_socket.socket] = None
        self._lock = _thread.allocate_lock()
        self._is_over = False

    def descriptors(self) -> List[int]:
        """What a forked child is not to keep open."""
        connections = [self._socket] if self._control is None else [self._socket, self._control]
        return [descriptor for descriptor in map(_socket.socket.fileno, connections) if descriptor >= 0]

    def serve(
        self, run: Callable[[frames.Call], Tuple[execution._Call, Optional[frames.Result]]]
    ) -> Optional[BaseException]:
        """Have ``run`` run the client's calls until the loan is over. Returns what went wrong with the loan itself."""
        attempt, error = self._frame.attempt, None
        self._interrupts.begin_loan(attempt)
        try:
            board = self._connect()
            try:
                self._start_watching()
                error = self._serve(run, board)
            finally:
                board.close()
        except BlockingIOError:
            error = None
        except (OSError, frames.FrameError, _UnreachableError, serialization.SpoolError) as unreachable:
            self._interrupts.delivered = None  # what ended the last call is not what ended the loan
            error = unreachable
        finally:
            with self._lock:
                self._is_over = True
            self._close()
            self._interrupts.end_loan()
        return error

    def _start_watching(self) -> None:
        connection = self._control
        assert connection is not None
        try:
            _thread.start_new_thread(self._watch, (connection,))
        except RuntimeError:
            connection.close()  # which the thread does else
            raise _UnreachableError("no thread can be started") from None

    def _connect(self) -> running.RunningBoard:
        arguments = self._frame.arguments
        if type(arguments) is not bytes or len(arguments) <= KEY_BYTES:
            raise _UnreachableError("a loan without a key and an address")
        self._limit_waits(_ANSWER_S)
        self._socket.connect(arguments[KEY_BYTES:])
        self._socket.sendall(arguments[:KEY_BYTES], _NO_SIGNAL)
        answer, extra, _flags, _address = self._socket.recvmsg(1, _socket.CMSG_SPACE(_FDS.size))
        given = [
            _FDS.unpack(data) for level, kind, data in extra if kind == _socket.SCM_RIGHTS and len(data) == _FDS.size
        ]
        if not answer or not given:
            raise _UnreachableError("the client does not take the loan")
        board_fd, control_fd = given[0]
        try:
            os.set_inheritable(control_fd, False)
            self._control = _socket.socket(fileno=control_fd)
            self._limit_waits(IDLE_S)
            return running.RunningBoard(board_fd)
        except ValueError:
            raise _UnreachableError("the client gives no board") from None
        finally:
            os.close(board_fd)

    def _limit_waits(self, seconds: float) -> None:
        """Nothing blocks for longer than this: whoever wants the loan to end is seen in time."""
        time = _TIME.pack(int(seconds), int(seconds % 1 * 1_000_000))
        for option in (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO):
            self._socket.setsockopt(_socket.SOL_SOCKET, option, time)

    def _serve(
        self, run: Callable[[frames.Call], Tuple[execution._Call, Optional[frames.Result]]], board: running.RunningBoard
    ) -> Optional[BaseException]:
        interrupts, attempt = self._interrupts, self._frame.attempt
        decoder = frames.FrameDecoder()
        while True:
            data, error = interrupts.guard(attempt, self._receive)
            if error is not None or not data:
                return error
            for frame in decoder.feed(data):
                if type(frame) is not frames.Call:
                    raise _UnreachableError("a client says nothing but calls")
                if not interrupts.begin(frame.attempt):
                    continue
                outputs = self._agents_board.outputs()
                board.begin(frame.attempt)
                if board.is_over():
                    return None
                call, result = run(frame)
                printed = self._outputs.are_unread() or self._agents_board.outputs() != outputs
                if not self._answer(call, result, printed) or printed:
                    return None
                if interrupts.is_requested(attempt):
                    break  # what is left has not begun; `guard` raises it

    def _receive(self) -> bytes:
        """The next bytes; none at the end, and when nothing has come for too long."""
        try:
            return self._socket.recv(_READ_BYTES)
        except (BlockingIOError, ConnectionError):
            return b""

    def _answer(self, call: execution._Call, result: Optional[frames.Result], printed: bool) -> bool:
        """Send an outcome. False if that is the last one: the client is gone, or does not read, and it was kept."""
        stored = call.payload if result is None else result.payload
        file: Optional[BinaryIO] = None
        if isinstance(stored, frames.Stored):
            path = self._spool + "/" + stored.path
            try:
                file = open(path, "rb")  # noqa: SIM115 - closed below
                os.unlink(path)
            except OSError as error:
                file = None
                description = failures.describe_barely(error)
                result = call.result(frames.STATUS_FAILED, b"", failures.RESULT_NOT_STORED, description)
        outcome = execution.encode_outcome(call, result, printed)
        try:
            return all(map(self._send, _parts(file, outcome)))
        except _UnreadError:
            for part in _parts(file, outcome):
                self._keep(part)
            return False
        finally:
            if file is not None:
                file.close()

    def _send(self, data: bytes) -> bool:
        """Whether the client has taken it. Raises `_UnreadError`."""
        sent = 0
        while sent < len(data):
            try:
                sent += self._socket.send(data[sent:] if sent else data, _NO_SIGNAL)
            except BlockingIOError:
                raise _UnreadError from None
            except OSError:
                return False
        return True

    def _watch(self, connection: _socket.socket) -> None:
        """In a thread of its own: do what the client asks for on the control socket, until the loan is over.

        Nobody else closes it: its number might be another's by the time that it is read from.
        """
        decoder = frames.FrameDecoder()
        try:
            while True:
                data = connection.recv(_READ_BYTES)
                if not data:
                    return
                for frame in decoder.feed(data):
                    with self._lock:
                        if self._is_over:
                            return
                        control.obey(frame, connection.fileno(), self._interrupts)
        except (OSError, frames.FrameError):
            return  # the data socket ends as well, and with it the loan
        finally:
            with self._lock:
                connection.close()

    def _close(self) -> None:
        """End both connections, also where a forked child has kept its copies."""
        for connection in (self._socket, self._control):
            if connection is not None:
                try:  # noqa: SIM105 - contextlib would be one more import
                    connection.shutdown(_socket.SHUT_RDWR)
                except OSError:
                    pass
        self._socket.close()


def _parts(file: Optional[BinaryIO], outcome: bytes) -> Iterator[bytes]:
    """The frames of an outcome, whose payload may be in a file."""
    if file is not None:
        file.seek(0)
        while True:
            data = file.read(frames.INLINE_LIMIT_BYTES)
            if not data:
                break
            yield frames.encode(frames.Piece(data))
    yield outcome
