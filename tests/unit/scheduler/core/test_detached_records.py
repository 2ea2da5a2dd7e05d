"""The book of detached calls: order, claims on payloads, and what tells two submits apart."""

from keepwarm_scheduler.core.detached_records import Book, Keeper, Record, digest_of, keeper_id, size_of
from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.core.state import Session
from keepwarm_wire import messages as wire
from support.raw_peers import declaration

KEEPER = Keeper("default", Session(b"k" * 16, b"", Principal("", "keeper", "default"), "", 0, is_keeper=True))
LARGE = wire.Reference(b"p" * 16, 7, b"d" * 32)


def record(number: int) -> Record:
    return Record(number, b"%016d" % number, KEEPER, "m:f", "", "", 0)


def test_the_newest_come_first_from_any_number_on() -> None:
    book = Book()
    for number in (3, 5, 9):
        book.add(record(number))
    assert [one.number for one in book.newest_first(0)] == [9, 5, 3]
    assert [one.number for one in book.newest_first(9)] == [5, 3]
    assert [one.number for one in book.newest_first(4)] == [3]


def test_many_that_are_forgotten_are_weeded_out() -> None:
    book = Book()
    for number in range(1, 5_001):
        book.add(record(number))
    for number in range(1, 4_991):
        book.remove(book.records[number])
    assert [one.number for one in book.newest_first(0)] == list(range(5_000, 4_990, -1))
    assert len(book._numbers) <= 1_020 + 10


def test_a_payload_is_kept_by_the_first_and_released_by_the_last() -> None:
    book = Book()
    assert [book.claim(b"p"), book.claim(b"p"), book.unclaim(b"p"), book.unclaim(b"p")] == [True, False, False, True]
    assert not book.claims()


def test_the_same_call_is_the_same_function_environment_and_bytes() -> None:
    one = declaration()
    same = digest_of(one, b"arguments")
    assert digest_of(one._replace(function_number=9, body=b"other"), b"arguments") == same
    assert digest_of(one, b"others") != same
    assert digest_of(one._replace(name="m:g"), b"arguments") != same
    assert digest_of(one._replace(version=b"w" * 32), b"arguments") != same
    assert digest_of(one._replace(spec=b"{}"), b"arguments") != same


def test_a_reference_is_told_apart_by_its_bytes_alone() -> None:
    one = declaration()
    assert digest_of(one, LARGE) == digest_of(one, LARGE._replace(payload_id=b"q" * 16))
    assert digest_of(one, LARGE) != digest_of(one, LARGE._replace(sha256=b"e" * 32))
    assert (size_of(LARGE), size_of(b"abc")) == (7, 3)


def test_each_cluster_and_namespace_has_a_keeper_of_its_own() -> None:
    ids = {keeper_id(cluster, namespace) for cluster in (b"a" * 16, b"b" * 16) for namespace in ("default", "other")}
    assert len(ids) == 4
    assert all(len(one) == 16 for one in ids)
