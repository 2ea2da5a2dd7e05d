"""The session, message by message: what it sends, holds, repeats and delivers."""

import hashlib

import pytest

from keepwarm.session import IDLE_BEAT_FACTOR
from keepwarm.session_deliveries import Completion, Printed, Progressed
from keepwarm_wire.messages import (
    Cancel,
    ClientBeat,
    ClientBeatReply,
    ClientHello,
    DeclareFunction,
    Failure,
    Goodbye,
    Outcome,
    Output,
    PayloadChunk,
    PayloadCredit,
    PayloadOffer,
    PayloadRefused,
    PayloadStored,
    Progress,
    Received,
    Reference,
    Refused,
    Status,
    Submit,
)
from support.driven_session import Driven, success, welcome

LARGE = 65_537
MIB = 1024 * 1024


@pytest.fixture
def driven() -> Driven:
    return Driven().open()


def test_nothing_but_hello_is_sent_before_the_welcome() -> None:
    driven = Driven()
    driven.call()
    assert [type(message) for message in driven.out()] == [ClientHello]
    assert driven.out() == []


def test_hello_is_repeated_until_it_is_answered() -> None:
    driven = Driven()
    assert driven.sent(ClientHello)
    assert not driven.sent(ClientHello, after_s=0.5)
    assert driven.sent(ClientHello, after_s=0.6)
    driven.get(welcome())
    assert not driven.sent(ClientHello, after_s=0.1)


def test_a_function_is_declared_once_before_its_first_call(driven: Driven) -> None:
    driven.call()
    driven.call()
    kinds = [type(message) for message in driven.out() if not isinstance(message, ClientBeat)]
    assert kinds == [DeclareFunction, Submit, Submit]


def test_call_numbers_start_at_one_and_grow(driven: Driven) -> None:
    for _ in range(3):
        driven.call()
    assert [submit.call_number for submit in driven.sent(Submit)] == [1, 2, 3]


def test_an_outcome_completes_its_call_once_and_is_acknowledged_each_time(driven: Driven) -> None:
    call = driven.call()
    driven.out()
    driven.get(success(1), success(1))
    assert [(done.call, done.result) for done in driven.completions()] == [(call, b"r")]
    assert driven.sent(Received, after_s=0.06) == [Received((1, 1))]


def test_acknowledgements_ride_on_the_next_call(driven: Driven) -> None:
    driven.call()
    driven.out()
    driven.get(success(1))
    assert driven.out() == []
    driven.call()
    assert Received((1,)) in driven.out()


def test_an_outcome_of_a_number_never_given_is_ignored(driven: Driven) -> None:
    driven.get(success(7))
    assert driven.completions() == []
    assert not driven.sent(Received, after_s=0.1)


def test_calls_beyond_the_credit_are_held_until_an_outcome(driven: Driven) -> None:
    driven = Driven().open(welcome(calls=2))
    for _ in range(4):
        driven.call()
    assert [submit.call_number for submit in driven.sent(Submit)] == [1, 2]
    driven.get(success(2))
    assert [submit.call_number for submit in driven.sent(Submit)] == [3]


def test_bytes_beyond_the_credit_are_held() -> None:
    driven = Driven().open(welcome(size=100))
    driven.call(b"x" * 60)
    driven.call(b"x" * 60)
    assert len(driven.sent(Submit)) == 1
    driven.get(success(1))
    assert len(driven.sent(Submit)) == 1


def test_a_call_larger_than_the_whole_byte_credit_travels_as_a_payload() -> None:
    driven = Driven().open(welcome(size=10))
    driven.call(b"x" * 11)
    assert [offer.size for offer in driven.sent(PayloadOffer)] == [11]


def test_missing_calls_are_sent_again_with_their_declaration(driven: Driven) -> None:
    driven.call()
    driven.call()
    driven.out()
    driven.get(ClientBeatReply(1, (2,)))
    declaration, submit = driven.out()
    assert isinstance(declaration, DeclareFunction)
    assert (submit.call_number, submit.resent) == (2, False)


