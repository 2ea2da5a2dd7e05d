"""Payloads that outlive the process: kept, swept, checked, released; over real files."""

import hashlib
from pathlib import Path

from keepwarm_scheduler.journal_calls import KeptPayload
from keepwarm_scheduler.kept_payloads import CHECK_BYTES_PER_STEP
from keepwarm_scheduler.payload_store import PayloadStore
from keepwarm_wire.fields import CHUNK_BYTES_MAX
from keepwarm_wire.messages import PayloadChunk, PayloadCredit, PayloadOffer, PayloadRefused, PayloadStored

MIB = 1 << 20
ID = b"p" * 16
DATA = bytes(range(256)) * 1024


def named(data: bytes, payload_id: bytes = ID) -> KeptPayload:
    return KeptPayload(payload_id, len(data), hashlib.sha256(data).digest())


def opened(directory: Path, *payloads: KeptPayload, total: int = 100 * MIB) -> PayloadStore:
    return PayloadStore(directory / "payloads", 64 * MIB, total, payloads)


def put(store: PayloadStore, data: bytes = DATA, payload_id: bytes = ID) -> None:
    """Upload a payload and have it kept."""
    entry = named(data, payload_id)
    answer: object = store.offered(PayloadOffer(*entry))
    while isinstance(answer, PayloadCredit):
        credit, answer = answer, None
        for start in range(credit.received, credit.limit, CHUNK_BYTES_MAX):
            piece = data[start : min(start + CHUNK_BYTES_MAX, credit.limit)]
            answer = store.arrived(PayloadChunk(payload_id, start, piece)) or answer
    assert answer == PayloadStored(payload_id)
    store.keep(*entry)


def take(store: PayloadStore, payload_id: bytes = ID) -> bytes:
    assert store.wanted(b"peer", PayloadCredit(payload_id, 0, 1 << 60)) is None
    data = b""
    while store.is_sending:
        data += b"".join(chunk.data for _, chunk in store.send_some())
    return data


def test_what_is_kept_survives_its_session_and_the_process(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store)
    store.drop(ID)
    assert take(store) == DATA
    store.close()
    store = opened(tmp_path, named(DATA))
    assert ID in store
    assert take(store) == DATA
    store.close()


def test_what_is_released_is_gone_and_room_for_others(tmp_path: Path) -> None:
    store = opened(tmp_path, total=2 * len(DATA))
    put(store)
    store.release(ID)
    assert ID in store, "its session still has it"
    store.drop(ID)
    assert ID not in store
    store.release(ID)
    put(store, payload_id=b"q" * 16)
    store.close()


def test_keeping_twice_is_harmless(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store)
    store.keep(*named(DATA))
    store.drop(ID)
    store.release(ID)
    assert not list((tmp_path / "payloads-kept").iterdir())
    store.close()


def test_files_that_nothing_refers_to_are_swept_at_the_start(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store)
    put(store, payload_id=b"q" * 16)
    store.close()
    opened(tmp_path, named(DATA)).close()
    assert [path.name for path in (tmp_path / "payloads-kept").iterdir()] == [ID.hex()]


def test_kept_bytes_count_over_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store)
    store.close()
    store = opened(tmp_path, named(DATA), total=len(DATA) + 10)
    assert isinstance(store.offered(PayloadOffer(b"q" * 16, 11, b"d" * 32)), PayloadRefused)
    store.release(ID)
    assert isinstance(store.offered(PayloadOffer(b"q" * 16, 11, b"d" * 32)), PayloadCredit)
    store.close()


def test_a_payload_that_the_disk_has_changed_is_never_handed_on(tmp_path: Path) -> None:
    data = bytes(3 * CHECK_BYTES_PER_STEP + 5)
    store = opened(tmp_path)
    put(store, data)
    store.close()
    path = tmp_path / "payloads-kept" / ID.hex()
    path.write_bytes(data[:-1] + b"x")
    store = opened(tmp_path, named(data))
    assert take(store) == b""
    assert isinstance(store.wanted(b"peer", PayloadCredit(ID, 0, 1)), PayloadRefused)
    store.close()


def test_a_payload_that_is_cut_short_or_missing_is_not_there(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store)
    store.close()
    (tmp_path / "payloads-kept" / ID.hex()).write_bytes(DATA[:-1])
    store = opened(tmp_path, named(DATA), named(DATA, b"m" * 16))
    assert ID not in store
    assert b"m" * 16 not in store
    store.close()


def test_kept_files_are_the_owners_alone(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store)
    (path,) = (tmp_path / "payloads-kept").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    store.close()
