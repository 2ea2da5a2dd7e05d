"""Payloads that outlive the process: kept, swept, checked, released; over real files."""

import errno
import hashlib
from pathlib import Path
from typing import Any

import pytest

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


def test_keeping_what_is_not_here_is_logged_and_refused_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Dropped before its time, or gone from the disk: no reason to stop everything else."""
    store = opened(tmp_path)
    assert store.keep(*named(DATA, b"m" * 16)) == ()
    put(store, payload_id=b"q" * 16)
    (tmp_path / "payloads" / (b"q" * 16).hex()).unlink()
    store.release(b"q" * 16)
    assert store.keep(*named(DATA, b"q" * 16)) == ()
    assert caplog.text.count("is not here") == 2
    assert isinstance(store.wanted(b"peer", PayloadCredit(b"m" * 16, 0, 1)), PayloadRefused)
    store.release(b"m" * 16)
    store.close()


def left_behind(directory: Path, data: bytes = DATA, **how: int) -> PayloadStore:
    """A store whose predecessor has left a payload."""
    store = opened(directory)
    put(store, data)
    store.close()
    return opened(directory, named(data), **how)


def failing(store: PayloadStore, monkeypatch: pytest.MonkeyPatch, number: int) -> bytes:
    """What is sent of a payload while the disk answers with an error."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, "the disk")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        return take(store)


@pytest.mark.parametrize("is_read_before", [False, True])
def test_a_file_that_is_gone_or_cannot_be_read_is_refused_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, is_read_before: bool
) -> None:
    """Before it was read through, and after."""
    store = left_behind(tmp_path, total=len(DATA) + 10)
    if is_read_before:
        assert take(store) == DATA
    assert failing(store, monkeypatch, errno.EIO) == b""
    assert "is lost" in caplog.text
    assert ID not in store
    assert isinstance(store.wanted(b"peer", PayloadCredit(ID, 0, 1)), PayloadRefused)
    assert isinstance(store.offered(PayloadOffer(b"q" * 16, 11, b"d" * 32)), PayloadRefused), "its file is there"
    store.release(ID)
    assert isinstance(store.offered(PayloadOffer(b"q" * 16, 11, b"d" * 32)), PayloadCredit)
    assert not list((tmp_path / "payloads-kept").iterdir())
    store.close()


@pytest.mark.parametrize("is_read_before", [False, True])
def test_an_error_that_passes_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_read_before: bool
) -> None:
    store = left_behind(tmp_path)
    if is_read_before:
        assert take(store) == DATA
    assert failing(store, monkeypatch, errno.EMFILE) == b""
    assert take(store) == DATA
    store.close()


def test_a_file_that_is_cut_short_after_it_was_read_through_is_lost(tmp_path: Path) -> None:
    store = left_behind(tmp_path)
    assert take(store) == DATA
    (tmp_path / "payloads-kept" / ID.hex()).write_bytes(b"")
    assert take(store) == b""
    assert ID not in store
    store.close()


def test_what_cannot_be_looked_at_or_removed_does_not_keep_a_scheduler_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "the disk")

    left_behind(tmp_path).close()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", fail)
        patch.setattr(Path, "unlink", fail)
        store = opened(tmp_path, named(DATA))
    assert ID not in store
    assert "cannot be read" in caplog.text
    assert "cannot be removed" in caplog.text
    store.close()


def test_what_a_session_has_claimed_stays_when_no_detached_call_needs_it(tmp_path: Path) -> None:
    """After a restart it is the only copy: nobody hands over again what is here."""
    store = left_behind(tmp_path)
    assert store.offered(PayloadOffer(*named(DATA))) == PayloadStored(ID)
    store.claim(ID)
    store.release(ID)
    assert take(store) == DATA
    assert store.keep(*named(DATA)) == (), "it is needed again, and is on disk"
    store.release(ID)
    store.drop(ID)
    assert ID not in store
    assert not list((tmp_path / "payloads-kept").iterdir())
    store.close()
