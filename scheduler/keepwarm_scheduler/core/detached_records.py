"""What the core knows of detached calls: one record each, found by number, by id and by key. Bookkeeping alone.

A detached call is an ordinary call of its namespace's *keeper*, a session that has no client and is never lost. Its
record outlives the call: until its outcome expires it says how the call ended; the outcome itself is on disk only, and
so are inline arguments. Rules: numbers only grow and are never given twice, over restarts too; what the records of a
namespace keep on disk is counted here, in bytes. Records are listed by namespace and by how they stand, so that who
asks for some of them has no others looked at.
"""

import hashlib
import heapq
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from keepwarm_scheduler.core.state import Call, Function, Session
from keepwarm_wire.messages import DeclareFunction, Failure, Payload, Reference

__all__ = [
    "UNFINISHED",
    "Book",
    "Keeper",
    "KeptFunction",
    "KnownKey",
    "Record",
    "digest_of",
    "failure_bytes",
    "keeper_id",
    "size_of",
]

UNFINISHED = -1
"""How a record stands that has no status yet."""

_WEEDED = 1_000


def keeper_id(cluster_id: bytes, namespace: str) -> bytes:
    """The session id of a namespace's keeper: the same in every epoch, so that nodes' reports find it."""
    return hashlib.sha256(b"keepwarm detached\0" + cluster_id + namespace.encode()).digest()[:16]


def digest_of(declaration: DeclareFunction, arguments: Payload) -> bytes:
    """What has to be equal for two submits to be the same: function, environment and argument bytes."""
    data = arguments.sha256 if isinstance(arguments, Reference) else hashlib.sha256(arguments).digest()
    name = hashlib.sha256(declaration.name.encode()).digest()
    spec = hashlib.sha256(declaration.spec).digest()
    return hashlib.sha256(name + declaration.version + spec + data).digest()


def size_of(payload: Payload) -> int:
    """Bytes of a payload, wherever they lie."""
    return payload.size if isinstance(payload, Reference) else len(payload)


def failure_bytes(failure: Failure | None) -> int:
    """Bytes of what is told of a failure: its exception and traceback may be as large as a result."""
    if failure is None:
        return 0
    return sum(len(text.encode()) for text in (failure.kind, failure.message, failure.detail)) + len(failure.exception)


@dataclass(slots=True, eq=False)
class Record:
    """A detached call. ``call`` is there while it is unfinished; what follows ``attempts`` once it is not."""

    number: int
    call_id: bytes
    keeper: "Keeper"
    function: str
    key: str
    label: str
    accepted_ns: int
    result_ttl_us: int = 0
    call: Call | None = None
    kept: "KeptFunction | None" = None
    arguments_bytes: int = 0
    attempts: int = 0
    status: int = 0
    kind: str = ""
    node: str = ""
    ended_ns: int = 0
    expires_ns: int = 0
    result_bytes: int = 0
    result_id: bytes = b""
    watchers: dict[bytes, None] = field(default_factory=dict)
    """Sessions that want the outcome."""

    @property
    def namespace(self) -> str:
        """Whose it is."""
        return self.keeper.namespace

    @property
    def stand(self) -> int:
        """``UNFINISHED``, or the status in which it has ended."""
        return self.status if self.call is None else UNFINISHED


class Listing:
    """The numbers of records, by how they stand. Those that have gone on are weeded out when they are many."""

    __slots__ = ("_counts", "_numbers")

    def __init__(self) -> None:
        self._numbers: dict[int, list[int]] = {}
        """Ascending."""
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, record: Record) -> None:
        """A record that stands as it does from now on."""
        numbers = self._numbers.setdefault(record.stand, [])
        if numbers and record.number < numbers[-1]:
            insort(numbers, record.number)
        else:
            numbers.append(record.number)
        self._counts[record.stand] += 1

    def leave(self, stand: int, records: Mapping[int, Record]) -> None:
        """One of ``records`` stands otherwise now, or is none of them any more."""
        self._counts[stand] -= 1
        numbers = self._numbers[stand]
        if len(numbers) > 2 * self._counts[stand] + _WEEDED:
            self._numbers[stand] = [number for number in numbers if _stands(records.get(number), stand)]

    def newest_first(self, stands: Iterable[int], before: int, records: Mapping[int, Record]) -> Iterator[Record]:
        """Those of ``records`` that stand so, with numbers below ``before``; 0 begins with the newest."""
        found = [self._of_one(stand, before, records) for stand in stands if self._counts[stand]]
        return heapq.merge(*found, key=lambda record: -record.number)

    def _of_one(self, stand: int, before: int, records: Mapping[int, Record]) -> Iterator[Record]:
        numbers = self._numbers[stand]
        start = bisect_left(numbers, before) if before else len(numbers)
        for index in range(start - 1, -1, -1):
            record = records.get(numbers[index])
            if record is not None and record.stand == stand:
                yield record

    @property
    def stands(self) -> list[int]:
        """Every way in which one of them stands."""
        return [stand for stand, count in self._counts.items() if count]