def test_an_old_beat_reply_sends_nothing_again(driven: Driven) -> None:
    driven.call()
    driven.out()
    driven.get(ClientBeatReply(1, (1,)))
    assert driven.sent(Submit)
    driven.get(ClientBeatReply(1, (1,)))
    assert not driven.sent(Submit)


def test_missing_numbers_that_are_answered_already_are_acknowledged(driven: Driven) -> None:
    driven.call()
    driven.out()
    driven.get(success(1))
    driven.sent(Received, after_s=0.1)
    driven.get(ClientBeatReply(9, (1,)))
    assert driven.sent(Received, after_s=0.1) == [Received((1,))]


def test_beats_come_every_interval_while_something_is_unanswered_else_rarely(driven: Driven) -> None:
    driven.out()
    driven.get(ClientBeatReply(1, ()))
    assert not driven.sent(ClientBeat, after_s=IDLE_BEAT_FACTOR - 0.5)
    driven.call()
    driven.out()
    assert driven.sent(ClientBeat, after_s=1) == [ClientBeat(2, 1)]


def test_silence_over_three_beats_makes_it_say_hello_again(driven: Driven) -> None:
    driven.call()
    driven.out()
    assert not driven.sent(ClientHello, after_s=2.9)
    assert driven.sent(ClientHello, after_s=0.2)


def test_a_scheduler_without_memory_gets_everything_unanswered_again(driven: Driven) -> None:
    driven.call(b"1")
    driven.call(b"2")
    driven.out()
    driven.get(success(1))
    driven.get(Refused("hello_first", ""))
    assert driven.sent(ClientHello)
    driven.get(welcome(epoch=2))
    sent = driven.out()
    assert [message.function_number for message in sent if isinstance(message, DeclareFunction)] == [1]
    assert [(m.call_number, m.resent) for m in sent if isinstance(m, Submit)] == [(2, True)]


def test_the_same_epoch_gets_calls_again_without_the_resent_mark(driven: Driven) -> None:
    driven.call()
    driven.out()
    driven.get(welcome(epoch=1))
    assert [submit.resent for submit in driven.sent(Submit)] == [False]


def test_a_smaller_credit_after_a_restart_is_kept_to(driven: Driven) -> None:
    for _ in range(5):
        driven.call()
    driven.out()
    driven.get(welcome(epoch=2, calls=2))
    assert [submit.call_number for submit in driven.sent(Submit)] == [1, 2]
    driven.get(success(1))
    assert [submit.call_number for submit in driven.sent(Submit)] == [3]


def test_a_welcome_from_before_a_restart_is_ignored(driven: Driven) -> None:
    driven.get(welcome(epoch=3))
    driven.get(welcome(epoch=2))
    assert driven.session.epoch == 3


def test_cancel_before_sending_ends_the_call_here(driven: Driven) -> None:
    driven = Driven()
    call = driven.call()
    assert driven.session.cancel(0, call)
    assert [done.outcome.status for done in driven.completions()] == [Status.CANCELLED]
    driven.open()
    assert not driven.sent(Submit)
    assert not driven.session.cancel(0, call)


def test_cancel_is_repeated_with_each_beat_until_the_outcome(driven: Driven) -> None:
    call = driven.call()
    driven.out()
    assert driven.session.cancel(driven.now_ns, call)
    assert driven.sent(Cancel) == [Cancel(1)]
    assert driven.sent(Cancel) == []
    driven.get(ClientBeatReply(1, ()))
    assert driven.sent(Cancel, after_s=1) == [Cancel(1)]
    driven.get(Outcome(1, Status.CANCELLED, b"", Failure("cancelled", ""), None))
    assert driven.sent(Cancel, after_s=1) == []
    assert len(driven.completions()) == 1


