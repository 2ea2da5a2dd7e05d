"""Performing effects: what is saved goes to the journal's thread, what has to wait for that waits, all else leaves.

What waits for the disk is what the core marks so. It waits for everything saved before it, in its own turn and earlier
ones, and leaves in the order of the effects. Later ordinary messages do not wait, but for those in ``ORDERED``. Who
may overtake whom, by what is held:

* Commands to a node (*Dispatch* of a detached or at-most-once call, *CancelAttempt*). An agent obeys a command only if
  its number is above all that it has seen, and takes *AgentBeatReply* as the word that all up to a number was sent: a
  command that is overtaken by either is lost, and an agent that has said goodbye must be given nothing more. So all of
  these wait behind each other. *FunctionBody*, *Final* and payloads are not numbered: a body before its dispatch is
  where it belongs, and the others concern attempts that are over.
* *Welcome* to an agent: it begins the numbering, so commands wait behind it. None is for a node that has not reported.
* *Final* to an agent: until it comes the agent keeps an outcome, and says it again with its beats. Anything may pass.
* *DetachedAccepted*, *DetachedRefused*, *DetachedCancelled*, *DetachedForgotten*, and pages of calls: each answers one
  question, by its id or number, which the client repeats until then. *Welcome*, *ClientBeatReply* and outcomes of
  attached calls do not speak of them, and *Refused* only ends what is repeated anyway.
* *DetachedOutcome*: it may come before *DetachedAccepted* of another call only, for those two are both held.
* *NodeChanged* to an operator, and what was asked about keys: answers by number, or of which there is one.
* *Goodbye*, when all ends: everything is on disk, and has been released, before the first of them is sent.
"""

import errno
import logging
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keepwarm_scheduler.core.effects import (
    RECORDS,
    ClaimPayload,
    DropPayload,
    Effect,
    KeepPayload,
    ReleasePayload,
    Send,
    SendOutcome,
    SendStored,
    StopProcess,
)
from keepwarm_scheduler.journal import Journal, Journaled, JournalError, JournalFullError
from keepwarm_scheduler.journal_writer import Batch, Held, JournalWriter, with_room
from keepwarm_scheduler.payload_store import PayloadStore
from keepwarm_wire.messages import (
    AgentBeatReply,
    CancelAttempt,
    DetachedRefused,
    Dispatch,
    Goodbye,
    MakeLock,
    Message,
    Reference,
    StartInstance,
    StopInstance,
    Welcome,
)

__all__ = ["ORDERED", "Performer"]

