"""A client's end of its loans: what ``keepwarm.loan_sockets`` is to a real program, and what its turn does with it."""

from typing import TYPE_CHECKING

from keepwarm.borrowing import Loan, Sent
from keepwarm_worker.runner import frames
from support.simulation.lending import Doors, Line
from support.simulation.workload import run_under

if TYPE_CHECKING:
    from support.simulation.client_host import ClientHost

__all__ = ["Desk"]


class _Guest:
    """A line whose process has been taken in, and what it has said, decoded for the history."""

    def __init__(self, line: Line, loan: Loan) -> None:
        self.line, self.loan = line, loan
        self.said, self.said_on_control = frames.FrameDecoder(), frames.FrameDecoder()


class Desk:
    """Where the processes that are lent to one client reach it."""

    def __init__(self, host: "ClientHost") -> None:
        self._host = host
        self._guests: dict[int, _Guest] = {}
        self._doors = Doors(is_open=False)
        self.tokens: dict[bytes, int] = {}
        """The attempts of loans that have begun, by their keys."""

    @property
    def lines(self) -> list[Line]:
        """Those that are open."""
        return [guest.line for guest in self._guests.values()]

    def open(self, doors: Doors) -> None:
        """Be there for processes from now on."""
        address = b"\0simulated-" + self._host.name.encode()
        self._doors = doors
        doors.desks[address] = self
        self._host.session.loans.borrower.address = address

    def close(self) -> None:
        """The program is gone."""
        for guest in self._guests.values():
            self._leave(guest.line)
        self._guests.clear()
        for address in [address for address, desk in self._doors.desks.items() if desk is self]:
            del self._doors.desks[address]

    # ------------------------------------------------------------ what comes

    def knock(self, line: Line) -> None:
        """A process connects, and says its key."""
        line.wake_client = lambda: self._host.on_line(line)
        line.tell_client()

    def look(self, line: Line) -> None:
        """Something has come on a line."""
        host = self._host
        guest = self._guests.get(line.token)
        if guest is None:
            guest = self._greet(line)
        if guest is None:
            return
        data, control = bytes(line.to_client), bytes(line.control_to_client)
        line.to_client.clear()
        line.control_to_client.clear()
        if control:
            self._note_given_back(guest, control)
            host.session.loans.received_control(host.now(), guest.loan, control)
        if data:
            self._note_outcomes(guest, data)
            host.session.loans.received(host.now(), guest.loan, data)
        if line.is_left_by_process and not line.to_client:
            self._end(guest)

    def _greet(self, line: Line) -> _Guest | None:
        host = self._host
        loan = host.session.loans.borrower.requested.get(line.key)
        if line.is_left_by_client:
            return None
        if loan is None or line.is_left_by_process:
            self._leave(line)
            return None
        line.is_answered = True
        self.tokens[line.key] = line.token
        guest = self._guests[line.token] = _Guest(line, loan)
        host.tally.meet("loan begins")
        host.history.add(host.clock.now_ns, "loan opened", host.name, line.token)
        host.session.loans.opened(host.now(), loan)
        line.tell_process()
        self._doors.opened()
        return guest

    # ------------------------------------------------------------ what goes

    def send(self, outgoing: list[Sent]) -> bool:
        """Write what the session wants written. True if that has told it something new."""
        guests = {guest.loan: guest for guest in self._guests.values()}
        is_news = False
        for sent in outgoing:
            guest = guests.get(sent.loan)
            if guest is None:
                continue
            line = guest.line
            line.control_to_process += sent.control
            line.to_process += sent.data
            if sent.closes and sent.loan.ended is None:
                line.is_shut = True
            line.tell_process()
            if sent.closes and sent.loan.ended is not None:
                self._finish(guest)
                is_news = True
        return is_news

    def give_up(self) -> bool:
        """The program was interrupted amid its work with the lines: what they said and it has not read is lost."""
        guests = list(self._guests.values())
        for guest in guests:
            self._host.history.add(self._host.clock.now_ns, "loan given up", self._host.name, guest.line.token)
            self._end(guest)
        return bool(guests)

    def _finish(self, guest: _Guest) -> None:
        """The loan has ended: read what is there, then close."""
        host, data = self._host, bytes(guest.line.to_client)
        if data:
            self._note_outcomes(guest, data)
            host.session.loans.received(host.now(), guest.loan, data)
        self._end(guest)

    def _end(self, guest: _Guest) -> None:
        host, line, ended = self._host, guest.line, guest.loan.ended
        del self._guests[line.token]
        self._leave(line)
        how = -1 if ended is None else ended.status
        host.history.add(host.clock.now_ns, "loan closed", host.name, line.token, line.begun, how)
        host.session.loans.closed(host.now(), guest.loan, line.begun)

    @staticmethod
    def _leave(line: Line) -> None:
        line.is_left_by_client = True
        line.tell_process()

    # ------------------------------------------------------------ what the checkers need to know

    def _note_outcomes(self, guest: _Guest, data: bytes) -> None:
        now_ns, token = self._host.clock.now_ns, guest.line.token
        for frame in guest.said.feed(data):
            if isinstance(frame, frames.Done | frames.Result):
                run = run_under(token, frame.attempt)
                is_cancelled = isinstance(frame, frames.Result) and frame.status == frames.STATUS_CANCELLED
                self._host.history.add(now_ns, "lent outcome", self._host.name, run, is_cancelled)

    def _note_given_back(self, guest: _Guest, data: bytes) -> None:
        now_ns, token = self._host.clock.now_ns, guest.line.token
        for frame in guest.said_on_control.feed(data):
            assert isinstance(frame, frames.Recalled), frame
            self._host.tally.meet("lent call is given back")
            self._host.history.add(now_ns, "lent back", self._host.name, run_under(token, frame.attempt))
