"""The detached half of a session: calls to be accepted, outcomes that are awaited, questions about calls.

Part of the session's state machine and as pure. Rules: a call's id is made before it is first sent, so that saying it
again can never make two of it; everything here is said again a beat after it was last said, and at once after a
``Welcome``, until it is answered; nothing is assumed delivered. How much is said again at once is bounded: calls by
the window of ``session_spawning``, awaited ids by a page per beat.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final

from keepwarm.session_sending import Sending
from keepwarm.session_spawning import Spawn, Spawning, Told, said_until
from keepwarm_wire.detached_messages import DETACHED_NAMED_MAX
from keepwarm_wire.messages import (
    AttachDetached,
    CancelDetached,
    DetachedAccepted,
    DetachedCancelled,
    DetachedForgotten,
    DetachedListed,
    DetachedOutcome,
    DetachedRefused,
    DetachedShown,
    Failure,
    Message,
    PayloadChunk,
    Reference,
    Status,
)

__all__ = ["Ask", "Detached", "Spawn", "Told"]

NAMED_PER_BEAT_MAX: Final = 10 * DETACHED_NAMED_MAX
"""How many awaited calls are named per beat; the others have their turn in the next ones."""

ASK_CODES: Final = frozenset({"unknown", "expired"})
"""What a ``DetachedRefused`` says of a call that was asked for; every other code refuses a submission."""


class Ask:
    """An outcome that is awaited, and by whom."""

    __slots__ = ("call_id", "is_fetching", "owners", "said_ns", "was_refused")

    def __init__(self, call_id: bytes) -> None:
        self.call_id = call_id
        self.owners: list[object] = []
        self.is_fetching = False
        self.was_refused = False
        """Whether the scheduler has said once that it does not have the result's bytes."""
        self.said_ns = 0


class _Question:
    """A question, or an order, that is repeated until it is answered."""

    __slots__ = ("message", "owners", "said_ns")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.owners: list[object] = []
        self.said_ns: int | None = None