def test_a_large_argument_is_offered_then_sent_within_the_window_then_submitted(driven: Driven) -> None:
    data = bytes(range(256)) * 4096 * 3
    driven.call(data)
    [offer] = driven.sent(PayloadOffer)
    assert (offer.size, offer.sha256) == (len(data), hashlib.sha256(data).digest())
    assert not driven.sent(PayloadChunk)
    driven.get(PayloadCredit(offer.payload_id, 0, 2 * MIB))
    chunks = driven.sent(PayloadChunk) + driven.sent(PayloadChunk)
    assert [(chunk.offset, len(chunk.data)) for chunk in chunks] == [(0, MIB), (MIB, MIB)]
    assert not driven.sent(PayloadChunk)
    driven.get(PayloadCredit(offer.payload_id, MIB, 3 * MIB))
    chunks += driven.sent(PayloadChunk)
    assert b"".join(chunk.data for chunk in chunks) == data
    assert not driven.sent(Submit)
    driven.get(PayloadStored(offer.payload_id))
    [submit] = driven.sent(Submit)
    assert submit.arguments == Reference(offer.payload_id, len(data), offer.sha256)


def test_chunks_are_slices_of_the_arguments_not_copies(driven: Driven) -> None:
    data = b"x" * (2 * MIB)
    driven.call(data)
    [offer] = driven.sent(PayloadOffer)
    driven.get(PayloadCredit(offer.payload_id, 0, MIB))
    [chunk] = driven.sent(PayloadChunk)
    assert isinstance(chunk.data, memoryview)
    assert chunk.data.obj is data


def test_small_calls_overtake_an_upload(driven: Driven) -> None:
    driven.call(b"x" * (3 * MIB))
    driven.call(b"small")
    assert [submit.arguments for submit in driven.sent(Submit)] == [b"small"]


def test_a_stalled_upload_is_offered_again_and_goes_on_where_the_scheduler_says(driven: Driven) -> None:
    driven.call(b"x" * (2 * MIB))
    [offer] = driven.sent(PayloadOffer)
    driven.get(PayloadCredit(offer.payload_id, 0, 2 * MIB))
    assert [chunk.offset for chunk in driven.sent(PayloadChunk) + driven.sent(PayloadChunk)] == [0, MIB]
    assert driven.sent(PayloadOffer, after_s=1.1) == [offer]
    driven.get(PayloadCredit(offer.payload_id, MIB, 2 * MIB))
    assert [chunk.offset for chunk in driven.sent(PayloadChunk)] == [MIB]


def test_a_refused_upload_fails_its_call(driven: Driven) -> None:
    driven.call(b"x" * LARGE)
    [offer] = driven.sent(PayloadOffer)
    driven.get(PayloadRefused(offer.payload_id, Failure("disk_full", "no room")))
    assert [done.outcome.failure for done in driven.completions()] == [Failure("disk_full", "no room")]
    assert driven.session.held_calls == driven.session.held_bytes == 0


def test_a_large_body_is_uploaded_once_and_declared_before_its_calls(driven: Driven) -> None:
    function = driven.declare(b"b" * LARGE)
    driven.call(b"1", function)
    driven.call(b"2", function)
    sent = driven.out()
    assert [type(message) for message in sent if not isinstance(message, ClientBeat)] == [PayloadOffer]
    driven.get(PayloadStored(next(m for m in sent if isinstance(m, PayloadOffer)).payload_id))
    kinds = [type(message) for message in driven.out()]
    assert kinds == [DeclareFunction, Submit, Submit]


def test_a_refused_body_fails_the_calls_that_wait_and_is_tried_again(driven: Driven) -> None:
    function = driven.declare(b"b" * LARGE)
    driven.call(b"1", function)
    [offer] = driven.sent(PayloadOffer)
    driven.get(PayloadRefused(offer.payload_id, Failure("disk_full", "no room")))
    assert len(driven.completions()) == 1
    driven.call(b"2", function)
    assert driven.sent(PayloadOffer)


def download(driven: Driven, data: bytes) -> Reference:
    reference = Reference(b"p" * 16, len(data), hashlib.sha256(data).digest())
    driven.call()
    driven.out()
    driven.get(success(1, reference))
    return reference


