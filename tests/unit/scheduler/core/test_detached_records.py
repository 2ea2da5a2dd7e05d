"""The book of detached calls: order, claims on payloads, and what tells two submits apart."""

import random
from typing import Any, cast

from keepwarm_scheduler.core.detached_records import (
    UNFINISHED,
    Book,
    Keeper,
    Record,
    digest_of,
    failure_bytes,
    keeper_id,
    size_of,
)
from keepwarm_scheduler.core.events import Principal
from keepwarm_scheduler.core.state import Call, Session
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
    assert sum(map(len, book._listing._numbers.values())) <= 1_020 + 10


class Looked(dict[int, Record]):
    """Records by number, which counts how many were looked at."""

    count = 0

    def get(self, *about: Any) -> Any:
        self.count += 1
        return super().get(*about)


def keeper(namespace: str) -> Keeper:
    return Keeper(namespace, KEEPER.session)


def unfinished(number: int) -> Call:
    return cast("Call", number)


def test_whoever_else_has_calls_they_are_not_looked_at() -> None:
    """Nor those that stand otherwise than is asked for."""
    book, mine, other = Book(), keeper("mine"), keeper("other")
    book.records = Looked()
    for number in range(1, 3_001):
        one = record(number)
        one.keeper = mine if number in (5, 2_000) else other
        one.call = None if number == 1_000 else unfinished(number)
        book.add(one)
    assert [one.number for one in book.newest_first(0, mine)] == [2_000, 5]
    assert [one.number for one in book.newest_first(2_000, mine)] == [5]
    assert [one.number for one in book.newest_first(0, other, (0,))] == [1_000]
    assert [one.number for one in book.newest_first(0, None, (0,))] == [1_000]
    assert book.records.count <= 10


def test_an_end_is_listed_where_its_number_belongs() -> None:
    """Calls end in any order; each is listed once, as it stands."""
    book, mine = Book(), keeper("mine")
    for number in range(1, 2_001):
        one = record(number)
        one.keeper, one.call = mine, unfinished(number)
        book.add(one)
    ends = random.Random(1).sample(range(1, 2_001), 1_900)
    for number in ends:
        one = book.records[number]
        one.call, one.status = None, number % 3
        book.has_ended(one)
    assert [one.number for one in book.newest_first()] == list(range(2_000, 0, -1))
    for status in range(3):
        expected = sorted((number for number in ends if number % 3 == status), reverse=True)
        assert [one.number for one in book.newest_first(0, mine, (status,))] == expected
    left = sorted(set(range(1, 2_001)) - set(ends), reverse=True)
    assert [one.number for one in book.newest_first(0, None, (UNFINISHED,))] == left
    assert len(book._listing._numbers[UNFINISHED]) <= 2 * len(left) + 1_000
    assert len(mine.listing) == 2_000


def test_bytes_are_counted_by_namespace_and_together() -> None:
    book, mine, other = Book(), keeper("mine"), keeper("other")
    book.count_bytes(mine, 5)
    book.count_bytes(other, 7)
    book.count_bytes(mine, -1)
    assert (book.stored_bytes, mine.stored_bytes, other.stored_bytes) == (11, 4, 7)


def test_all_that_is_told_of_a_failure_counts() -> None:
    failure = wire.Failure("kind", "message", "detail é", b"exception")
    assert failure_bytes(failure) == 4 + 7 + 9 + 9
    assert failure_bytes(None) == 0


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
