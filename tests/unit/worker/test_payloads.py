"""Payloads in credited chunks: both directions, with everything that can be lost or wrong on the way."""

import hashlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from keepwarm_wire import messages as wire
from keepwarm_worker.core import events
from keepwarm_worker.payloads import CHUNK_BYTES, STALL_NS, Step, Transfers
from support.shortage import limited

PAYLOAD = b"p" * 16
WINDOW = 4 * CHUNK_BYTES
DATA = os.urandom(1024) * 1024 * 10 + b"rest"


def _reference(data: bytes, **changes: object) -> wire.Reference:
    return wire.Reference(PAYLOAD, len(data), hashlib.sha256(data).digest())._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture
def transfers(tmp_path: Path) -> Iterator[Transfers]:
    made = Transfers(tmp_path, WINDOW)
    yield made
    made.close()


def _answer(credit: wire.PayloadCredit, data: bytes) -> list[wire.PayloadChunk]:
    starts = range(credit.received, credit.limit, CHUNK_BYTES)
    return [wire.PayloadChunk(PAYLOAD, start, data[start : min(start + CHUNK_BYTES, credit.limit)]) for start in starts]


def _serve(transfers: Transfers, step: Step, data: bytes = DATA) -> list[events.Event]:
    """Answer every credit until nothing more comes; the events."""
    found = list(step.events)
    pending = [credit for credit in step.messages if isinstance(credit, wire.PayloadCredit)]
    while pending:
        credit = pending.pop(0)
        assert credit.limit - credit.received <= WINDOW
        for chunk in _answer(credit, data):
            step = transfers.handle(0, chunk)
            found += step.events
            pending += [each for each in step.messages if isinstance(each, wire.PayloadCredit)]
    return found


def test_a_payload_is_fetched_in_windows_and_checked(transfers: Transfers) -> None:
    step = transfers.fetch(0, _reference(DATA))
    assert step.messages == [wire.PayloadCredit(PAYLOAD, 0, WINDOW)]
    assert _serve(transfers, step) == [events.PayloadFetched(PAYLOAD)]
    assert transfers.path_of(PAYLOAD).read_bytes() == DATA
    assert transfers.next_deadline() is None


def test_an_empty_payload_is_there_at_once(transfers: Transfers) -> None:
    assert transfers.fetch(0, _reference(b"")) == Step([], [events.PayloadFetched(PAYLOAD)])


def test_a_lost_chunk_is_asked_for_again_after_a_second(transfers: Transfers) -> None:
    (credit,) = transfers.fetch(0, _reference(DATA)).messages
    first, _lost, third, *_ = _answer(credit, DATA)
    transfers.handle(0, first)
    assert transfers.handle(0, third) == Step([], [])
    assert transfers.next_deadline() == STALL_NS
    assert transfers.tick(STALL_NS - 1) == Step([], [])
    step = transfers.tick(STALL_NS)
    assert step.messages == [wire.PayloadCredit(PAYLOAD, CHUNK_BYTES, CHUNK_BYTES + WINDOW)]
    assert _serve(transfers, step) == [events.PayloadFetched(PAYLOAD)]


def test_wrong_bytes_are_never_handed_on(transfers: Transfers, tmp_path: Path) -> None:
    step = transfers.fetch(0, _reference(DATA, sha256=b"0" * 32))
    (missing,) = _serve(transfers, step)
    assert isinstance(missing, events.PayloadMissing)
    assert missing.failure.kind == "payload_damaged"
    assert not list(tmp_path.iterdir())


def test_more_bytes_than_announced_are_refused(transfers: Transfers) -> None:
    transfers.fetch(0, _reference(b"12345"))
    (missing,) = transfers.handle(0, wire.PayloadChunk(PAYLOAD, 0, b"123456")).events
    assert isinstance(missing, events.PayloadMissing)


def test_a_payload_that_the_scheduler_does_not_have_is_missing(transfers: Transfers) -> None:
    transfers.fetch(0, _reference(DATA))
    failure = wire.Failure("payload_unknown", "no")
    assert transfers.handle(0, wire.PayloadRefused(PAYLOAD, failure)).events == [
        events.PayloadMissing(PAYLOAD, failure)
    ]


