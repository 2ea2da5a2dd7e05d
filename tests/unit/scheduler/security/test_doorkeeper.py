"""All about keys, over a key store: what is written, and who waits for that."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from keepwarm_scheduler.core.events import Principal, Restored
from keepwarm_scheduler.journal import Opened
from keepwarm_scheduler.security.doorkeeper import Doorkeeper
from keepwarm_scheduler.security.records import KeyRecord, Record
from keepwarm_wire import messages as wire
from keepwarm_wire.credentials import KeyPair, to_z85
from keepwarm_wire.key_files import make_key_store
from keepwarm_wire.messages import Message


def new_key_pair() -> KeyPair:
    return KeyPair.from_z85(*zmq.curve_keypair())


PEER = b"peer"
KEY = KeyRecord(new_key_pair().public, "client", "default", "someone", 1)
SOMEONE = Principal(to_z85(KEY.public_key), KEY.role, KEY.namespace)


class Disk:
    """Notes what it is given, and how."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, Message | None]] = []

    def save(self, records: Sequence[Record]) -> None:
        self.log.append(("save", len(records), None))

    def note(self, records: Sequence[Record]) -> None:
        self.log.append(("note", len(records), None))

    def answer(self, records: Sequence[Record], _peer: bytes, message: Message) -> None:
        self.log.append(("answer", len(records), message))


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def sent() -> list[Message]:
    return []


@pytest.fixture
def doorkeeper(tmp_path: Path, disk: Disk, sent: list[Message]) -> Iterator[Doorkeeper]:
    make_key_store(tmp_path / "keys", new_key_pair(), new_key_pair())
    opened = Opened(b"c" * 16, 1, Restored((), ()), keys=(KEY,))
    with zmq.Context() as context:
        made = Doorkeeper(context, tmp_path / "keys", opened, disk, lambda _peer, message: sent.append(message))
        disk.log.clear()
        yield made
        made.close()


def test_nobody_waits_until_it_is_on_disk_who_was_seen(
    doorkeeper: Doorkeeper, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk that would be for as long as it is full."""
    monkeypatch.setattr(doorkeeper._gate, "serve", lambda _now_ns, _wall_s: [KEY])
    doorkeeper.serve_gate()
    assert disk.log == [("note", 1, None)]


def test_what_was_changed_is_answered_by_way_of_the_disk(
    doorkeeper: Doorkeeper, disk: Disk, sent: list[Message]
) -> None:
    """The loop does not wait for it."""
    rotated = wire.KeyRotated(7, new_key_pair().public)
    assert doorkeeper.answer(PEER, SOMEONE, wire.RotateKey(7, rotated.public_key)) == []
    assert disk.log == [("answer", 2, rotated)]
    assert not sent


def test_what_changes_nothing_is_answered_at_once(doorkeeper: Doorkeeper, disk: Disk, sent: list[Message]) -> None:
    """Keys can be listed when the disk is full."""
    admin = SOMEONE._replace(role="admin")
    doorkeeper.answer(PEER, admin, wire.ListKeys(7, b""))
    assert [type(message) for message in sent] == [wire.KeysListed]
    assert not disk.log


def test_a_refusal_waits_for_what_is_on_its_way(doorkeeper: Doorkeeper, disk: Disk) -> None:
    """It may follow from that."""
    doorkeeper.answer(PEER, SOMEONE, wire.RotateKey(7, KEY.public_key))
    ((how, count, message),) = disk.log
    assert (how, count, type(message)) == ("answer", 0, wire.KeyRefused)
