"""The detached half of a session: what it says, when it says it again, and that every answer reaches who waits."""

import hashlib
from collections.abc import Callable

import pytest

from keepwarm.session_calls import CallState, Function
from keepwarm.session_detached import Spawn, Told
from keepwarm_wire.fields import CHUNK_BYTES_MAX, FOREVER_US, INLINE_BYTES_MAX
from keepwarm_wire.messages import (
    AttachDetached,
    CancelDetached,
    DeclareFunction,
    DetachedAccepted,
    DetachedCancelled,
    DetachedEntry,
    DetachedForgotten,
    DetachedListed,
    DetachedOutcome,
    DetachedRefused,
    DetachedShown,
    Failure,
    ForgetDetached,
    ListDetached,
    Message,
    PayloadChunk,
    PayloadCredit,
    PayloadOffer,
    PayloadRefused,
    PayloadStored,
    Reference,
    ShowDetached,
    Status,
    SubmitDetached,
)
from support.driven_session import Driven, welcome

A, B = b"a" * 16, b"b" * 16
LARGE = b"x" * (INLINE_BYTES_MAX + 1)


class Waiting(Driven):
    """A driven session with a hand on its detached half."""

    def spawn(self, call_id: bytes = A, arguments: bytes = b"1", function: Function | None = None) -> Spawn:
        spawn = Spawn(call_id, function or self.function, arguments, owner=call_id.decode(), key="k", result_ttl_us=7)
        self.session.detached.spawning.spawn(spawn)
        return spawn

    def told(self) -> list[Told]:
        found = [delivery for delivery in self.session.deliveries if isinstance(delivery, Told)]
        self.session.deliveries.clear()
        return found

    def named(self, after_s: float = 0) -> list[bytes]:
        """The submits and attachments that are sent now, by call id."""
        found: list[bytes] = []
        for message in self.out(after_s):
            if isinstance(message, SubmitDetached):
                found.append(message.call_id)
            elif isinstance(message, AttachDetached):
                found += message.call_ids
        return found


@pytest.fixture
def driven() -> Waiting:
    session = Waiting()
    session.open()
    session.out()
    return session


def outcome(call_id: bytes, result: bytes | Reference = b"r", status: int = Status.SUCCEEDED) -> DetachedOutcome:
    return DetachedOutcome(call_id, status, result, None, None)


def entry(call_id: bytes) -> DetachedEntry:
    return DetachedEntry(call_id, b"c", "default", "m:f", "", "", "queued", "", "", 0, 1, FOREVER_US, FOREVER_US, 0)


# ---------------------------------------------------------------- calls to be accepted


def test_a_call_is_sent_once_with_its_function_and_its_owner_is_told_once(driven: Waiting) -> None:
    driven.spawn()
    sent = [message for message in driven.out() if isinstance(message, DeclareFunction | SubmitDetached)]
    assert [type(message) for message in sent] == [DeclareFunction, SubmitDetached]
    assert sent[1] == SubmitDetached(A, driven.function.number, 0, "k", 7, b"1")
    assert driven.named() == []
    driven.get(DetachedAccepted(A, B, True), DetachedAccepted(A, B, True))
    assert driven.told() == [Told("a" * 16, DetachedAccepted(A, B, True))]
    assert driven.session.waiting == 0
    assert driven.named(after_s=3) == []


def test_an_unanswered_call_is_said_again_a_beat_later_after_its_declaration(driven: Waiting) -> None:
    driven.spawn()
    driven.out()
    assert driven.named(after_s=0.9) == []
    assert driven.session.next_deadline() is not None
    sent = [message for message in driven.out(after_s=0.2) if isinstance(message, DeclareFunction | SubmitDetached)]
    assert [type(message) for message in sent] == [DeclareFunction, SubmitDetached]


def test_nothing_is_said_again_while_earlier_messages_have_not_left(driven: Waiting) -> None:
    driven.spawn()
    for _ in range(50):
        driven.now_ns += 2_000_000_000
        driven.session.tick(driven.now_ns)
        driven.session.handle(driven.now_ns, PayloadStored(b"p" * 16))  # a sign of life
    waiting = [
        message for message in driven.session.take_outgoing(driven.now_ns) if isinstance(message, SubmitDetached)
    ]
    assert len(waiting) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_welcome_is_answered_with_everything_that_is_unanswered(driven: Waiting, known: bool) -> None:
    driven.spawn()
    driven.session.detached.follow(B, "result")
    driven.session.detached.ask(("cancel", B), CancelDetached(B), "cancel")
    driven.out()
    driven.session.connection_made(driven.now_ns)
    driven.out()
    driven.get(welcome(known=known, epoch=2))
    sent = driven.out()
    assert [type(message) for message in sent if not isinstance(message, DeclareFunction)][:3] == [
        SubmitDetached,
        AttachDetached,
        CancelDetached,
    ]
    assert isinstance(sent[0], DeclareFunction)