def test_a_dropped_payload_leaves_nothing(transfers: Transfers, tmp_path: Path) -> None:
    (credit,) = transfers.fetch(0, _reference(DATA)).messages
    transfers.handle(0, _answer(credit, DATA)[0])
    transfers.drop(PAYLOAD)
    transfers.drop(PAYLOAD)
    assert not list(tmp_path.iterdir())
    assert transfers.handle(0, _answer(credit, DATA)[1]) == Step([], [])


def test_a_disk_that_takes_nothing_fails_the_fetch(tmp_path: Path) -> None:
    (missing,) = Transfers(tmp_path / "nowhere").fetch(0, _reference(DATA)).events
    assert isinstance(missing, events.PayloadMissing)
    assert missing.failure.kind == "payload_not_stored"


def test_a_disk_that_takes_a_part_of_a_chunk_fails_the_fetch(transfers: Transfers, tmp_path: Path) -> None:
    """What was taken of it would have passed for the whole: the digest is that of the bytes in memory."""
    with limited(resource.RLIMIT_FSIZE, CHUNK_BYTES + 1000):
        (missing,) = _serve(transfers, transfers.fetch(0, _reference(DATA)))
    assert isinstance(missing, events.PayloadMissing)
    assert missing.failure.kind == "payload_not_stored"
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_chunks_in_parts_gets_all_of_them(
    transfers: Transfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: whole(descriptor, data[:300_000], offset))
    assert _serve(transfers, transfers.fetch(0, _reference(DATA))) == [events.PayloadFetched(PAYLOAD)]
    assert transfers.path_of(PAYLOAD).read_bytes() == DATA


def test_a_payload_that_cannot_be_put_in_its_place_fails_the_fetch(transfers: Transfers) -> None:
    transfers.path_of(PAYLOAD).mkdir()
    (missing,) = _serve(transfers, transfers.fetch(0, _reference(DATA)))
    assert isinstance(missing, events.PayloadMissing)
    assert missing.failure.kind == "payload_not_stored"


def test_a_result_that_cannot_be_read_is_told_as_such(transfers: Transfers, tmp_path: Path) -> None:
    """A directory stands for a disk with an error."""
    transfers.hold_result(7, _reference(DATA), os.open(tmp_path, os.O_RDONLY))
    transfers.upload(0, 7)
    (refused,) = transfers.handle(0, wire.PayloadCredit(PAYLOAD, 0, WINDOW)).events
    assert isinstance(refused, events.ResultRefused)
    assert refused.failure.kind == "result_not_stored"


class _Receiver:
    """The scheduler's end of an upload: loses what the test says, grants windows."""

    def __init__(self) -> None:
        self.received = b""

    def credit(self) -> wire.PayloadCredit:
        return wire.PayloadCredit(PAYLOAD, len(self.received), len(self.received) + WINDOW)

    def take(self, step: Step, lose: tuple[int, ...] = ()) -> None:
        for number, chunk in enumerate(step.messages):
            assert isinstance(chunk, wire.PayloadChunk)
            if number not in lose and chunk.offset == len(self.received):
                self.received += chunk.data


def _held(transfers: Transfers, tmp_path: Path, data: bytes = DATA) -> wire.Reference:
    file = tmp_path / "result"
    file.write_bytes(data)
    reference = _reference(data)
    transfers.hold_result(7, reference, os.open(file, os.O_RDONLY))
    file.unlink()
    return reference


def test_a_result_is_offered_then_sent_as_credit_allows(transfers: Transfers, tmp_path: Path) -> None:
    reference = _held(transfers, tmp_path)
    step = transfers.upload(0, 7)
    assert step.messages == [wire.PayloadOffer(PAYLOAD, len(DATA), reference.sha256)]
    receiver = _Receiver()
    while len(receiver.received) < len(DATA):
        step = transfers.handle(0, receiver.credit())
        assert sum(len(chunk.data) for chunk in step.messages) <= WINDOW
        receiver.take(step)
    assert receiver.received == DATA
    assert transfers.handle(0, wire.PayloadStored(PAYLOAD)).events == [events.ResultStored(7, reference)]
    assert transfers.next_deadline() is None


