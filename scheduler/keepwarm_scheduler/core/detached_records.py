"""What the core knows of detached calls: one record each, found by number, by id and by key. Bookkeeping alone.

A detached call is an ordinary call of its namespace's *keeper*, a session that has no client and is never lost. Its
record outlives the call: until its outcome expires it says how the call ended; the outcome itself is on disk only, and
so are inline arguments. Rules: numbers only grow and are never given twice, over restarts too; what the records of a
namespace keep on disk is counted here, in bytes.
"""

import hashlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from keepwarm_scheduler.core.state import Call, Function, Session
from keepwarm_wire.messages import DeclareFunction, Payload, Reference

__all__ = ["Book", "Keeper", "KeptFunction", "KnownKey", "Record", "digest_of", "keeper_id", "size_of"]


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


class KnownKey(NamedTuple):
    """A key that was used: which call it stands for, and of what."""

    call_id: bytes
    digest: bytes
    until_ns: int


class Book:
    """All detached calls of a cluster."""

    __slots__ = (
        "_kept",
        "_numbers",
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
        """Arguments of unfinished calls and results of finished ones."""
        self.last_number = 0
        self.last_function = 0
        self._numbers: list[int] = []
        """Ascending; forgotten ones are weeded out when they are many."""
        self._kept: dict[bytes, int] = {}
        """How many records and functions refer to each payload beside the journal."""

    # ------------------------------------------------------------ records

    def add(self, record: Record) -> None:
        """A record with a number above all others."""
        self.records[record.number] = self.by_id[record.call_id] = record
        self._numbers.append(record.number)
        self.last_number = record.number

    def remove(self, record: Record) -> None:
        """Forget a finished one."""
        del self.records[record.number], self.by_id[record.call_id]
        self.stored_bytes -= record.result_bytes
        if len(self._numbers) > 2 * len(self.records) + 1_000:
            self._numbers = list(self.records)

    def newest_first(self, before: int) -> Iterator[Record]:
        """Records with numbers below ``before``; 0 begins with the newest."""
        numbers = self._numbers
        start = bisect_left(numbers, before) if before else len(numbers)
        for index in range(start - 1, -1, -1):
            record = self.records.get(numbers[index])
            if record is not None:
                yield record

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