@pytest.mark.parametrize("code", ["key_conflict", "id_conflict", "results_full", "too_many", "payload_lost", "new_one"])
def test_a_refusal_of_a_submit_ends_it_and_no_other_wait(driven: Waiting, code: str) -> None:
    driven.spawn()
    driven.session.detached.follow(A, "result")
    driven.out()
    refused = DetachedRefused(A, code, "no")
    driven.get(refused)
    assert driven.told() == [Told("a" * 16, refused)]
    assert driven.session.waiting == 1


def test_calls_beyond_the_window_wait_and_attached_calls_take_nothing_of_it(
    driven: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwarm.session_spawning.WINDOW_CALLS", 2)
    for _ in range(200):
        driven.call()  # more than the credit
    ids = [bytes([n]) * 16 for n in range(5)]
    for call_id in ids:
        driven.spawn(call_id)
    assert driven.named() == ids[:2]
    driven.get(DetachedAccepted(ids[0], ids[0], False))
    assert driven.named() == [ids[2]]
    assert driven.named(after_s=1.5) == [ids[1], ids[2]]


def test_a_window_of_bytes_holds_too(driven: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepwarm.session_spawning.WINDOW_BYTES", 5)
    driven.spawn(A, b"1234")
    driven.spawn(B, b"12")
    assert driven.named() == [A]
    driven.get(DetachedAccepted(A, A, False))
    assert driven.named() == [B]


def test_large_arguments_are_handed_over_first(driven: Waiting) -> None:
    driven.spawn(A, LARGE)
    [offer] = driven.sent(PayloadOffer)
    assert isinstance(offer, PayloadOffer)
    assert (offer.size, offer.sha256) == (len(LARGE), hashlib.sha256(LARGE).digest())
    driven.get(PayloadCredit(offer.payload_id, 0, len(LARGE)))
    [chunk] = driven.sent(PayloadChunk)
    assert isinstance(chunk, PayloadChunk)
    assert bytes(chunk.data) == LARGE[:CHUNK_BYTES_MAX]
    driven.get(PayloadStored(offer.payload_id))
    [submit] = driven.sent(SubmitDetached)
    assert isinstance(submit, SubmitDetached)
    assert submit.arguments == Reference(offer.payload_id, len(LARGE), offer.sha256)


def test_bytes_that_a_scheduler_has_lost_are_offered_again(driven: Waiting) -> None:
    spawn = driven.spawn(A, LARGE)
    driven.out()
    driven.get(PayloadStored(spawn.payload_id))
    driven.out()
    assert spawn.state is CallState.SUBMITTED
    driven.get(PayloadCredit(spawn.payload_id, 0, 0))
    assert [type(message) for message in driven.sent(PayloadOffer)] == [PayloadOffer]
    driven.get(welcome(known=False, epoch=2))
    assert len(driven.sent(PayloadOffer)) == 1
    driven.get(PayloadStored(spawn.payload_id))
    assert driven.named() == [A]


def test_refused_arguments_and_refused_bodies_refuse_the_call(driven: Waiting) -> None:
    spawn = driven.spawn(A, LARGE)
    driven.out()
    refused = PayloadRefused(spawn.payload_id, Failure("payload_refused", "too large"))
    driven.get(refused)
    assert driven.told() == [Told("a" * 16, refused)]
    function = driven.declare(LARGE, "m:large")
    driven.spawn(B, function=function)
    assert driven.named() == []
    refused = PayloadRefused(function.payload_id, Failure("payload_refused", "no room"))
    driven.get(refused)
    assert driven.told() == [Told("b" * 16, refused)]
    assert driven.session.waiting == 0


def test_a_large_body_arrives_before_the_call(driven: Waiting) -> None:
    function = driven.declare(LARGE, "m:large")
    driven.spawn(A, function=function)
    driven.spawn(B)
    assert driven.named() == [B]
    driven.get(PayloadStored(function.payload_id))
    assert driven.named() == [A]


def test_a_withdrawn_call_is_not_sent_or_cancelled_if_it_was(driven: Waiting) -> None:
    unsent = driven.spawn(A)
    driven.session.detached.withdraw(driven.now_ns, unsent)
    assert driven.named() == []
    sent = driven.spawn(B)
    driven.out()
    driven.session.detached.withdraw(driven.now_ns, sent)
    assert driven.sent(CancelDetached) == [CancelDetached(B)]
    assert driven.sent(CancelDetached, after_s=1.1) == [CancelDetached(B)]
    driven.get(DetachedRefused(B, "unknown", "never came"))
    assert driven.told() == []
    assert driven.session.waiting == 0


def test_a_call_that_is_withdrawn_while_its_body_is_on_its_way_is_not_sent(driven: Waiting) -> None:
    """It was sent when the body had arrived, with no arguments, again and again, and so it ran though cancelled."""
    function = driven.declare(LARGE, "m:large")
    spawn = driven.spawn(A, function=function)
    driven.spawn(B, function=function)
    driven.out()
    driven.session.detached.withdraw(driven.now_ns, spawn)
    driven.get(PayloadStored(function.payload_id))
    assert driven.named() == [B]


# ---------------------------------------------------------------- outcomes


def test_an_outcome_is_asked_for_with_every_beat_until_it_is_there(driven: Waiting) -> None:
    driven.session.detached.follow(A, "one")
    driven.session.detached.follow(A, "other")
    assert driven.sent(AttachDetached) == [AttachDetached((A,))]
    assert driven.named(after_s=0.5) == []
    assert driven.named(after_s=0.6) == [A]
    driven.get(outcome(A), outcome(A))
    assert driven.told() == [Told("one", outcome(A), b"r"), Told("other", outcome(A), b"r")]
    assert driven.named(after_s=2) == []


@pytest.mark.parametrize("message", [DetachedRefused(A, "unknown", "?"), outcome(A, b"", Status.LOST)])
def test_what_did_not_succeed_has_no_result(driven: Waiting, message: Message) -> None:
    driven.session.detached.follow(A, "one")
    driven.out()
    driven.get(message)
    assert driven.told() == [Told("one", message, None)]


def test_who_waits_no_longer_is_not_told(driven: Waiting) -> None:
    driven.session.detached.follow(A, "one")
    driven.session.detached.unfollow(driven.now_ns, A, "one")
    assert driven.named() == []
    driven.get(outcome(A))
    assert driven.told() == []
    assert driven.session.waiting == 0


def test_many_outcomes_are_asked_for_in_pages_and_a_bounded_number_per_beat(
    driven: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepwarm.session_detached.NAMED_PER_BEAT_MAX", 2_000)
    ids = [number.to_bytes(16, "big") for number in range(5_000)]
    for call_id in ids:
        driven.session.detached.follow(call_id, call_id)
    asked: list[bytes] = []
    while driven.session.next_deadline() == 0:
        for message in driven.sent(AttachDetached):
            assert isinstance(message, AttachDetached)
            assert len(message.call_ids) <= 1000
            asked += message.call_ids
    assert asked == ids
    again: list[bytes] = []
    for _ in range(3):
        page = driven.named(after_s=1.01)
        assert len(page) == 2_000
        again += page
        driven.get(PayloadStored(b"p" * 16))  # a sign of life
    assert again == [*ids, *ids[:1_000]]


def fetching(driven: Waiting, data: bytes = LARGE) -> Reference:
    reference = Reference(b"p" * 16, len(data), hashlib.sha256(data).digest())
    driven.session.detached.follow(A, "one")
    driven.out()
    driven.get(outcome(A, reference))
    assert driven.sent(PayloadCredit) == [PayloadCredit(reference.payload_id, 0, len(data))]
    return reference


def test_a_large_result_is_fetched(driven: Waiting) -> None:
    reference = fetching(driven)
    driven.get(PayloadChunk(reference.payload_id, 0, LARGE))
    assert driven.told() == [Told("one", outcome(A, reference), LARGE)]
    assert driven.session.waiting == 0


def test_an_outcome_that_comes_again_while_its_result_is_fetched_changes_nothing(driven: Waiting) -> None:
    half = LARGE * 40
    reference = fetching(driven, half)
    driven.get(PayloadChunk(reference.payload_id, 0, half[:CHUNK_BYTES_MAX]), outcome(A, reference))
    assert driven.sent(PayloadCredit) == []
    driven.get(DetachedRefused(A, "expired", "meanwhile"))
    driven.get(PayloadChunk(reference.payload_id, CHUNK_BYTES_MAX, half[CHUNK_BYTES_MAX : 2 * CHUNK_BYTES_MAX]))
    driven.get(PayloadChunk(reference.payload_id, 2 * CHUNK_BYTES_MAX, half[2 * CHUNK_BYTES_MAX :]))
    assert [told.result for told in driven.told()] == [half]


def test_a_result_that_is_gone_is_asked_about_once_more(driven: Waiting) -> None:
    reference = fetching(driven)
    gone = PayloadRefused(reference.payload_id, Failure("payload_refused", "not here"))
    driven.get(gone)
    assert driven.named() == [A]
    expired = DetachedRefused(A, "expired", "too late")
    driven.get(expired)
    assert driven.told() == [Told("one", expired, None)]


def test_a_result_that_is_gone_again_and_again_ends_the_wait(driven: Waiting) -> None:
    reference = fetching(driven)
    gone = PayloadRefused(reference.payload_id, Failure("payload_refused", "not here"))
    driven.get(gone, outcome(A, reference), gone)
    [told] = driven.told()
    assert isinstance(told.message, DetachedOutcome)
    assert told.message.failure == gone.failure
    assert driven.session.waiting == 0


def test_a_fetch_survives_a_scheduler_that_has_forgotten_the_session(driven: Waiting) -> None:
    reference = fetching(driven)
    driven.session.connection_made(driven.now_ns)
    driven.out()
    driven.get(welcome(known=False, epoch=2))
    assert driven.named() == [A]
    driven.get(outcome(A, reference))
    driven.out()
    driven.get(PayloadChunk(reference.payload_id, 0, LARGE))
    assert [told.result for told in driven.told()] == [LARGE]


def test_giving_up_a_fetch_leaves_nothing_behind(driven: Waiting) -> None:
    reference = fetching(driven)
    driven.session.detached.unfollow(driven.now_ns, A, "one")
    driven.get(PayloadChunk(reference.payload_id, 0, LARGE))
    assert driven.told() == []
    assert driven.sent(PayloadCredit, after_s=3) == []


# ---------------------------------------------------------------- questions

QUESTIONS: list[tuple[tuple[object, ...], Message, Message]] = [
    (("show", A), ShowDetached(1, A), DetachedShown(1, entry(A))),
    (("show", A), ShowDetached(1, A), DetachedRefused(A, "expired", "gone")),
    (("cancel", A), CancelDetached(A), DetachedCancelled(A, "stopping")),
    (("cancel", A), CancelDetached(A), DetachedRefused(A, "unknown", "?")),
    (("list", 3), ListDetached(3, b"", "", "", 0), DetachedListed(3, (), True)),
    (("forget", A), ForgetDetached((A,)), DetachedForgotten((A,))),
    (("forget", A), ForgetDetached((A,)), DetachedForgotten(())),
]


@pytest.mark.parametrize(("key", "question", "answer"), QUESTIONS)
def test_a_question_is_repeated_until_its_answer_goes_to_who_asked(
    driven: Waiting, key: tuple[object, ...], question: Message, answer: Message
) -> None:
    driven.session.detached.ask(key, question, "one")
    assert driven.session.next_deadline() == 0
    assert driven.sent(type(question)) == [question]
    assert driven.sent(type(question), after_s=0.5) == []
    assert driven.sent(type(question), after_s=0.6) == [question]
    driven.get(answer, answer)
    assert driven.told() == [Told("one", answer)]
    assert driven.sent(type(question), after_s=2) == []


def test_answers_to_others_are_not_mine(driven: Waiting) -> None:
    driven.session.detached.ask(("show", A), ShowDetached(1, A), "one")
    driven.session.detached.ask(("list", 3), ListDetached(3, b"", "", "", 0), "two")
    driven.session.detached.ask(("forget", A), ForgetDetached((A,)), "three")
    driven.get(
        DetachedShown(1, entry(B)), DetachedRefused(B, "unknown", "?"), DetachedListed(2, (), True),
        DetachedForgotten((B,)), DetachedCancelled(A, "stopping"),
    )  # fmt: skip
    assert driven.told() == []
    driven.session.detached.drop_question(("show", A), "one")
    driven.get(DetachedShown(1, entry(A)))
    assert driven.told() == []
    assert sorted(map(str, driven.session.detached.owners())) == ["three", "two"]


WISHES: list[Callable[[Waiting], object]] = [
    lambda driven: driven.spawn(),
    lambda driven: driven.session.detached.follow(A, "one"),
    lambda driven: driven.session.detached.ask(("show", A), ShowDetached(1, A), "one"),
]


@pytest.mark.parametrize("wish", WISHES)
def test_whoever_waits_is_known_and_keeps_the_session_beating(wish: Callable[[Waiting], object]) -> None:
    driven = Waiting()
    driven.open()
    wish(driven)
    assert driven.session.waiting == 1
    assert len(driven.session.detached.owners()) == 1
    driven.out()
    deadline_ns = driven.session.next_deadline()
    assert deadline_ns is not None
    assert deadline_ns <= driven.now_ns + 1_000_000_000