_MESSAGES = frozenset({Send, SendStored, SendOutcome})
_OF_SESSIONS = frozenset({ClaimPayload, DropPayload})
ORDERED = frozenset({AgentBeatReply, CancelAttempt, Dispatch, Goodbye, MakeLock, StartInstance, StopInstance, Welcome})
"""Who is sent one of these is sent them in the order of the effects, whichever of them wait."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_OUTCOME_LOST = "The call has ended, and its outcome is lost: the scheduler cannot read it from its disk."

log = logging.getLogger("keepwarm.scheduler")


class Performer:
    """Performs what the core wants done.

    Args:
        journal: opened, its epoch begun.
        epoch: that epoch.
        payloads: those beside the journal among them.
        queue: has a message sent at the end of the turn.
        wake: called in another thread when ``settle`` is to be called.
        is_ending: whether a signal has asked the process to end.
        call_id_of: the id of a finished detached call, by its number; None if it is forgotten.
    """

    def __init__(
        self,
        journal: Journal,
        epoch: int,
        payloads: PayloadStore,
        queue: Callable[[bytes, Message], None],
        wake: Callable[[], None],
        is_ending: Callable[[], bool],
        call_id_of: Callable[[int], bytes | None] = lambda _: None,
    ) -> None:
        self._journal, self._payloads, self._queue, self._call_id_of = journal, payloads, queue, call_id_of
        self._is_ending = is_ending
        self._writer = JournalWriter(journal, epoch, self._release, wake, is_ending)
        self.is_stopped = False
        """Whether the core has said that its work is over."""

    def perform(self, effects: list[Effect]) -> None:
        """Do what is to be done, or hand it over. Raises ``JournalError``."""
        writer = self._writer
        records: list[Any] = []
        messages: list[Any] = []
        of_sessions: list[Any] = []
        files: list[Path] = []
        released: dict[bytes, None] = {}
        for effect in effects:
            kind = type(effect)
            if kind in _MESSAGES:
                messages.append(effect)
            elif kind in RECORDS:
                records.append(effect)
            elif kind in _OF_SESSIONS:
                of_sessions.append(effect)
            elif type(effect) is KeepPayload:
                released.pop(effect.payload_id, None)
                writer.keep(effect.payload_id)
                files += self._keep(effect)
            elif type(effect) is ReleasePayload:
                released[effect.payload_id] = None
            elif type(effect) is StopProcess:
                log.info("stopping: %s", effect.reason)
                self.is_stopped = True
        self._claim_and_drop(of_sessions)  # last: what one session has done with, a detached call may begin to need
        if records or released or writer.is_busy:
            writer.hand_over(records, files, self._held(messages), released, ORDERED)
            if self.is_stopped:
                writer.flush()
        else:
            for effect in messages:
                self._send(effect)

    def _keep(self, effect: KeepPayload) -> tuple[Path, ...]:
        """What refers to it is written this turn, so on a full disk the turn waits for room."""

        def keep() -> tuple[Path, ...]:
            try:
                return self._payloads.keep(*effect)
            except OSError as error:
                kind = JournalFullError if error.errno in _FULL else JournalError
                reason = f"Payload {effect.payload_id.hex()} cannot be written: {error}. Look after the disk."
                raise kind(reason) from error

        return with_room(keep, self._end_if_told)

    def _end_if_told(self) -> None:
        if self._is_ending():
            raise JournalFullError("The disk is full, and the scheduler is to end. Not all could be written.")

    def _claim_and_drop(self, effects: list[ClaimPayload | DropPayload]) -> None:
        """All that is claimed first: it was here when the turn began, whatever is dropped in the same turn."""
        for effect in effects:
            if type(effect) is ClaimPayload:
                self._payloads.claim(effect.payload_id)
        for effect in effects:
            if type(effect) is DropPayload:
                self._payloads.drop(effect.payload_id)

    def _held(self, messages: list[Any]) -> list[Held]:
        """Those messages that wait; the others are sent now. At the end all of them wait."""
        if self.is_stopped:
            return messages
        held: list[Held] = []
        ordered: dict[bytes, None] = {}
        for effect in messages:
            if type(effect) is not Send or effect.after_sync:
                held.append(effect)
                if type(effect) is not SendOutcome and type(effect.message) in ORDERED:
                    ordered[effect.peer] = None
            elif type(effect.message) not in ORDERED:
                self._queue(effect.peer, effect.message)
            elif effect.peer in ordered:
                held.append(effect)
            elif not self._writer.follow(effect, ORDERED):
                self._queue(effect.peer, effect.message)
        return held

    def _release(self, batch: Batch) -> None:
        for effect in batch.held:
            self._send(effect)
        for payload_id in batch.released:
            self._payloads.release(payload_id)

    def _send(self, effect: Held) -> None:
        """What is on disk only is read now; nothing is there of a call that has ended, or an outcome that is over."""
        if type(effect) is Send:
            self._queue(effect.peer, effect.message)
        elif type(effect) is SendOutcome:
            self._send_outcome(effect)
        else:
            assert type(effect) is SendStored
            arguments = self._arguments(effect.message.call_number)
            if arguments is not None:
                self._queue(effect.peer, effect.message._replace(arguments=arguments))

    def _send_outcome(self, effect: SendOutcome) -> None:
        """One that cannot be read is lost for who asked; a disk that is damaged there does not end the process."""
        try:
            answer: Message | None = self._journal.outcome(effect.number)
        except sqlite3.Error as error:
            log.error("the outcome of detached call number %d is lost: %s", effect.number, error)  # noqa: TRY400
            call_id = self._call_id_of(effect.number)
            # The code is one that ends the wait of every client: there is nothing to tell of this call.
            answer = None if call_id is None else DetachedRefused(call_id, "unknown", _OUTCOME_LOST)
        if answer is not None:
            self._queue(effect.peer, answer)

    def _arguments(self, number: int) -> bytes | Reference | None:
        """The inline arguments of a call; if they cannot be read, a payload that nobody has: its node finds that out.

        The call fails then, as every other one whose payload is lost.
        """
        try:
            return self._journal.arguments(number)
        except sqlite3.Error as error:
            log.error("the arguments of detached call number %d are lost: %s", number, error)  # noqa: TRY400
            return Reference(secrets.token_bytes(16), 1, bytes(32))

    # ------------------------------------------------------------ the disk

    @property
    def is_due(self) -> bool:
        """Whether ``settle`` has something to do."""
        return self._writer.is_done

    def settle(self) -> None:
        """Send what has waited for what is on disk by now. Raises ``JournalError``."""
        self._writer.settle()

    def save(self, records: Sequence[Journaled]) -> None:
        """Write records and return when they, and all before them, are on disk. Raises ``JournalError``."""
        self._writer.hand_over(records)
        self._writer.flush()

    def note(self, records: Sequence[Journaled]) -> None:
        """Have records written for which nobody waits. Raises ``JournalError``."""
        self._writer.hand_over(records)

    def answer(self, records: Sequence[Journaled], peer: bytes, message: Message) -> None:
        """Have records written, and a message sent once they, and all before them, are on disk.

        Without records too: what it speaks of may be on its way there. Raises ``JournalError``.
        """
        if records or self._writer.is_busy:
            self._writer.hand_over(records, held=[Send(peer, message, after_sync=True)])
        else:
            self._queue(peer, message)

    def flush(self) -> None:
        """Return when everything is on disk and sent; the journal is the caller's until more is performed."""
        self._writer.flush()

    def forget(self, peer: bytes) -> None:
        """A connection is gone: what waited for it is not sent."""
        self._writer.forget(peer)

    def close(self) -> None:
        """End the journal's thread and close the journal. Flush before."""
        self._writer.close()
        self._journal.close()
