"""The client's side of a session: a pure state machine between the calls of a program and the scheduler.

It owns: which calls are unanswered, what the scheduler was told of them, the credit, the beats, the transfers.
Rules: no socket, no clock (``now_ns`` is an argument), no thread; every call given to ``submit`` is delivered
exactly once, whatever the network loses, repeats or reorders. A call gets its number when it is first sent, so that
numbers only grow on the wire; until then it is held here. Nothing is assumed delivered: the beat's reply, a
reconnection or a stall says what to send again (``docs/reference/protocol.md`` names the repair of each exchange).
"""

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from keepwarm.loans import Loans
from keepwarm.session_calls import Call, CallState, Function, cancelled_here, failed
from keepwarm.session_deliveries import Completion, Delivery, Explained, LoanEnded, Printed, Progressed, Returned
from keepwarm.session_detached import Ask, Detached
from keepwarm.session_explaining import Explaining
from keepwarm.session_receipts import Receipts
from keepwarm.session_sending import Sending
from keepwarm.transfers import Download, Transfers
from keepwarm_wire.messages import (
    Cancel,
    ClientBeat,
    ClientBeatReply,
    ClientHello,
    DetachedOutcome,
    ExplainReply,
    ExplainRequest,
    Failure,
    FunctionOptions,
    Goodbye,
    LeaseBroken,
    Lent,
    LoanWanted,
    Message,
    Outcome,
    Output,
    PayloadChunk,
    PayloadCredit,
    PayloadRefused,
    PayloadStored,
    Progress,
    Reference,
    Refused,
    Status,
    Welcome,
)
from keepwarm_wire.version import PROTOCOL_MAX, PROTOCOL_MIN, SOFTWARE

__all__ = ["HELD_BYTES_MAX", "HELD_CALLS_MAX", "Session"]

HELD_CALLS_MAX = 1_000_000
HELD_BYTES_MAX = 2 * 1024**3
"""What one session holds of unanswered calls; more is refused by ``has_room``."""

SECOND_NS = 1_000_000_000
HELLO_REPEAT_NS = SECOND_NS
IDLE_BEAT_FACTOR = 5
SILENT_BEATS = 3
"""Beats without a sign of life before the session says hello again."""

BEAT_NS_MIN = SECOND_NS // 100