def test_a_large_result_is_fetched_before_the_call_completes(driven: Driven) -> None:
    data = b"r" * (10 * MIB)
    reference = download(driven, data)
    assert driven.sent(PayloadCredit) == [PayloadCredit(reference.payload_id, 0, 8 * MIB)]
    assert not driven.completions()
    moved = []
    for start in range(0, len(data), MIB):
        driven.get(PayloadChunk(reference.payload_id, start, data[start : start + MIB]))
        moved += driven.sent(PayloadCredit)
    assert moved == [PayloadCredit(reference.payload_id, 4 * MIB, 10 * MIB)]
    assert [done.result for done in driven.completions()] == [data]
    assert driven.sent(Received, after_s=0.1) == [Received((1,))]


def test_chunks_out_of_place_are_dropped_and_asked_for_again(driven: Driven) -> None:
    data = b"0123456789"
    reference = download(driven, data)
    driven.out()
    driven.get(PayloadChunk(reference.payload_id, 5, data[5:]))
    driven.get(PayloadChunk(reference.payload_id, 0, data[:5]))
    driven.get(PayloadChunk(reference.payload_id, 0, data[:5]))
    assert driven.sent(PayloadCredit, after_s=1.1) == [PayloadCredit(reference.payload_id, 5, 10)]
    driven.get(PayloadChunk(reference.payload_id, 5, data[5:]))
    assert [done.result for done in driven.completions()] == [data]


def refused(reference: Reference) -> PayloadRefused:
    return PayloadRefused(reference.payload_id, Failure("payload_refused", "not here"))


def test_a_result_that_is_gone_with_its_session_is_computed_again(driven: Driven) -> None:
    """As after a suspension of the client: the scheduler has ended the session, and dropped what it held for it."""
    reference = download(driven, b"0123456789")
    driven.out()
    driven.get(refused(reference))
    assert not driven.completions()
    assert driven.sent(ClientHello)
    driven.get(refused(reference))  # of the same request, repeated before the hello
    driven.get(welcome(known=False))
    assert [submit.call_number for submit in driven.sent(Submit)] == [1]
    driven.get(success(1))
    assert [done.result for done in driven.completions()] == [b"r"]


def test_a_result_that_is_gone_for_good_fails_its_call(driven: Driven) -> None:
    """The scheduler knows the session, is asked once more, and still has no such payload."""
    reference = download(driven, b"0123456789")
    driven.out()
    driven.get(refused(reference))
    assert driven.sent(ClientHello)
    driven.get(welcome(known=True))
    assert driven.sent(PayloadCredit) == [PayloadCredit(reference.payload_id, 0, 10)]
    assert not driven.completions()
    driven.get(refused(reference))
    assert [done.outcome.failure for done in driven.completions()] == [Failure("payload_refused", "not here")]


def test_a_damaged_result_is_fetched_again_and_at_last_fails(driven: Driven) -> None:
    reference = download(driven, b"right")
    driven.out()
    for _ in range(3):
        assert not driven.completions()
        driven.get(PayloadChunk(reference.payload_id, 0, b"wrong"))
    [done] = driven.completions()
    assert done.result is None
    assert done.outcome.failure is not None


def test_a_result_that_the_scheduler_lost_is_computed_again_after_its_restart(driven: Driven) -> None:
    download(driven, b"x" * LARGE)
    driven.out()
    driven.get(welcome(epoch=2))
    assert [(submit.call_number, submit.resent) for submit in driven.sent(Submit)] == [(1, True)]


def test_output_and_progress_are_delivered_in_order_before_the_outcome(driven: Driven) -> None:
    driven.call()
    driven.out()
    driven.get(Progress(1, "n", "build", "", 0), Output(1, "n", 1, b"hi\n", 0), success(1))
    assert [type(delivery) for delivery in driven.session.deliveries] == [Progressed, Printed, Completion]


def test_output_of_unknown_calls_and_progress_of_unknown_functions_are_dropped(driven: Driven) -> None:
    driven.get(Output(9, "n", 1, b"hi\n", 0), Progress(9, "n", "build", "", 0), Progress(0, "n", "build", "", 0))
    assert not driven.session.deliveries