def _stands(record: Record | None, stand: int) -> bool:
    return record is not None and record.stand == stand


@dataclass(slots=True, eq=False)
class KeptFunction:
    """A function that unfinished detached calls are made of; ``unfinished`` counts them."""

    function_id: int
    function: Function
    digest: bytes
    unfinished: int = 0


@dataclass(slots=True, eq=False)
class Keeper:
    """A namespace's detached calls."""

    namespace: str
    session: Session
    functions: dict[bytes, KeptFunction] = field(default_factory=dict)
    """By the digest of their declaration."""
    listing: Listing = field(default_factory=Listing)
    stored_bytes: int = 0
    """Its part of what the book counts."""


class KnownKey(NamedTuple):
    """A key that was used: which call it stands for, and of what."""

    call_id: bytes
    digest: bytes
    until_ns: int


class Book:
    """All detached calls of a cluster."""

    __slots__ = (
        "_kept",
        "_listing",
        "by_id",
        "doubts",
        "functions",
        "keepers",
        "keys",
        "last_function",
        "last_number",
        "records",
        "stored_bytes",
        "tombstones",
        "unfinished",
    )

    def __init__(self) -> None:
        self.keepers: dict[str, Keeper] = {}
        self.records: dict[int, Record] = {}
        self.by_id: dict[bytes, Record] = {}
        self.functions: dict[int, KeptFunction] = {}
        self.keys: dict[tuple[str, str], KnownKey] = {}
        self.tombstones: OrderedDict[bytes, tuple[str, int]] = OrderedDict()
        """By id: the namespace, and until when it is remembered; the oldest first."""
        self.doubts: dict[tuple[bytes, int], int] = {}
        """Calls, of any session, that were sent to a node and must not run twice; until when that is remembered."""
        self.unfinished = 0
        self.stored_bytes = 0
        """Arguments of unfinished calls, and results and failures of finished ones."""
        self.last_number = 0
        self.last_function = 0
        self._listing = Listing()
        self._kept: dict[bytes, int] = {}
        """How many records and functions refer to each payload beside the journal."""

    # ------------------------------------------------------------ records

    def add(self, record: Record) -> None:
        """A record with a number above all others."""
        self.records[record.number] = self.by_id[record.call_id] = record
        self._listing.add(record)
        record.keeper.listing.add(record)
        self.last_number = record.number

    def has_ended(self, record: Record) -> None:
        """An unfinished one has its status now."""
        for listing in (self._listing, record.keeper.listing):
            listing.add(record)
            listing.leave(UNFINISHED, self.records)

    def remove(self, record: Record) -> None:
        """Forget a finished one."""
        del self.records[record.number], self.by_id[record.call_id]
        self.count_bytes(record.keeper, -record.result_bytes)
        for listing in (self._listing, record.keeper.listing):
            listing.leave(record.stand, self.records)

    def count_bytes(self, keeper: Keeper, change: int) -> None:
        """So much more of a namespace's is on disk, or with a negative number less."""
        self.stored_bytes += change
        keeper.stored_bytes += change

    def call_id_of(self, number: int) -> bytes | None:
        """The id of a call, if it is known."""
        record = self.records.get(number)
        return None if record is None else record.call_id

    def newest_first(
        self, before: int = 0, keeper: Keeper | None = None, stands: Iterable[int] | None = None
    ) -> Iterator[Record]:
        """Records with numbers below ``before``; 0 begins with the newest.

        Args:
            before: a number.
            keeper: whose; None for everybody's.
            stands: how they stand; None for all. No others are looked at.
        """
        listing = self._listing if keeper is None else keeper.listing
        return listing.newest_first(listing.stands if stands is None else stands, before, self.records)

    # ------------------------------------------------------------ payloads beside the journal

    def claim(self, payload_id: bytes) -> bool:
        """One more refers to these bytes. True if it is the first."""
        count = self._kept.get(payload_id, 0)
        self._kept[payload_id] = count + 1
        return not count

    def unclaim(self, payload_id: bytes) -> bool:
        """One less. True if it was the last."""
        count = self._kept[payload_id] - 1
        if count:
            self._kept[payload_id] = count
        else:
            del self._kept[payload_id]
        return not count

    def claims(self) -> dict[bytes, int]:
        """How often each payload is referred to, for checks."""
        return dict(self._kept)