class Detached:
    """See the module's docstring. Messages are appended to the session's ``outgoing``, answers to ``deliveries``.

    ``fetch`` begins the download of a result, ``give_up`` ends one.
    """

    def __init__(
        self,
        sending: Sending,
        deliveries: deque[Any],
        fetch: Callable[[int, Ask, DetachedOutcome, Reference], None],
        give_up: Callable[[int, Ask], None],
    ) -> None:
        self.spawning = Spawning(sending, deliveries)
        self._beat_ns = self.spawning.beat_ns
        self._outgoing = sending.outgoing
        self._deliveries = deliveries
        self._fetch = fetch
        self._give_up = give_up
        self._asks: dict[bytes, Ask] = {}
        """Every outcome that is awaited, by the call's id. Each is unsaid, said or being fetched."""
        self._unsaid: deque[Ask] = deque()
        self._said_asks: dict[bytes, Ask] = {}
        """The one said longest ago first."""
        self._name_again_ns = 0
        self._questions: dict[tuple[object, ...], _Question] = {}

    def __len__(self) -> int:
        """How many things are waited for."""
        return len(self.spawning) + len(self._asks) + len(self._questions)

    @property
    def _is_idle(self) -> bool:
        """Whether there is nothing to say, now or later. Asks that are unsaid may be no longer awaited."""
        return not (self._asks or self._unsaid or self._questions or self.spawning)

    # ------------------------------------------------------------ what the program does

    def withdraw(self, now_ns: int, spawn: Spawn) -> None:
        """Nobody waits for the acceptance any more: the call is not to run. If it was sent, it is cancelled."""
        if self.spawning.withdraw(now_ns, spawn):
            self.ask(("cancel", spawn.call_id), CancelDetached(spawn.call_id), None)

    def follow(self, call_id: bytes, owner: object) -> None:
        """Await a call's outcome. The owner is told ``DetachedOutcome`` or ``DetachedRefused``."""
        ask = self._asks.get(call_id)
        if ask is None:
            ask = self._asks[call_id] = Ask(call_id)
            self._unsaid.append(ask)
        ask.owners.append(owner)

    def unfollow(self, now_ns: int, call_id: bytes, owner: object) -> None:
        """This owner does not await the outcome any more."""
        ask = self._asks.get(call_id)
        if ask is not None and owner in ask.owners:
            ask.owners.remove(owner)
            if not ask.owners:
                self._forget(ask)
                self._give_up(now_ns, ask)

    def ask(self, key: tuple[object, ...], message: Message, owner: object) -> None:
        """Say a question until its answer comes, which goes to the owner. By ``key`` the answer is known."""
        question = self._questions.get(key)
        if question is None:
            question = self._questions[key] = _Question(message)
        question.owners.append(owner)

    def drop_question(self, key: tuple[object, ...], owner: object) -> None:
        """This owner does not wait for the answer any more."""
        question = self._questions.get(key)
        if question is not None and owner in question.owners:
            question.owners.remove(owner)
            if not question.owners:
                del self._questions[key]

    def owners(self) -> list[object]:
        """Whoever waits for something."""
        waiting: list[Ask | _Question] = [*self._asks.values(), *self._questions.values()]
        owners = [owner for each in waiting for owner in each.owners if owner is not None]
        return self.spawning.owners() + owners

    # ------------------------------------------------------------ the connection and time

    def pace(self, beat_ns: int) -> None:
        """How soon what is unanswered is said again."""
        self._beat_ns = self.spawning.beat_ns = beat_ns

    def welcomed(self, now_ns: int, beat_ns: int, known: bool) -> None:
        """The scheduler talks to us: everything is said again. If it knows us, it has the bytes that it was given."""
        self.pace(beat_ns)
        self.spawning.welcomed(now_ns, known)
        self._name_again_ns = now_ns
        for ask in self._asks.values():
            ask.said_ns = now_ns - beat_ns
            if ask.is_fetching and not known:
                ask.is_fetching = False
                self._unsaid.append(ask)
        for question in self._questions.values():
            question.said_ns = None

    def tick(self, now_ns: int, *, is_backed_up: bool) -> None:
        """Say what is new, and what a beat has left unanswered again unless earlier messages have not left yet."""
        if self._is_idle:
            return
        if self.spawning:
            self.spawning.tick(now_ns, is_backed_up=is_backed_up)
        if not is_backed_up and now_ns >= self._name_again_ns:
            again = said_until(self._said_asks.values(), now_ns - self._beat_ns)[:NAMED_PER_BEAT_MAX]
            if again:
                self._name_again_ns = now_ns + self._beat_ns
                self._say_asks(now_ns, again)
        self._say_asks(now_ns, self._unsaid_asks())
        for question in self._questions.values():
            said_ns = question.said_ns
            if said_ns is None or (not is_backed_up and said_ns + self._beat_ns <= now_ns):
                question.said_ns = now_ns
                self._outgoing.append(question.message)

    def next_deadline(self) -> int | None:
        """When ``tick`` is next due, apart from messages; 0 for at once."""
        if self._is_idle:
            return None
        due = [] if (spawning := self.spawning.next_deadline()) is None else [spawning]
        oldest = next(iter(self._said_asks.values()), None)
        if self._unsaid:
            due.append(0)
        elif oldest is not None:
            due.append(max(oldest.said_ns + self._beat_ns, self._name_again_ns))
        asked = (question.said_ns for question in self._questions.values())
        due.extend(0 if said_ns is None else said_ns + self._beat_ns for said_ns in asked)
        return min(due, default=None)

    @property
    def has_chunks(self) -> bool:
        """Whether ``chunks`` would give any."""
        return self.spawning.has_chunks

    def chunks(self, now_ns: int) -> list[PayloadChunk]:
        """The next pieces of arguments that the scheduler has credit for."""
        return self.spawning.chunks(now_ns)

    # ------------------------------------------------------------ outcomes that are awaited

    def _unsaid_asks(self) -> list[Ask]:
        count = min(len(self._unsaid), NAMED_PER_BEAT_MAX)
        asks = [self._unsaid.popleft() for _ in range(count)]
        return [ask for ask in asks if self._asks.get(ask.call_id) is ask]

    def _say_asks(self, now_ns: int, asks: list[Ask]) -> None:
        for ask in asks:
            ask.said_ns = now_ns
            self._said_asks.pop(ask.call_id, None)
            self._said_asks[ask.call_id] = ask
        for start in range(0, len(asks), DETACHED_NAMED_MAX):
            named = asks[start : start + DETACHED_NAMED_MAX]
            self._outgoing.append(AttachDetached(tuple(ask.call_id for ask in named)))

    def _forget(self, ask: Ask) -> None:
        self._asks.pop(ask.call_id, None)
        self._said_asks.pop(ask.call_id, None)

    def _end_ask(self, ask: Ask, message: Message, result: bytes | None = None) -> None:
        self._forget(ask)
        self._deliveries.extend(Told(owner, message, result) for owner in ask.owners)

    def fetched(self, ask: Ask, outcome: DetachedOutcome, result: bytes) -> None:
        """A result's bytes are here."""
        if self._asks.get(ask.call_id) is ask:
            self._end_ask(ask, outcome, result)

    def not_fetched(self, ask: Ask, failure: Failure) -> None:
        """The result cannot be had. Once, the call is asked for again: the answer tells what became of it."""
        if self._asks.get(ask.call_id) is not ask:
            return
        if ask.was_refused:
            self._end_ask(ask, DetachedOutcome(ask.call_id, Status.FAILED, b"", failure, None))
        else:
            ask.was_refused, ask.is_fetching = True, False
            self._unsaid.append(ask)

    # ------------------------------------------------------------ messages of the scheduler

    def handle(self, now_ns: int, message: Message) -> None:
        """Take in an answer about detached calls."""
        self._HANDLERS[type(message)](self, now_ns, message)

    def _on_accepted(self, now_ns: int, message: DetachedAccepted) -> None:
        self.spawning.answer(now_ns, message.call_id, message)

    def _on_refused(self, now_ns: int, message: DetachedRefused) -> None:
        if message.code not in ASK_CODES:
            self.spawning.answer(now_ns, message.call_id, message)
            return
        ask = self._asks.get(message.call_id)
        if ask is not None and not ask.is_fetching:
            self._end_ask(ask, message)
        for what in ("show", "cancel"):
            self._answer((what, message.call_id), message)

    def _on_outcome(self, now_ns: int, message: DetachedOutcome) -> None:
        ask = self._asks.get(message.call_id)
        if ask is None or ask.is_fetching:
            return
        result = message.result
        if message.status != Status.SUCCEEDED:
            self._end_ask(ask, message)
        elif isinstance(result, Reference) and result.size:
            ask.is_fetching = True
            self._said_asks.pop(ask.call_id, None)
            self._fetch(now_ns, ask, message, result)
        else:
            self._end_ask(ask, message, b"" if isinstance(result, Reference) else result)

    def _on_listed(self, _now_ns: int, message: DetachedListed) -> None:
        self._answer(("list", message.request_number), message)

    def _on_shown(self, _now_ns: int, message: DetachedShown) -> None:
        self._answer(("show", message.entry.call_id), message)

    def _on_cancelled(self, _now_ns: int, message: DetachedCancelled) -> None:
        self._answer(("cancel", message.call_id), message)

    def _on_forgotten(self, _now_ns: int, message: DetachedForgotten) -> None:
        """An answer without names is one to every such question: who asked looks again."""
        named: list[tuple[object, ...]] = [("forget", call_id) for call_id in message.call_ids]
        for key in named or [key for key in self._questions if key[0] == "forget"]:
            self._answer(key, message)

    def _answer(self, key: tuple[object, ...], message: Message) -> None:
        question = self._questions.pop(key, None)
        if question is not None:
            self._deliveries.extend(Told(owner, message) for owner in question.owners if owner is not None)

    _HANDLERS: ClassVar[dict[type[Any], Callable[["Detached", int, Any], None]]] = {
        DetachedAccepted: _on_accepted,
        DetachedRefused: _on_refused,
        DetachedOutcome: _on_outcome,
        DetachedListed: _on_listed,
        DetachedShown: _on_shown,
        DetachedCancelled: _on_cancelled,
        DetachedForgotten: _on_forgotten,
    }
    MESSAGES: ClassVar[tuple[type[Any], ...]] = tuple(_HANDLERS)
