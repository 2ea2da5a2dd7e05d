"""Payloads on a real disk: offers, chunks, credit, digests, quotas."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keepwarm_scheduler.payload_store import SEND_BYTES_PER_TURN, UNCLAIMED_NS, WINDOW_BYTES, PayloadStore
from keepwarm_wire.fields import CHUNK_BYTES_MAX
from keepwarm_wire.messages import PayloadChunk, PayloadCredit, PayloadOffer, PayloadRefused, PayloadStored, Reference

ID = b"p" * 16
DATA = bytes(range(256)) * 1024  # 256 KiB
MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PayloadStore]:
    store = PayloadStore(tmp_path / "payloads", 64 * MIB, 100 * MIB)
    yield store
    store.close()


def offer(data: bytes = DATA, payload_id: bytes = ID) -> PayloadOffer:
    return PayloadOffer(payload_id, len(data), hashlib.sha256(data).digest())


def put(store: PayloadStore, data: bytes = DATA, payload_id: bytes = ID) -> object:
    """Hand over a payload as a well-behaved peer does; the last answer."""
    answer: object = store.offered(offer(data, payload_id))
    while isinstance(answer, PayloadCredit):
        credit, answer = answer, None
        for start in range(credit.received, credit.limit, CHUNK_BYTES_MAX):
            piece = data[start : min(start + CHUNK_BYTES_MAX, credit.limit)]
            answer = store.arrived(PayloadChunk(payload_id, start, piece)) or answer
    return answer


def take(store: PayloadStore, peer: bytes = b"peer", payload_id: bytes = ID) -> bytes:
    """All that is sent for one credit over everything."""
    assert store.wanted(peer, PayloadCredit(payload_id, 0, 1 << 60)) is None
    data = b""
    while store.is_sending:
        for to, chunk in store.send_some():
            assert to == peer
            assert chunk.offset == len(data)
            assert len(chunk.data) <= CHUNK_BYTES_MAX
            data += chunk.data
    return data


@pytest.mark.parametrize("size", [1, CHUNK_BYTES_MAX - 1, CHUNK_BYTES_MAX, 20 * MIB + 7])
def test_what_is_handed_over_comes_back(store: PayloadStore, size: int) -> None:
    data = (DATA * (size // len(DATA) + 1))[:size]
    assert put(store, data) == PayloadStored(ID)
    assert ID in store
    assert take(store) == data


def test_files_are_the_owners_alone_and_go_with_the_store(tmp_path: Path) -> None:
    store = PayloadStore(tmp_path / "payloads", MIB, MIB)
    put(store)
    (path,) = (tmp_path / "payloads").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    store.close()
    assert not path.parent.exists()


def test_a_start_begins_empty(tmp_path: Path) -> None:
    put(PayloadStore(tmp_path / "payloads", MIB, MIB))
    store = PayloadStore(tmp_path / "payloads", MIB, MIB)
    assert ID not in store
    assert not list((tmp_path / "payloads").iterdir())
    store.close()


def test_credit_never_exceeds_a_window(store: PayloadStore) -> None:
    data = bytes(20 * MIB)
    credit = store.offered(offer(data))
    assert credit == PayloadCredit(ID, 0, WINDOW_BYTES)
    for n in range(3):
        assert store.arrived(PayloadChunk(ID, n * MIB, bytes(MIB))) is None
    assert store.arrived(PayloadChunk(ID, 3 * MIB, bytes(MIB))) == PayloadCredit(ID, 4 * MIB, 4 * MIB + WINDOW_BYTES)


def test_a_chunk_out_of_order_is_dropped_and_a_new_offer_resumes(store: PayloadStore) -> None:
    half = len(DATA) // 2
    store.offered(offer())
    assert store.arrived(PayloadChunk(ID, half, DATA[half:])) is None
    store.arrived(PayloadChunk(ID, 0, DATA[:half]))
    assert store.arrived(PayloadChunk(ID, 0, DATA[:half])) is None
    assert store.offered(offer()) == PayloadCredit(ID, half, len(DATA))
    assert store.arrived(PayloadChunk(ID, half, DATA[half:])) == PayloadStored(ID)
    assert take(store) == DATA


def test_an_offer_of_what_is_here_is_answered_at_once(store: PayloadStore) -> None:
    put(store)
    assert store.offered(offer()) == PayloadStored(ID)


def test_a_wrong_digest_is_refused_and_may_be_tried_again(store: PayloadStore) -> None:
    store.offered(offer()._replace(sha256=b"0" * 32))
    answer = store.arrived(PayloadChunk(ID, 0, DATA))
    assert isinstance(answer, PayloadRefused)
    assert "digest" in answer.failure.message
    assert ID not in store
    assert put(store) == PayloadStored(ID)


def test_more_bytes_than_offered_are_refused(store: PayloadStore) -> None:
    store.offered(offer())
    answer = store.arrived(PayloadChunk(ID, 0, DATA + b"x"))
    assert isinstance(answer, PayloadRefused)
    assert "more bytes" in answer.failure.message


def test_what_is_too_large_is_refused(store: PayloadStore) -> None:
    answer = store.offered(PayloadOffer(ID, 64 * MIB + 1, b"d" * 32))
    assert isinstance(answer, PayloadRefused)
    assert str(64 * MIB) in answer.failure.message


def test_the_quota_counts_what_is_under_way_and_is_given_back(store: PayloadStore) -> None:
    store.offered(PayloadOffer(ID, 64 * MIB, b"d" * 32))
    other = PayloadOffer(b"q" * 16, 40 * MIB, b"d" * 32)
    answer = store.offered(other)
    assert isinstance(answer, PayloadRefused)
    assert "full" in answer.failure.message
    store.drop(ID)
    assert isinstance(store.offered(other), PayloadCredit)


def test_what_was_dropped_is_gone_and_room_for_others(tmp_path: Path) -> None:
    store = PayloadStore(tmp_path / "payloads", MIB, len(DATA))
    for n in range(3):
        payload_id = bytes([n]) * 16
        assert put(store, DATA, payload_id) == PayloadStored(payload_id)
        store.drop(payload_id)
        store.drop(payload_id)
        assert payload_id not in store
    assert not list((tmp_path / "payloads").iterdir())
    store.close()


def test_what_is_not_here_is_refused(store: PayloadStore) -> None:
    answer = store.wanted(b"peer", PayloadCredit(ID, 0, 1))
    assert isinstance(answer, PayloadRefused)
    assert not store.is_sending


def test_chunks_of_unknown_payloads_are_ignored(store: PayloadStore) -> None:
    assert store.arrived(PayloadChunk(ID, 0, DATA)) is None


def test_a_fetch_may_begin_in_the_middle_and_go_on_by_credit(store: PayloadStore) -> None:
    put(store)
    store.wanted(b"peer", PayloadCredit(ID, 10, 20))
    assert store.send_some() == [(b"peer", PayloadChunk(ID, 10, DATA[10:20]))]
    assert not store.is_sending
    store.wanted(b"peer", PayloadCredit(ID, 20, 30))
    assert store.send_some() == [(b"peer", PayloadChunk(ID, 20, DATA[20:30]))]


def test_a_turn_sends_no_more_than_its_share_to_all(store: PayloadStore) -> None:
    put(store, bytes(20 * MIB))
    for peer in (b"one", b"two"):
        store.wanted(peer, PayloadCredit(ID, 0, 20 * MIB))
    sent = store.send_some() + store.send_some()
    assert sum(len(chunk.data) for _, chunk in sent) <= 2 * SEND_BYTES_PER_TURN
    assert {peer for peer, _ in sent} == {b"one", b"two"}


def test_nothing_more_is_sent_to_who_is_gone_nor_of_what_was_dropped(store: PayloadStore) -> None:
    put(store)
    store.wanted(b"peer", PayloadCredit(ID, 0, 100))
    store.forget_peer(b"peer")
    assert not store.is_sending
    store.wanted(b"peer", PayloadCredit(ID, 0, 100))
    store.drop(ID)
    assert store.send_some() == []
    assert not store.is_sending


def test_a_disk_that_cannot_be_written_refuses_and_does_not_fail(tmp_path: Path) -> None:
    store = PayloadStore(tmp_path / "payloads", MIB, MIB)
    (tmp_path / "payloads").rename(tmp_path / "elsewhere")
    answer = store.offered(offer())
    assert isinstance(answer, PayloadRefused)
    assert "disk" in answer.failure.message
    store.close()


def test_what_is_not_claimed_is_dropped_after_a_while_and_what_is_stays(store: PayloadStore) -> None:
    """A peer that dies between its upload and its message must not use up the quota for ever."""
    claimed, left, arriving = b"c" * 16, b"l" * 16, b"a" * 16
    put(store, payload_id=claimed)
    put(store, payload_id=left)
    store.offered(offer(payload_id=arriving))
    store.claim(claimed)
    now_ns = time.monotonic_ns()
    store.expire(now_ns + UNCLAIMED_NS - 10_000_000_000)
    assert left in store
    store.expire(now_ns + UNCLAIMED_NS + 1)
    assert left not in store
    assert claimed in store
    assert put(store, bytes(64 * MIB - 1), payload_id=arriving) == PayloadStored(arriving)


def test_what_two_have_claimed_goes_with_the_second(store: PayloadStore) -> None:
    """One payload may be a function's body and a call's arguments."""
    put(store)
    store.claim(ID)
    store.claim(ID)
    store.drop(ID)
    store.expire(time.monotonic_ns() + UNCLAIMED_NS + 1)
    assert take(store) == DATA
    store.drop(ID)
    assert ID not in store


def test_what_was_lost_and_is_handed_over_again_stays_for_who_has_claimed_it(store: PayloadStore) -> None:
    store.claim(ID)
    put(store)
    store.expire(time.monotonic_ns() + UNCLAIMED_NS + 1)
    assert ID in store
    store.drop(ID)
    assert ID not in store


@pytest.mark.parametrize("change", [{"size": len(DATA) + 1}, {"sha256": b"0" * 32}, {"payload_id": b"q" * 16}])
def test_a_reference_is_as_said_if_size_and_digest_are_those_of_the_bytes(
    store: PayloadStore, change: dict[str, Any]
) -> None:
    put(store)
    said = Reference(*offer())
    assert store.is_as_said(said)
    assert not store.is_as_said(said._replace(**change))


def test_a_fetch_of_less_than_is_under_way_takes_nothing_back(store: PayloadStore) -> None:
    """Not more than a chunk is read at once, whatever is asked for in whatever order."""
    put(store, bytes(20 * MIB))
    store.wanted(b"peer", PayloadCredit(ID, 0, 20 * MIB))
    store.send_some()
    store.wanted(b"peer", PayloadCredit(ID, 0, MIB))
    assert [len(chunk.data) for _, chunk in store.send_some()] == [CHUNK_BYTES_MAX]


# ---------------------------------------------------------------- several owners


def test_a_payload_can_only_be_handed_over_by_the_key_that_offered_it(store: PayloadStore) -> None:
    assert isinstance(store.offered(offer(), "ann"), PayloadCredit)
    assert isinstance(store.offered(offer(), "bob"), PayloadRefused)
    assert store.arrived(PayloadChunk(ID, 0, b"x" * len(DATA)), "bob") is None
    assert store.arrived(PayloadChunk(ID, 0, DATA), "ann") == PayloadStored(ID)


def test_one_key_takes_up_half_of_the_room_and_no_more(store: PayloadStore) -> None:
    big = PayloadOffer(ID, 50 * MIB, bytes(32))
    assert isinstance(store.offered(big, "ann"), PayloadCredit)
    refused = store.offered(PayloadOffer(b"q" * 16, 1, bytes(32)), "ann")
    assert isinstance(refused, PayloadRefused)
    assert "its share" in refused.failure.message
    assert isinstance(store.offered(big._replace(payload_id=b"q" * 16), "bob"), PayloadCredit)
    store.drop(ID)
    assert isinstance(store.offered(big, "ann"), PayloadCredit)


def test_offers_that_are_never_completed_hold_no_descriptor_and_end(
    store: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for number in range(3_000):
        assert isinstance(store.offered(PayloadOffer(number.to_bytes(16, "big"), 9, bytes(32)), "ann"), PayloadCredit)
    assert len(list(descriptors.iterdir())) <= before
    monkeypatch.setattr("keepwarm_scheduler.payload_store.PAYLOADS_PER_OWNER_MAX", 3_000)
    assert isinstance(store.offered(offer(), "ann"), PayloadRefused)
    assert isinstance(store.offered(offer(), "bob"), PayloadCredit)
    store.expire(time.monotonic_ns() + UNCLAIMED_NS + 1)
    assert isinstance(store.offered(offer(), "ann"), PayloadCredit)


def test_a_file_that_cannot_be_read_just_now_is_not_sent(store: PayloadStore, tmp_path: Path) -> None:
    put(store)
    (tmp_path / "payloads" / ID.hex()).unlink()
    assert take(store) == b""