class Session:
    """One session. See the module's docstring for its rules; ``session_id`` is 16 random bytes made by the caller.

    ``secret`` is what keys of loans are made from, of at most 64 bytes.
    """

    def __init__(self, session_id: bytes, label: str, secret: bytes = b"") -> None:
        self.session_id = session_id
        self.label = label
        self.is_open = False
        self.was_open = False
        self.epoch = 0
        self.cluster_id = b""
        self.refusal: Refused | None = None
        """Why the scheduler will not talk to this client; nothing more is sent."""
        self.goodbye: Goodbye | None = None
        """The scheduler's farewell; cleared by the next ``Welcome``."""
        self.protocol_complaints = deque[str](maxlen=8)
        self.deliveries: deque[Delivery] = deque()
        self.held_bytes = 0
        self._unanswered: dict[Call, None] = {}
        """Every call that has not been delivered: none is forgotten if an exception falls between two of its queues."""
        self._sending = Sending(session_id)
        self._outgoing = self._sending.outgoing
        self.functions = self._sending.functions
        self._downloads: Transfers[Download[Call | Ask]] = Transfers()
        self.detached = Detached(self._sending, self.deliveries, self._fetch, self._stop_fetching)
        """What is waited for about detached calls."""
        self.loans = Loans(
            secret or session_id,
            borrow=self._sending.borrow,
            cancel_loan=self._cancel_submitted,
            submit=self._sending.queue,
            complete=lambda now_ns, call, outcome: self._complete(now_ns, call, outcome, None),
            succeed=self._return,
            held=self._sending.small,
        )
        self._receipts = Receipts(self._outgoing)
        self._hello_at_ns = 0
        self._hello_due = False
        self._beat_ns = SECOND_NS
        self._beat_at_ns = 0
        self._beat_number = 0
        self._beat_answered = 0
        self._unanswered_since_ns: int | None = None
        self.explaining = Explaining()

    # ------------------------------------------------------------ what the program does

    def declare(
        self,
        *,
        name: str,
        version: bytes,
        codec: str,
        spec: bytes,
        has_setup: bool,
        options: FunctionOptions,
        body: bytes,
    ) -> Function:
        """Make a function known to the session. It is sent with the first call that needs it."""
        function = Function(self.functions.next_number, name, version, codec, spec, has_setup, options, body)
        self._sending.add_function(function)
        return function

    def has_room(self, size: int) -> bool:
        """Whether one more call with ``size`` bytes of arguments may be held."""
        held_bytes = self.held_bytes + self.detached.spawning.held_bytes
        return self.waiting < HELD_CALLS_MAX and held_bytes + size <= HELD_BYTES_MAX

    @property
    def held_calls(self) -> int:
        """How many calls have not been delivered."""
        return len(self._unanswered)

    @property
    def waiting(self) -> int:
        """How many answers are waited for."""
        return self.held_calls + len(self.detached)

    @property
    def submitted_calls(self) -> int:
        """How many calls the scheduler has and has not answered."""
        return self._sending.inflight_calls

    def submit(self, call: Call) -> None:
        """Take a call. It is held until the credit allows it to be sent. The caller has asked ``has_room``."""
        self.functions.begin(call.function)
        self.held_bytes += call.size
        try:
            self._unanswered[call] = None
            if not self.loans.borrower.takes(call):
                self._sending.queue(call)
        except BaseException:  # of a signal handler: nobody will wait for it
            call.state = CallState.DONE
            self.functions.end(call.function)
            self._delivered(call)
            raise

    def cancel(self, now_ns: int, call: Call) -> bool:
        """Ask for a call's end; False when it has ended already. Its completion says how."""
        if call.state is CallState.DONE:
            return False
        if call.state is CallState.LENT:
            self.loans.cancel(now_ns, call)
        elif call.number == 0:
            self._complete(now_ns, call, cancelled_here(), None)
        else:
            self._cancel_submitted(call)
        return True

    def _cancel_submitted(self, call: Call) -> None:
        if not call.cancelling:
            call.cancelling = True
            if call.state is CallState.SUBMITTED:
                self._outgoing.append(Cancel(call.number))

    def explain(self, call: Call, owner: object) -> int:
        """Ask why a call that has been sent ran where it did; the question's number. May be asked again."""
        number = self.explaining.ask(owner)
        self._outgoing.append(ExplainRequest(number, str(call.number)))
        return number

    def say_goodbye(self, reason: str) -> None:
        """End the session: the scheduler cancels what is unfinished."""
        if self.is_open:
            self._outgoing.append(Goodbye(reason))

    def unanswered(self) -> list[Call]:
        """Every call that has not been delivered, in the order in which they were made."""
        return list(self._unanswered)

    # ------------------------------------------------------------ what the connection does

    def connection_made(self, now_ns: int) -> None:
        """There is a connection, maybe to another scheduler: say hello before anything else."""
        self.is_open = False
        self._hello_due = True
        self._hello_at_ns = now_ns

    def connection_lost(self) -> None:
        """Nothing can be sent; what was under way is repaired after the next hello."""
        self.is_open = False
        self._hello_due = False

    def handle(self, now_ns: int, message: Message) -> None:
        """Take in one message of the scheduler. Messages that a client cannot get are ignored."""
        self._unanswered_since_ns = None
        handler = self._HANDLERS.get(type(message))
        if handler is not None:
            handler(self, now_ns, message)

    def tick(self, now_ns: int) -> None:
        """Do what is due by now: hello, beat, repetitions, and as many calls as the credit allows."""
        if self.refusal is not None:
            return
        if not self.is_open:
            if now_ns >= self._hello_at_ns:
                self._hello_due = True
                self._hello_at_ns = now_ns + HELLO_REPEAT_NS
            return
        silent_since = self._unanswered_since_ns
        if silent_since is not None and now_ns >= silent_since + SILENT_BEATS * self._beat_ns:
            self._unanswered_since_ns = None
            self.connection_made(now_ns)
            return
        if self.waiting:
            self._beat_at_ns = min(self._beat_at_ns, now_ns + self._beat_ns)
        is_backed_up = bool(self._outgoing)
        if self._downloads.is_busy:
            self._outgoing += self._downloads.tick(now_ns)
        if self._receipts.due_ns is not None and now_ns >= self._receipts.due_ns:
            self._receipts.send()
        self.loans.tick(now_ns)
        self._sending.tick(now_ns)
        self.detached.tick(now_ns, is_backed_up=is_backed_up)
        if now_ns >= self._beat_at_ns:
            self._beat(now_ns)  # after the calls that it counts, or the reply would name them as missing

    def next_deadline(self) -> int | None:
        """When ``tick`` is next due; ``None`` after a refusal. Never late; 0 when something can be sent at once."""
        if self.refusal is not None:
            return None
        if not self.is_open:
            return 0 if self._hello_due else self._hello_at_ns
        if self._sending.has_outgoing or self.detached.has_chunks:
            return 0
        due_ns = self._beat_at_ns
        if self._unanswered_since_ns is not None:
            due_ns = min(due_ns, self._unanswered_since_ns + SILENT_BEATS * self._beat_ns)
        if self._receipts.due_ns is not None and self._receipts.due_ns < due_ns:
            due_ns = self._receipts.due_ns
        for part in (self._sending, self.detached, self._downloads, self.loans):
            at_ns = part.next_deadline()
            if at_ns is not None and at_ns < due_ns:
                due_ns = at_ns
        return due_ns

    def take_outgoing(self, now_ns: int) -> list[Message]:
        """What to send now, in order. While the session is not open, that is at most a hello."""
        if not self.is_open:
            if not self._hello_due or self.refusal is not None:
                return []
            self._hello_due = False
            self._hello_at_ns = now_ns + HELLO_REPEAT_NS
            return [ClientHello(PROTOCOL_MIN, PROTOCOL_MAX, SOFTWARE, self.session_id, self.label, self.epoch)]
        if self._outgoing and self._receipts.due_ns is not None:
            self._receipts.send()
        outgoing = [*self._outgoing, *self._sending.chunks(now_ns), *self.detached.chunks(now_ns)]
        self._outgoing.clear()
        return outgoing

    # ------------------------------------------------------------ the ends of calls

    def _complete(self, now_ns: int, call: Call, outcome: Outcome, result: bytes | None) -> None:
        self._sending.finish(now_ns, call)
        self.functions.end(call.function)
        if call.number:
            self._receipts.note(now_ns, call.number)
        self.deliveries.append(Completion(call, outcome, result))
        self._delivered(call)

    def _end(self, now_ns: int, call: Call, outcome: Outcome, result: bytes | None) -> None:
        """A call's outcome is here, and its result. Of a loan that is what it has left."""
        if not call.is_loan:
            self._complete(now_ns, call, outcome, result)
            return
        self._sending.finish(now_ns, call)
        self._receipts.note(now_ns, call.number)
        self.deliveries.append(LoanEnded(call))
        if call.loan is not None:
            self.loans.on_outcome(now_ns, call.loan, outcome._replace(result=result or b""))

    def _return(self, call: Call, result: bytes, run_us: int) -> None:
        call.state, call.arguments = CallState.DONE, b""
        self.functions.end(call.function)
        self.deliveries.append(Returned(call, result, run_us))
        self._delivered(call)

    def _delivered(self, call: Call) -> None:
        """Only now: delivered twice is once for the client, and never would be a call that is waited for for ever."""
        self.held_bytes -= call.size
        self._unanswered.pop(call, None)

    def _beat(self, now_ns: int) -> None:
        self._beat_number += 1
        submitted = (call for call in self._sending.numbered.values() if call.state is CallState.SUBMITTED)
        self._outgoing += [Cancel(call.number) for call in submitted if call.cancelling]
        self._outgoing.append(ClientBeat(self._beat_number, self._sending.last_number))
        self._beat_at_ns = now_ns + self._beat_ns * (1 if self.waiting else IDLE_BEAT_FACTOR)
        if self._unanswered_since_ns is None:
            self._unanswered_since_ns = now_ns

    # ------------------------------------------------------------ messages of the scheduler

    def _on_welcome(self, now_ns: int, message: Welcome) -> None:
        home = (message.cluster_id, message.epoch)
        if message.cluster_id == self.cluster_id and message.epoch < self.epoch:
            return  # from before a restart, overtaken on the way
        self.cluster_id, self.epoch = home
        self.is_open = self.was_open = True
        self.goodbye = None
        self._hello_due = False
        self._beat_ns = max(message.beat_interval_us * 1000, BEAT_NS_MIN)
        self._beat_at_ns = now_ns
        self.loans.borrower.is_offered = message.lends
        if not message.known:
            self.loans.start_over(now_ns)
        self._sending.welcomed(now_ns, home, message.credit_calls, message.credit_bytes, message.known)
        if self.loans.borrower.is_offered:
            self.loans.borrower.take_held()
        if message.known:
            self._outgoing += self._downloads.begin_again(now_ns)
        else:
            self._downloads.clear()
        self.detached.welcomed(now_ns, self._beat_ns, message.known)

    def _on_refused(self, now_ns: int, message: Refused) -> None:
        if message.code == "hello_first":
            if self.is_open:
                self.connection_made(now_ns)
        elif message.code == "protocol" and self.was_open:
            self.protocol_complaints.append(message.reason)
        else:
            self.refusal = message

    def _on_goodbye(self, now_ns: int, message: Goodbye) -> None:
        self.goodbye = message
        self.connection_lost()
        self._hello_at_ns = now_ns + HELLO_REPEAT_NS

    def _on_beat_reply(self, now_ns: int, message: ClientBeatReply) -> None:
        if message.beat_number <= self._beat_answered:
            return
        self._beat_answered = message.beat_number
        if message.next_beat_us:
            self._beat_ns = max(message.next_beat_us * 1000, BEAT_NS_MIN)
            self._beat_at_ns = now_ns + self._beat_ns * (1 if self.waiting else IDLE_BEAT_FACTOR)
            self.detached.pace(self._beat_ns)
        for number in message.missing:
            call = self._sending.numbered.get(number)
            if call is None:
                if number <= self._sending.last_number:
                    self._receipts.note(now_ns, number)  # answered under an earlier scheduler: nothing to wait for
            elif call.state is CallState.SUBMITTED:
                self._sending.submit_again(call)

    def _on_outcome(self, now_ns: int, message: Outcome) -> None:
        call = self._sending.numbered.get(message.call_number)
        if call is None:
            if 0 < message.call_number <= self._sending.last_number:
                self._receipts.note(now_ns, message.call_number)
        elif call.state is not CallState.FETCHING:
            result = message.result
            if not call.is_loan:
                self.loans.borrower.ended_elsewhere(now_ns, call, message)
            if message.status != Status.SUCCEEDED:
                self._end(now_ns, call, message, None)
            elif isinstance(result, Reference) and result.size:
                self._sending.answered(now_ns, call)
                call.state = CallState.FETCHING
                self._fetch(now_ns, call, message, result)
            else:
                self._end(now_ns, call, message, b"" if isinstance(result, Reference) else result)

    def _fetch(self, now_ns: int, owner: Call | Ask, outcome: Outcome | DetachedOutcome, reference: Reference) -> None:
        self._outgoing += self._downloads.add(now_ns, Download(reference, owner, outcome))

    def _stop_fetching(self, now_ns: int, ask: Ask) -> None:
        for download in [download for download in self._downloads.everything() if download.owner is ask]:
            self._outgoing += self._downloads.remove(now_ns, download.payload_id)

    def _on_loan(self, _now_ns: int, message: Lent | LoanWanted) -> None:
        call = self._sending.numbered.get(message.call_number)
        if call is not None and call.loan is not None:
            self.loans.handle(call.loan, message)

    def _on_output(self, now_ns: int, message: Output) -> None:
        call = self._sending.numbered.get(message.call_number)
        if call is not None:
            self.loans.borrower.printed(now_ns, call.function)
            self.deliveries.append(Printed(call, message))

    def _on_progress(self, _now_ns: int, message: Progress) -> None:
        function = self.functions.get(message.function_number)
        if function is not None:
            self.deliveries.append(Progressed(function.name, message))

    def _on_lease_broken(self, _now_ns: int, message: LeaseBroken) -> None:
        self.explaining.broken(self._sending.last_number, message)
        self.deliveries.append(message)

    def _on_explained(self, _now_ns: int, message: ExplainReply) -> None:
        if (owner := self.explaining.answer(message.request_number)) is not None:
            self.deliveries.append(Explained(owner, message.document))

    def _on_credit(self, now_ns: int, message: PayloadCredit) -> None:
        self._sending.on_credit(now_ns, message)
        self.detached.spawning.on_credit(now_ns, message)

    def _on_stored(self, now_ns: int, message: PayloadStored) -> None:
        self._sending.on_stored(now_ns, message)
        self.detached.spawning.on_stored(now_ns, message)

    def _on_chunk(self, now_ns: int, message: PayloadChunk) -> None:
        download = self._downloads.get(message.payload_id)
        if download is None:
            return
        if (credit := download.take(now_ns, message)) is not None:
            self._outgoing.append(credit)
        if not download.is_complete:
            return
        if download.is_correct:
            self._end_download(now_ns, download, None)
        elif download.start_over():
            self._outgoing.append(download.begin(now_ns))
        else:
            damaged = Failure("lost", f"a result of {download.reference.size} bytes arrived damaged again and again")
            self._end_download(now_ns, download, damaged)

    def _end_download(self, now_ns: int, download: Download[Call | Ask], failure: Failure | None) -> None:
        self._outgoing += self._downloads.remove(now_ns, download.payload_id)
        owner, outcome = download.owner, download.outcome
        if isinstance(owner, Ask):
            assert isinstance(outcome, DetachedOutcome)
            if failure is None:
                self.detached.fetched(owner, outcome, download.data())
            else:
                self.detached.not_fetched(owner, failure)
        elif failure is not None:
            self._end(now_ns, owner, failed(owner, failure), None)
        else:
            assert isinstance(outcome, Outcome)
            self._end(now_ns, owner, outcome, download.data())

    def _on_detached(self, now_ns: int, message: Message) -> None:
        self.detached.handle(now_ns, message)

    def _on_payload_refused(self, now_ns: int, message: PayloadRefused) -> None:
        download = self._downloads.get(message.payload_id)
        if download is not None and self.is_open:
            self._on_download_refused(now_ns, download, message.failure)
        self.detached.spawning.on_payload_refused(now_ns, message, self._sending.body_under(message.payload_id))
        for call in self._sending.on_refused(now_ns, message):
            self._complete(now_ns, call, failed(call, message.failure), None)

    def _on_download_refused(self, now_ns: int, download: Download[Call | Ask], failure: Failure) -> None:
        """A result is gone: for good, or because the session was silent for so long that it was ended.

        A hello tells which: a scheduler that has forgotten the session is sent its calls again, one that knows it is
        asked once more.
        """
        if download.was_refused or isinstance(download.owner, Ask):
            self._end_download(now_ns, download, failure)
        else:
            download.was_refused = True
            self.connection_made(now_ns)

    _HANDLERS: ClassVar[dict[type[Any], Callable[["Session", int, Any], None]]] = {
        Welcome: _on_welcome,
        Refused: _on_refused,
        Goodbye: _on_goodbye,
        ClientBeatReply: _on_beat_reply,
        Outcome: _on_outcome,
        Output: _on_output,
        Progress: _on_progress,
        LeaseBroken: _on_lease_broken,
        **dict.fromkeys((Lent, LoanWanted), _on_loan),
        ExplainReply: _on_explained,
        PayloadCredit: _on_credit,
        PayloadStored: _on_stored,
        PayloadChunk: _on_chunk,
        PayloadRefused: _on_payload_refused,
        **dict.fromkeys(Detached.MESSAGES, _on_detached),
    }
