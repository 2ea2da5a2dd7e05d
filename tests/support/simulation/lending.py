"""What a process does while it is lent: it takes calls of its client over a line of their own, past the agent.

As the runner's own loans (``keepwarm_worker.runner.lending``), in virtual time and with its frames: one call at a time
in the order of arrival, an end after ``IDLE_NS`` without a call or with a call that printed. A line is a pair of
sockets on one machine: what was written is there at once, and is read a moment later. What was written before an end
is read before it.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from keepwarm_wire.messages import Failure
from keepwarm_worker.core import effects, events
from keepwarm_worker.runner import frames
from support.simulation.clock import MILLISECOND, Clock
from support.simulation.workload import ENDLESS, UNMOVED, Work, result_of, run_under

if TYPE_CHECKING:
    from support.simulation.desk import Desk
    from support.simulation.machines import Machine
    from support.simulation.runners import Process

__all__ = ["Doors", "Lending", "Line"]

KEY_BYTES = 16
IDLE_NS = 50 * MILLISECOND
ANSWER_NS = 250 * MILLISECOND
_DELAY_NS = (MILLISECOND // 100, MILLISECOND // 5)
_CALL_NS = MILLISECOND // 20
_FULL_BYTES = 64 * 1024
_AGAIN_NS = 5 * MILLISECOND
_ENDLESS_NS = 3_600_000 * MILLISECOND
_STATUSES = {"user_exception": frames.STATUS_FAILED, "cancelled": frames.STATUS_CANCELLED}

Done = Callable[[Failure | None], None]


class Doors:
    """Where processes reach the clients of their machine: all of one run are on one."""

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        """Whether anything is lent in this run."""
        self.desks: dict[bytes, Desk] = {}
        self.on_opened: list[Callable[[], None]] = []
        """What waits for the next loan that begins."""

    def opened(self) -> None:
        """A loan has begun."""
        waiting, self.on_opened = self.on_opened, []
        for action in waiting:
            action()

    @property
    def are_busy(self) -> bool:
        """Whether anything is lent now."""
        return any(desk.lines for desk in self.desks.values())


class Line:
    """The connections between a process and the client that it is lent to, and the board that both see."""

    def __init__(self, clock: Clock, random: Random, key: bytes, token: int, wake_process: Callable[[], None]) -> None:
        self._clock, self._random = clock, random
        self.key, self.token = key, token
        self.wake_process = wake_process
        self.wake_client: Callable[[], None] = lambda: None
        self.to_client, self.control_to_client = bytearray(), bytearray()
        self.to_process, self.control_to_process = bytearray(), bytearray()
        self.begun = 0
        """The board: the number of the call that began last."""
        self.is_answered = self.is_shut = False
        """Whether the client has taken the process in; whether it will write nothing more."""
        self.is_left_by_client = self.is_left_by_process = False
        """Who has closed it, or is dead."""

    def tell_client(self) -> None:
        """There is something for the client to see."""
        self._clock.after(self._random.randrange(*_DELAY_NS), self.wake_client)

    def tell_process(self) -> None:
        """There is something for the process to see."""
        self._clock.after(self._random.randrange(*_DELAY_NS), self.wake_process)


class Lending:
    """One loan, from its call's arguments to its end. ``done`` is told how it ended, unless its process dies."""

    def __init__(self, machine: "Machine", process: "Process", effect: effects.StartCall, done: Done) -> None:
        assert isinstance(effect.arguments, bytes), effect
        self._machine, self._process, self._done = machine, process, done
        self._clock, self._random = machine.clock, machine.random
        self._name, self._token = effect.name, effect.attempt
        self._keep_alive_us = process.host.core.state.attempts[self._token].command.keep_alive_us
        self._address = effect.arguments[KEY_BYTES:]
        self._line = Line(
            self._clock, machine.random, effect.arguments[:KEY_BYTES], self._token, self._look
        )  # fmt: skip
        self._decoder, self._control = frames.FrameDecoder(), frames.FrameDecoder()
        self._waiting: deque[frames.Call] = deque()
        self._begun = self._running = 0
        self._work: Work | None = None
        self._recalled: dict[int, None] = {}
        self._cancelled: dict[int, None] = {}
        self._is_interrupted = self._is_over = False
        self._unsent = b""
        """An outcome that is to be written before the next call begins."""
        self._receives = 0
        """Counts how often it has begun to wait for a call."""
        self._note("lend", self._line.key, self._name, self._keep_alive_us)

    def _note(self, kind: str, *fields: object) -> None:
        machine, instance_id = self._machine, self._process.instance_id
        machine.history.add(self._clock.now_ns, kind, machine.node, instance_id, self._token, *fields)

    def _note_run(self, kind: str, number: int, *fields: object) -> None:
        machine, instance_id = self._machine, self._process.instance_id
        run = run_under(self._token, number)
        machine.history.add(self._clock.now_ns, kind, machine.node, instance_id, run, *fields)

    # ------------------------------------------------------------ beginning and end

    def connect(self) -> None:
        """Look for the client."""
        if self._is_over:
            return
        desk = self._machine.doors.desks.get(self._address)
        if desk is None:
            self._end(Failure("not_lent", "there is no such client"))
            return
        desk.knock(self._line)
        self._clock.after(ANSWER_NS, self._answered_too_late)

    def _answered_too_late(self) -> None:
        if not self._line.is_answered and not self._is_over:
            self._machine.tally.meet("client does not take a process in")
            self._end(None)

    def die(self) -> None:
        """The process is dead, whatever it did."""
        if self._running:
            self._machine.tally.meet("lent call dies")
            self._note_run("ran", self._running, "died")
        self._running = 0
        if not self._is_over:
            self._leave()

    def _end(self, failure: Failure | None) -> None:
        self._leave()
        self._done(failure)

    def _leave(self) -> None:
        self._is_over = self._line.is_left_by_process = True
        self._line.tell_client()

    # ------------------------------------------------------------ what comes

    def interrupt(self) -> None:
        """The agent wants the loan to end, and what runs under it."""
        if self._is_over:
            return
        self._is_interrupted = True
        if self._running:
            self._interrupt(self._running)
        elif self._line.is_answered:
            self._go_on()

    def _look(self) -> None:
        """Something has come on the line."""
        if self._is_over:
            return
        line = self._line
        if not line.is_answered:
            if line.is_left_by_client:
                self._end(Failure("not_lent", "the client does not take the loan"))
            return
        data = bytes(line.control_to_process)
        line.control_to_process.clear()
        for frame in self._control.feed(data):
            self._obey(frame)
        is_new = line.to_process or line.is_shut or line.is_left_by_client or not self._receives
        if is_new:
            self._go_on()

    def _obey(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.Recall):
            if self.may_recall(frame.attempt):
                self._recalled[frame.attempt] = None
                self._line.control_to_client += frames.encode(frames.Recalled(frame.attempt))
                self._line.tell_client()
        else:
            assert isinstance(frame, frames.Cancel), frame
            self._cancelled[frame.attempt] = None
            if frame.attempt == self._running:
                self._interrupt(self._running)

    def may_recall(self, number: int) -> bool:
        """Whether a call has not begun, and is not called back yet."""
        return number > self._begun and number not in self._recalled

    # ------------------------------------------------------------ calls

    def _go_on(self) -> None:
        """Begin the next call, or wait for one; what ends the loan is seen when there is none."""
        line = self._line
        while not (self._is_over or self._running or self._unsent):
            if self._waiting:
                self._begin(self._waiting.popleft())
            elif self._is_interrupted:
                self._end(Failure("cancelled", "interrupted"))
            elif line.to_process:
                data = bytes(line.to_process)
                line.to_process.clear()
                for frame in self._decoder.feed(data):
                    assert isinstance(frame, frames.Call), frame
                    self._waiting.append(frame)
            elif line.is_shut or line.is_left_by_client:
                self._end(None)
            else:
                self._wait()
                return

    def _wait(self) -> None:
        self._receives += 1
        receives = self._receives
        self._clock.after(IDLE_NS, lambda: self._idle(receives))

    def _idle(self, receives: int) -> None:
        if receives == self._receives and not (self._is_over or self._running or self._unsent):
            self._end(None)

    def _begin(self, frame: frames.Call) -> None:
        number = self._begun = frame.attempt
        if not self.begins(number):
            return
        self._line.begun = number
        if self.sees_end():
            self._end(None)  # it has taken the call for one that has not begun
            return
        assert isinstance(frame.arguments, bytes)
        work = Work.decode(frame.arguments)
        if number in self._cancelled or self._is_interrupted:
            self._finish(number, work, "cancelled")
            return
        self._machine.tally.meet("call is lent")
        self._note_run("run", number, work.uid, self._name, self._keep_alive_us, 0)
        self._running, self._work = number, work
        if work.behaviour == "print":
            self._process.host.feed(events.RunnerOutput(self._process.instance_id, 1, b"printed"))
            if self._is_over:
                return
        run_ns = _ENDLESS_NS if work.behaviour in ENDLESS else work.run_ns
        self._clock.after(_CALL_NS + run_ns, lambda: self._return(number))

    def sees_end(self) -> bool:
        """Whether the client has given the loan up, which it says on the board."""
        return self._line.is_left_by_client

    def begins(self, number: int) -> bool:
        """Whether a call runs when its turn comes."""
        return number not in self._recalled

    def _interrupt(self, number: int) -> None:
        work = self._work
        assert work is not None
        if work.behaviour not in UNMOVED and not self._unsent:
            self._machine.tally.meet("lent call is interrupted")
            self._finish(number, work, "cancelled")

    def _return(self, number: int) -> None:
        if number != self._running or self._unsent:
            return
        machine, work = self._machine, self._work
        assert work is not None
        if work.behaviour == "crash" or (work.behaviour == "flaky" and work.uid not in machine.crashed):
            machine.crashed[work.uid] = None
            machine.exit(self._process, None, "SIGSEGV")
        else:
            self._finish(number, work, "user_exception" if work.behaviour == "raise" else "")

    def _finish(self, number: int, work: Work, kind: str) -> None:
        printed = work.behaviour == "print" and self._running == number
        if printed:
            self._machine.tally.meet("lent call prints")
        self._unsent = _outcome(self._token, number, work, kind, is_printed=printed)
        self._send("raised" if kind else "returned", is_last=printed)

    def _send(self, how: str, *, is_last: bool) -> None:
        """Write the outcome, as soon as there is room for it; then go on. A call that never began has not run."""
        line = self._line
        if self._is_over:
            return
        is_full = len(line.to_client) > _FULL_BYTES
        if is_full and not (line.is_left_by_client or self._is_interrupted):
            self._machine.tally.meet("lent process waits for its client to read")
            self._clock.after(_AGAIN_NS, lambda: self._send(how, is_last=is_last))
            return
        if not (is_full or line.is_left_by_client):
            line.to_client += self._unsent
            line.tell_client()
        self._unsent = b""
        if self._running:
            self._note_run("ran", self._running, how)
            self._running = 0
        if is_last or is_full or line.is_left_by_client:
            self._end(None)
        else:
            self._go_on()


def _outcome(token: int, number: int, work: Work, kind: str, *, is_printed: bool) -> bytes:
    """The bytes that tell how a call ended."""
    run_us, run = work.run_ns // 1000, run_under(token, number)
    if kind:
        said = f"{work.uid}|{run}|"
        result = frames.Result(number, _STATUSES[kind], "pickle", b"", 0, run_us, kind, "", said, "", is_printed)
        return frames.encode(result)
    data = result_of(work, run)
    size = len(data)
    if size <= frames.INLINE_LIMIT_BYTES:
        return frames.encode(frames.Done(number, run_us, is_printed, data))
    stored = frames.Stored("result", size, hashlib.sha256(data).digest())
    pieces = [data[at : at + frames.INLINE_LIMIT_BYTES] for at in range(0, size, frames.INLINE_LIMIT_BYTES)]
    told = [frames.encode(frames.Piece(piece)) for piece in pieces]
    return b"".join([*told, frames.encode(frames.Done(number, run_us, is_printed, stored))])