def test_overlapping_credits_send_no_byte_twice(transfers: Transfers, tmp_path: Path) -> None:
    _held(transfers, tmp_path)
    transfers.upload(0, 7)
    sent = transfers.handle(0, wire.PayloadCredit(PAYLOAD, 0, WINDOW)).messages
    sent += transfers.handle(0, wire.PayloadCredit(PAYLOAD, CHUNK_BYTES, CHUNK_BYTES + WINDOW)).messages
    assert [chunk.offset // CHUNK_BYTES for chunk in sent] == [0, 1, 2, 3, 4]


def test_chunks_lost_on_the_way_are_sent_again_after_a_new_offer(transfers: Transfers, tmp_path: Path) -> None:
    _held(transfers, tmp_path)
    transfers.upload(0, 7)
    receiver = _Receiver()
    receiver.take(transfers.handle(0, receiver.credit()), lose=(2,))
    assert len(receiver.received) == 2 * CHUNK_BYTES
    assert transfers.tick(STALL_NS).messages == [wire.PayloadOffer(PAYLOAD, len(DATA), _reference(DATA).sha256)]
    while len(receiver.received) < len(DATA):
        receiver.take(transfers.handle(STALL_NS, receiver.credit()))
    assert receiver.received == DATA


def test_a_repeated_credit_goes_back_to_what_has_arrived(transfers: Transfers, tmp_path: Path) -> None:
    _held(transfers, tmp_path)
    transfers.upload(0, 7)
    receiver = _Receiver()
    receiver.take(transfers.handle(0, receiver.credit()), lose=(0, 1, 2, 3))
    receiver.take(transfers.handle(0, receiver.credit()))
    assert receiver.received == DATA[:WINDOW]


def test_a_result_can_be_handed_over_again_to_another_scheduler(transfers: Transfers, tmp_path: Path) -> None:
    _held(transfers, tmp_path, b"tiny")
    transfers.upload(0, 7)
    transfers.handle(0, wire.PayloadStored(PAYLOAD))
    assert transfers.upload(0, 7).messages
    (chunk,) = transfers.handle(0, wire.PayloadCredit(PAYLOAD, 0, WINDOW)).messages
    assert chunk.data == b"tiny"


def test_a_result_that_the_scheduler_has_lost_is_handed_over_again(transfers: Transfers, tmp_path: Path) -> None:
    reference = _held(transfers, tmp_path, b"tiny")
    lost = wire.PayloadCredit(PAYLOAD, 0, 0)
    (offer,) = transfers.upload(0, 7).messages
    assert transfers.handle(0, lost) == Step([], [])  # about an outcome from before: the upload goes on
    (chunk,) = transfers.handle(0, wire.PayloadCredit(PAYLOAD, 0, WINDOW)).messages
    transfers.handle(0, wire.PayloadStored(PAYLOAD))
    assert transfers.handle(0, lost) == Step([offer], [])
    assert transfers.handle(0, wire.PayloadCredit(PAYLOAD, 0, WINDOW)).messages == [chunk]
    assert transfers.handle(0, wire.PayloadStored(PAYLOAD)).events == [events.ResultStored(7, reference)]


def test_a_refused_result_and_a_shrunken_file_are_reported(transfers: Transfers, tmp_path: Path) -> None:
    _held(transfers, tmp_path, b"tiny")
    transfers.upload(0, 7)
    failure = wire.Failure("payload_too_large", "no")
    assert transfers.handle(0, wire.PayloadRefused(PAYLOAD, failure)).events == [events.ResultRefused(7, failure)]
    file = tmp_path / "short"
    file.write_bytes(b"abc")
    transfers.hold_result(7, _reference(b"abcdef"), os.open(file, os.O_RDONLY))
    transfers.upload(0, 7)
    (refused,) = transfers.handle(0, wire.PayloadCredit(PAYLOAD, 0, WINDOW)).events
    assert isinstance(refused, events.ResultRefused)


def test_a_settled_result_is_forgotten_with_its_file(transfers: Transfers, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    _held(transfers, tmp_path)
    transfers.drop_result(7)
    transfers.drop_result(7)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert transfers.upload(0, 7) == Step([], [])
    assert transfers.handle(0, wire.PayloadCredit(PAYLOAD, 0, WINDOW)) == Step([], [])