def test_a_refusal_of_the_hello_ends_all_sending() -> None:
    driven = Driven()
    driven.out()
    driven.get(Refused("version", "too old"))
    assert driven.session.refusal == Refused("version", "too old")
    assert driven.out(after_s=5) == []
    assert driven.session.next_deadline() is None


def test_goodbye_of_the_scheduler_closes_the_session(driven: Driven) -> None:
    driven.get(Goodbye("stopping"))
    assert driven.session.goodbye == Goodbye("stopping")
    assert not driven.session.is_open


def test_say_goodbye_is_sent_only_when_open(driven: Driven) -> None:
    driven.session.say_goodbye("exit")
    assert driven.sent(Goodbye) == [Goodbye("exit")]
    closed = Driven()
    closed.session.say_goodbye("exit")
    assert not closed.sent(Goodbye)


def test_the_local_bound_counts_calls_and_bytes(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepwarm.session.HELD_CALLS_MAX", 2)
    monkeypatch.setattr("keepwarm.session.HELD_BYTES_MAX", 10)
    assert driven.session.has_room(10)
    assert not driven.session.has_room(11)
    driven.call()
    driven.call()
    assert not driven.session.has_room(0)
    driven.out()
    driven.get(success(1))
    assert driven.session.has_room(0)


def test_the_next_deadline_is_never_late(driven: Driven) -> None:
    driven.call()
    assert driven.session.next_deadline() is not None
    driven.out()
    deadline_ns = driven.session.next_deadline()
    assert deadline_ns is not None
    driven.now_ns = deadline_ns - 1
    assert driven.out() == []
    driven.now_ns = deadline_ns
    assert driven.out() != []


def test_nothing_is_left_after_every_call_has_ended(driven: Driven) -> None:
    for number in range(1, 4):
        driven.call(b"x" * number)
        driven.out()
        driven.get(success(number))
    assert driven.session.unanswered() == []
    assert (driven.session.held_calls, driven.session.held_bytes) == (0, 0)


def test_an_outcome_repeated_while_its_result_is_fetched_changes_nothing(driven: Driven) -> None:
    data = b"0123456789"
    reference = download(driven, data)
    driven.out()
    driven.get(PayloadChunk(reference.payload_id, 0, data[:5]), success(1, reference))
    assert not driven.sent(PayloadCredit)
    driven.get(PayloadChunk(reference.payload_id, 5, data[5:]))
    assert [done.result for done in driven.completions()] == [data]


def test_a_cancelled_call_is_cancelled_at_the_next_scheduler_too(driven: Driven) -> None:
    call = driven.call()
    driven.out()
    driven.session.cancel(driven.now_ns, call)
    driven.out()
    driven.get(welcome(epoch=2))
    sent = [message for message in driven.out() if isinstance(message, Submit | Cancel | ClientBeat)]
    assert [type(message) for message in sent[:2]] == [Submit, Cancel]
    assert isinstance(sent[-1], ClientBeat)


def test_a_result_under_way_is_not_asked_of_a_scheduler_without_memory(driven: Driven) -> None:
    download(driven, b"x" * LARGE)
    driven.out()
    driven.get(welcome(epoch=2))
    assert not driven.sent(PayloadCredit)
    assert not driven.sent(PayloadCredit, after_s=1.1)


def test_cancelling_an_upload_ends_it_and_the_next_one_begins(driven: Driven) -> None:
    calls = [driven.call(b"x" * LARGE) for _ in range(5)]
    offers = driven.sent(PayloadOffer)
    assert len(offers) == 4
    driven.get(PayloadCredit(offers[0].payload_id, 0, LARGE))
    assert driven.session.cancel(driven.now_ns, calls[0])
    sent = driven.out()
    assert not [message for message in sent if isinstance(message, PayloadChunk)]
    assert len([message for message in sent if isinstance(message, PayloadOffer)]) == 1
